# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from scripts.data import CaseReport, DataError, DataReport, Fingerprint, fingerprint
from scripts.networks import ResNetVNet, VNet, size_multiples

MR = {"minimum": 0.0, "maximum": 900.0, "mean": 200.0, "deviation": 90.0, "low": 1.0, "high": 800.0}
CT = {"minimum": -1024.0, "maximum": 2000.0, "mean": -400.0, "deviation": 500.0, "low": -1010.0, "high": 900.0}


def case(shape, spacing, orientation="RAS", section="training", intensity=(MR,), foreground=()):
    found = CaseReport(section, "scan.nii.gz", None, shape, spacing, orientation, len(intensity), list(intensity))
    found.foreground = list(foreground)
    return found


def of(*cases, **arguments) -> Fingerprint:
    return fingerprint(DataReport({0: "background", 1: "heart"}, list(cases)), **arguments)


def test_spacing_and_extent_are_medians_over_training_and_unlabelled_scans():
    found = of(
        case((10, 20, 30), (1.0, 1.0, 2.0)),
        case((20, 20, 30), (1.5, 1.0, 3.0), section="unlabeled"),
        case((30, 20, 40), (2.0, 1.0, 4.0), section="unlabeled"),
        case((999, 999, 999), (9.0, 9.0, 9.0), section="test"),
        case((999, 999, 999), (9.0, 9.0, 9.0), section="validation"),
    )
    assert found.spacing == (1.5, 1.0, 3.0)
    assert found.extent == (30.0, 20.0, 90.0)


def test_axes_are_anatomical_however_they_are_stored():
    # Stored: axis 0 runs to I, axis 1 to R, axis 2 to P.
    found = of(case((10, 20, 30), (4.0, 0.5, 1.0), orientation="IRP"))
    assert found.spacing == (0.5, 1.0, 4.0)
    assert found.extent == (10.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("extent", "spacing", "voxels", "expected"),
    [
        ((100, 100, 100), (1, 1, 1), None, [1, 1, 1]),
        ((100, 100, 100), (1, 1, 1), 10**6, [1, 1, 1]),
        ((100, 100, 100), (1, 1, 1), 125_000, [2, 2, 2]),  # all axes alike
        ((100, 100, 100), (1, 1, 5), 20 * 50 * 50, [2, 2, 5]),  # fine axes first
        ((100, 100, 100), (1, 2, 5), 10**3, [10, 10, 10]),
    ],
)
def test_working_spacing_keeps_to_the_number_of_voxels(extent, spacing, voxels, expected):
    assert Fingerprint(1, spacing, extent, []).spacing_for(voxels) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("size", "multiple", "voxels", "expected"),
    [
        ((35, 50, 36), 32, 64 * 64 * 32, [32, 64, 32]),  # the hippocampus
        ((10, 10, 10), 16, 10**6, [16, 16, 16]),  # smaller than the least patch: padded
        ((512, 512, 24), 16, 10**6, [240, 256, 16]),  # thick slices keep their one block
        ((100, 100, 100), 32, 10, [32, 32, 32]),  # the least that the networks take
        ((180, 134, 88), 16, 112 * 112 * 80, [144, 96, 64]),
    ],
)
def test_patch(size, multiple, voxels, expected):
    patch = Fingerprint(1, (1, 1, 1), size, []).patch_size((1, 1, 1), multiple, voxels)
    assert patch == expected
    assert all(isinstance(length, int) for length in patch)


def test_patch_always_fits_networks_and_memory():
    for size in itertools.product((5, 33, 100, 511), repeat=3):
        patch = np.array(Fingerprint(1, (1, 1, 1), size, []).patch_size((1, 1, 1), 16, 10**5))
        assert (patch % 16 == 0).all() and (patch >= 16).all()
        assert patch.prod() <= 10**5
        assert (patch <= np.array(size) + 16).all()


def test_patch_is_in_voxels_of_the_working_spacing():
    assert Fingerprint(1, (1, 1, 1), (128, 128, 128), []).patch_size((2, 4, 8), 16, 10**6) == [64, 32, 16]


THICK = [  # median size in voxels, their size in mm, what the stem of recipe cpu halves, and the strides after it
    ((180, 134, 88), (1.0, 1.0, 1.0), 2, 2),
    ((200, 200, 80), (1.0, 1.0, 1.9), 2, 2),  # not thick: less than twice the finest
    ((200, 200, 80), (1.0, 1.0, 2.0), [2, 2, 1], 2),
    ((232, 256, 9), (1.5, 1.5, 10.0), [2, 2, 1], [[2, 2, 1], 2, [2, 2, 1], [2, 2, 1]]),  # 9 slices, then 4: no fewer
    ((512, 512, 60), (0.8, 0.8, 5.0), [2, 2, 1], [[2, 2, 1], 2, 2, 2]),
    ((20, 512, 512), (4.0, 0.5, 0.5), [1, 2, 2], [[1, 2, 2], [1, 2, 2], 2, 2]),  # sagittal
    ((200, 200, 3), (1.0, 1.0, 10.0), [2, 2, 1], [[2, 2, 1]] * 4),
    ((20, 20, 20), (1.0, 1.0, 1.0), 2, 2),  # small, but no thick slices
    ((300, 400), (0.2, 0.2), 2, 2),
]


@pytest.mark.parametrize(("size", "spacing", "stem", "strides"), THICK)
def test_thick_slices_are_not_halved_before_the_other_axes_come_near(size, spacing, stem, strides):
    found = Fingerprint(1, spacing, tuple(np.multiply(size, spacing)), [])
    assert found.stem_stride(spacing) == stem
    assert found.strides(spacing, stem) == strides


def test_without_a_stem_that_halves_thick_slices_wait_as_long():
    found = Fingerprint(1, (1.5, 1.5, 10.0), (350.0, 350.0, 90.0), [])
    assert found.strides(found.spacing, 1) == [[2, 2, 1], [2, 2, 1], 2, [2, 2, 1]]
    assert found.strides(found.spacing, 2)[0] == [2, 2, 1]  # a stem that a user asks for


@pytest.mark.parametrize(("size", "spacing", "stem", "strides"), THICK)
def test_networks_take_the_patch_of_thick_slices(size, spacing, stem, strides):
    multiples = size_multiples(stem, strides, len(size))
    patch = Fingerprint(1, spacing, tuple(np.multiply(size, spacing)), []).patch_size(spacing, multiples, 64 * 64 * 32)
    assert np.prod(patch) <= 64 * 64 * 32
    layout = {"spatial_dims": len(size), "base_channels": 1, "norm": "batch", "stem_stride": stem, "strides": strides}
    for network in (ResNetVNet(**layout), VNet(**layout)):
        assert network.multiples == multiples
        assert network.eval()(torch.zeros(1, 1, *patch)).shape[2:] == tuple(patch)


def test_a_patch_of_few_thick_slices_is_not_padded():
    found = Fingerprint(1, (1.5, 1.5, 10.0), (348.0, 384.0, 90.0), [])
    assert found.patch_size([2.0, 2.0, 10.0], [32, 32, 2], 64 * 64 * 32) == [128, 160, 6]


def test_ct_is_recognised_and_takes_the_statistics_of_the_labelled_structures():
    inside = [
        {"mean": 40.0, "deviation": 30.0, "low": -50.0, "high": 150.0},
        {"mean": 80.0, "deviation": 30.0, "low": -70.0, "high": 250.0},
    ]
    cases = [case((9, 9, 9), (1.0, 1.0, 1.0), intensity=(CT,), foreground=[found]) for found in inside]
    (entry,) = of(*cases, case((9, 9, 9), (1.0, 1.0, 1.0), section="unlabeled", intensity=(CT,))).intensity
    assert entry == {"modality": "CT", "low": -60.0, "high": 200.0, "mean": 60.0, "deviation": pytest.approx(1300**0.5)}


def test_modality_of_each_channel():
    assert of(case((9, 9, 9), (1.0, 1.0, 1.0))).intensity == [{"modality": "other"}]
    both = case((9, 9, 9), (1.0, 1.0, 1.0), intensity=(CT, MR))
    assert [entry["modality"] for entry in of(both).intensity] == ["CT", "other"]
    assert [entry["modality"] for entry in of(both, modality=["other", "CT"]).intensity] == ["other", "CT"]
    assert [entry["modality"] for entry in of(both, modality="other").intensity] == ["other", "other"]


def test_modalities_as_data_sets_name_them():
    for name, expected in (("MRI", "other"), ("T1gd", "other"), ("ct", "CT"), (["CT"], "CT")):
        (entry,) = of(case((9, 9, 9), (1.0, 1.0, 1.0)), modality=name).intensity
        assert entry["modality"] == expected


def test_modality_that_does_not_fit_is_named():
    with pytest.raises(DataError, match="the scans have 1 channels. Name one for each"):
        of(case((9, 9, 9), (1.0, 1.0, 1.0)), modality=["CT", "other"])


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="No scan to train on"):
        of(case((9, 9, 9), (1.0, 1.0, 1.0), section="test"))

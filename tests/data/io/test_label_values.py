# SPDX-License-Identifier: Apache-2.0
"""Values in label files, and back: expected ones are written out by hand or computed by NumPy."""

import numpy as np
import pytest

from scripts.data import DataError
from scripts.data.io.label_values import class_of, from_one_hot, parse_values, to_classes, to_values

BRATS = [0, 1, 2, 4]


def test_values_of_ones_own_and_back():
    stored = np.array([[0, 4, 2], [1, 1, 4]], np.uint8)
    classes = to_classes(stored, BRATS)
    assert classes.tolist() == [[0, 3, 2], [1, 1, 3]]
    back = to_values(classes, BRATS)
    assert back.dtype == np.uint8 and (back == stored).all()
    assert to_values(np.array([0, 1]), [0, 1000]).dtype == np.int16
    assert to_values(np.array([0, 1]), [0, 0.5]).tolist() == [0, 0.5]
    assert to_values(np.array([2.0, 0.0]), None).tolist() == [2, 0]


def test_what_is_no_value_stays_so_that_the_check_can_name_it():
    assert to_classes(np.array([0, 255, 7]), [0, 255]).tolist() == [0, 1, 7]
    assert [class_of(value, [0, 255]) for value in (0, 255, 7, np.nan)] == [0, 1, None, None]


def test_scaled_floats_are_whole_numbers():
    scaled = np.array([0, 1, 2, 250], np.float32) * np.float32(1 / 255) * np.float32(255)
    assert to_classes(scaled.astype(np.float64) + 2e-6).tolist() == [0, 1, 2, 250]
    assert to_classes(np.array([0.5, np.nan])).tolist() == pytest.approx([0.5, np.nan], nan_ok=True)
    assert [class_of(value, None) for value in (1.9999, 2.4, np.inf)] == [2, None, None]


@pytest.mark.parametrize("background", [True, False])
def test_a_channel_for_each_class(background):
    classes = np.random.default_rng(0).integers(0, 3, (4, 3, 5))
    channels = np.stack([classes == n for n in range(0 if background else 1, 3)]).astype(np.float32)
    assert (from_one_hot(channels, "x.nii.gz") == classes).all()


def test_channels_that_are_no_classes_are_refused():
    with pytest.raises(DataError, match="x.nii.gz: 2 voxels are in several of its 2 channels"):
        from_one_hot(np.array([[[[1, 1, 1]]], [[[0, 1, 1]]]]), "x.nii.gz")
    with pytest.raises(DataError, match="not all 0 and 1"):
        from_one_hot(np.array([[[[0, 2]]], [[[0, 1]]]]), "x.nii.gz")


@pytest.mark.parametrize("given", [[0], 3, [0, "a"], [0, 1, 1], [0, float("nan")], [0, True]])
def test_values_that_make_no_sense_are_named(given):
    with pytest.raises(DataError, match="--values"):
        parse_values(given, "--values")

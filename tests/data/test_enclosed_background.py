# SPDX-License-Identifier: Apache-2.0
"""What closed strokes of background say of all outside them, and where they say nothing."""

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy import ndimage

from scripts.data import EnclosedBackgroundd, load_datalist
from scripts.data.transforms.enclosed_background import shut_out

UNDRAWN = -1


def ring(size=21, gap=0):
    """A square ring of background around a stroke of class 2, with a gap in one side."""
    drawn = np.full((size, size), UNDRAWN)
    drawn[5:16, 5:16] = 0
    drawn[6:15, 6:15] = UNDRAWN
    drawn[10, 9:12] = 2
    middle = size // 2
    drawn[5, middle - gap // 2 : middle - gap // 2 + gap] = UNDRAWN
    return drawn


def concluded(drawn, gap=3):
    """A slice with all that is shut out as background."""
    outside = shut_out(drawn, gap)
    return drawn if outside is None else np.where(outside, 0, drawn)


def transformed(drawn):
    """The label as the transform leaves it, [X, Y] or [X, Y, Z]."""
    return EnclosedBackgroundd("label")({"label": torch.as_tensor(drawn)[None]})["label"][0].numpy()


def test_what_lies_outside_a_closed_ring_is_background_and_inside_nothing_changes():
    drawn = ring()
    found = concluded(drawn)
    inside = np.zeros_like(drawn, dtype=bool)
    inside[6:15, 6:15] = True
    assert (found[~inside] == 0).all() and (found[inside] == drawn[inside]).all()


@pytest.mark.parametrize(
    ("gap", "closed"), [(0, True), (1, True), (2, True), (5, True), (6, True), (7, False), (9, False)]
)
def test_small_gaps_are_closed_and_wide_ones_say_nothing(gap, closed):
    drawn = ring(gap=gap)
    found = concluded(drawn)
    assert (found == 0).sum() > (drawn == 0).sum() if closed else (found == drawn).all()
    if closed:  # the inside is as it was drawn, and so is what lies before the gap
        assert (found[6:15, 6:15] == drawn[6:15, 6:15]).all()
        assert (found[0] == 0).all() and (found[-1] == 0).all()


def test_no_more_than_the_given_gap_is_closed():
    assert (concluded(ring(gap=3), gap=1) == ring(gap=3)).all()
    assert (concluded(ring(gap=2), gap=1) != ring(gap=2)).any()


def stroke_on_the_ring():
    drawn = ring()
    drawn[4, 10] = 1  # drawn outside of it
    return drawn


SILENT = {
    "no ring": np.where(ring() == 0, UNDRAWN, ring()),
    "nothing but background": np.where(ring() == 2, UNDRAWN, ring()),
    "nothing drawn": np.full((9, 9), UNDRAWN),
    "all drawn": np.where(ring() == UNDRAWN, 0, ring()),
    "open at the border": ring()[8:],
    "a stroke outside the ring": stroke_on_the_ring(),
}


@pytest.mark.parametrize("drawn", SILENT.values(), ids=SILENT)
def test_where_the_ring_does_not_part_inside_and_outside_nothing_is_concluded(drawn):
    assert (concluded(drawn) == drawn).all() and (transformed(drawn) == drawn).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_that_were_labelled_whole_say_nothing_of_those_between(axis):
    ball = (np.stack(np.meshgrid(*[np.arange(21) - 10] * 3, indexing="ij")) ** 2).sum(0) < 36
    volume = np.full(ball.shape, UNDRAWN)
    np.moveaxis(volume, axis, 0)[2::4] = np.moveaxis(ball, axis, 0)[2::4]
    assert (transformed(volume) == volume).all()


def test_two_structures_each_in_a_ring_of_its_own():
    drawn = np.concatenate([ring(), ring()], 1)
    found = concluded(drawn)
    assert (found[6:15, 6:15] == drawn[6:15, 6:15]).all() and (found[6:15, 27:36] == drawn[6:15, 27:36]).all()
    assert (found[:5] == 0).all() and (found[:, 16:26] == 0).all()


def test_as_large_a_part_is_taken_as_strokes_fill_of_the_inside():
    drawn = np.pad(ring(), 200, constant_values=UNDRAWN)
    drawn[206:215, 206:208] = 1  # with the stroke of three voxels, 21 of 81
    found, outside = transformed(drawn), shut_out(drawn, 3)
    taken = (found == 0) & (drawn == UNDRAWN)
    assert not (taken & ~outside).any()
    assert taken.sum() / outside.sum() == pytest.approx(21 / 81, abs=0.01)
    assert (transformed(drawn) == found).all()  # the same ones every time
    both = transformed(np.stack([drawn, drawn], -1))
    assert (both[..., 0] != both[..., 1]).any()  # but not in every slice


def test_any_closed_ring_gives_the_components_that_hold_no_stroke():
    """Random blobs, against SciPy's labelled components."""
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(30):
        seeds = np.pad(generator.random((24, 24)) > 0.99, 8)
        blob = ndimage.binary_dilation(seeds, np.ones((3, 3)), iterations=3)
        edge = ndimage.binary_dilation(blob, np.ones((3, 3)), iterations=2) & ~ndimage.binary_dilation(blob)
        drawn = np.full(blob.shape, UNDRAWN)
        drawn[edge], drawn[ndimage.binary_erosion(blob, iterations=2)] = 0, 1
        components, _ = ndimage.label(drawn != 0)
        with_strokes = np.isin(components, np.unique(components[drawn == 1])) & (drawn != 0)
        at_border = with_strokes[[0, -1]].any() or with_strokes[:, [0, -1]].any()
        found = shut_out(drawn, 0)
        assert (found is None) == (at_border or not with_strokes.any())
        if found is None:
            continue
        told += 1
        # a voxel next to the reached ones stays undrawn, as far as strokes are one voxel wide
        expected = (drawn == UNDRAWN) & ~ndimage.binary_dilation(with_strokes, np.ones((3, 3)))
        assert (found == expected).all()
    assert told >= 20


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_across_the_longest_voxels(axis):
    volume = np.moveaxis(np.stack([ring(), ring(gap=9), ring(gap=4)]), 0, axis)
    affine = np.diag([*np.where(np.arange(3) == axis, 8.0, 1.5), 1.0])
    label = MetaTensor(torch.as_tensor(volume)[None], affine=torch.as_tensor(affine))
    found = EnclosedBackgroundd("label")({"label": label})["label"]
    assert isinstance(found, MetaTensor) and np.allclose(found.affine, affine)
    before, after = (np.moveaxis(one, axis, 0) for one in (volume, found[0].numpy()))
    assert (before != after).any((1, 2)).tolist() == [True, False, True]


def test_of_equal_voxels_the_last_axis_counts():
    volume = np.stack([ring(), ring(gap=9)], -1)
    found = transformed(volume)
    assert (found[..., 0] != volume[..., 0]).any() and (found[..., 1] == volume[..., 1]).all()


def test_an_item_without_a_label_passes():
    assert EnclosedBackgroundd("label", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError):
        EnclosedBackgroundd("label")({"image": 1})


@pytest.mark.parametrize(("files", "ignore", "used"), [((), 255, 0), (("sparse",), 255, 1), (("sparse",), None, 0)])
def test_the_method_for_sparse_labels_uses_it_where_voxels_are_ignored(bundle_root, files, ignore, used):
    parser = ConfigParser()
    layers = ["train", *(f"methods/{name}" for name in files)]
    parser.read_config([str(bundle_root / "configs" / f"{layer}.json") for layer in layers])
    parser.update({"bundle_root": str(bundle_root), "ignore": ignore, "partial_labels": True, "num_classes": 3})
    steps = parser.get_parsed_content("train#deterministic_transforms")
    assert sum(isinstance(step, EnclosedBackgroundd) for step in steps) == used


def test_real_scribbles_conclude_nothing_that_whole_labels_contradict(shared_data):
    folder = shared_data / "acdc"
    datalist, told = load_datalist(folder / "datalist_7.json"), 0
    for case in datalist["training"]:
        name = case["label"].rsplit("/", 1)[-1]
        truth = np.asanyarray(nibabel.load(case["label"]).dataobj)
        scribbles = nibabel.load(folder / "scribbles" / name)
        drawn = np.asanyarray(scribbles.dataobj).astype(np.int16)
        drawn[drawn == 4] = UNDRAWN
        label = MetaTensor(torch.from_numpy(drawn)[None], affine=torch.as_tensor(scribbles.affine))
        found = EnclosedBackgroundd("label")({"label": label})["label"][0].numpy()
        assert (found[drawn != UNDRAWN] == drawn[drawn != UNDRAWN]).all()
        whole = np.stack([concluded(drawn[..., k]) for k in range(drawn.shape[2])], -1)
        taken, outside = (found == 0) & (drawn == UNDRAWN), (whole == 0) & (drawn == UNDRAWN)
        assert (truth[outside] == 0).all() and not (taken & ~outside).any()
        assert 5 < (found == 0).sum() / (found > 0).sum() < 30  # as in whole labels
        told += outside.mean() / len(datalist["training"])
    assert told > 0.8

# SPDX-License-Identifier: Apache-2.0
"""Crops, noise and smoothing are those of MONAI's transforms, but quicker and without smeared borders."""

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAffined,
    RandAffineGrid,
    RandCropByLabelClassesd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandSpatialCropd,
)
from monai.transforms.utils import map_classes_to_indices
from scipy.stats import ks_2samp, kstest
from torch.nn.functional import grid_sample

from scripts.data import ClassCountsd, FastRandGaussianNoised, FastRandGaussianSmoothd, RandAffineCropd, rotation_range
from scripts.data.augmentation.class_counts import COUNTS, ClassVoxels
from scripts.data.augmentation.gaussian import smooth
from scripts.data.augmentation.sampling import sample_linear, sample_nearest

SIZE = (12, 10, 8)
BOTH = ("bilinear", "nearest")


@pytest.fixture(autouse=True)
def plain_tensors():
    """As in training, where no metadata is kept after the cache."""
    before = get_track_meta()
    set_track_meta(False)
    yield
    set_track_meta(before)


def scan(seed=0, shape=(30, 26, 22)):
    """A ball with a core, ignored voxels at one end, and an image that is brighter there."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    distance = np.sqrt(((grid - np.array(shape).reshape(-1, 1, 1, 1) / 2 + 2) ** 2).sum(0))
    label = (distance < 8).astype(np.float32) + (distance < 3)
    image = label + generator.normal(0, 0.3, shape)
    label[:4] = -1
    return {"image": torch.tensor(image, dtype=torch.float32)[None], "label": torch.tensor(label)[None]}


def counted(item):
    return ClassCountsd("label", num_classes=3)(item)


def affine(rotation=0.35, scaling=0.25):
    return RandAffineGrid(rotate_range=[rotation] * 3, scale_range=[scaling] * 3)


def crop(prob=1.0, label_key="label", mode=BOTH, **kwargs):
    return RandAffineCropd(["image", "label"], SIZE, affine(**kwargs), prob, mode, label_key)


@pytest.mark.parametrize("shape", [(9, 8, 7), (9, 1, 7), (9, 8)])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_those_of_grid_sample(shape, channels):
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(channels, *shape, generator=generator)
    dims, size = len(shape), (6, 1, 5)[: len(shape)]
    for _ in range(5):
        matrix = torch.eye(dims) + (torch.rand(dims, dims, generator=generator) - 0.5)
        centre = [side / 2 - 0.3 for side in shape]  # part of the grid lies outside
        points = torch.stack(torch.meshgrid(*[torch.arange(side) - (side - 1) / 2 for side in size], indexing="ij"), -1)
        points = (points.double() @ matrix.double().T) + torch.tensor(centre, dtype=torch.float64)
        sides = torch.tensor([max(side - 1, 1) for side in shape], dtype=torch.float64)
        grid = (points * 2 / sides - 1).flip(-1)[None]
        for sampler, mode, tolerance in ((sample_linear, "bilinear", 1e-5), (sample_nearest, "nearest", 0)):
            expected = grid_sample(volume[None].double(), grid, mode, padding_mode="border", align_corners=True)[0]
            found = sampler(volume, matrix, centre, size)
            assert found.shape == (channels, *size)
            assert torch.allclose(found.double(), expected, atol=tolerance, rtol=0)


def test_a_large_grid_is_sampled_in_parts_without_a_seam():
    ramp = torch.arange(200.0).view(1, 200, 1, 1).expand(1, 200, 64, 64).contiguous()
    found = sample_linear(ramp, torch.eye(3), [99.5, 31.5, 31.5], (200, 64, 64))
    assert torch.allclose(found, ramp, atol=1e-4)


def test_class_voxels_are_the_indices_that_monai_finds():
    item = counted(scan())
    expected = map_classes_to_indices(item["label"], 3)
    assert sum(map(len, expected)) < item["label"].numel()  # ignored ones are in none
    for number, (counts, indices) in enumerate(zip(item[COUNTS], expected, strict=True)):
        voxels = ClassVoxels(item["label"][0], number, counts)
        assert len(voxels) == len(indices) > 0
        for index in (0, len(indices) // 3, len(indices) - 1):
            assert voxels[index] == indices[index]


def test_an_item_without_a_label_gets_no_counts():
    assert set(ClassCountsd("label", 3, allow_missing_keys=True)({"image": 1})) == {"image"}


@pytest.mark.parametrize("label_key", ["label", None])
def test_where_it_crops_is_where_monai_does(label_key):
    item = scan()
    for seed in range(10):
        theirs = (
            RandCropByLabelClassesd(["image", "label"], "label", SIZE, num_classes=3, warn=False)
            if label_key
            else RandSpatialCropd(["image", "label"], SIZE, random_size=False)
        )
        expected = theirs.set_random_state(seed)(item)
        ours = crop(0.0, label_key).set_random_state(seed)(counted(item) if label_key else item)
        assert set(ours) == {"image", "label"}
        for key in ours:
            assert torch.equal(ours[key], (expected[0] if label_key else expected)[key])


def test_a_class_without_voxels_is_never_looked_for():
    item = scan()
    item["label"][item["label"] == 2] = 1
    transform = crop(0.0).set_random_state(0)
    assert all(transform(counted(item))["label"].max() < 2 for _ in range(20))


def test_a_turned_crop_shows_the_scan_beyond_its_border():
    ramp = torch.arange(30.0).view(1, 30, 1, 1).expand(1, 30, 30, 30).contiguous()
    transform = RandAffineCropd("image", (10, 10, 10), affine(0.3, 0.0), 1.0)
    for seed in range(5):
        found = transform.set_random_state(seed)({"image": ramp})["image"][0]
        if found.min() > 0 and found.max() < 29:  # nothing of it lies outside the scan
            for axis in range(3):  # so what was linear still is: no voxel twice
                steps = found.diff(dim=axis)
                assert torch.allclose(steps, steps.mean(), atol=1e-3)
            assert found.diff(dim=0).mean() < 0.999  # it is turned
            break
    else:
        pytest.fail("no crop lay inside the scan")


def test_image_and_label_are_turned_alike():
    label = scan()["label"]
    transform = crop(mode=("nearest", "nearest")).set_random_state(0)
    for _ in range(5):
        found = transform(counted({"image": label.clone(), "label": label}))
        assert torch.equal(found["image"], found["label"])


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_a_crop_is_a_copy(prob):
    item = scan(shape=SIZE)
    before = {key: value.clone() for key, value in item.items()}
    found = crop(prob)(counted(item))
    found["image"].fill_(99)
    found["label"].fill_(99)
    assert all(torch.equal(item[key], before[key]) for key in item)


def test_crops_are_distributed_as_those_of_crop_and_then_affine():
    item = scan(shape=(60, 56, 52))
    ours = crop(0.6).set_random_state(1)
    theirs = Compose(
        [
            RandCropByLabelClassesd(["image", "label"], "label", SIZE, num_classes=3, warn=False),
            RandAffined(
                ["image", "label"],
                prob=0.6,
                rotate_range=[0.35] * 3,
                scale_range=[0.25] * 3,
                mode=BOTH,
                padding_mode="border",
            ),
        ]
    ).set_random_state(2)
    inner = (slice(None), slice(3, -3), slice(3, -3), slice(2, -2))  # theirs repeats voxels further out
    features = {
        "foreground": lambda one: (one["label"][inner] > 0).float().mean().item(),
        "core": lambda one: (one["label"][inner] == 2).float().mean().item(),
        "brightness": lambda one: one["image"][inner].mean().item(),
        "deviation": lambda one: one["image"][inner].std().item(),
    }
    crops = [ours(counted(item)) for _ in range(400)], [theirs(item)[0] for _ in range(400)]
    for name, feature in features.items():
        values = [[feature(one) for one in some] for some in crops]
        assert ks_2samp(*values).pvalue > 1e-3, name


def test_whether_to_turn_does_not_say_how_far():
    transform = crop(0.3)
    angles = []
    for seed in range(200):  # the first draw after a seed is the one that a shared seed would tie
        transform.set_random_state(seed)(counted(scan(shape=SIZE)))
        if transform._do_transform:
            angles.append(transform.affine.rotate_params[0])
    assert len(angles) > 30
    assert kstest(angles, "uniform", args=(-0.35, 0.7)).pvalue > 1e-3


def test_smoothing_gives_the_numbers_of_monai():
    image = torch.rand(2, 20, 3, 11)
    for seed in range(5):
        pair = [
            kind("image", prob=0.7, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.5), sigma_z=(0.5, 1.0)).set_random_state(seed)
            for kind in (FastRandGaussianSmoothd, RandGaussianSmoothd)
        ]
        for _ in range(4):
            ours, theirs = (transform({"image": image})["image"] for transform in pair)
            assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.equal(smooth(image, (1.0, 1.0, 1.0)), image)


def test_noise_is_normal_and_as_strong_as_monai_draws_it():
    image = torch.ones(1, 40, 40, 40)
    spread = []
    for seed in range(6):
        pair = [
            kind("image", prob=1.0, std=0.4).set_random_state(seed)
            for kind in (FastRandGaussianNoised, RandGaussianNoised)
        ]
        ours, theirs = (transform({"image": image})["image"] - 1 for transform in pair)
        assert ours.dtype == torch.float32
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
        assert kstest((ours / ours.std()).flatten()[::7].numpy(), "norm").pvalue > 1e-3
        spread.append(ours.std().item())
    assert max(spread) > 2 * min(spread)


def test_a_seed_repeats_crop_and_noise():
    steps = Compose([crop(0.5), FastRandGaussianNoised("image", prob=0.5)])
    first, again, other = (steps.set_random_state(seed)(counted(scan()))["image"] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="bicubic"):
        crop(mode="bicubic")


@pytest.mark.parametrize(
    ("spacing", "patch_size", "expected"),
    [
        ((1.0, 1.0, 1.0), (32, 48, 32), [0.3, 0.3, 0.3]),
        ((0.625, 0.625, 0.625), (112, 112, 80), [0.3, 0.3, 0.3]),
        ((1.0, 1.0, 3.0), (96, 96, 32), [0.3, 0.3, 0.3]),
        ((0.8, 0.8, 5.0), (96, 96, 32), [0.0, 0.0, 0.3]),  # thick slices
        ((1.5, 1.5, 1.5), (128, 128, 16), [0.0, 0.0, 0.3]),  # a flat crop
        ((10.0, 1.5, 1.5), (8, 128, 128), [0.3, 0.0, 0.0]),
        ((1.0, 1.0), (64, 64), [0.3]),
    ],
)
def test_nothing_is_turned_out_of_thick_slices(spacing, patch_size, expected):
    assert rotation_range(0.3, spacing, patch_size) == expected


def test_slices_of_a_thick_sliced_scan_stay_slices(bundle_root):
    """Every crop of the ACDC recipe shows whole slices: an image of slice numbers is constant in each of them."""
    parser = ConfigParser()
    names = ("train", "datasets/acdc", "recipes/cpu")
    parser.read_config([str(bundle_root / "configs" / f"{name}.json") for name in names])
    parser["train#affine"]["scale_range"] = None
    crop = parser.get_parsed_content("train#unlabeled#crop")
    crop.set_random_state(0)
    numbers = torch.arange(10.0).expand(1, 210, 200, 10).contiguous()
    for _ in range(10):
        shown = crop({"image": numbers})["image"]
        assert shown.shape == (1, 160, 160, 8)
        assert torch.allclose(shown, shown[:, :1, :1], atol=1e-4) and torch.allclose(
            shown.diff(dim=3), torch.ones(()), atol=1e-4
        )

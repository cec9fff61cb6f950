# SPDX-License-Identifier: Apache-2.0
"""Intensities that are varied on the device are those that the loader would have given."""

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandZoomd,
)

from scripts.data import (
    DRAWN,
    FastRandGaussianNoised,
    FastRandGaussianSmoothd,
    TwoStreams,
    VaryIntensity,
    draw_intensity,
    phantom_dataset,
)
from scripts.data.augmentation import on_device
from scripts.errors import DataError

KINDS = [
    lambda prob: FastRandGaussianNoised("image", prob, std=0.3),
    lambda prob: FastRandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.25, 1.5), prob=prob),
    lambda prob: RandScaleIntensityd("image", 0.35, prob),
    lambda prob: RandShiftIntensityd("image", 0.3, prob=prob),
    lambda prob: RandAdjustContrastd("image", prob, (0.65, 1.6), retain_stats=True),
]


@pytest.fixture(autouse=True)
def metadata_as_in_training(request):
    """None is kept after the cache; the configs' loaders need it to fill that."""
    before = get_track_meta()
    set_track_meta("config" in request.fixturenames)
    yield
    set_track_meta(before)


def images(count=4, channels=2):
    return torch.randn(count, channels, 12, 10, 8, generator=torch.Generator().manual_seed(0))


def both_ways(make, batch, seed=0):
    """The batch by the transforms themselves, and by drawing first and varying after."""
    expected = Compose(make()).set_random_state(seed)
    drawing = Compose(draw_intensity(make())).set_random_state(seed)
    items = [drawing({"image": image}) for image in batch]
    assert torch.equal(torch.stack([item["image"] for item in items]), batch)  # left as they are
    varied = VaryIntensity(make(), keep_as="weak")({"image": batch}, torch.stack([item[DRAWN] for item in items]))
    return torch.stack([expected({"image": image})["image"] for image in batch]), varied


@pytest.mark.parametrize("make", KINDS)
def test_each_transform_gives_what_the_loader_would_have_given(make):
    batch = images()
    expected, varied = both_ways(lambda: [make(1.0)], batch)
    assert torch.allclose(varied["image"], expected, atol=2e-6, rtol=1e-6)
    assert (varied["image"] - batch).abs().flatten(1).amax(1).min() > 1e-3  # each image varies
    assert varied["weak"] is batch


def test_a_chain_draws_the_same_numbers_and_leaves_out_the_same_transforms():
    batch = images()
    untouched = 0
    for seed in range(10):
        expected, varied = both_ways(lambda: [make(0.4) for make in KINDS], batch, seed)
        assert torch.allclose(varied["image"], expected, atol=5e-6, rtol=1e-5)
        untouched += sum(torch.equal(*pair) for pair in zip(varied["image"], batch, strict=True))
    assert 0 < untouched < 20  # of 40; about 0.6 ** 5 stay as they are


def test_an_image_of_one_value_stays_finite():
    batch = torch.full((1, 1, 4, 4, 4), 2.0)
    _, varied = both_ways(lambda: [KINDS[-1](1.0)], batch)
    assert torch.equal(varied["image"], batch)


@pytest.mark.parametrize(
    "transform",
    [
        RandZoomd("image"),
        RandFlipd(["image"]),
        RandScaleIntensityd("image", 0.1, channel_wise=True),
        RandShiftIntensityd("image", 0.1, channel_wise=True),
        RandShiftIntensityd("image", 0.1, factor_key="max"),
        RandShiftIntensityd(["image", "label"], 0.1),
        RandAdjustContrastd("image"),
        RandAdjustContrastd("image", retain_stats=True, invert_image=True),
        FastRandGaussianSmoothd("image", approx="sampled"),
    ],
)
def test_what_it_cannot_apply_is_refused_with_the_remedy(transform):
    for call in (draw_intensity, VaryIntensity):
        with pytest.raises(DataError, match=rf"{type(transform).__name__}.*intensity_on_device to False"):
            call([KINDS[0](0.5), transform])


def test_nothing_waits_for_the_device(monkeypatch):
    """The meta device holds no numbers: whatever reads one raises there. It has no generator either."""
    monkeypatch.setattr(on_device, "gaussian_noise", lambda shape, *_: torch.empty(shape, device="meta"))
    make = [make(1.0) for make in KINDS]
    item = Compose(draw_intensity(make))({"image": images(1)[0]})
    varied = VaryIntensity(make)({"image": images(1).to("meta")}, item[DRAWN][None])
    assert varied["image"].is_meta and varied["image"].shape == (1, 2, 12, 10, 8)


@pytest.fixture(scope="module")
def config(bundle_root, tmp_path_factory):
    data = phantom_dataset(tmp_path_factory.mktemp("phantom"), size=(20, 20, 20), labeled=3, unlabeled=3, test=1)

    def make(on_device):
        parser = ConfigParser()
        parser.read_config(str(bundle_root / "configs" / "train.json"))
        parser.update({"bundle_root": str(bundle_root), "dataset_dir": str(data), "device": "cpu", "cache": "memory"})
        parser.update({"patch_size": [16, 16, 16], "base_channels": 4, "stem_stride": 1, "augmentation": "strong"})
        parser.update({"intensity_on_device": on_device, "num_workers": 0, "check": None})
        return parser

    return make


def test_a_trainer_sees_the_same_batches_either_way(config):
    seen = []
    for on_device_too in (False, True):
        parser = config(on_device_too)
        trainer = parser.get_parsed_content("train#trainer")
        loaders = [parser.get_parsed_content(f"train#{name}dataloader") for name in ("", "unlabeled#")]
        streams = TwoStreams(*loaders, epoch_length=4, seed=3)
        streams.set_epoch(1)
        steps = list(streams)
        assert all((DRAWN in batch) is on_device_too for step in steps for batch in step.values())
        seen.append([{name: trainer._prepare(batch, name) for name, batch in step.items()} for step in steps])
    for loader, device in zip(*seen, strict=True):
        for name in ("labeled", "unlabeled"):
            assert loader[name].keys() == device[name].keys()
            for key, value in loader[name].items():
                assert torch.allclose(device[name][key], value, atol=5e-6, rtol=1e-5)
    assert any(not torch.equal(step["unlabeled"]["image"], step["unlabeled"]["weak"]) for step in seen[1])


def test_the_default_is_the_loader_on_a_cpu_and_the_device_on_a_gpu(config):
    for device, expected in (("cpu", False), ("cuda:0", True)):
        parser = config(False)
        parser.update({"device": device, "intensity_on_device": _default(parser)})
        assert parser.get_parsed_content("intensity_on_device") is expected


def _default(parser):
    fresh = ConfigParser()
    fresh.read_config(str(parser.get_parsed_content("bundle_root")) + "/configs/train.json")
    return fresh["intensity_on_device"]


def test_a_trainer_without_the_other_half_says_so(config):
    parser = config(True)
    parser["train#trainer#batch_transforms"] = {}
    trainer = parser.get_parsed_content("train#trainer")
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    with pytest.raises(DataError, match="labeled scans leaves their intensities.*intensity_on_device to False"):
        trainer._prepare(batch, "labeled")

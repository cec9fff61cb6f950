# SPDX-License-Identifier: Apache-2.0
"""What prediction adds to a network: mirrored views, several runs, largest parts, maps of how sure it is, bad scans."""

import math

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer

from scripts.errors import DataError
from scripts.inference import (
    FlipInferer,
    KeepLargestPartd,
    RunsEnsemble,
    SaveUncertaintyd,
    UsableScans,
    WindowInferer,
    disagreement_map,
    ensemble_of_runs,
    entropy_map,
)


class Shifted(torch.nn.Module):
    """Logits that depend on where a voxel lies: mirroring changes them."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return torch.cat([x, torch.linspace(0, 2, x.shape[2])[None, None, :, None, None] * self.scale + x], 1)

    def members(self, x):
        return self(x), 2 * self(x), self(x)


def image():
    return torch.rand(1, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def test_without_axes_nothing_changes():
    network, x = Shifted(), image()
    assert torch.equal(FlipInferer(SimpleInferer(), [])(x, network), network(x))


@pytest.mark.parametrize("axes", [[0], [0, 2]])
def test_mirrored_views_are_averaged_and_turned_back(axes):
    network, x = Shifted(), image()
    views = [()] + [(axis,) for axis in axes] + ([tuple(axes)] if len(axes) == 2 else [])
    dims = [[axis + 2 for axis in view] for view in views]
    expected = torch.stack([network(x.flip(d)).softmax(1).flip(d) for d in dims]).mean(0)
    assert torch.allclose(FlipInferer(SimpleInferer(), axes)(x, network).softmax(1), expected, atol=1e-6)
    both = FlipInferer(SimpleInferer(), axes)(x, network.members)
    assert len(both) == 3 and torch.allclose(both[0].softmax(1), expected, atol=1e-6)
    assert not torch.allclose(both[1], both[0])


def test_axes_must_be_different_numbers():
    for axes in ([0, 0], [-1]):
        with pytest.raises(ValueError, match="different numbers from 0 on"):
            FlipInferer(SimpleInferer(), axes)


def test_runs_are_averaged_by_probability(tmp_path):
    networks = [Shifted(1.0), Shifted(3.0), Shifted(-2.0)]
    for number, network in enumerate(networks):
        torch.save(network.state_dict(), tmp_path / f"{number}.pt")
    ensemble = ensemble_of_runs(networks[0], [str(tmp_path / "1.pt"), str(tmp_path / "2.pt")])
    expected = torch.stack([network(image()).softmax(1) for network in networks]).mean(0)
    assert torch.allclose(ensemble(image()).softmax(1), expected, atol=1e-6)
    assert torch.allclose(ensemble(image()).exp(), expected, atol=1e-6)
    a, b, both = ensemble.members(image())
    assert torch.allclose(both.exp(), expected, atol=1e-6) and not torch.allclose(a, b)
    assert ensemble_of_runs(networks[0], []) is networks[0]
    assert isinstance(ensemble, RunsEnsemble)


def test_weights_of_other_networks_are_refused(tmp_path):
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK")
    for name, problem in (("other.pt", ": holds weights of other networks"), ("cut.pt", " is damaged")):
        with pytest.raises(DataError, match=f"{name}{problem}"):
            ensemble_of_runs(Shifted(), [str(tmp_path / name)])
    with pytest.raises(DataError, match="is missing"):
        ensemble_of_runs(Shifted(), [str(tmp_path / "none.pt")])


def test_only_the_largest_part_of_the_named_classes_is_kept():
    labels = MetaTensor(torch.tensor([[[1, 1, 0, 1, 2, 0, 2, 2]]]).float(), affine=torch.eye(4) * 2)
    cleaned = KeepLargestPartd("pred", [1])({"pred": labels})["pred"]
    assert cleaned.tolist() == [[[1, 1, 0, 0, 2, 0, 2, 2]]]
    assert cleaned.dtype == labels.dtype and torch.equal(cleaned.affine, labels.affine)


def test_maps_have_known_values(tmp_path):
    sure, even = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.5], [0.5]])
    assert entropy_map(sure).item() == 0 and entropy_map(even).item() == pytest.approx(1)
    assert disagreement_map(sure, sure.flip(0)).item() == 1 and disagreement_map(sure, even).item() == 0.5
    affine, shape = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0])), (2, 3, 4, 5)
    item = {
        key: MetaTensor(torch.full(shape, 0.5), affine=affine, meta={"filename_or_obj": "in/a_0000.nii.gz"})
        for key in ("pred", "pred_a", "pred_b")
    }
    SaveUncertaintyd(str(tmp_path))(item)
    entropy, disagreement = (nibabel.load(tmp_path / f"a_{kind}.nii.gz") for kind in ("entropy", "disagreement"))
    assert np.allclose(entropy.get_fdata(), 1) and not disagreement.get_fdata().any()
    assert entropy.shape == (3, 4, 5) and np.allclose(entropy.affine, affine)
    assert math.isclose(entropy.header.get_zooms()[2], 3)


def test_a_bad_scan_is_left_out_or_an_error(tmp_path, capsys):
    data = []
    for name in ("a", "b"):
        voxels = np.random.default_rng(len(data)).random((8, 8, 8), dtype=np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
        data.append({"image": str(tmp_path / f"{name}.nii.gz")})
    labels = {"0": "background", "1": "heart"}
    UsableScans(data, labels, 1).exit_if_skipped()  # none was
    (tmp_path / "a.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="a.nii.gz: 0 bytes"):
        UsableScans(data, labels, 1)
    usable = UsableScans(data, labels, 1, skip=True)
    assert usable.scans == data[1:]
    with pytest.raises(SystemExit) as ended:
        usable.exit_if_skipped()
    assert ended.value.code == 3 and "left out: " in capsys.readouterr().err
    with pytest.raises(DataError, match="0 bytes"):
        UsableScans(data[:1], labels, 1, skip=True)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_sliding_window_computes_in_the_given_numbers_and_adds_up_in_float32(autocast):
    seen, conv = [], torch.nn.Conv3d(1, 2, 1)

    def network(window):
        seen.append(conv(window).dtype)
        return conv(window)

    x = image()
    with torch.no_grad():
        found = WindowInferer(roi_size=(4, 4, 4), overlap=0.5, autocast=autocast)(x, network)
        expected = conv(x)
    assert set(seen) == {autocast or torch.float32} and found.dtype is torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5 if autocast is None else 2e-2, atol=2e-2)

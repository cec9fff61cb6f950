# SPDX-License-Identifier: Apache-2.0
"""Strokes and clicks: what they change, how 3D Slicer sends them, and a second volume that says where to look."""

import itertools
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monailabel.interfaces.utils.app import app_instance
from requests_toolbelt import MultipartDecoder

QUICK = {"model": "hippo", "max_epochs": 1, "epoch_length": 2, "device": "cpu"}
MODEL = "hippo_scribbles"
STRUCTURE = "posterior hippocampus"


@pytest.fixture(scope="module")
def app(copy_bundle, make_studies, tiny):
    """An app with 3 scans, 2 of them labelled, and a barely trained model."""
    conf = {"name": "hippo", "dataset": tiny}
    app = app_instance(str(copy_bundle() / "monailabel_app"), str(make_studies(3, labels=2)), conf)
    app.train(QUICK)
    return app


@pytest.fixture(scope="module")
def cut(app):
    """The module; it is loaded with the app."""
    import lib.correction.cut as module

    return module


@pytest.fixture
def scene():
    """A block that the networks see but for one end, in an image where it is bright: probability, image, truth."""
    truth = np.zeros((16, 10, 9), bool)
    truth[3:13, 3:7, 3:7] = True
    seen = truth.copy()
    seen[9:] = False
    image = np.where(truth, 100.0, 20.0) + np.random.default_rng(0).normal(0, 2, truth.shape)
    return np.where(seen, 0.9, 0.1), image, truth


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_stroke_in_a_missed_part_brings_it_back_along_the_edges(cut, scene):
    probability, image, truth = scene
    strokes = np.zeros(truth.shape, np.uint8)
    strokes[9:12, 5, 5] = cut.FOREGROUND
    found = cut.cut(probability, probability > 0.5, image, strokes, (1, 1, 1), 2.5, 2.0)
    assert dice(probability > 0.5, truth) < 0.8 and dice(found, truth) > 0.95
    assert found[strokes > 0].all()


def test_a_stroke_is_obeyed_even_against_networks_and_edges(cut, scene):
    probability, image, truth = scene
    strokes = np.zeros(truth.shape, np.uint8)
    strokes[5, 5, 5], strokes[1, 1, 1] = cut.BACKGROUND, cut.FOREGROUND
    found = cut.cut(probability, probability > 0.5, image, strokes, (1, 1, 1), 0.5, 2.0)
    assert not found[5, 5, 5] and found[1, 1, 1]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)])
def test_without_smoothing_it_is_the_weighted_mean_of_networks_and_strokes(cut, spacing):
    generator = np.random.default_rng(1)
    probability = generator.random((7, 6, 5))
    strokes = np.zeros(probability.shape, np.uint8)
    strokes[1, 2, 2], strokes[5, 4, 1] = cut.FOREGROUND, cut.BACKGROUND
    reach, expected = 1.1, probability > 0.5
    points = {kind: np.argwhere(strokes == kind)[0] for kind in (cut.FOREGROUND, cut.BACKGROUND)}
    for voxel in itertools.product(*map(range, probability.shape)):
        fore, back = (
            np.linalg.norm((np.array(voxel) - points[kind]) * spacing) for kind in (cut.FOREGROUND, cut.BACKGROUND)
        )
        if min(fore, back) <= 3 * reach:
            weight = np.exp(-(min(fore, back) ** 2) / 2 / reach**2)
            expected[voxel] = (1 - weight) * np.clip(probability[voxel], 0.05, 0.95) + weight * (fore < back) > 0.5
    image = generator.random(probability.shape)
    found = cut.cut(probability, probability > 0.5, image, strokes, spacing, reach, 1e-9)
    assert (found == expected).all() and (expected != (probability > 0.5)).any()


def test_what_is_far_from_strokes_or_drawn_by_hand_stays(cut, scene):
    probability, image, truth = scene
    by_hand = probability > 0.5
    by_hand[3:6, 8] = True  # not near the structure
    strokes = np.zeros(truth.shape, np.uint8)
    strokes[11, 5, 5] = cut.FOREGROUND
    found = cut.cut(probability, by_hand, image, strokes, (1, 1, 1), 1.0, 2.0)
    assert (found[:8] == by_hand[:8]).all() and found[11, 5, 5]


def write(voxels, like, folder, name="strokes.nii.gz"):
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8), nibabel.load(like).affine), folder / name)
    return str(folder / name)


def scan(app, number=0):
    name = app.datastore().list_images()[number]
    return name, Path(app.datastore().get_image_uri(name))


def correct(client, name, file=None, **params):
    files = {"label": (Path(file).name, Path(file).read_bytes())} if file else None
    params = {"device": "cpu", "selected_label_name": STRUCTURE} | params
    return client.post(f"/infer/{MODEL}", params={"image": name}, data={"params": json.dumps(params)}, files=files)


def parts(answer, folder):
    """The parts of an answer by name: JSON, or a volume."""
    found = {}
    for part in MultipartDecoder(answer.content, answer.headers["content-type"]).parts:
        disposition = part.headers[b"Content-Disposition"].decode()
        name = re.search(r' name="([^"]*)"', disposition).group(1)
        if "filename" in disposition:
            path = folder / f"{name}.nii.gz"
            path.write_bytes(part.content)
            found[name] = nibabel.load(path)
        else:
            found[name] = json.loads(part.content)
    return found


def test_slicers_scribbles_are_read_by_name_and_the_answer_is_that_structure(app, client, tmp_path):
    name, path = scan(app)
    volume = np.zeros(nibabel.load(path).shape)
    volume[8, 9:14, 7], volume[20, 20, 10:14], volume[2:4, 2:4, 2:4] = 4, 7, 2
    info = [
        {"name": "anterior hippocampus", "id": 1},
        {"name": STRUCTURE, "id": 2},
        {"name": "background_scribbles", "id": 4},
        {"name": "foreground_scribbles", "id": 7},
    ]
    answer = correct(client, name, write(volume, path, tmp_path), label_info=info, roi=[])
    assert answer.status_code == 200, answer.text
    told = parts(answer, tmp_path)
    found = np.asarray(told["image"].dataobj)
    assert found.shape == volume.shape and set(np.unique(found)) == {0, 1}
    assert found[volume == 7].all() and not found[volume == 4].any()
    assert found[2:4, 2:4, 2:4].all(), "what was drawn before is lost"
    np.testing.assert_allclose(told["image"].affine, nibabel.load(path).affine, atol=1e-4)
    assert told["params"]["label_names"] == {STRUCTURE: 1} and told["params"]["model"].startswith("hippo, ")


def test_clicks_do_and_all_structures_can_be_asked_for(app, client, tmp_path, cut):
    name, _path = scan(app)
    answer = correct(
        client, name, foreground=[[20, 20, 10]], background=[[8, 9, 7], [0, 0, 0]], result="all structures"
    )
    assert answer.status_code == 200, answer.text
    found = np.asarray(parts(answer, tmp_path)["image"].dataobj)
    assert (found[19:22, 19:22, 9:12] == 2).all() and (found[7:10, 8:11, 6:9] != 2).all() and found[0, 0, 0] != 2


def test_the_networks_see_a_scan_once(app, client, monkeypatch):
    import lib.correction.task as task

    seen = []
    probabilities = task.Predictor.probabilities
    monkeypatch.setattr(
        task.Predictor, "probabilities", lambda self, image: seen.append(image) or probabilities(self, image)
    )
    first, second = scan(app, 1), scan(app, 2)
    for name, _ in (first, first, second, second):
        assert correct(client, name, foreground=[[9, 9, 9]]).status_code == 200
    assert seen == [str(first[1]), str(second[1])]


REFUSED = {
    "nothing": ({}, 400, "draw a foreground or background scribble"),
    "no structure": ({"selected_label_name": "liver", "foreground": [[1, 1, 1]]}, 400, "name one of anterior"),
    "a click outside": ({"foreground": [[1, 1, 999]]}, 400, "no voxel"),
    "half a click": ({"foreground": [[1, 1.5, 2]]}, 400, "no voxel"),
    "a word": ({"background": "here"}, 400, "no voxel"),
    "a reach": ({"foreground": [[1, 1, 1]], "reach": -1}, 400, "reach -1"),
    "a result": ({"foreground": [[1, 1, 1]], "result": "x"}, 400, "choose one of structure"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_correction_that_makes_no_sense_is_refused(app, client, case):
    params, status, words = REFUSED[case]
    answer = correct(client, scan(app)[0], **params)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text


def test_strokes_on_another_grid_are_refused(app, client, tmp_path):
    name, path = scan(app)
    answer = correct(client, name, write(np.ones((4, 4, 4)), path, tmp_path))
    assert answer.status_code == 422 and "Draw them on this scan" in answer.json()["detail"]
    (tmp_path / "none.nii.gz").write_bytes(b"no volume")
    assert correct(client, name, tmp_path / "none.nii.gz").status_code == 422
    assert client.post(f"/batch/infer/{MODEL}", json={}).status_code == 400


@pytest.mark.parametrize("kind", ["entropy", "disagreement"])
def test_uncertainty_comes_as_a_second_volume(app, client, tmp_path, kind):
    from lib.models import Predictor, model_in_use

    name, path = scan(app)
    answer = client.post(
        "/infer/hippo", params={"image": name}, data={"params": json.dumps({"device": "cpu", "uncertainty": kind})}
    )
    assert answer.status_code == 200, answer.text
    told = parts(answer, tmp_path)
    found = Predictor(model_in_use(app.settings), app.settings.bundle, torch.device("cpu")).probabilities(str(path))
    p, a, b = (found[key].numpy().astype(np.float64) for key in ("pred", "pred_a", "pred_b"))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(p * np.log(p), axis=0) / np.log(3)
    expected = entropy if kind == "entropy" else np.abs(a - b).sum(0) / 2
    np.testing.assert_allclose(np.asarray(told["uncertainty"].dataobj), expected.clip(0, 1), atol=1e-4)
    np.testing.assert_allclose(told["uncertainty"].affine, nibabel.load(path).affine, atol=1e-4)
    assert (np.asarray(told["image"].dataobj) == p.argmax(0)).mean() > 0.999
    assert set(told["params"]["label_colors"]) == {"anterior hippocampus", STRUCTURE}


def test_without_asking_there_is_one_volume_and_an_image_alone_has_no_room_for_a_second(app, client, tmp_path):
    name, _ = scan(app)
    assert set(parts(client.post("/infer/hippo", params={"image": name}), tmp_path)) == {"params", "image"}
    refused = client.post(
        "/infer/hippo", params={"image": name, "output": "image"}, data={"params": '{"uncertainty": "entropy"}'}
    )
    assert refused.status_code == 400 and "output=all" in refused.json()["detail"]

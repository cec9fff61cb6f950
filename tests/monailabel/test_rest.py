# SPDX-License-Identifier: Apache-2.0
"""Every answer over REST is 2xx or 4xx with a sentence, and no request reads or writes outside the studies."""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from monailabel.interfaces.utils.app import app_instance

NAME = "hippocampus_001"


@pytest.fixture(scope="module")
def app(copy_bundle, make_studies, tiny):
    """An app with 4 scans, none of them labelled, and no model."""
    conf = {"name": "hippo", "dataset": tiny}
    return app_instance(str(copy_bundle() / "monailabel_app"), str(make_studies(4)), conf)


def scan(app, name=NAME):
    return Path(app.datastore().get_image_uri(name))


def submit(client, file, name=NAME, tag="final", **params):
    with Path(file).open("rb") as content:
        return client.put(
            "/datastore/label",
            params={"image": name, "tag": tag},
            data={"params": json.dumps(params)},
            files={"label": (Path(file).name, content)},
        )


def change(file, folder, edit):
    """A copy of a label with other voxels."""
    label = nibabel.load(file)
    path = folder / "changed.nii.gz"
    voxels = edit(np.asarray(label.dataobj).astype(np.float32))
    kind = np.uint8 if (voxels == voxels.round()).all() else np.float32
    nibabel.save(nibabel.Nifti1Image(voxels.astype(kind), label.affine), path)
    return path


def names(*pairs):
    return [{"name": name, "idx": value} for value, name in pairs]


BOTH = names((1, "anterior hippocampus"), (2, "posterior hippocampus"))


def garbage(file, folder):
    path = folder / "garbage.nii.gz"
    path.write_bytes(b"no volume")
    return path


WRONG = {
    "unreadable": (garbage, {}, "The label of hippocampus_001: .* cannot be read"),
    "empty": (lambda f, d: change(f, d, lambda v: v * 0), {}, "empty. Draw anterior hippocampus"),
    "another grid": (lambda f, d: change(f, d, lambda v: v[:-1]), {}, "shape .* but its image has"),
    "a value of no structure": (lambda f, d: change(f, d, lambda v: v + 5 * (v > 1)), {}, "label values 7"),
    "no whole numbers": (lambda f, d: change(f, d, lambda v: v * 0.3), {}, "no whole numbers"),
    "an unknown name": (
        lambda f, d: f,
        {"label_info": names((1, "anterior hippocampus"), (2, "Segment_2"))},
        r"2 \(Segment_2\) are none of the structures anterior hippocampus, posterior hippocampus. Rename",
    ),
    "a value without a name": (lambda f, d: f, {"label_info": BOTH[:1]}, r"2 \(without a name\)"),
    "a value that stands for no annotation": (
        lambda f, d: change(f, d, lambda v: np.where(v == 2, 255, v)),
        {},
        "label values 255",
    ),
    "strokes in fractions": (lambda f, d: change(f, d, lambda v: v * 0.5), {"scribbles": True}, "no whole numbers"),
    "strokes of an unknown structure": (
        lambda f, d: change(f, d, lambda v: v * 3),
        {"label_info": names((3, "background_scribbles"), (6, "foreground_scribbles"))},
        "foreground_scribbles of which structure. Give selected_label_name, one of anterior hippocampus",
    ),
    "background strokes alone": (
        lambda f, d: change(f, d, lambda v: v == 1),
        {"label_info": names((1, "background"))},
        "empty. Draw anterior hippocampus",
    ),
    "no list of names": (lambda f, d: f, {"label_info": {"1": "a"}}, "label_info is .* Give a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_label_is_refused_at_once(app, client, hippocampus, tmp_path, case):
    make, params, words = WRONG[case]
    answer = submit(client, make(hippocampus[NAME][1], tmp_path), **params)
    assert answer.status_code == 422
    assert re.search(words, answer.json()["detail"]), answer.json()
    assert app.datastore().get_labeled_images() == []


@pytest.fixture
def saved(app):
    """Voxels of the label that was saved; it is removed after the test."""
    yield lambda: np.asarray(nibabel.load(app.datastore().get_label_uri(NAME, "final")).dataobj)
    app.datastore().remove_label(NAME, "final")
    app.datastore().refresh()


def test_a_right_label_is_saved_as_it_is(app, client, hippocampus, saved):
    answer = submit(client, hippocampus[NAME][1], label_info=BOTH)
    assert answer.status_code == 200 and "note" not in answer.json()
    assert (saved() == np.asarray(nibabel.load(hippocampus[NAME][1]).dataobj)).all()


def test_values_follow_the_names_that_the_client_gives(app, client, hippocampus, saved, tmp_path):
    truth = nibabel.load(hippocampus[NAME][1])
    voxels = np.asarray(truth.dataobj)
    swapped = change(hippocampus[NAME][1], tmp_path, lambda v: np.where(v == 1, 5, np.where(v == 2, 1, 0)))
    info = names((1, "Posterior Hippocampus"), (3, "background_scribbles"), (5, "anterior hippocampus"))
    answer = submit(client, swapped, label_info=info)
    assert answer.status_code == 200, answer.json()
    assert answer.json()["note"].startswith("Values changed by name: Posterior Hippocampus 1 to 2")
    assert (saved() == voxels).all()
    np.testing.assert_allclose(
        nibabel.load(app.datastore().get_label_uri(NAME, "final")).affine, truth.affine, atol=1e-4
    )


def test_the_segments_of_a_saved_segmentation_name_its_values(app, client, hippocampus, tmp_path):
    image = SimpleITK.ReadImage(str(hippocampus[NAME][1]))
    wanted = SimpleITK.GetArrayFromImage(image)
    swapped = SimpleITK.GetImageFromArray(np.choose(wanted, [0, 2, 1]).astype(np.uint8))
    swapped.CopyInformation(image)
    for number, name in enumerate(("posterior_hippocampus", "Anterior hippocampus")):
        fields = {"ID": f"Segment_{number}", "Name": name, "LabelValue": str(number + 1), "Layer": "0"}
        for field, value in fields.items():
            swapped.SetMetaData(f"Segment{number}_{field}", value)
    SimpleITK.WriteImage(swapped, str(tmp_path / "a.seg.nrrd"))
    answer = submit(client, tmp_path / "a.seg.nrrd")
    assert answer.status_code == 200, answer.json()
    kept = SimpleITK.ReadImage(app.datastore().get_label_uri(NAME, "final"))
    app.datastore().remove_label(NAME, "final")
    app.datastore().refresh()
    assert (SimpleITK.GetArrayFromImage(kept) == wanted).all()


def test_one_structure_submitted_as_the_first_value_is_not_trained_as_the_first(client, hippocampus, saved, tmp_path):
    only = change(hippocampus[NAME][1], tmp_path, lambda v: v == 2)
    assert submit(client, only, label_info=names((1, "posterior hippocampus"))).status_code == 200
    assert set(np.unique(saved())) == {0, 2}


def one_slice(edit):
    """Of a label, one slice as strokes; the rest is not marked."""

    def marked(voxels):
        strokes = np.zeros_like(voxels)
        strokes[:, :, 15] = edit(voxels[:, :, 15])
        return strokes

    return marked


STROKES = {
    "a segment called background": (
        one_slice(lambda v: np.where(v == 0, 4, v)),
        {"label_info": [*BOTH, *names((4, "Background"))]},
    ),
    "the segments of 3D Slicer's scribbles": (
        one_slice(lambda v: np.where(v == 0, 7, np.where(v == 2, 8, v))),
        {
            "label_info": [*BOTH[:1], *names((7, "background_scribbles"), (8, "foreground_scribbles"))],
            "selected_label_name": "posterior hippocampus",
        },
    ),
    "said so, values as MONAI Label numbers them": (one_slice(lambda v: np.where(v == 0, 3, v)), {"scribbles": True}),
    "said so, values as in a datalist": (
        lambda v: np.where(np.arange(v.shape[2]) == 15, v, 255),
        {"scribbles": True},
    ),
}


@pytest.mark.parametrize("case", STROKES)
def test_what_scribbles_do_not_mark_is_not_background(app, client, hippocampus, saved, tmp_path, case):
    edit, params = STROKES[case]
    truth = np.asarray(nibabel.load(hippocampus[NAME][1]).dataobj)
    answer = submit(client, change(hippocampus[NAME][1], tmp_path, edit), **params)
    assert answer.status_code == 200, answer.json()
    found = saved()
    assert (found[:, :, 15] == truth[:, :, 15]).all() and set(np.unique(truth[:, :, 15])) == {0, 1, 2}
    assert (np.delete(found, 15, axis=2) == 255).all()
    left_out = (found == 255).sum()
    assert answer.json()["note"] == f"Scribbles: {left_out} of {truth.size} voxels are not annotated, and left out."
    assert app.datastore().get_label_info(NAME, "final")["scribbles"] is True
    assert app.label_checks.problems(app.datastore()) == []


def test_scribbles_without_background_are_taken_with_a_warning(client, hippocampus, saved, tmp_path):
    answer = submit(client, change(hippocampus[NAME][1], tmp_path, lambda v: v), scribbles=True)
    assert answer.status_code == 200 and answer.json()["note"].endswith("mark some, or the structures grow.")
    assert set(np.unique(saved())) == {1, 2, 255}


def test_a_whole_label_after_scribbles_is_whole(app, client, hippocampus, saved, tmp_path):
    submit(client, change(hippocampus[NAME][1], tmp_path, lambda v: v), scribbles=True)
    assert submit(client, hippocampus[NAME][1]).status_code == 200
    assert app.datastore().get_label_info(NAME, "final")["scribbles"] is False
    assert set(np.unique(saved())) == {0, 1, 2} and app.label_checks.problems(app.datastore()) == []


def test_a_scan_without_any_structure_can_be_submitted_on_purpose(client, hippocampus, saved, tmp_path):
    empty = change(hippocampus[NAME][1], tmp_path, lambda v: v * 0)
    assert submit(client, empty, empty=True).status_code == 200
    assert not saved().any()


def test_all_bad_labels_are_named_before_a_training(app, client, hippocampus, tmp_path):
    final = scan(app).parent / "labels" / "final"
    chosen = app.datastore().list_images()[:2]
    for name in chosen:  # put there by hand, as nobody has submitted them
        bad = change(hippocampus[name][1], tmp_path, lambda v: v + 5 * (v > 1))
        bad.rename(final / f"{name}.nii.gz")
    app.datastore().refresh()
    answer = client.post("/train/hippo", json={})
    for name in chosen:
        (final / f"{name}.nii.gz").unlink()
    app.datastore().refresh()
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("2 labels cannot be trained on: ")
    assert all(f"{name}.nii.gz: label values 7" in answer.json()["detail"] for name in chosen)


REFUSED = {
    "a model that there is not": ("POST", "/train/nobody", {"json": {}}, 404, "No model 'nobody'. There are: hippo."),
    "no label": ("POST", "/train/hippo", {"json": {}}, 400, "Too few labels"),
    "epochs below zero": ("POST", "/train/hippo", {"json": {"max_epochs": -3}}, 400, "max_epochs -3"),
    "epochs in words": ("POST", "/train/hippo", {"json": {"max_epochs": "many"}}, 400, "max_epochs 'many'"),
    "pretrained": ("POST", "/train/hippo", {"json": {"pretrained": "nope"}}, 400, "either true or false"),
    "another recipe": ("POST", "/train/hippo", {"json": {"recipe": "pretrained"}}, 400, "choose one of cpu, paper"),
    "another model in it": ("POST", "/train/hippo", {"json": {"model": "x"}}, 400, "'x' in the options"),
    "a model to go back to": (
        "POST",
        "/train/hippo",
        {"json": {"use_model": "x"}},
        400,
        "use_model 'x': choose one of",
    ),
    "all models": ("POST", "/train/", {"json": {}}, 400, "POST /train/hippo"),
    "a strategy": ("POST", "/activelearning/best", {"json": {}}, 404, "disagreement, entropy"),
    "a score": ("POST", "/scoring/best", {"json": {}}, 404, "disagreement, entropy"),
    "a segmentation": ("POST", "/infer/nobody", {"params": {"image": NAME}}, 404, "There are: hippo"),
    "no model yet": ("POST", "/infer/hippo", {"params": {"image": NAME}}, 409, "No model yet"),
    "a version": (
        "POST",
        "/infer/hippo",
        {"params": {"image": NAME}, "data": {"params": '{"version": "x"}'}},
        404,
        "No mo",
    ),
    "a device": (
        "POST",
        "/infer/hippo",
        {"params": {"image": NAME}, "data": {"params": '{"device": "x"}'}},
        400,
        "cpu, cu",
    ),
    "params": ("POST", "/infer/hippo", {"params": {"image": NAME}, "data": {"params": "{"}}, 400, "This is no JSON"),
    "a list as params": (
        "POST",
        "/infer/hippo",
        {"params": {"image": NAME}, "data": {"params": "[]"}},
        400,
        "an object",
    ),
    "no scan": ("POST", "/infer/hippo", {"params": {"image": "nobody"}}, 404, "No scan 'nobody'"),
    "nothing": ("POST", "/infer/hippo", {}, 404, "No scan ''"),
    "proposals of nobody": ("POST", "/batch/infer/nobody", {"json": {}}, 404, "There are: hippo"),
    "proposals without a model": ("POST", "/batch/infer/hippo", {"json": {}}, 409, "No model yet"),
    "info of nobody": ("PUT", "/datastore/image/info", {"params": {"image": "nobody"}}, 404, "not found"),
    "info": (
        "PUT",
        "/datastore/image/info",
        {"params": {"image": NAME}, "data": {"info": "{"}},
        400,
        "This is no JSON",
    ),
    "a label of nobody": ("DELETE", "/datastore/label", {"params": {"id": "nobody", "tag": "final"}}, 404, "No label"),
    "nothing to download": ("GET", "/datastore/dataset", {}, 404, "nothing to download"),
    "slides": ("POST", "/infer/wsi/hippo", {"json": {}}, 404, "no model for whole slides"),
    "a model from outside": (
        "PUT",
        "/model/hippo",
        {"files": {"file": ("m.pt", b"x")}},
        403,
        "Models come from trainings",
    ),
    "the model removed": ("DELETE", "/model/hippo", {}, 403, "Models come from trainings"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_is_wrong(client, case):
    method, path, request, status, words = REFUSED[case]
    answer = client.request(method, path, **request)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.json()


def test_nothing_outside_the_studies_is_read(app, client, hippocampus):
    outside = str(hippocampus[NAME][0])
    for request in (
        {"params": {"image": outside}},
        {"params": {"image": f"../{Path(app.studies).name}/{NAME}"}},
        {"params": {"image": NAME}, "data": {"params": json.dumps({"image": outside})}},
        {"params": {"image": NAME}, "data": {"params": json.dumps({"label": outside})}},
    ):
        assert client.post("/infer/hippo", **request).status_code in (400, 404)
    assert client.get("/datastore/image", params={"image": outside}).status_code == 404
    assert app._batch_infer.get_images({"images": [outside, NAME]}, app.datastore()) == [NAME]


def test_nothing_outside_the_studies_is_written(app, client, hippocampus):
    around = sorted(Path(app.studies).parent.iterdir())
    assert submit(client, hippocampus[NAME][1], tag="../../out").status_code == 400
    for name in ("../out", "/tmp/out", ".hidden"):
        files = {"file": ("out.nii.gz", hippocampus[NAME][0].read_bytes())}
        assert client.put("/datastore/image", params={"image": name}, files=files).status_code == 400
    assert sorted(Path(app.studies).parent.iterdir()) == around


def test_a_scan_is_read_before_it_is_added(app, client, hippocampus):
    answer = client.put("/datastore/image", params={"image": "new"}, files={"file": ("new.nii.gz", b"no volume")})
    assert answer.status_code == 422 and answer.json()["detail"].startswith("The scan: ")
    assert "new" not in app.datastore().list_images()
    files = {"file": ("new.nii.gz", hippocampus[NAME][0].read_bytes())}
    assert client.put("/datastore/image", params={"image": "new"}, files=files).json() == {"image": "new"}
    assert scan(app, "new").read_bytes() == hippocampus[NAME][0].read_bytes()
    client.delete("/datastore/image", params={"id": "new"})


def test_no_request_of_nonsense_ends_in_a_traceback(client):
    """Every address of the server, asked with words that it does not know."""
    left_out = {"/proxy/dicom/{op}/{path}", "/logs/gpu"}  # another server; a program that may not be there
    asked = 0
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if path in left_out or "ohif" in path:
            continue
        for method, what in methods.items():
            params = {one["name"]: "nonsense" for one in what.get("parameters", []) if one["in"] == "query"}
            address = re.sub(r"\{\w+\}", "nonsense", path)
            for extra in ({}, {"json": {"x": "y"}}, {"data": {"params": "nonsense", "info": "nonsense"}}):
                answer = client.request(method, address, params=params, **extra)
                asked += 1
                assert answer.status_code < 500, (method, path, extra, answer.text)
                assert answer.status_code < 400 or method == "head" or answer.json()["detail"]
    assert asked > 60


def test_another_model_is_in_use_at_once_and_the_client_finds_it_as_a_task(app, client, monkeypatch):
    trainer = app.trainer("hippo")
    monkeypatch.setattr(trainer, "config", lambda: {"use_model": ["train", "hippo_2"], "device": ["cpu"]})
    monkeypatch.setattr(type(trainer), "put_in_use", lambda self, name: f"The model in use is now {name}.")
    task = client.post("/train/hippo", json={"use_model": "hippo_2"}).json()
    found = client.get("/train/").json()
    assert task["status"] == "DONE" and found.pop("stats") == app.info()["train_stats"]["hippo"] and found == task
    assert task["details"] == ["The model in use is now hippo_2."]

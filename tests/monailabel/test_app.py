# SPDX-License-Identifier: Apache-2.0
"""The app in this process: what it is started with, what it trains on, whom it asks for next."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import nibabel
import numpy as np
import pytest
import torch
from fastapi import HTTPException
from monai.bundle import ConfigParser
from monailabel.interfaces.utils.app import app_instance

QUICK = {"max_epochs": 1, "epoch_length": 2, "device": "cpu"}


def start(bundle, studies, **conf):
    return app_instance(str(bundle / "monailabel_app"), str(studies), conf)


@pytest.fixture(scope="module")
def bundle(copy_bundle):
    return copy_bundle()


@pytest.fixture(scope="module")
def lib(bundle, tmp_path_factory):
    """The app's modules; they are loaded with the app."""
    start(bundle, tmp_path_factory.mktemp("empty"))
    import lib.models
    import lib.scoring

    return lib


@pytest.fixture
def trained(copy_bundle, make_studies, tiny):
    """An app with 6 scans, 2 of them labelled, and a barely trained model."""
    app = start(copy_bundle(), make_studies(6, labels=2), name="hippo", dataset=tiny)
    app.train({"model": "hippo", **QUICK})
    return app


NAMES = {"from conf": "head,tail", "background named": "Background, head ,tail", "from a datalist": "datalist.json"}


@pytest.mark.parametrize("given", NAMES.values(), ids=NAMES)
def test_structures_are_named_at_the_start(bundle, tmp_path, given):
    if given.endswith(".json"):
        given = str(tmp_path / given)
        (tmp_path / "datalist.json").write_text('{"labels": {"0": "background", "1": "head", "2": "tail"}}')
    app = start(bundle, tmp_path / "studies", labels=given)
    assert app.info()["labels"] == ["head", "tail"]
    assert app.info()["models"]["dualseg"]["labels"] == {"head": 1, "tail": 2}
    assert app.model_file("dualseg") is None, "the shipped weights are for another structure"


def test_a_request_finds_every_scan_while_the_folder_is_read_anew(bundle, make_studies):
    store = start(bundle, make_studies(3, labels=1), labels="head,tail").datastore()
    emptied = Event()

    class Slow(dict):
        def clear(self):
            super().clear()
            emptied.set()
            time.sleep(0.5)

    store._datastore.objects = Slow(store._datastore.objects)
    watcher = Thread(target=store._on_any_event, args=("a file was added",))
    watcher.start()
    assert emptied.wait(60)
    found = len(store.list_images()), len(store.get_labeled_images()), len(store.datalist())
    watcher.join()
    assert found == (3, 1, 1)


@pytest.mark.slow
def test_without_options_it_serves_the_shipped_model_as_the_bundle_does(bundle, shared_data, tmp_path):
    image = sorted((shared_data / "left_atrium" / "images").glob("*.nii.gz"))[-1]
    app = start(bundle, tmp_path / "studies")
    assert app.info()["labels"] == ["left atrium"]
    answer = app.infer({"model": "dualseg", "image": str(image), "device": "cpu"})
    assert answer["params"]["model"] == "shipped"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "inference.json")]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(image), "--output_dir", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    [file] = (tmp_path / "out").glob("*.nii.gz")
    found, expected = (nibabel.load(path) for path in (answer["file"], file))
    assert (np.asarray(found.dataobj) == np.asarray(expected.dataobj)).all() and np.asarray(expected.dataobj).any()
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)


BAD = {
    "a mistyped option": ({"label": "head"}, "--conf label: no such option. Choose from name, labels, dataset"),
    "a folder as name": ({"name": "../x"}, "becomes a folder's name"),
    "a name twice": ({"labels": "head,head"}, "Name each structure once"),
    "an empty name": ({"labels": "head,"}, "Name each structure once"),
    "no such datalist": ({"labels": "nowhere.json"}, "Name a datalist"),
    "no such data set": ({"dataset": "liver"}, "one of .*folder, hippocampus, left_atrium"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_option_is_refused_with_the_remedy(bundle, tmp_path, name):
    conf, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        start(bundle, tmp_path / "studies", **conf)


@pytest.mark.parametrize(("labels", "expected"), [(1, (1, 0)), (2, (2, 0)), (3, (2, 1)), (10, (8, 2))])
def test_validation_scans_come_out_of_the_labelled_ones(lib, bundle, tmp_path, labels, expected):
    task = start(bundle, tmp_path)._trainers["dualseg"]
    cases = [{"image": f"{tmp_path}/{n}.nii.gz", "label": f"{n}"} for n in range(labels)]
    training, validation = task._partition_datalist(cases, {"val_split": 0.2})
    assert (len(training), len(validation)) == expected
    assert sorted(case["label"] for case in training + validation) == sorted(case["label"] for case in cases)
    reordered = task._partition_datalist(cases[::-1], {"val_split": 0.2})
    assert reordered == (training, validation), "the choice depends on the order of the datastore"


def test_a_training_takes_as_many_unlabelled_scans_as_asked_for(trained):
    assert trained.info()["train_stats"]["hippo"]["unlabeled"] == 4
    assert trained.train({"model": "hippo", "max_unlabeled": 3, **QUICK})["unlabeled"] == 3
    assert trained.train({"model": "hippo", "method": "supervised", **QUICK})["unlabeled"] == 0


def test_an_unlabelled_scan_that_cannot_be_read_is_left_out_and_named(trained):
    datastore = trained.datastore()
    path = Path(datastore.get_image_uri(datastore.get_unlabeled_images()[0]))
    path.write_bytes(path.read_bytes()[:2000])
    told = trained.train({"model": "hippo", **QUICK})
    assert told["unlabeled"] == 3 and told["model"] == "hippo_2" and "total_time" in told
    [problem] = told["left_out"]
    assert problem.startswith(f"{path}: ") and "Copy or download it again" in problem


def test_scribbles_are_trained_on_and_never_validated_on(trained, hippocampus, tmp_path):
    datastore = trained.datastore()
    names = datastore.get_unlabeled_images()[:2]
    for name in names:
        label = nibabel.load(hippocampus[name][1])
        voxels = np.full(label.shape, 255, np.uint8)
        voxels[:, :, ::6] = np.asarray(label.dataobj)[:, :, ::6]
        nibabel.save(nibabel.Nifti1Image(voxels, label.affine), tmp_path / "strokes.nii.gz")
        datastore.save_label(name, str(tmp_path / "strokes.nii.gz"), "final", {"scribbles": True})
    told = trained.train({"model": "hippo", "val_split": 0.75, **QUICK})
    assert (told["labeled"], told["validation"]) == (4, 0), "the others were learned from before"
    run = trained.settings.models_dir / told["model"]
    config = ConfigParser()
    config.read_config(str(run / "config.json"))
    assert config.get_parsed_content("data")["ignore"] == 255
    voxels = torch.cat([item["label"].flatten() for item in config.get_parsed_content("train#dataset")])
    assert set(voxels.unique().tolist()) == {-1, 0, 1, 2}
    losses = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    assert losses and "4 labelled scans" in told["verdict"]
    task = trained._trainers["hippo"]
    cases = [{"image": datastore.get_image_uri(n), "label": datastore.get_label_uri(n, "final")} for n in names]
    whole = {"image": "unseen.nii.gz", "label": "unseen_label.nii.gz"}
    assert task._partition_datalist([*cases, whole], {"val_split": 0.75})[1] == [whole]


def test_a_scan_below_the_window_is_noted_for_the_client(trained):
    scan = trained.datastore().list_images()[0]
    answer = trained.infer({"model": "hippo", "image": scan, "device": "cpu"})["params"]
    assert "note" not in answer, answer
    small = nibabel.load(trained.datastore().get_image_uri(scan)).slicer[:20]
    path = trained.datastore().get_image_uri(scan).replace(scan, "small")
    nibabel.save(small, path)
    answer = trained.infer({"model": "hippo", "image": path, "device": "cpu"})
    assert answer["params"]["note"].startswith("The scan is smaller than the networks' window (20 x ")
    assert nibabel.load(answer["file"]).shape == small.shape


def test_a_bad_scan_is_named_and_keeps_no_other_from_its_score(trained):
    datastore = trained.datastore()
    name, *others = datastore.get_unlabeled_images()
    path = Path(datastore.get_image_uri(name))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(HTTPException) as caught:
        trained.infer({"model": "hippo", "image": name, "device": "cpu"})
    assert caught.value.status_code == 422
    assert str(path) in caught.value.detail and "Copy or download it again" in caught.value.detail
    assert trained.scoring({"method": "disagreement", "device": "cpu"})["executed"] == 6
    assert trained.async_scoring(None) == {}, "the bad scan is scored again and again"
    order = []
    for _ in range(4):
        order.append(trained.next_sample({"strategy": "disagreement"})["id"])
        datastore.update_image_info(order[-1], {"strategy": {"disagreement": {"ts": int(time.time()) + 1}}})
    assert sorted(order[:3]) == sorted(others) and order[3] == name


def test_a_bad_label_is_named_and_the_model_stays(trained):
    datastore = trained.datastore()
    name = datastore.get_labeled_images()[0]
    path = datastore.get_label_uri(name, "final")
    label = nibabel.load(path)
    voxels = np.asarray(label.dataobj).copy()
    voxels[3, 4, 5] = 7
    nibabel.save(nibabel.Nifti1Image(voxels, label.affine), path)
    before = trained.model_file("hippo")
    with pytest.raises(Exception) as caught:
        trained.train({"model": "hippo", **QUICK})
    causes = [caught.value]
    while causes[-1].__cause__ or causes[-1].__context__:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    assert f"{path}: label values 7 in 1 voxels" in str(causes[-1])
    assert trained.model_file("hippo") == before


NONSENSE = [
    {"recipe": "gpu"},
    {"method": "magic"},
    {"val_split": 1},
    {"max_epochs": -3},
    {"max_epochs": "many"},
    {"epoch_length": 2.5},
    {"seed": True},
    {"pretrained": "nope"},
    {"device": "cpu'); x=("},
    {"gpus": "0;1"},
    {"keep_models": -1},
    {"tracking": "wandb"},
    {"tracking_uri": "sqlite:////tmp/any.db"},
    {"max_epoch": 3},
]


def test_an_option_that_makes_no_sense_is_refused(trained):
    folders = sorted(trained.settings.models_dir.iterdir())
    for option in NONSENSE:
        with pytest.raises(HTTPException) as caught:
            trained.train({"model": "hippo", **QUICK, **option})
        assert caught.value.status_code == 400 and next(iter(option)) in caught.value.detail
    assert sorted(trained.settings.models_dir.iterdir()) == folders


def test_a_text_that_a_config_evaluates_is_refused_in_every_option(trained, tmp_path):
    code = f"$open({str(tmp_path / 'marker')!r}, 'w')"
    for name in (*trained.info()["trainers"]["hippo"]["config"], "run_id", "model_filename", "unheard of"):
        with pytest.raises(HTTPException, match="is code in a config, and refused") as caught:
            trained.train({"model": "hippo", **QUICK, name: code})
        assert caught.value.status_code == 400
    assert not (tmp_path / "marker").exists()


def test_a_structure_whose_name_is_code_is_refused(bundle, tmp_path):
    with pytest.raises(ValueError, match="would be code in a config"):
        start(bundle, tmp_path / "studies", labels="$print(1),liver")


def test_a_model_is_never_used_for_other_structures(trained, tmp_path):
    with pytest.raises(ValueError, match="trained for .*anterior.*, but this server is started for .*liver"):
        start(trained.settings.bundle, tmp_path, name="hippo", labels="liver")


def test_scores_are_those_of_the_model_in_use(trained):
    names = trained.datastore().list_images()
    first = trained.scoring({"method": "disagreement", "device": "cpu"})
    assert (first["total"], first["executed"]) == (6, 6)
    assert trained.scoring({"method": "entropy", "device": "cpu"})["executed"] == 0
    assert trained.async_scoring(None) == {}, "a scoring is started though nothing changed"
    trained.train({"model": "hippo", **QUICK})
    assert sorted(trained._scoring_methods["entropy"].pending(trained.datastore())) == sorted(names)
    assert trained.next_sample({"strategy": "entropy"})["score"] is None


def test_the_highest_score_is_next_and_a_scan_handed_out_comes_last(lib, trained):
    datastore = trained.datastore()
    names = datastore.get_unlabeled_images()
    method = trained._scoring_methods["disagreement"]
    model = lib.models.model_in_use(trained.settings)
    scores = dict(zip(names, (0.1, 0.9, 0.5), strict=False))  # the last scan has none
    method.scores.write(model, {name: {"disagreement": s, "entropy": 1 - s} for name, s in scores.items()})
    order = []
    for _ in names:
        answer = trained.next_sample({"strategy": "disagreement"})
        order.append(answer["id"])
        datastore.update_image_info(answer["id"], {"strategy": {"disagreement": {"ts": int(time.time()) + 1}}})
    assert order == [names[1], names[2], names[0], names[3]]
    assert trained.next_sample({"strategy": "entropy"})["id"] == names[0]
    handed_out_before_the_training = {"strategy": {"disagreement": {"ts": int(model.trained) - 10}}}
    datastore.update_image_info(names[1], handed_out_before_the_training)
    assert trained.next_sample({"strategy": "disagreement"})["id"] == names[1]


def test_diversity_gives_the_scan_least_like_those_labelled_or_handed_out(lib, trained):
    datastore = trained.datastore()
    names, labelled = sorted(datastore.get_unlabeled_images()), datastore.get_labeled_images()
    assert trained.next_sample({"strategy": "diversity"})["id"] == names[0], "without scores, in the order of names"
    model = lib.models.model_in_use(trained.settings)
    places = dict(zip([*labelled, *names], (0, 1, 4, 9, 8.9, None), strict=True))
    scores = {name: {"features": [place, 7.0]} for name, place in places.items() if place is not None}
    trained._scoring_methods["disagreement"].scores.write(model, scores)
    order, distances = [], []
    for _ in names:
        answer = trained.next_sample({"strategy": "diversity"})
        order.append(answer["id"])
        distances.append(answer["score"])
        datastore.update_image_info(answer["id"], {"strategy": {"diversity": {"ts": int(time.time()) + len(order)}}})
    assert order == [names[1], names[0], names[2], names[3]], "9 is far from all, then 4, and 8.9 is like 9"
    deviation = np.std([0, 1, 4, 9, 8.9])
    assert distances[:3] == pytest.approx([8 / deviation, 3 / deviation, 0.1 / deviation], rel=1e-3)
    assert distances[3] is None and trained.next_sample({"strategy": "diversity"})["id"] == order[0]


def test_what_the_networks_see_is_noted_for_every_scan_by_the_model_in_use(lib, trained):
    trained.scoring({"method": "entropy", "device": "cpu"})
    scores = trained._scoring_methods["entropy"].scores.read(lib.models.model_in_use(trained.settings))
    features = np.array([scores[name]["features"] for name in trained.datastore().list_images()])
    assert len(features) == 6 and len(np.unique(features, axis=0)) == 6
    assert trained.next_sample({"strategy": "diversity"})["score"] > 0


def reference_score(a, b):
    """Independent, in NumPy: both scores of logits [C,*S]."""
    p = [np.exp(x) / np.exp(x).sum(0) for x in (a.astype(np.float64), b.astype(np.float64))]
    mean = (p[0] + p[1]) / 2
    found = [x.argmax(0) for x in p]
    dice = []
    for c in range(1, len(a)):
        size = (found[0] == c).sum() + (found[1] == c).sum()
        if size:
            dice.append(2 * ((found[0] == c) & (found[1] == c)).sum() / size)
    entropy = -(mean * np.log(mean)).sum(0) / np.log(len(a))
    return {"disagreement": 1 - np.mean(dice), "entropy": entropy[(found[0] > 0) | (found[1] > 0)].mean()}


@pytest.mark.parametrize(("classes", "absent"), [(2, None), (3, None), (5, 3)])
def test_scores_agree_with_a_reference(lib, classes, absent):
    generator = np.random.default_rng(classes)
    a, b = generator.normal(size=(2, classes, 6, 5, 4)) * 2
    if absent:
        a[absent] = b[absent] = -50
        a[1] = -50  # and one that only the second network finds
    log_p = np.log(sum(np.exp(x) / np.exp(x).sum(0) for x in (a, b)) / 2)
    found = lib.scoring.score(*(torch.from_numpy(x)[None].float() for x in (a, b, log_p)))
    assert found == pytest.approx(reference_score(a, b), abs=1e-5)


def test_agreement_scores_nothing_and_no_foreground_scores_most(lib):
    logits = torch.zeros(1, 3, 4, 4, 4)
    logits[:, 1, :2] = logits[:, 2, 2:] = 60.0
    found = lib.scoring.score(logits, logits, logits.log_softmax(1))
    assert found["disagreement"] == 0 and found["entropy"] < 1e-3
    logits = torch.zeros(1, 3, 4, 4, 4)
    logits[:, 0] = 60.0
    assert lib.scoring.score(logits, logits, logits) == {"disagreement": 1.0, "entropy": 1.0}


def test_a_run_can_be_repeated_from_its_datalist(trained):
    config = json.loads((trained.settings.models_dir / "hippo" / "config.json").read_text())
    datalist = json.loads((trained.settings.models_dir / "datalists" / config["datalist_name"]).read_text())
    counts = {section: len(datalist[section]) for section in ("training", "unlabeled", "validation")}
    assert counts == {"training": 2, "unlabeled": 4, "validation": 0}
    assert config["dataset_name"] == "studies" and config["dataset_dir"].endswith("datalists")

# SPDX-License-Identifier: Apache-2.0
"""A real server, driven over REST by 3D Slicer's own client: annotate, train, infer; kill it while it trains."""

import json
import os
import signal
import time

import nibabel
import numpy as np
import psutil
import pytest
import torch
from monailabel.client.client import MONAILabelClientException

from benchmarks.label_server import LabelServer

pytestmark = pytest.mark.slow

MODEL = "hippo"
SCANS, LABELS = 6, 3
OPTIONS = {"max_epochs": 2, "epoch_length": 15, "device": "cpu"}  # enough to learn something


def read(path):
    return np.asarray(nibabel.load(path).dataobj)


def dice(prediction, truth):
    """Mean foreground Dice of two label volumes."""
    pairs = [(prediction == c, truth == c) for c in (1, 2)]
    return np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])


def refusal(call, *arguments):
    with pytest.raises(MONAILabelClientException) as caught:
        call(*arguments)
    return caught.value.msg


def bad_label(path, folder):
    label = nibabel.load(path)
    voxels = np.asarray(label.dataobj).copy()
    voxels[3, 4, 5] = 7
    nibabel.save(nibabel.Nifti1Image(voxels, label.affine), folder / "bad.nii.gz")
    return str(folder / "bad.nii.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def start(copy_bundle, make_studies, folder, tiny):
    bundle, studies = copy_bundle(), make_studies(SCANS)

    def start():
        server = LabelServer(bundle, studies, {"name": MODEL, "dataset": tiny}, folder / "server.log")
        server.models = bundle / "monailabel_app" / "model"
        return server

    return start


def segment(server, names):
    return {name: read(server.client.infer(MODEL, name, {"device": "cpu"})[0]) for name in names}


@pytest.fixture(scope="module")
def story(start, hippocampus, folder):
    """What happened from an empty studies folder to the second model, told by the answers of the server."""
    told = {}
    names = list(hippocampus)[:SCANS]
    with start() as server:
        told["info"] = server.client.info()
        told["no model"] = refusal(server.client.infer, MODEL, names[0], {})
        told["no labels"] = refusal(server.client.train_start, MODEL, OPTIONS)
        told["no scan"] = refusal(server.client.infer, MODEL, "nobody", {})
        told["next without model"] = server.client.next_sample("disagreement", {})
        told["bad label"] = refusal(server.client.save_label, names[0], bad_label(hippocampus[names[0]][1], folder))
        for name in names[:LABELS]:
            server.client.save_label(name, str(hippocampus[name][1]))
        code = f"$open({str(folder / 'marker')!r}, 'w')"
        told["bad options"] = {
            name: refusal(server.client.train_start, MODEL, OPTIONS | {name: code})
            for name in told["info"]["trainers"][MODEL]["config"]
        }
        told["bad option"] = refusal(server.client.train_start, MODEL, OPTIONS | {"method": "magic"})
        # an untrained model to compare with: one step
        told["untrained"] = server.train(MODEL, OPTIONS | {"max_epochs": 1, "epoch_length": 1})
        told["before"] = segment(server, names[LABELS:])
        told["trained"] = server.train(MODEL, OPTIONS | {"pretrained": False})
        told["stats"] = server.client.info()["train_stats"][MODEL]
        told["scoring"] = server.score("entropy")
        told["scores"] = json.loads((server.models / f"{MODEL}_scores.json").read_text())
        told["next"] = [server.client.next_sample("disagreement", {}) for _ in range(2)]
        told["after"] = segment(server, names[LABELS:])
        told["answer"] = server.client.infer(MODEL, names[-1], {"device": "cpu"})[1]
        told["truth"] = {name: read(hippocampus[name][1]) for name in names[LABELS:]}
        told["models"] = sorted(path.parent.name for path in server.models.glob("*/run.json"))
    return told


def test_info_names_structures_options_and_strategies(story):
    info = story["info"]
    assert info["labels"] == ["anterior hippocampus", "posterior hippocampus"]
    assert info["models"][MODEL]["labels"] == {"anterior hippocampus": 1, "posterior hippocampus": 2}
    options = info["trainers"][MODEL]["config"]
    assert options["method"][0] == "mean_teacher_copy_paste" and "supervised" in options["method"]
    assert "cpu" in options["recipe"] and options["max_unlabeled"] == -1
    assert {"disagreement", "entropy", "diversity", "random", "first"} <= set(info["strategies"])
    assert set(info["scoring"]) == {"disagreement", "entropy"}
    assert info["datastore"]["total"] == SCANS and info["datastore"]["completed"] == 0


def test_the_client_is_told_what_to_do(story):
    assert "409" in story["no model"] and "No model yet" in story["no model"]
    assert "400" in story["no labels"] and "none of the 6 scans has a final label" in story["no labels"]
    assert "404" in story["no scan"] and "No scan 'nobody'" in story["no scan"]
    assert (
        "400" in story["bad option"] and "method 'magic': choose one of mean_teacher_copy_paste" in story["bad option"]
    )
    assert "422" in story["bad label"] and "label values 7 in 1 voxels" in story["bad label"]


def test_no_option_of_a_request_is_evaluated(story, folder):
    assert all("400" in answer and "is code in a config" in answer for answer in story["bad options"].values())
    assert not (folder / "marker").exists()


def test_annotation_can_start_without_a_model(story):
    assert story["next without model"]["id"] and story["next without model"]["score"] is None


def test_training_takes_labelled_and_unlabelled_scans(story):
    assert story["trained"]["status"] == "DONE", story["trained"]["details"]
    stats = story["stats"]
    assert (stats["labeled"], stats["unlabeled"], stats["validation"]) == (2, 3, 1)
    assert stats["epoch"] == stats["total_epochs"] == OPTIONS["max_epochs"] and stats["total_time"] > 0
    assert stats["best_metric"] > 0


def test_the_next_inference_uses_the_new_weights(story):
    before, after, truth = story["before"], story["after"], story["truth"]
    assert len(truth) == SCANS - LABELS
    assert all((before[name] != after[name]).any() for name in truth)
    scores = {
        stage: np.mean([dice(story[stage][name], truth[name]) for name in truth]) for stage in ("before", "after")
    }
    assert scores["after"] > scores["before"], scores
    assert story["answer"]["model"].startswith(story["models"][-1])
    assert story["answer"]["label_names"] == {"anterior hippocampus": 1, "posterior hippocampus": 2}
    assert after[next(iter(truth))].dtype == np.uint8


def test_both_models_are_kept(story):
    assert story["models"] == [MODEL, f"{MODEL}_2"]


def test_the_least_sure_scan_comes_first(story):
    scores = story["scores"]["scores"]
    assert story["scoring"]["executed"] == 0, "the training was to start a scoring by itself"
    assert len(scores) == SCANS and story["scores"]["model"] == story["answer"]["model"]
    ranked = sorted(story["truth"], key=lambda name: -scores[name]["disagreement"])
    assert [answer["score"] for answer in story["next"]] == [scores[name]["disagreement"] for name in ranked[:2]]
    assert story["next"][0]["id"] != story["next"][1]["id"]


def test_a_server_killed_while_it_trains_loses_neither_model_nor_labels(story, start, hippocampus):
    name = list(hippocampus)[SCANS - 1]
    long = OPTIONS | {"max_epochs": 4, "epoch_length": 2}
    with start() as server:
        server.client.train_start(MODEL, long)
        checkpoint = server.models / f"{MODEL}_3" / "last.pt"
        deadline = time.monotonic() + 240
        while not checkpoint.exists():
            assert time.monotonic() < deadline and server.client.train_status()["status"] in ("SUBMITTED", "RUNNING")
            time.sleep(0.05)
        training = server.children()
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(timeout=20)
        _, alive = psutil.wait_procs(training, timeout=120)
        assert not alive, "the training goes on without its server, beside the next one"
    epoch = torch.load(checkpoint, weights_only=True)["epoch"]
    assert 1 <= epoch < long["max_epochs"], "the training ended before it could be killed"

    datastore = json.loads((server.studies / "datastore_v2.json").read_text())["objects"]
    labelled = {name for name, entry in datastore.items() if "final" in entry["labels"]}
    assert labelled == set(list(hippocampus)[:LABELS]) and len(datastore) == SCANS
    for name_ in labelled:
        saved = read(server.studies / "labels" / "final" / f"{name_}.nii.gz")
        assert (saved == read(hippocampus[name_][1])).all()

    with start() as server:
        assert server.client.info()["datastore"]["completed"] == LABELS
        assert (segment(server, [name])[name] == story["after"][name]).all(), "the former model is not in use"
        task = server.train(MODEL, long)
        assert task["status"] == "DONE", task["details"]
        stats = server.client.info()["train_stats"][MODEL]
        assert stats["model"] == f"{MODEL}_3" and stats["epoch"] == long["max_epochs"]
        log = server.log.read_text()
        assert f"Resumed after epoch {epoch}" in log
        assert stats["verdict"] and stats["in_use"] in (f"{MODEL}_2", f"{MODEL}_3")
        answer = server.client.infer(MODEL, name, {"device": "cpu"})[1]
        assert answer["model"].startswith(f"{stats['in_use']}, ")

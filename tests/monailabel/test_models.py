# SPDX-License-Identifier: Apache-2.0
"""A training never makes things worse: what is taken into use, what a stopped training leaves, and the way back."""

import json
import shutil
from datetime import datetime, timezone

import nibabel
import numpy as np
import pytest
import torch
from fastapi import HTTPException
from monailabel.interfaces.utils.app import app_instance

QUICK = {"model": "hippo", "max_epochs": 1, "epoch_length": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def base(copy_bundle, make_studies, tiny):
    """Folders of a server with 6 scans, 4 of them labelled, and one model."""
    bundle, studies = copy_bundle(), make_studies(6, labels=4)
    app = app_instance(str(bundle / "monailabel_app"), str(studies), {"name": "hippo", "dataset": tiny})
    app.train(QUICK)
    return bundle, studies, tiny


@pytest.fixture
def app(base, tmp_path, monkeypatch):
    """A server of its own for each test, with the same model; a training there leaves the same one in an instant."""
    bundle, studies, dataset = base
    shutil.copytree(studies, tmp_path / "studies")
    shutil.copytree(bundle, tmp_path / "bundle")
    models = tmp_path / "bundle" / "monailabel_app" / "model"
    for path in models.rglob("*.json"):  # absolute paths in it
        text = path.read_text().replace(str(bundle), str(tmp_path / "bundle"))
        path.write_text(text.replace(str(studies), str(tmp_path / "studies")))

    def train(task, request, overrides):
        number = 2
        while (run := models / f"hippo_{number}").exists():
            number += 1
        shutil.copytree(models / "hippo", run, copy_function=shutil.copyfile)
        start = [one["path"] for one in overrides["train#handlers"] if one["_target_"] == "scripts.runs.InitialWeights"]
        edit(run / "config.json", datalist_name=overrides["datalist_name"])
        edit(run / "run.json", finished=datetime.now(timezone.utc).isoformat(), initial_weights=start[0])

    app = app_instance(
        str(tmp_path / "bundle" / "monailabel_app"), str(tmp_path / "studies"), {"name": "hippo", "dataset": dataset}
    )
    monkeypatch.setattr(type(app._trainers["hippo"]), "run_single_gpu", train)
    return app


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def lib(app):
    """The app's modules; they are loaded with the app."""
    import lib.models.verdict
    import lib.train

    return lib


@pytest.fixture
def dice(lib, monkeypatch):
    """Dice of each model by its name, in place of measuring it; which models were measured on which scans."""
    scores, asked = {}, []

    def measure(model, cases, bundle, device):
        asked.append((model.name, sorted(case["image"] for case in cases)))
        return scores[model.name]

    monkeypatch.setattr(lib.models.verdict, "mean_dice", measure)
    return scores, asked


def stats(app):
    return app.info()["train_stats"]["hippo"]


def cut_off(app, name):
    """Turn a finished run into one that was stopped after an epoch, as a kill leaves it: not judged yet."""
    run = app.settings.models_dir / name
    weights = torch.load(run / "model.pt", weights_only=True)
    average = {f"module.{name}": value for name, value in weights.items()} | {"n_averaged": torch.tensor(2)}
    state = {"network": weights, "state": {"average": average}, "epoch": 1, "iteration": 2}
    torch.save(state | {"best": {"epoch": None, "metric": None}}, run / "last.pt")
    for file in ("run.json", "model.pt", "inference.json", "model.json"):
        (run / file).unlink()
    ledger = app.settings.models_dir / "hippo_models.json"
    verdicts = json.loads(ledger.read_text())["verdicts"]
    edit(ledger, verdicts={other: verdict for other, verdict in verdicts.items() if other != name})


def test_a_worse_model_is_kept_beside_the_one_in_use(app, dice):
    scores, asked = dice
    scores |= {"hippo": 0.82, "hippo_2": 0.52, "hippo_3": 0.82}
    told = app.train(QUICK)
    assert told["in_use"] == "hippo" and app.model_file("hippo").endswith("hippo/model.pt")
    assert told["verdict"] == "hippo stays in use: Dice 0.820 on 1 validation scan, hippo_2 has 0.520."
    assert [entry["name"] for entry in told["models"]] == ["hippo_2", "hippo"]
    assert [entry["in_use"] for entry in told["models"]] == [False, True]
    told = app.train(QUICK)
    assert told["in_use"] == "hippo_3" and "hippo_3 is in use now: Dice 0.820" in told["verdict"]
    first, second = asked[:2]
    assert first[1] == second[1], "the two were measured on different scans"


def test_the_two_are_compared_on_scans_that_no_training_has_learned_from(app, dice, hippocampus):
    scores, _asked = dice
    scores |= {"hippo": 0.5, "hippo_2": 0.6, "hippo_3": 0.7, "hippo_4": 0.8}
    datastore = app.datastore()
    sections = []
    for name in [None, *datastore.get_unlabeled_images()]:
        if name:
            datastore.save_label(name, str(hippocampus[name][1]), "final", {})
        app.train(QUICK | {"val_split": 0.34})
        config = json.loads((app.settings.models_dir / stats(app)["model"] / "config.json").read_text())
        sections.append(json.loads((app.settings.models_dir / "datalists" / config["datalist_name"]).read_text()))
    learned = set()
    for datalist in sections:
        validation = {case["image"] for case in datalist["validation"]}
        assert validation and not validation & learned
        learned |= {case["image"] for case in datalist["training"]}


def test_without_validation_scans_all_labelled_ones_decide(app, dice):
    scores, asked = dice
    scores |= {"hippo": 0.7, "hippo_2": 0.6}
    told = app.train(QUICK | {"val_split": 0})
    assert told["verdict"] == "hippo stays in use: Dice 0.700 on 4 labelled scans, hippo_2 has 0.600."
    assert {len(scans) for _, scans in asked} == {4}


def test_the_next_training_starts_from_the_model_in_use(app, dice):
    scores, _ = dice
    scores |= {"hippo": 0.82, "hippo_2": 0.52, "hippo_3": 0.5}
    app.train(QUICK)
    app.train(QUICK)
    record = json.loads((app.settings.models_dir / "hippo_3" / "run.json").read_text())
    assert record["initial_weights"].endswith("hippo/model.pt")


def test_the_measure_is_the_dice_of_what_the_server_gives(app, lib):
    datastore = app.datastore()
    names = datastore.get_labeled_images()[:2]
    cases = [{"image": datastore.get_image_uri(n), "label": datastore.get_label_uri(n, "final")} for n in names]
    expected = []
    for name, case in zip(names, cases, strict=True):
        found = np.asarray(nibabel.load(app.infer({"model": "hippo", "image": name, "device": "cpu"})["file"]).dataobj)
        label = np.asarray(nibabel.load(case["label"]).dataobj)
        pairs = [(found == c, label == c) for c in (1, 2)]
        expected.append(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))
    model = lib.models.model_in_use(app.settings)
    measured = lib.models.mean_dice(model, cases, app.settings.bundle, torch.device("cpu"))
    assert measured == pytest.approx(np.mean(expected), abs=1e-4)


def test_the_measure_leaves_out_what_nobody_has_annotated(app, lib, tmp_path):
    datastore = app.datastore()
    name = datastore.get_labeled_images()[0]
    label = nibabel.load(datastore.get_label_uri(name, "final"))
    voxels = np.asarray(label.dataobj).copy()
    voxels[:, 20:] = 255
    nibabel.save(nibabel.Nifti1Image(voxels, label.affine), tmp_path / "scribbles.nii.gz")
    found = np.asarray(nibabel.load(app.infer({"model": "hippo", "image": name, "device": "cpu"})["file"]).dataobj)
    pairs = [(found[:, :20] == c, voxels[:, :20] == c) for c in (1, 2)]
    expected = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs if b.any()])
    case = {"image": datastore.get_image_uri(name), "label": str(tmp_path / "scribbles.nii.gz")}
    model = lib.models.model_in_use(app.settings)
    measured = lib.models.mean_dice(model, [case], app.settings.bundle, torch.device("cpu"))
    assert measured == pytest.approx(expected, abs=1e-4)


def test_an_earlier_model_is_used_again_and_any_can_be_asked(app, dice):
    scores, _ = dice
    scores |= {"hippo": 0.5, "hippo_2": 0.6}
    app.train(QUICK)
    assert app.info()["trainers"]["hippo"]["config"]["use_model"][1:] == ["hippo_2", "hippo"]
    scan = {"model": "hippo", "image": app.datastore().list_images()[0], "device": "cpu"}
    assert app.infer(scan)["params"]["model"].startswith("hippo_2, ")
    assert app.infer(scan | {"version": "hippo"})["params"]["model"].startswith("hippo, ")
    assert app.train({"model": "hippo", "use_model": "hippo"})["in_use"] == "hippo"
    assert app.infer(scan)["params"]["model"].startswith("hippo, ")
    assert not (app.settings.models_dir / "hippo_3").exists(), "it trained"


def test_weights_that_would_run_code_are_refused_before_anybody_reads_them(app, tmp_path):
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self):
            return open, (str(marker), "w")

    weights = app.settings.models_dir / "hippo" / "model.pt"
    for protocol in (True, False):
        torch.save({"weight": Payload()}, weights, _use_new_zipfile_serialization=protocol)
        with pytest.raises(ValueError, match="model.pt"):
            app.infer({"model": "hippo", "image": app.datastore().list_images()[0], "device": "cpu"})
    assert not marker.exists()


def test_a_stopped_training_leaves_its_best_model(app, dice):
    scores, _ = dice
    scores |= {"hippo": 0.1, "hippo_2": 0.885}
    before = app.train(QUICK)["in_use"]
    assert before == "hippo_2"
    app._trainers["hippo"].put_in_use("hippo")
    cut_off(app, "hippo_2")
    told = app._trainers["hippo"].keep_stopped({"device": "cpu"})
    assert told == ("Stopped. Of epoch 1: hippo_2 is in use now: Dice 0.885 on 1 validation scan, hippo had 0.100.")
    assert stats(app)["in_use"] == "hippo_2"
    assert app.infer({"model": "hippo", "image": app.datastore().list_images()[0], "device": "cpu"})["file"]


def test_a_stopped_training_that_is_worse_can_go_on(app, dice):
    scores, _ = dice
    scores |= {"hippo": 0.8, "hippo_2": 0.3}
    app.train(QUICK)
    cut_off(app, "hippo_2")
    told = app._trainers["hippo"].keep_stopped({"device": "cpu"})
    assert "hippo stays in use" in told and told.endswith("The same request continues the training.")
    assert not (app.settings.models_dir / "hippo_2" / "run.json").exists()
    assert [entry["name"] for entry in stats(app)["models"]] == ["hippo"]


def test_what_a_kill_cut_off_is_judged_before_the_next_training(app, dice, hippocampus):
    scores, _ = dice
    scores |= {"hippo": 0.1, "hippo_2": 0.8, "hippo_3": 0.7}
    app.train(QUICK)
    app._trainers["hippo"].put_in_use("hippo")
    cut_off(app, "hippo_2")
    name = app.datastore().get_unlabeled_images()[0]
    app.datastore().save_label(name, str(hippocampus[name][1]), "final", {})
    assert app.train(QUICK)["in_use"] == "hippo_2"
    record = json.loads((app.settings.models_dir / "hippo_3" / "run.json").read_text())
    assert record["initial_weights"].endswith("hippo_2/model.pt"), "it starts from the model before"


def test_the_recipes_offered_are_those_that_work_here(app):
    config = app.info()["trainers"]["hippo"]["config"]
    assert config["recipe"] == ["cpu", "paper"]
    train = json.loads((app.settings.bundle / "configs" / "train.json").read_text())
    assert config["method"][0] == train["method_name"]


def test_scans_without_a_score_come_in_the_order_of_names(app):
    names = app.datastore().get_unlabeled_images()
    app.datastore()._datastore.objects = dict(reversed(app.datastore()._datastore.objects.items()))
    assert app.next_sample({"strategy": "disagreement"})["id"] == min(names)


def test_proposals_for_all_scans_need_no_gpu_and_pass_over_a_bad_scan(app):
    datastore = app.datastore()
    bad, good = sorted(datastore.get_unlabeled_images())
    with open(datastore.get_image_uri(bad), "wb") as file:
        file.write(b"no volume")
    told = app.batch_infer({"model": "hippo", "images": "unlabeled", "save_label": True})
    assert bad in told[bad]["error"] and "error" not in told[good]
    assert datastore.get_label_uri(good, "original") and not datastore.get_label_uri(bad, "original")


def test_weights_of_old_models_are_deleted_but_never_those_in_use(app, dice):
    scores, _ = dice
    scores |= {"hippo": 0.8, "hippo_2": 0.3, "hippo_3": 0.2, "hippo_4": 0.1}
    app.train(QUICK)
    app.train(QUICK)
    told = app.train(QUICK | {"keep_models": 1})
    assert [model["name"] for model in told["models"]] == ["hippo_4", "hippo"] and told["in_use"] == "hippo"
    for name in ("hippo_2", "hippo_3"):
        left = app.settings.models_dir / name
        assert not list(left.glob("*.pt")) and (left / "config.json").exists(), "what it learned from is forgotten"
    assert app.infer({"model": "hippo", "image": app.datastore().list_images()[0], "device": "cpu"})["file"]


def test_a_training_that_was_cut_off_is_deleted_like_an_old_model(app, dice):
    scores, _ = dice
    scores |= {"hippo": 0.8, "hippo_2": 0.3, "hippo_3": 0.2, "hippo_4": 0.1}
    app.train(QUICK)
    cut_off(app, "hippo_2")
    checkpoint = app.settings.models_dir / "hippo_2" / "last.pt"
    app.train(QUICK | {"keep_models": 2})
    assert checkpoint.exists(), "it can no longer be continued, though it is one of the two newest"
    app.train(QUICK | {"keep_models": 2})
    assert not list(checkpoint.parent.glob("*.pt")) and (checkpoint.parent / "config.json").exists()
    assert (app.settings.models_dir / "hippo_3" / "model.pt").exists() and stats(app)["in_use"] == "hippo"


def test_each_model_tells_the_time_and_the_dice_of_its_training(app, dice):
    scores, _ = dice
    scores |= {"hippo": 0.5, "hippo_2": 0.6}
    newest = app.train(QUICK)["models"][0]
    log = (app.settings.models_dir / "hippo_2" / "train_log.jsonl").read_text().splitlines()
    seconds = sum(json.loads(line).get("seconds", 0) for line in log)
    assert newest["name"] == "hippo_2" and newest["seconds"] == pytest.approx(seconds, abs=0.1) and seconds > 0
    assert (newest["score"], newest["labels"]) == (0.6, 4)


def test_tracking_is_the_bundles_mlflow(app, dice, monkeypatch):
    scores, _ = dice
    scores |= {"hippo": 0.5, "hippo_2": 0.6, "hippo_3": 0.6}
    task, seen = type(app._trainers["hippo"]), []
    train = task.run_single_gpu

    def note(self, request, overrides):
        seen.append(overrides)
        train(self, request, overrides)

    monkeypatch.setattr(task, "run_single_gpu", note)
    app.train(QUICK)
    address = {"tracking_uri": "http://127.0.0.1:5000", "tracking_experiment_name": "pilot"}
    app.train(QUICK | {"tracking": "mlflow"} | address)
    assert not {"mlflow", "tracking"} & set(seen[0])
    assert "tracking" not in seen[1], "MONAI Label's own tracking does not know the bundle's names"
    assert (seen[1]["mlflow"], seen[1]["mlflow_uri"], seen[1]["mlflow_experiment"]) == (True, *address.values())


def test_every_method_can_be_chosen_and_says_what_it_is(app):
    trainer = app.info()["trainers"]["hippo"]
    folder = app.settings.bundle / "configs" / "methods"
    expected = {path.stem for path in folder.glob("*.json")} - {"contrastive_pretraining", "masked_pretraining"}
    assert set(trainer["methods"]) == set(trainer["config"]["method"]) == expected
    assert all(trainer["methods"].values()) and "MICCAI" in trainer["methods"]["sdcl"]
    with pytest.raises(HTTPException, match=r"method 'magic': choose one of .*paper.*supervised"):
        app.train(QUICK | {"method": "magic"})

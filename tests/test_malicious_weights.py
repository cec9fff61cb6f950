# SPDX-License-Identifier: Apache-2.0
"""A file of weights that would run code when it is unpickled does not run it, wherever it is given: one sentence."""

import io
import json
import pickle
import shutil
import zipfile

import pytest
import torch
from methods.golden import write_phantom

from scripts.data import DataError, find_weights
from scripts.engines.dual_evaluator import DualEvaluator
from scripts.inference import ensemble_of_runs
from scripts.runs import InitialWeights, RunState, save_model_so_far
from scripts.tensor_files import load_tensors


class Payload:
    """Makes a file appear when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def bare(payload, path):
    path.write_bytes(pickle.dumps({"a.weight": payload}))


def inside(payload, path):
    """In the archive that torch.save writes, with sound checksums."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    with zipfile.ZipFile(buffer) as sound, zipfile.ZipFile(path, "w") as archive:
        for name in sound.namelist():
            content = pickle.dumps({"a.weight": payload}) if name.endswith("data.pkl") else sound.read(name)
            archive.writestr(name, content)


def former(payload, path):
    """PyTorch's format before it was an archive."""
    torch.save({"weight": payload}, path, _use_new_zipfile_serialization=False)


WRITERS = {"bare": bare, "inside": inside, "former": former}


def resumed(run, *damaged):
    """A run whose files ``damaged`` are replaced goes on."""

    def load(evil):
        network = torch.nn.Linear(1, 1)
        state = RunState(str(run), network, {}, warm_up_epochs=1)
        sound = {"network": network.state_dict(), "state": {}, "epoch": 2, "iteration": 4, "scaler": None}
        sound |= {"best": {"epoch": 1, "metric": 0.5}, "epoch_done": True, "ranks": None}
        for name in ("last.pt", "previous.pt"):
            torch.save(sound, run / name)
        for name in ("model_best.pt", "model_supervised.pt"):
            torch.save(network.state_dict(), run / name)
        for name in damaged:
            shutil.copy(evil, run / name)
        state.resume(_engine())

    return load


def _engine():
    from ignite.engine import Engine

    engine = Engine(lambda engine, batch: None)
    engine.scaler = None
    engine.state.rank, engine.state.device = 0, torch.device("cpu")
    engine.state.max_epochs = engine.state.epoch_length = 2
    return engine


def evaluator(evil):
    one = DualEvaluator("cpu", [], torch.nn.Linear(1, 1), supervised_weights=evil)
    one._load_supervised()


def stopped(run):
    def load(evil):
        shutil.copy(evil, run / "last.pt")
        (run / "config.json").write_text(json.dumps({"use_average": False}))
        save_model_so_far(run)

    return load


PLACES = {
    "ckpt_path": lambda run: lambda evil: find_weights(str(evil)),
    "further_weights": lambda run: lambda evil: ensemble_of_runs(torch.nn.Linear(1, 1), [str(evil)]),
    "initial_weights": lambda run: lambda evil: InitialWeights(str(evil), torch.nn.Linear(1, 1)),
    "last.pt and previous.pt": lambda run: resumed(run, "last.pt", "previous.pt"),
    "model_best.pt": lambda run: resumed(run, "model_best.pt"),
    "model_supervised.pt": lambda run: resumed(run, "model_supervised.pt"),
    "model_supervised.pt, scored": lambda run: evaluator,
    "last.pt of a stopped run": stopped,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", PLACES)
def test_no_load_path_unpickles(tmp_path, place, writer):
    marker, evil, run = tmp_path / "marker", tmp_path / "evil.pt", tmp_path / "run"
    run.mkdir()
    WRITERS[writer](Payload(marker), evil)
    with pytest.raises(DataError):
        PLACES[place](run)(evil)
    assert not marker.exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_the_payload_works_where_nobody_looks(tmp_path, writer):
    WRITERS[writer](Payload(tmp_path / "marker"), tmp_path / "evil.pt")
    if writer == "bare":
        pickle.loads((tmp_path / "evil.pt").read_bytes())
    else:
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "marker").exists()


def test_a_damaged_last_checkpoint_that_is_code_gives_way_to_the_one_before(tmp_path):
    marker, evil = tmp_path / "marker", tmp_path / "evil.pt"
    inside(Payload(marker), evil)
    (tmp_path / "run").mkdir()
    resumed(tmp_path / "run", "last.pt")(evil)
    assert not marker.exists()


@pytest.mark.parametrize("config", ["inference", "evaluate"])
def test_the_programs_read_weights_by_find_weights_only(bundle_root, config):
    text = (bundle_root / "configs" / f"{config}.json").read_text()
    assert '"load_path": "$@scripts.data.find_weights(@ckpt_path)"' in text
    assert text.count("load_path") == 1 and "torch.load" not in text


def test_an_image_that_numpy_would_unpickle_is_refused_by_the_check_and_never_loaded(bundle_root, tmp_path):
    import numpy as np

    from scripts.data import check_data, load_datalist

    write_phantom(tmp_path)
    marker = tmp_path / "marker"
    np.save(tmp_path / "evil.npy", np.array([Payload(marker)], dtype=object), allow_pickle=True)
    path = tmp_path / "datalist.json"
    content = json.loads(path.read_text())
    content["unlabeled"] = [{"image": "evil.npy"}]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="evil.npy"):
        check_data(load_datalist(path), progress=False)
    assert not marker.exists()


def test_a_sound_file_passes(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pt")
    assert find_weights(str(tmp_path / "model.pt")) == str(tmp_path / "model.pt")
    assert load_tensors(tmp_path / "model.pt")["weight"].sum() == 2
    torch.save({"weight": torch.tensor([float("nan")])}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="weight is not finite"):
        find_weights(str(tmp_path / "model.pt"))


def test_every_torch_load_of_the_project_takes_tensors_only(bundle_root):
    for folder in ("scripts", "monailabel_app", "benchmarks"):
        for path in (bundle_root / folder).rglob("*.py"):
            for line in path.read_text().splitlines():
                assert "torch.load(" not in line or "weights_only=True" in line, f"{path}: {line}"
                assert not any(word in line for word in ("pickle.load", "allow_pickle=True", "yaml.load(")), path

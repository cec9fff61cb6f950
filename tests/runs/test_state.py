# SPDX-License-Identifier: Apache-2.0
"""A run that was interrupted ends as the uninterrupted one: same weights, same best epoch, complete files."""

import json
import logging
import os
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch
from engines.conftest import make_network, make_trainer
from ignite.engine import Engine, Events

from scripts.data import DataError
from scripts.engines import SemiSupervisedTrainer, TrainingStopped
from scripts.networks import MovingAverage
from scripts.reports import TrainingConsole
from scripts.runs import RunState
from scripts.tensor_files import find_non_finite


class Interruption(Exception):
    """Ends a run in the middle, as a kill would."""


def fake_validator(scores):
    """An evaluator whose metric at its n-th run is ``scores[n]``; counts runs in its state."""
    validator = Engine(lambda engine, batch: None)
    validator.state.key_metric_name = "val_mean_dice"
    return validator


def run(
    folder,
    epochs=4,
    stop_at_step=None,
    scores=None,
    patience=None,
    average=None,
    minutes=10,
    while_validating=lambda validator: None,
    at_step=None,
    console=False,
    warm_up_epochs=0,
    prepare=lambda trainer: None,
    **changes,
):
    """Train with a RunState; ``scores`` is the validation metric of each epoch, if there is validation."""
    validator = None if scores is None else fake_validator(scores)

    def handlers(network, optimizer, method):
        scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=epochs)
        state = {"optimizer": optimizer, "method": method, "lr_scheduler": scheduler, "average": average}

        class BeforeSaving:
            def attach(self, engine):
                engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: scheduler.step())
                if validator is not None:
                    engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

            def validate(self, engine):
                while_validating(validator)
                validator.state.metrics = {"val_mean_dice": scores[engine.state.epoch - 1]}
                validator.fire_event(Events.COMPLETED)

        to_use = None if average is None else average.module
        run_state = RunState(
            str(folder),
            network,
            state,
            validator,
            patience,
            network_to_use=to_use,
            minutes=minutes,
            warm_up_epochs=warm_up_epochs,
        )
        return [*([TrainingConsole(folder)] if console else []), BeforeSaving(), run_state]

    trainer = make_trainer(max_epochs=epochs, handlers=handlers, average=average, **changes)
    prepare(trainer)
    if at_step is not None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=at_step[0]), at_step[1])
    if stop_at_step is not None:

        @trainer.on(Events.ITERATION_COMPLETED(once=stop_at_step))
        def interrupt(engine):
            raise Interruption

        with pytest.raises(Interruption):
            trainer.run()
    else:
        trainer.run()
    return trainer


def weights(folder, name="model.pt"):
    return torch.load(folder / name, weights_only=True)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize(
    "stop_at_step", [1, 3, 8]
)  # in the first epoch, at its end before the checkpoint, in the middle
def test_an_interrupted_run_ends_with_the_weights_of_the_uninterrupted_one(tmp_path, stop_at_step):
    run(tmp_path / "whole")
    run(tmp_path / "broken", stop_at_step=stop_at_step)
    resumed = run(tmp_path / "broken")
    assert resumed.state.iteration == 12
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    whole, broken = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "broken"))
    assert_same(whole["state"]["method"], broken["state"]["method"])
    assert whole["state"]["lr_scheduler"] == broken["state"]["lr_scheduler"]


SWITCHES = {
    "bfloat16": {"amp": True, "amp_kwargs": {"dtype": torch.bfloat16}},
    "micro_batches": {"micro_batches": 2},
    "fused": {"prepare": lambda trainer: trainer.optimizer.param_groups[0].update(fused=True)},
    "channels_last": {"prepare": lambda trainer: trainer.network.to(memory_format=torch.channels_last_3d)},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_run_that_computes_otherwise_resumes_as_well(tmp_path, switch):
    run(tmp_path / "whole", epochs=3, **SWITCHES[switch])
    run(tmp_path / "broken", epochs=3, stop_at_step=5, **SWITCHES[switch])
    run(tmp_path / "broken", epochs=3, **SWITCHES[switch])
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def make_average():
    return MovingAverage(make_network(), decay=0.5)


def test_the_moving_average_is_resumed_and_used(tmp_path):
    trainer = run(tmp_path / "whole", average=make_average())
    run(tmp_path / "broken", stop_at_step=8, average=make_average())
    run(tmp_path / "broken", average=make_average())
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert_same(weights(tmp_path / "whole"), trainer.average.module.state_dict())
    assert int(trainer.average.n_averaged) == 12
    trained = trainer.network.state_dict()
    assert not torch.equal(weights(tmp_path / "whole")["a.network.0.weight"], trained["a.network.0.weight"])


def test_the_best_epoch_of_the_moving_average_is_loaded_into_it_alone(tmp_path):
    trainer = run(tmp_path, scores=[0.1, 0.7, 0.3, 0.5], average=make_average())
    assert_same(weights(tmp_path), trainer.average.module.state_dict())
    assert_same(weights(tmp_path), weights(tmp_path, "model_best.pt"))
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert_same(trainer.network.state_dict(), last["network"])


def test_a_finished_run_does_not_train_again(tmp_path):
    run(tmp_path)
    first = weights(tmp_path)
    again = run(tmp_path)
    assert again.state.output is None
    assert_same(first, weights(tmp_path))


def test_the_last_epoch_is_used_without_validation(tmp_path):
    trainer = run(tmp_path)
    assert_same(weights(tmp_path), trainer.network.state_dict())
    record = json.loads((tmp_path / "model.json").read_text())
    assert (record["chosen"], record["epoch"]) == ("last epoch", 4)
    assert not (tmp_path / "model_best.pt").exists()


def test_the_best_epoch_on_validation_is_used_also_after_a_restart(tmp_path):
    scores = [0.1, 0.7, 0.3, 0.5]
    run(tmp_path, scores=scores, stop_at_step=8)
    best = weights(tmp_path, "model_best.pt")
    trainer = run(tmp_path, scores=scores)
    record = json.loads((tmp_path / "model.json").read_text())
    assert (record["epoch"], record["validation_metric"]) == (2, 0.7)
    assert_same(weights(tmp_path), best)
    assert_same(trainer.network.state_dict(), best)


def test_patience_ends_a_run_that_no_longer_improves(tmp_path):
    trainer = run(tmp_path, epochs=8, scores=[0.1, 0.7, 0.3, 0.5, 0.6, 0.6, 0.6, 0.6], patience=2)
    assert trainer.state.epoch == 4
    assert json.loads((tmp_path / "model.json").read_text())["epoch"] == 2


def test_patience_without_validation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="patience=2 needs a validator"):
        run(tmp_path, patience=2)


def test_a_checkpoint_cut_off_while_written_leaves_the_one_before(tmp_path, monkeypatch):
    run(tmp_path, stop_at_step=5)
    before = (tmp_path / "last.pt").read_bytes()
    save = torch.save

    def cut_off(content, file):
        save(content, file)
        file.truncate(100)
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(DataError, match="last.pt: cannot be written .*No space left"):
        run(tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt"]


def test_a_run_that_began_on_a_cpu_goes_on_with_the_scaler_of_a_gpu(tmp_path):
    """A CPU has no scaler, so the checkpoint has none either."""
    network = torch.nn.Linear(1, 1)
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=8.0)):
        state = RunState(str(tmp_path), network, {})
        engine = Engine(lambda engine, batch: None)
        engine.scaler = scaler
        engine.state.rank, engine.state.device = 0, torch.device("cpu")
        engine.state.epoch, engine.state.iteration, engine.state.max_epochs = 1, 5, 2
        if scaler is None:
            state.save(engine)
        else:
            engine.state.epoch = 0
            state.resume(engine)
            assert engine.state.epoch == 1 and scaler.get_scale() == 8.0


def request(folder, step, number, **options):
    """Train until the process gets a signal in a step; gives the exit code, None when the run came to its end."""
    with during(step, lambda: os.kill(os.getpid(), number)):
        try:
            run(folder, **options)
        except TrainingStopped as stopped:
            return stopped.code
    return None


@contextmanager
def during(step, action):
    """Do something within the given step of the next training."""
    backward = SemiSupervisedTrainer._step

    def step_with_action(self, total):
        if self.state.iteration == step:
            action()
        return backward(self, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SemiSupervisedTrainer, "_step", step_with_action)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 4 epochs of 3 steps, with validation."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, scores=SCORES)
    return folder


SCORES = [0.1, 0.7, 0.3, 0.5]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def assert_ended_alike(folder, whole):
    """Same weights, same choice, bytes of the model included."""
    assert (folder / "model.pt").read_bytes() == (whole / "model.pt").read_bytes()
    assert (folder / "model.json").read_text() == (whole / "model.json").read_text()
    assert_same(weights(whole, "last.pt")["network"], weights(folder, "last.pt")["network"])


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("step", [1, 5, 6, 12])  # within an epoch, at the end of one, at the end of the run
def test_a_signal_ends_the_run_after_the_step_and_it_goes_on_from_there(tmp_path, whole, step, number):
    before = signal.getsignal(number)
    assert request(tmp_path, step, number, scores=SCORES) == CODES[number]
    assert signal.getsignal(number) is before
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == step
    run(tmp_path, scores=SCORES)
    assert_ended_alike(tmp_path, whole)


def test_sigusr1_saves_and_the_run_goes_on(tmp_path, whole):
    assert request(tmp_path, 4, signal.SIGUSR1, scores=SCORES, stop_at_step=5) is None
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == 4
    run(tmp_path, scores=SCORES)
    assert_ended_alike(tmp_path, whole)


def test_a_signal_during_validation_keeps_the_epoch_before_it(tmp_path, whole):
    """The learning rate has changed by then: the checkpoint is from before that."""

    def stop(validator):
        os.kill(os.getpid(), signal.SIGTERM)
        validator.fire_event(Events.ITERATION_COMPLETED)

    with pytest.raises(TrainingStopped):
        run(tmp_path, scores=SCORES, while_validating=stop)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (saved["epoch"], saved["iteration"], saved["epoch_done"]) == (1, 3, False)
    run(tmp_path, scores=SCORES)
    assert_ended_alike(tmp_path, whole)


def test_a_checkpoint_is_written_every_so_many_minutes(tmp_path, whole):
    run(tmp_path, scores=SCORES, minutes=0, stop_at_step=5)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == 5
    assert torch.load(tmp_path / "previous.pt", weights_only=True)["iteration"] == 4
    run(tmp_path, scores=SCORES, minutes=None)
    assert_ended_alike(tmp_path, whole)


def damage_zeroed_block(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)


def damage_flipped_bit(path):
    """In a weight: other bits may be of no use to anybody."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["network"]["a.network.0.weight"].numpy().tobytes()
    content[content.index(weight) + 10] ^= 1
    path.write_bytes(content)


def damage_not_finite(path):
    saved = torch.load(path, weights_only=True)
    saved["network"]["a.network.0.weight"].fill_(float("nan"))
    torch.save(saved, path)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "flipped bit": damage_flipped_bit,
    "zeroed block": damage_zeroed_block,
    "missing": lambda path: path.unlink(),
    "not finite": damage_not_finite,
}


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A run that was killed in its last epoch."""
    folder = tmp_path_factory.mktemp("broken_off")
    run(folder, scores=SCORES, stop_at_step=11)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(tmp_path, whole, broken_off, damage, caplog):
    shutil.copytree(broken_off, tmp_path, dirs_exist_ok=True)
    sound = (tmp_path / "previous.pt").read_bytes()
    DAMAGES[damage](tmp_path / "last.pt")
    with caplog.at_level(logging.WARNING), during(8, lambda: previous.append((tmp_path / "previous.pt").read_bytes())):
        previous = []
        run(tmp_path, scores=SCORES)
    assert previous == [sound]
    assert f"goes on from the checkpoint before, {tmp_path / 'previous.pt'}" in caplog.text
    assert_ended_alike(tmp_path, whole)


def test_the_one_before_is_kept_until_there_is_a_sound_last_one(tmp_path, broken_off):
    shutil.copytree(broken_off, tmp_path, dirs_exist_ok=True)
    sound = (tmp_path / "previous.pt").read_bytes()
    DAMAGES["zeroed"](tmp_path / "last.pt")
    run(tmp_path, scores=SCORES, stop_at_step=10)
    assert (tmp_path / "previous.pt").read_bytes() == sound
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 3


def test_two_damaged_checkpoints_are_one_sentence_with_a_remedy(tmp_path, broken_off):
    shutil.copytree(broken_off, tmp_path, dirs_exist_ok=True)
    for name in ("last.pt", "previous.pt"):
        DAMAGES["zeroed block"](tmp_path / name)
    with pytest.raises(DataError, match="last.pt is damaged.*previous.pt is damaged.*Put back a copy"):
        run(tmp_path, scores=SCORES)


@pytest.mark.parametrize("damage", ["truncated", "zeroed block", "missing"])
def test_damaged_weights_of_the_best_epoch_are_found_before_the_training_goes_on(tmp_path, broken_off, damage):
    shutil.copytree(broken_off, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "model_best.pt")
    with pytest.raises(DataError, match="model_best.pt is (damaged|missing).*Put back a copy"):
        run(tmp_path, scores=SCORES)


def test_numbers_that_are_not_finite_never_reach_a_file_and_the_run_can_go_on_without_a_trace(tmp_path, whole):
    backward = SemiSupervisedTrainer._step

    def spoilt(self, total):
        return backward(self, total * float("nan") if self.state.iteration >= 5 else total)

    words = "not finite in 8 steps in a row, .*Batch and networks are in .*not_finite.pt"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match=words):
        patch.setattr(SemiSupervisedTrainer, "_step", spoilt)
        run(tmp_path, scores=SCORES, minutes=0)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == 4
    assert not [path.name for path in tmp_path.glob("*.pt") if find_non_finite(network_in(path)) is not None]
    evidence = torch.load(tmp_path / "not_finite.pt", weights_only=True)
    assert evidence["iteration"] == 12 and evidence["batch"]["labeled"]["image"].shape == (2, 1, 16, 16, 16)
    run(tmp_path, scores=SCORES)
    assert_ended_alike(tmp_path, whole)


def network_in(path):
    saved = torch.load(path, weights_only=True)
    return saved.get("network", saved)


def test_weights_that_are_not_finite_are_not_saved_over_sound_ones(tmp_path):
    def spoil(engine):
        with torch.no_grad():
            next(engine.network.parameters()).fill_(float("nan"))

    run(tmp_path, stop_at_step=5)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(DataError, match="last.pt: not written, since network.a.network.0.weight is not finite"):
        run(tmp_path, at_step=(6, spoil))
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not (tmp_path / "model.pt").exists()


def test_handlers_remember_what_they_knew_within_an_epoch(tmp_path):
    """The log of a run that was stopped within an epoch is that of an uninterrupted one, times aside."""

    def losses(folder):
        records = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
        return [record["losses"] for record in records]

    run(tmp_path / "whole", epochs=2, console=True)
    assert request(tmp_path / "broken", 5, signal.SIGTERM, epochs=2, console=True) == 143
    run(tmp_path / "broken", epochs=2, console=True)
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")


def test_the_end_of_the_supervised_part_is_kept_also_after_a_restart(tmp_path):
    whole = run(tmp_path / "whole", warm_up_epochs=2)
    run(tmp_path / "killed", warm_up_epochs=2, stop_at_step=8)  # in the third epoch
    run(tmp_path / "killed", warm_up_epochs=2)
    kept, again = (
        torch.load(tmp_path / name / "model_supervised.pt", weights_only=True) for name in ("whole", "killed")
    )
    last = whole.network.state_dict()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
    assert json.loads((tmp_path / "whole" / "model.json").read_text())["part"] == "with the unlabelled scans"


def test_a_run_stopped_as_it_drifted_uses_the_supervised_part(tmp_path):
    def drift(engine):
        engine.state.drifted = True
        engine.terminate()

    trainer = run(tmp_path, warm_up_epochs=2, at_step=(8, drift))  # in the third epoch
    assert_same(weights(tmp_path), weights(tmp_path, "model_supervised.pt"))
    assert_same(weights(tmp_path), trainer.network.state_dict())
    record = json.loads((tmp_path / "model.json").read_text())
    assert (record["part"], record["epoch"]) == ("supervised", 2) and "drifted" in record["chosen"]


def test_the_better_part_is_used_where_there_is_validation(tmp_path):
    run(tmp_path, scores=[0.5, 0.8, 0.6, 0.7], warm_up_epochs=2)
    choice = json.loads((tmp_path / "model.json").read_text())
    assert (choice["epoch"], choice["part"]) == (2, "supervised")


def test_patience_counts_from_the_end_of_the_supervised_part(tmp_path):
    trainer = run(tmp_path, epochs=6, scores=[0.9, 0.1, 0.1, 0.1, 0.1, 0.1], patience=2, warm_up_epochs=3)
    assert trainer.state.epoch == 5


@pytest.mark.parametrize("done", [5, 6])  # within an epoch, at the end of one
def test_a_run_of_two_processes_goes_on_with_one_and_says_so(tmp_path, caplog, done):
    """What handlers know of the epoch comes from the first process; random numbers are others."""
    assert request(tmp_path, done, signal.SIGTERM, scores=SCORES, console=True) == 143
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    saved["ranks"] *= 2
    torch.save(saved, tmp_path / "last.pt")
    with caplog.at_level(logging.WARNING):
        trainer = run(tmp_path, scores=SCORES, console=True)
    assert "was written by 2 processes and is resumed by 1" in caplog.text
    assert trainer.state.iteration == 12 and find_non_finite(weights(tmp_path)) is None
    records = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "losses" in record] == [1, 2, 3, 4]

# SPDX-License-Identifier: Apache-2.0
"""A run that was interrupted ends as the uninterrupted one: same weights, same best epoch, complete files."""

import json

import pytest
import torch
from ignite.engine import Engine, Events

from scripts.data import DataError
from scripts.handlers import RunState
from scripts.networks import DualNetwork, MovingAverage, VNet

from .conftest import make_trainer


class Interruption(Exception):
    """Ends a run in the middle, as a kill would."""


def fake_validator(scores):
    """An evaluator whose metric at its n-th run is ``scores[n]``; counts runs in its state."""
    validator = Engine(lambda engine, batch: None)
    validator.state.key_metric_name = "val_mean_dice"
    return validator


def run(folder, epochs=4, stop_at_step=None, scores=None, patience=None, average=None):
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
                validator.state.metrics = {"val_mean_dice": scores[engine.state.epoch - 1]}
                validator.fire_event(Events.COMPLETED)

        to_use = None if average is None else average.module
        run_state = RunState(str(folder), network, state, validator, patience, network_to_use=to_use)
        return [BeforeSaving(), run_state]

    trainer = make_trainer(max_epochs=epochs, handlers=handlers, average=average)
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


def make_average():
    return MovingAverage(DualNetwork(*(VNet(base_channels=4, norm="batch", dropout=0.5) for _ in range(2))), decay=0.5)


def test_the_moving_average_is_resumed_and_used(tmp_path):
    trainer = run(tmp_path / "whole", average=make_average())
    run(tmp_path / "broken", stop_at_step=8, average=make_average())
    run(tmp_path / "broken", average=make_average())
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert_same(weights(tmp_path / "whole"), trainer.average.module.state_dict())
    assert int(trainer.average.n_averaged) == 12
    trained = trainer.network.state_dict()
    assert not torch.equal(weights(tmp_path / "whole")["a.classifier.weight"], trained["a.classifier.weight"])


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

    def cut_off(content, path):
        save(content, path)
        path.write_bytes(path.read_bytes()[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(DataError, match="last.pt: cannot be written .*No space left"):
        run(tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]

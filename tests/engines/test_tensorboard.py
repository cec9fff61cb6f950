# SPDX-License-Identifier: Apache-2.0
"""A run that was killed behind its checkpoint and resumed has every step once in TensorBoard."""

import pytest
from ignite.engine import Events

from engines.conftest import make_trainer
from scripts.engines import TensorBoardLog, named_losses
from scripts.runs import RunState


class Killed(Exception):
    pass


def run(folder, stop_at_step=None):
    def handlers(network, optimizer, method):
        log = TensorBoardLog(log_dir=str(folder / "tensorboard"), output_transform=named_losses)
        return [log, RunState(str(folder), network, {"optimizer": optimizer, "method": method})]

    trainer = make_trainer(max_epochs=2, handlers=handlers)
    if stop_at_step is None:
        trainer.run()
        return

    @trainer.on(Events.ITERATION_COMPLETED(once=stop_at_step))
    def kill(engine):
        raise Killed

    with pytest.raises(Killed):
        trainer.run()


@pytest.mark.parametrize("killed_at", [2, 5])  # before the first checkpoint, and behind it
def test_every_step_is_shown_once(tmp_path, killed_at):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, killed_at)
    run(tmp_path)
    shown = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    steps = [event.step for event in shown.Scalars("loss")]
    assert steps == [1, 2, 3, 4, 5, 6]

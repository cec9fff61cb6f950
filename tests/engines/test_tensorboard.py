# SPDX-License-Identifier: Apache-2.0
"""A run that was killed behind its checkpoint and resumed has every step once in TensorBoard."""

import pytest

from engines.conftest import train_with_log
from scripts.engines import TensorBoardLog, named_losses


@pytest.mark.parametrize("killed_at", [2, 5])  # before the first checkpoint, and behind it
def test_every_step_is_shown_once(tmp_path, killed_at):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def make_log():
        return TensorBoardLog(log_dir=str(tmp_path / "tensorboard"), output_transform=named_losses)

    train_with_log(tmp_path, make_log, killed_at)
    train_with_log(tmp_path, make_log)
    shown = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    steps = [event.step for event in shown.Scalars("loss")]
    assert steps == [1, 2, 3, 4, 5, 6]

# SPDX-License-Identifier: Apache-2.0
"""A run that was killed behind its checkpoint and resumed has every step once in MLflow."""

import pytest
from ignite.engine import Events

from engines.conftest import make_trainer
from scripts.engines import MLflowLog, named_losses
from scripts.runs import RunState

mlflow = pytest.importorskip("mlflow")


class Killed(Exception):
    pass


def run(folder, uri, stop_at_step=None):
    def handlers(network, optimizer, method):
        log = MLflowLog(uri, run_name="one", close_on_complete=True, output_transform=named_losses)
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
def test_every_step_is_logged_once(tmp_path, killed_at):
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    run(tmp_path, uri, killed_at)
    run(tmp_path, uri)
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs(client.get_experiment_by_name("monai_experiment").experiment_id)
    for name in ("loss", "supervised_a", "lr_group_0"):
        assert [point.step for point in client.get_metric_history(found.info.run_id, name)] == [1, 2, 3, 4, 5, 6]

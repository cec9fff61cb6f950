# SPDX-License-Identifier: Apache-2.0
"""A run that was killed behind its checkpoint and resumed has every step once in MLflow."""

import pytest

from engines.conftest import train_with_log
from scripts.engines import MLflowLog, named_losses

mlflow = pytest.importorskip("mlflow")


@pytest.mark.parametrize("killed_at", [2, 5])  # before the first checkpoint, and behind it
def test_every_step_is_logged_once(tmp_path, killed_at):
    uri = f"sqlite:///{tmp_path}/mlruns.db"

    def make_log():
        return MLflowLog(uri, run_name="one", close_on_complete=True, output_transform=named_losses)

    train_with_log(tmp_path, make_log, killed_at)
    train_with_log(tmp_path, make_log)
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs(client.get_experiment_by_name("monai_experiment").experiment_id)
    for name in ("loss", "supervised_a", "lr_group_0"):
        assert [point.step for point in client.get_metric_history(found.info.run_id, name)] == [1, 2, 3, 4, 5, 6]

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ignite.engine import Engine
from monai.handlers import MLFlowHandler

__all__ = ["MLflowLog"]


class MLflowLog(MLFlowHandler):
    """MONAI's MLFlowHandler; a resumed run logs every step once (ours).

    A run that is killed has logged steps behind its checkpoint, and takes them again when it goes on. MLflow forgets
    nothing, so what it has stays, and logging goes on behind it. Equal names are one run to MONAI: give ``run_name``
    what no other training has.

    Args:
        args, kwargs: as in ``monai.handlers.MLFlowHandler``; the output has a ``loss``.
    """

    def start(self, engine: Engine) -> None:
        """Find the run of this name, or make it."""
        super().start(engine)
        logged = self.client.get_metric_history(self.cur_run.info.run_id, "loss")
        self._logged = max((point.step for point in logged), default=0)

    def iteration_completed(self, engine: Engine) -> None:
        """Log a step that MLflow does not have."""
        if engine.state.iteration > self._logged:
            super().iteration_completed(engine)

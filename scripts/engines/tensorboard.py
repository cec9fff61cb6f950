# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler

__all__ = ["TensorBoardLog"]


class TensorBoardLog(TensorBoardStatsHandler):
    """MONAI's TensorBoardStatsHandler; a resumed run shows every step once (ours).

    A run that is killed has logged steps behind its checkpoint, and logs them again when it goes on. Where it goes on,
    a mark tells TensorBoard to forget what it has from there.

    Args:
        args, kwargs: as in ``monai.handlers.TensorBoardStatsHandler``.
    """

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._mark)
        self._marked = False
        super().attach(engine)

    def _mark(self, engine: Engine) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # with the writer of the base class

        if self._marked:
            return
        self._marked = True
        start = Event(session_log=SessionLog(status=SessionLog.START), step=engine.state.iteration + 1)
        start.wall_time = time.time()
        self._writer.file_writer.add_event(start)

# SPDX-License-Identifier: Apache-2.0
"""Do pseudo-labels still look like labels? An alarm for a class that swallows all voxels or vanishes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ...engines import remember
from ...errors import DataError
from ...ranks import is_main_process, world_size
from ...runs.run import Run
from ..epoch_means import EpochMeans, step_output

__all__ = ["CollapseAlarm", "CollapseError"]

logger = logging.getLogger(__name__)

REMEDY = (
    "What may help: a longer ramp-up of the unlabelled terms (method#ramp#length), a smaller learning rate, a larger "
    "drop_fraction with per_class on, more labelled scans; and look whether labelled and unlabelled scans have the "
    "same orientation, spacing and intensities."
)


class CollapseError(DataError):
    """Pseudo-labels have collapsed and the run was asked to stop then."""


class CollapseAlarm:
    """Warns when pseudo-labels have collapsed.

    They have when, for `patience` epochs in a row and after the ramp-up,

    - one class holds more than `dominant_share` of the unlabelled voxels, which it does not of the labelled ones, or
    - a foreground class has less than `vanishing_ratio` of the share it has among the labelled voxels.

    Reads `pseudo_class_share` [C] and `label_class_share` [C] (fractions of voxels) from the trainer's output, as
    means over an epoch and over ranks; a run without pseudo-labels is never judged. The warning comes once per
    collapse, names the class and what to try, and is recorded in train_log.jsonl. Source: ours.

    Args:
        output_dir: the run's folder.
        labels: {class index: name}, to name classes; numbers are shown without it.
        after: fraction of the run (0 to 1) after which pseudo-labels are judged; that of the ramp-up.
        patience: epochs in a row.
        dominant_share: fraction of voxels in one class that is a collapse.
        vanishing_ratio: share of a foreground class relative to its share among labelled voxels that is a collapse.
            Labelled crops are centred on foreground more often than unlabelled ones, so it must be well below 1.
        stop: end the run with a `CollapseError` instead of going on.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        labels: Mapping[int | str, str] | None = None,
        after: float = 0.4,
        patience: int = 3,
        dominant_share: float = 0.999,
        vanishing_ratio: float = 0.02,
        stop: bool = False,
    ) -> None:
        self.log = Run(output_dir).log
        self.labels = {int(c): str(name) for c, name in (labels or {}).items()}
        self.after = after
        self.patience = patience
        self.dominant_share = dominant_share
        self.vanishing_ratio = vanishing_ratio
        self.stop = stop
        self.means = EpochMeans()
        self._epochs_in_a_row = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        remember(engine, "collapse_alarm", self)
        engine.add_event_handler(Events.EPOCH_STARTED, self.means.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._observe)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs to come to the verdict of an uninterrupted one."""
        return {"means": self.means.state_dict(), "epochs_in_a_row": self._epochs_in_a_row}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from :meth:`state_dict`."""
        self.means.load_state_dict(state["means"])
        self._epochs_in_a_row = state["epochs_in_a_row"]

    def _observe(self, engine: Engine) -> None:
        if getattr(engine, "skipped_in_a_row", 0):
            return
        output = step_output(engine)
        shares = {k: output.get(k) for k in ("pseudo_class_share", "label_class_share")}
        self.means.update({k: v for k, v in shares.items() if v is not None})

    def _judge(self, engine: Engine) -> None:
        means = self.means.means()
        if "pseudo_class_share" not in means:
            return
        if world_size() > 1:
            # Every rank must come to the same verdict, since it may stop them all.
            means = {k: idist.all_reduce(v) / world_size() for k, v in means.items()}
        shares = {k: v.tolist() for k, v in means.items()}
        signs = self.signs(shares["pseudo_class_share"], shares.get("label_class_share"))
        if not signs or engine.state.epoch <= self.after * engine.state.max_epochs:
            self._epochs_in_a_row = 0
            return
        self._epochs_in_a_row += 1
        if self._epochs_in_a_row == self.patience:
            self._alarm(engine, signs)

    def signs(self, pseudo: Sequence[float], label: Sequence[float] | None) -> list[str]:
        """What is wrong with these class shares (fractions of voxels, background first); empty if nothing is.

        Args:
            pseudo: shares among the pseudo-labels.
            label: shares among the labelled voxels; None if they are not known.
        """
        found = []
        for c, share in enumerate(pseudo):
            name = f"'{self.labels.get(c, c)}'"
            if share > self.dominant_share and (label is None or label[c] <= self.dominant_share):
                found.append(f"{name} holds {share:.2%} of the unlabelled voxels")
            elif c > 0 and label is not None and share < self.vanishing_ratio * label[c]:
                found.append(
                    f"{name} has {share:.3%} of the unlabelled voxels, but {label[c]:.3%} of the labelled ones"
                )
        return found

    def _alarm(self, engine: Engine, signs: list[str]) -> None:
        message = f"Pseudo-labels have collapsed: for {self.patience} epochs {'; '.join(signs)}. {REMEDY}"
        if is_main_process():
            self.log.append({"epoch": engine.state.epoch, "alarm": message})
            logger.warning(message)
        if self.stop:
            raise CollapseError(f"{message} The last checkpoint is from before this epoch.")

# SPDX-License-Identifier: Apache-2.0
"""Do the unlabelled scans still help? An alarm for a second part that leaves what the supervised one had learnt."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys as Keys
from torch import Tensor

from ...engines import remember
from ...networks import DualEnsemble
from ...ranks import is_main_process
from ...runs.run import Run

__all__ = ["DriftAlarm"]

logger = logging.getLogger(__name__)

REMEDY = (
    "The end of the supervised part is kept as a model of its own: compare both (results.md has a row for each), label "
    "some of the unlabelled scans for validation, or give stop_on_drift to use the supervised part's model then."
)
SMOOTH = 1e-5


class DriftAlarm:
    """Warns when the networks, taught by unlabelled scans, leave what they had learnt from the labelled ones (ours).

    Where nobody validates, nothing else would tell. Some unlabelled scans are segmented whole, by the networks to use,
    at the end of the supervised part and every ``interval`` epochs of the second one. They drift when, ``patience``
    times in a row,

    - the volume of a class over all these scans is less than ``1 / volume_ratio`` or more than ``volume_ratio`` times
      what it was at the start of the part, or
    - the two networks agree less than then: their Dice with each other, mean over classes, has fallen by more than
      ``agreement_loss``. Networks that learn from each other's errors agree more, so only the first sign tells there.

    Every process looks at the same scans with the same networks, and so comes to the same verdict. The warning comes
    once, names the class and the numbers, and is recorded in train_log.jsonl.

    Args:
        output_dir: the run's folder.
        network: the networks to use.
        inferer: MONAI inferer, such as a sliding window.
        scans: datalist items of the unlabelled scans; few are enough.
        transform: from an item to a dict with ``image`` [channels,*S], as the networks see it.
        warm_up_epochs: epochs of the supervised part; 0: there is no start to compare with, and nothing is judged.
        labels: {class index: name}.
        interval: epochs between two looks.
        patience: looks in a row.
        volume_ratio: above 1.
        agreement_loss: in Dice, above 0.
        stop: end the training then; the model is that of the end of the supervised part.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        network: DualEnsemble,
        inferer: Callable[..., tuple[Tensor, ...]],
        scans: Iterable[Mapping[str, object]],
        transform: Callable[[Mapping[str, object]], Mapping[str, Tensor]],
        warm_up_epochs: int,
        labels: Mapping[int | str, str] | None = None,
        interval: int = 5,
        patience: int = 2,
        volume_ratio: float = 2.0,
        agreement_loss: float = 0.1,
        stop: bool = False,
    ) -> None:
        self.log = Run(output_dir).log
        self.network = network
        self.inferer = inferer
        self.scans = list(scans)
        self.transform = transform
        self.warm_up_epochs = warm_up_epochs
        self.labels = {int(c): str(name) for c, name in (labels or {}).items()}
        self.interval = interval
        self.patience = patience
        self.volume_ratio = volume_ratio
        self.agreement_loss = agreement_loss
        self.stop = stop
        self._start: dict[str, list[float]] | None = None
        self._looks_in_a_row = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        remember(engine, "drift_alarm", self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs to come to the verdict of an uninterrupted one."""
        return {"start": self._start, "looks_in_a_row": self._looks_in_a_row}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from :meth:`state_dict`."""
        self._start = state["start"]
        self._looks_in_a_row = state["looks_in_a_row"]

    def _judge(self, engine: Engine) -> None:
        epoch = engine.state.epoch - self.warm_up_epochs
        if not self.scans or self.warm_up_epochs < 1 or epoch < 0 or epoch % self.interval:
            return
        if epoch == 0:
            self._start = self.look(engine.state.device)
            return
        if self._start is None:  # a run that was begun before this alarm existed
            return
        signs = self.signs(self._start, self.look(engine.state.device))
        self._looks_in_a_row = self._looks_in_a_row + 1 if signs else 0
        if self._looks_in_a_row == self.patience:
            self._warn(engine, signs)
        if self.stop and self._looks_in_a_row >= self.patience:
            engine.state.drifted = True
            engine.terminate()

    @torch.no_grad()
    def look(self, device: torch.device | str) -> dict[str, list[float]]:
        """Voxels of each foreground class over the scans, and each one's Dice of network a with network b."""
        volumes, sums, common = 0, 0, 0
        was_training = self.network.training
        self.network.eval()
        for scan in self.scans:
            image = self.transform(scan)[Keys.IMAGE][None].to(device)
            of_a, of_b, of_both = self.inferer(image, self.network.members)
            classes = range(1, of_both.shape[1])
            a, b, both = (of.argmax(1) for of in (of_a, of_b, of_both))
            volumes = volumes + torch.tensor([float((both == c).sum()) for c in classes])
            sums = sums + torch.tensor([float((a == c).sum() + (b == c).sum()) for c in classes])
            common = common + torch.tensor([float(((a == c) & (b == c)).sum()) for c in classes])
        self.network.train(was_training)
        return {"volumes": volumes.tolist(), "agreement": ((2 * common + SMOOTH) / (sums + SMOOTH)).tolist()}

    def signs(self, start: Mapping[str, list[float]], now: Mapping[str, list[float]]) -> list[str]:
        """What is wrong now; empty if nothing is."""
        found = []
        for c, (before, after) in enumerate(zip(start["volumes"], now["volumes"], strict=True), 1):
            name = f"'{self.labels.get(c, c)}'"
            if before > 0 and not 1 / self.volume_ratio <= after / before <= self.volume_ratio:
                found.append(f"{name} has {after / before:.2f} times its volume")
        before, after = (sum(one["agreement"]) / len(one["agreement"]) for one in (start, now))
        if after < before - self.agreement_loss:
            found.append(f"the two networks agree by a Dice of {after:.2f}, not {before:.2f}")
        return found

    def _warn(self, engine: Engine, signs: list[str]) -> None:
        message = (
            f"The training drifts from what it had learnt of the labelled scans: compared with the end of the "
            f"supervised part, on {len(self.scans)} unlabelled scans, {'; '.join(signs)}. {REMEDY}"
        )
        if is_main_process():
            self.log.append({"epoch": engine.state.epoch, "alarm": message})
            logger.warning(message)

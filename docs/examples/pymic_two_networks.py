# SPDX-License-Identifier: Apache-2.0
"""PyMIC's cross pseudo supervision of two networks, with cross consistency enhancement in place of its loss.

Use it where PyMIC's ``SSLCPS`` is used: the configuration stays the same, ``DualsegCPS(config).run()``.
"""

import torch
from dualseg.losses import CrossConsistencyEnhancementLoss, SigmoidRamp
from pymic.net_run.semi_sup.ssl_cps import SSLCPS


class DualsegCPS(SSLCPS):
    def __init__(self, config, stage="train"):
        super().__init__(config, stage)
        self.consistency = CrossConsistencyEnhancementLoss(drop_fraction=0.2)
        self.ramp = SigmoidRamp(length=0.4)

    def next_batch(self, iterator, loader):
        """Next item of ``self.<iterator>``, starting ``self.<loader>`` again when it ends."""
        try:
            return next(getattr(self, iterator))
        except StopIteration:
            setattr(self, iterator, iter(getattr(self, loader)))
            return next(getattr(self, iterator))

    def training(self):
        steps, total = self.config["training"]["iter_valid"], self.config["training"]["iter_max"]
        weight = self.config["semi_supervised_learning"].get("regularize_w", 0.1)
        sums = dict.fromkeys(("loss", "loss_sup1", "loss_sup2", "loss_pse_sup1", "loss_pse_sup2"), 0.0)
        self.net.train()
        for _ in range(steps):
            labelled = self.next_batch("trainIter", "train_loader")
            unlabelled = self.next_batch("trainIter_unlab", "train_loader_unlab")
            images = torch.cat([self.convert_tensor_type(batch["image"]) for batch in (labelled, unlabelled)])
            target = self.convert_tensor_type(labelled["label_prob"]).to(self.device)
            a, b = self.net(images.to(self.device))
            n = len(target)
            supervised = [self.get_loss_value(labelled, z[:n], target) for z in (a, b)]
            consistency = self.consistency(a[n:], b[n:])
            loss = sum(supervised) + weight * self.ramp(self.glob_it / total) * consistency
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            values = (loss, *supervised, consistency, consistency)
            sums = {name: sums[name] + value.item() for name, value in zip(sums, values, strict=True)}
        means = {name: value / steps for name, value in sums.items()}
        classes = self.config["network"]["class_num"]
        prediction = torch.nn.functional.one_hot(a[:n].argmax(1), classes).movedim(-1, 1)
        axes = [0, *range(2, target.dim())]
        overlap, size = (prediction * target).sum(axes), (prediction + target).sum(axes)
        dice = (2 * overlap / size.clamp(min=1e-5)).cpu().numpy()
        times = dict.fromkeys(("data_time", "forward_time", "loss_time", "backward_time"), 0.0)
        return {**means, **times, "regular_w": weight, "avg_fg_dice": dice[1:].mean(), "class_dice": dice}

# SPDX-License-Identifier: Apache-2.0
"""nnU-Net v2 with a mean teacher on unlabelled voxels.

Unlabelled scans go into the dataset with nnU-Net's own *ignore label* at every voxel (``"ignore": N`` among the labels
of dataset.json). nnU-Net leaves those voxels out of its loss; the teacher, a moving average of the network, supervises
them. Put this file into a folder, name the folder in the environment variable ``nnUNet_extTrainer``, and run
``nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerDualseg``.
"""

import torch
from dualseg.losses import SigmoidRamp, UncertaintyWeightedCrossPseudoLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class nnUNetTrainerDualseg(nnUNetTrainer):
    def initialize(self):
        super().initialize()
        bare = self.network.module if self.is_ddp else getattr(self.network, "_orig_mod", self.network)
        self.teacher = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
        self.student = bare
        self.unlabelled_loss = UncertaintyWeightedCrossPseudoLoss(temperature=0.5)
        self.ramp = SigmoidRamp(length=0.4)
        self.supervised_loss, self.loss = self.loss, self.semi_supervised_loss

    def semi_supervised_loss(self, output, target):
        loss = self.supervised_loss(output, target)
        if not torch.is_grad_enabled():  # validation
            return loss
        if isinstance(output, (list, tuple)):  # deep supervision: full resolution comes first
            output, target = output[0], target[0]
        with torch.no_grad():
            taught = self.teacher(self.images)
        taught = taught[0] if isinstance(taught, (list, tuple)) else taught
        unlabelled = target == self.label_manager.ignore_label
        weight = self.ramp(self.current_epoch / self.num_epochs)
        return loss + weight * self.unlabelled_loss(output, taught, unlabelled)

    def train_step(self, batch):
        self.images = batch["data"].to(self.device, non_blocking=True)
        result = super().train_step(batch)
        self.teacher.update_parameters(self.student)
        return result

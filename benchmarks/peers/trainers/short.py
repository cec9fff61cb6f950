# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's own training for as many epochs and iterations as benchmarks/peers/nnunet.py asks for.

nnU-Net finds it by ``nnUNet_extTrainer``. What is asked for stands in the JSON file that NNUNET_SHORT names.
"""

import json
import os
import resource
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerShort(nnUNetTrainer):
    # the names of the arguments are nnU-Net's: it looks them up to write them into checkpoints
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        wanted = json.loads(Path(os.environ["NNUNET_SHORT"]).read_text(encoding="utf-8"))
        self.num_epochs = wanted["epochs"]
        self.num_iterations_per_epoch = wanted["iterations"]
        self.num_val_iterations_per_epoch = 1  # of training scans, as all labelled ones are trained on: says nothing
        self.save_every = max(1, min(50, self.num_epochs // 10))
        torch.set_num_threads(wanted["threads"])  # the command line takes every core
        torch.manual_seed(wanted["seed"])
        np.random.seed(wanted["seed"])

    def perform_actual_validation(self, save_probabilities=False):
        """Left out: the labelled scans are all trained on, and the test scans are scored elsewhere."""

    def on_train_end(self):
        super().on_train_end()
        begun, ended = (self.logger.get_value(f"epoch_{when}_timestamps", None) for when in ("start", "end"))
        found = {
            "epoch_seconds": [end - start for start, end in zip(begun, ended, strict=True)],
            "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        path = Path(self.output_folder, "training.json")
        path.with_suffix(".tmp").write_text(json.dumps(found), encoding="utf-8")
        path.with_suffix(".tmp").replace(path)  # last of all: what has it is finished

# SPDX-License-Identifier: Apache-2.0
"""Proposals for all scans at once, e.g. over night."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

logger = logging.getLogger(__name__)


class Proposals(BatchInferTask):
    """As MONAI Label's, which divides by the number of GPUs, 0 without any, and stops at the first bad scan (ours)."""

    def get_images(self, request: dict[str, Any], datastore: Datastore) -> list[str]:
        """The scans of the request, those of the datastore only."""
        known = set(datastore.list_images())
        return [name for name in super().get_images(request, datastore) if name in known]

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable) -> dict[str, Any]:
        """Segment scan by scan, and save each proposal.

        Returns:
            By scan what the segmentation told; ``error`` of a scan that cannot be used.
        """
        failed: dict[str, str] = {}

        def infer_or_note(one: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
            try:
                return infer(one, datastore)
            except HTTPException as error:
                if error.status_code != 422:
                    raise
                failed[one["image"]] = error.detail
                logger.warning("No proposal for %s: %s", one["image"], error.detail)
                return {"error": error.detail}

        gpus = torch.cuda.device_count()
        options = {**request, "max_workers": request.get("max_workers") or 1}
        options["multi_gpu"] = gpus > 1 and bool(request.get("multi_gpu", True))
        result = super().__call__(options, datastore, infer_or_note)
        logger.info("Proposals for %d scans saved, %d left out: %s", len(result) - len(failed), len(failed), failed)
        return result

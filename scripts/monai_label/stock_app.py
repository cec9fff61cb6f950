# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

from ..errors import DataError

__all__ = ["refuse_stock_app"]

PHANTOM = "phantom"


def refuse_stock_app(dataset_name: str) -> None:
    """Refuse a training that MONAI Label's own app for bundles has started (ours).

    That app passes on no scan without a label, and names no data set: it would train on the phantom with the classes of
    the phantom. It infers with the bundle as it is.

    Args:
        dataset_name: of the config; ``phantom`` unless somebody has chosen a data set.

    Raises:
        DataError: when MONAI Label has started the process and the data set is the phantom.
    """
    if "MONAI_LABEL_STUDIES" in os.environ and dataset_name == PHANTOM:
        raise DataError(
            "MONAI Label's own app for bundles cannot train this one: start the server with the bundle's app, "
            "--app monailabel_app."
        )

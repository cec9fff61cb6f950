# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's list of scans and labels, for the threads of a server that share it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any

from monailabel.datastore.local import LocalDatastore

__all__ = ["OneAtATime"]


class OneAtATime(LocalDatastore):
    """MONAI Label's datastore of a folder, whose list of scans and labels one thread at a time reads or changes.

    The thread that watches the folder empties the list and fills it again. A request that reads the list meanwhile
    finds no scan, or ends with "dictionary changed size during iteration".
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._turn = RLock()
        super().__init__(*args, **options)


def _take_turns(name: str) -> None:
    @wraps(getattr(LocalDatastore, name))
    def method(self: OneAtATime, *args: Any, **options: Any) -> Any:
        with self._turn:
            call: Callable = getattr(super(OneAtATime, self), name)
            return call(*args, **options)

    setattr(OneAtATime, name, method)


for _name in (
    "_on_any_event",
    "_on_modify_event",
    "add_image",
    "datalist",
    "get_image_info",
    "get_image_uri",
    "get_label_info",
    "get_label_uri",
    "get_labeled_images",
    "get_labels_by_image_id",
    "get_unlabeled_images",
    "json",
    "list_images",
    "refresh",
    "remove_image",
    "remove_label",
    "save_label",
    "status",
    "update_image_info",
    "update_label_info",
):
    _take_turns(_name)

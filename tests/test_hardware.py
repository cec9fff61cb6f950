# SPDX-License-Identifier: Apache-2.0
"""What a run took is measured on every system."""

import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from scripts import hardware


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_peak_is_at_least_what_is_held_now():
    held = psutil.Process().memory_info().rss / 2**30
    assert held / 2 < hardware.peak_memory_gib() < psutil.virtual_memory().total / 2**30


def test_windows_needs_no_module_resource(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # its import fails, as on Windows
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 * 2**30))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert hardware.peak_memory_gib() == 3


def test_the_cpu_is_named_with_its_threads():
    assert hardware.device_name() == f"CPU, {torch.get_num_threads()} threads"

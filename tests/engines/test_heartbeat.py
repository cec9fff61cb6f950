# SPDX-License-Identifier: Apache-2.0
"""A process that gives no sign of life is noticed by the others; one that ends as it should is not missed."""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch.distributed as dist

from scripts.engines import Heartbeat
from scripts.engines.heartbeat import _running, unwatch_processes, watch_processes


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def pair():
    """Two processes' heartbeats on one store, and whom each of them has missed."""
    store, missed = dist.HashStore(), ([], [])
    options = {"seconds": 1.0, "interval": 0.02}
    beats = [Heartbeat(store, rank, 2, lost=missed[rank].append, **options) for rank in (0, 1)]
    yield *beats, missed
    for beat in beats:
        beat.stop()


def test_processes_that_live_or_have_ended_are_not_missed(pair):
    one, other, missed = pair
    one.start()
    time.sleep(1.2)  # the other one has not begun yet
    other.start()
    time.sleep(1.2)
    other.stop()
    time.sleep(1.2)
    assert missed == ([], [])


def test_a_process_that_stops_is_missed_and_named(pair, monkeypatch):
    one, other, missed = pair
    one.start()
    other.start()
    time.sleep(0.1)
    monkeypatch.setattr(other, "store", Hung())
    assert wait_until(lambda: missed[0] == [1])
    assert not missed[1]


class Hung:
    """A store that never answers."""

    def set(self, key, value):
        time.sleep(2.5)
        raise RuntimeError


class Gone:
    """A store whose process has ended."""

    def set(self, key, value):
        raise RuntimeError("gone")


def test_a_process_counts_as_soon_as_it_has_begun():
    store = dist.HashStore()
    beat = Heartbeat(store, 0, 2)
    beat._thread = threading.Thread(target=lambda: None)  # that has not had its turn yet
    beat.start()
    assert store.check([beat._key(0)])


def test_a_store_that_has_gone_is_left_to_the_collectives():
    beat = Heartbeat(dist.HashStore(), 0, 2, interval=0.02, lost=lambda rank: pytest.fail("missed"))
    beat.start()
    beat.store = Gone()
    assert wait_until(lambda: not beat._thread.is_alive())


def test_alone_nobody_is_watched():
    watch_processes()
    assert not _running
    unwatch_processes()


CODE = """
import sys, time, datetime
import torch.distributed as dist
from scripts.engines import heartbeat
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", rank=rank, world_size=2, init_method=file)
store = dist.distributed_c10d._get_default_store().clone()
beat = heartbeat.Heartbeat(store, rank, 2, seconds=1.5, interval=0.1)
beat.start()
print("ready", flush=True)
import torch
for _ in range(rank + 1):  # the first process waits for the second one, which hangs, in a collective
    time.sleep(3 * rank)
dist.all_reduce(torch.zeros(1))
"""


@pytest.mark.slow
def test_a_hung_process_ends_the_one_that_waits_for_it_in_a_collective(bundle_root, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-c", CODE]
    options = {"cwd": bundle_root, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first, second = (subprocess.Popen([*start, str(rank), f"tcp://127.0.0.1:{port}"], **options) for rank in (0, 1))
    try:
        assert second.stdout.readline() == "ready\n"
        second.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        _, errors = first.communicate(timeout=60)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == 1 and time.monotonic() - begin < 20
    assert "Error: Process 1 of 2 has given no sign of life for 2 s" in errors and "Traceback" not in errors

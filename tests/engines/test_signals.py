# SPDX-License-Identifier: Apache-2.0
"""One signal asks, however often it arrives at once; a later one ends the process."""

import os
import signal
import time

import pytest

from scripts.engines import Signals, TrainingStopped


@pytest.fixture
def ended(monkeypatch):
    """Signals by which the process would have ended at once."""
    numbers = []
    monkeypatch.setattr(Signals, "_die", staticmethod(numbers.append))
    return numbers


@pytest.mark.parametrize("pause", [0.0, 1.2])
def test_a_second_signal_ends_the_process_and_the_same_one_twice_does_not(ended, pause):
    signals = Signals()
    with pytest.raises(TrainingStopped) as stopped, signals.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.request == 143
    assert stopped.value.code == 143
    assert ended == ([signal.SIGTERM] if pause else [])

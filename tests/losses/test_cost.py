# SPDX-License-Identifier: Apache-2.0
"""What the unlabelled terms may cost beside the training step that they are a part of."""

import importlib.util

import pytest
import torch

LARGEST_SHARE = 0.2  # of the slowest memory beside the fastest cores that it was measured on: 0.16


@pytest.fixture
def benchmark(request, monkeypatch):
    path = request.config.rootpath / "benchmarks" / "losses.py"
    if not path.is_file():
        pytest.skip(f"the benchmark is not here: no file {path}")
    monkeypatch.syspath_prepend(str(path.parents[1]))
    spec = importlib.util.spec_from_file_location("losses_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def one_thread():
    """The benchmark then counts the time of this process alone, whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_consistency_and_contrast_are_a_small_part_of_a_training_step(benchmark, one_thread):
    """A tenth to a sixth (docs/losses/cost.rst); the memory traffic of other programs adds to the share.

    The default networks are the cheapest that ship: their step is the hardest to be a small part of.
    """
    files, size = benchmark.STEPS["configs/train.json"]
    shares = []
    while len(shares) < 5 and min(shares, default=1.0) > LARGEST_SHARE:
        step, terms, gigabytes = benchmark.share_of_a_step(files, size, torch.device("cpu"), repetitions=1)
        shares.append(terms / step)
    assert min(shares) <= LARGEST_SHARE, shares
    assert gigabytes <= 1.5

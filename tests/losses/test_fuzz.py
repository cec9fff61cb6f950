# SPDX-License-Identifier: Apache-2.0
"""Whatever finite numbers go in, in any layout, finite losses and gradients come out."""

import random

import pytest
import torch

from .test_reuse import CHANNELS, MODULES

CASES = 900  # of each loss: CI runs them twice, a minute together
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def tensor(rng, shape, dtype, generator):
    """Numbers of one random magnitude between 1e-30 and 1e30, or as far as the dtype goes, in a random layout."""
    scale = rng.choice([0.0, 1e-6, 1.0, 10.0 ** rng.uniform(-30, 30)])
    largest = torch.finfo(dtype).max if dtype == torch.float16 else 1e31
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    values = values.clamp(-largest, largest).to(dtype)
    layout = rng.choice(["contiguous", "channels_last", "strided", "transposed"])
    if layout == "channels_last":
        return values.to(memory_format=torch.channels_last_3d if values.dim() == 5 else torch.channels_last)
    if layout == "strided":
        return values.repeat_interleave(2, -1)[..., ::2]
    if layout == "transposed":
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    return values


def inputs_of(seed):
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    size = [rng.randint(1, 5) for _ in range(rng.choice([2, 3]))]
    if rng.random() < 0.2:
        size[rng.randrange(len(size))] = 0
    batch, classes = rng.choice([0, 1, 2, 3]), rng.randint(2, 5)
    channels = {"a": classes, "b": classes, "f": CHANNELS, "g": CHANNELS}
    dtype = DTYPES[seed % len(DTYPES)]
    inputs = {name: tensor(rng, (batch, c, *size), dtype, generator) for name, c in channels.items()}
    one = (batch, 1, *size)
    inputs["y"] = torch.randint(0, classes, one, generator=generator)
    inputs["m"] = torch.rand(one, generator=generator) < rng.choice([0.0, 0.5, 1.0])
    return classes, inputs


def call(module, names, inputs):
    """One forward and backward pass; what is not finite, in words."""
    leaves = [inputs[k].requires_grad_() for k in "abfg"]
    got = module(*(inputs[k] for k in names))
    if not all(torch.isfinite(value).all() for value in (got if isinstance(got, tuple) else [got])):
        return "result"
    if isinstance(got, torch.Tensor) and got.requires_grad:
        gradients = torch.autograd.grad(got.sum(), leaves, allow_unused=True)
        if not all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients):
            return "gradient"
    return "" if all(torch.isfinite(value).all() for value in module.state_dict().values()) else "memory"


@pytest.mark.parametrize("name", MODULES)
def test_finite_numbers_give_finite_losses_gradients_and_memories(name):
    """Twice each, so that memories are empty and filled."""
    make, names = MODULES[name]
    for seed in range(CASES):
        classes, inputs = inputs_of(seed)
        module = make(classes)
        for _ in range(2):
            assert not call(module, names, inputs), seed


@pytest.mark.parametrize("name", [name for name, (make, _) in MODULES.items() if list(make(2).buffers())])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_leaves_no_trace_in_a_memory(name, value):
    """Memories stay finite, and what comes next is finite again."""
    make, names = MODULES[name]
    module = make(2)
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": 2, "b": 2, "f": CHANNELS, "g": CHANNELS}
    sound = {k: torch.randn(2, c, 4, 4, 4, generator=generator) for k, c in shapes.items()}
    sound["y"] = torch.randint(0, 2, (2, 1, 4, 4, 4), generator=generator)
    sound["m"] = torch.ones(2, 1, 4, 4, 4, dtype=torch.bool)
    spoilt = {k: v.clone() if k in "ym" else v.clone().fill_(value) for k, v in sound.items()}
    assert not call(module, names, sound)
    module(*(spoilt[k] for k in names))
    assert all(torch.isfinite(kept).all() for kept in module.state_dict().values())
    assert not call(module, names, sound)

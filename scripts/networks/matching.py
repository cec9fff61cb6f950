# SPDX-License-Identifier: Apache-2.0
"""Weights that others have trained: which of their tensors are those of a network here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from torch import Tensor

__all__ = ["match_tensors"]

SHARE = 0.1
"""Of the other's kernels that have to fit: a few of one size fit anywhere by chance."""


def match_tensors(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], parts: Iterable[str]) -> dict[str, str]:
    """
    Which tensors of other weights go where, by name and shape, whatever the names begin with (ours).

    Checkpoints name the same encoder ``module.layer1.0.conv1.weight``, ``encoder.layer1.0.conv1.weight`` and so on. For
    each part of the network the pair of beginnings, its own and the other's, under which most names and shapes are the
    same is looked for.

    Args:
        theirs: state dict of another program, such as of an encoder that was trained without labels.
        own: state dict of the network.
        parts: beginnings of the names of the network's parts, such as ``a.`` and ``b.``.

    Returns:
        {own name: other name}; empty where less than a tenth of the other's kernels (tensors of two dimensions or more)
        fits.

    Example:
        >>> theirs = {"module.layer1.weight": torch.zeros(8, 1, 3)}
        >>> match_tensors(theirs, {"a.net.layer1.weight": torch.ones(8, 1, 3)}, ["a."])
        {'a.net.layer1.weight': 'module.layer1.weight'}
    """
    kernels = sum(value.ndim > 1 for value in theirs.values())
    endings = defaultdict(list)  # by last word and shape: the others cannot fit
    for name, value in theirs.items():
        endings[name.rpartition(".")[2], value.shape].append(name)
    found: dict[str, str] = {}
    for part in parts:
        inside = [name for name in own if name.startswith(part)]
        counts = Counter(
            beginnings
            for name in inside
            for other in endings[name.rpartition(".")[2], own[name].shape]
            for beginnings in _beginnings(name, other)
            if own[name].ndim > 1
        )
        if not counts:
            continue
        # of pairs that fit equally well, that with the longest names in common says most
        (start, other_start), count = max(counts.items(), key=lambda pair: (pair[1], -len("".join(pair[0])), pair[0]))
        if count < SHARE * kernels:
            continue
        for name in inside:
            other = other_start + name.removeprefix(start)
            if name.startswith(start) and other in theirs and theirs[other].shape == own[name].shape:
                found[name] = other
    return found


def _beginnings(name: str, other: str) -> Iterable[tuple[str, str]]:
    """All pairs of beginnings, ending with a dot or empty, after which two names are the same."""
    words, others = name.split("."), other.split(".")
    for count in range(1, min(len(words), len(others)) + 1):
        if words[-count] != others[-count]:
            return
        yield _beginning(words[:-count]), _beginning(others[:-count])


def _beginning(words: list[str]) -> str:
    return "".join(f"{word}." for word in words)

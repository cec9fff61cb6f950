# SPDX-License-Identifier: Apache-2.0
"""Classes that few patients have, in every section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["reserve"]


def reserve(
    order: Sequence[str],
    classes: Mapping[str, set[int]],
    weights: Mapping[str, int],
    sizes: Mapping[str, int],
) -> dict[str, list[str]]:
    """Patients for each section so that it has every class, the rarest class first.

    Args:
        order: of the patients; earlier ones are taken first.
        classes: that each patient has.
        weights: labelled cases of each patient.
        sizes: of the sections, in the order in which they are served; none gets more cases than that.

    Returns:
        Patients of each section; fewer than ``sizes``, and without a class that too few patients have.

    Source: ours, after Sechidis et al., "On the Stratification of Multi-label Data", ECML 2011.
    """
    owners = {one: [name for name in order if one in classes[name]] for one in set().union(*classes.values())}
    chosen: dict[str, list[str]] = {section: [] for section in sizes}
    room, taken = dict(sizes), set()
    for one, patients in sorted(owners.items(), key=lambda item: (len(item[1]), item[0])):
        for section in sizes:
            there = set().union(*(classes[name] for name in chosen[section]))
            free = [name for name in patients if name not in taken and 0 < weights[name] <= room[section]]
            if one not in there and free:
                name = max(free, key=lambda name: len(classes[name] - there))  # of several the first in the order
                chosen[section].append(name)
                taken.add(name)
                room[section] -= weights[name]
    return chosen

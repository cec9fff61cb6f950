# SPDX-License-Identifier: Apache-2.0
"""The marginal of a prediction over the classes that an image's label does not tell from background.

Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image Analysis
2021, https://arxiv.org/abs/2007.03868.
"""

import torch

__all__ = ["certain_voxels", "checked_classes", "merge_background", "partial_cross_entropy"]


def checked_classes(classes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return ``classes``, raising a ValueError unless it is a bool tensor [B, C] for ``logits``."""
    if classes.dtype != torch.bool or classes.shape != logits.shape[:2]:
        raise ValueError(
            f"classes must be a bool tensor [B, C], True where an image's class was annotated, for {logits.shape}, "
            f"got {classes.dtype} {classes.shape}"
        )
    return classes


def certain_voxels(labels: torch.Tensor, drawn: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Where a label says one class, bool [B, 1, *spatial]: drawn, and no background that may be another class.

    Args:
        labels: class maps [B, 1, *spatial].
        drawn: bool [B, 1, *spatial], True where the annotator gave a value.
        classes: bool [B, C], the classes that were annotated, image by image.
    """
    partial = ~classes[:, 1:].all(1).view(-1, *[1] * (labels.dim() - 1))
    return drawn & ~((labels == 0) & partial)


def _missing(classes: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Which foreground classes [B, C, 1, ...] were not annotated; background always is."""
    missing = ~classes
    missing[:, 0] = False
    return missing.reshape(list(classes.shape) + [1] * (maps.dim() - 2))


def merge_background(p: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Add the probability of the classes that were not annotated to that of background, and make theirs zero.

    Args:
        p: probabilities [B, C, *spatial].
        classes: bool [B, C], the classes that were annotated, image by image; background counts as annotated.
    """
    missing = _missing(classes, p)
    rest = torch.where(missing, p, 0.0).sum(1, keepdim=True)
    return torch.cat([p[:, :1] + rest, p[:, 1:].masked_fill(missing[:, 1:], 0.0)], 1)


def partial_cross_entropy(
    log_p: torch.Tensor, labels: torch.Tensor, classes: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy [B, 1, *spatial] of merged predictions, as :func:`merge_background` makes them.

    Args:
        log_p: log-probabilities [B, C, *spatial].
        labels: class maps [B, 1, *spatial], int64, values in [0, C).
        classes: bool [B, C], the classes that were annotated, image by image. Defaults to all.
    """
    chosen = log_p.gather(1, labels)
    if classes is None:
        return -chosen
    others = classes.clone()
    others[:, 0] = False  # what remains is background, or a class that was not annotated
    others = others.reshape(list(classes.shape) + [1] * (log_p.dim() - 2))
    background = log_p.masked_fill(others, -torch.inf).logsumexp(1, keepdim=True)
    return -torch.where(labels == 0, background, chosen)

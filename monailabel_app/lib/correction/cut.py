# SPDX-License-Identifier: Apache-2.0
"""What a few strokes change in a segmentation: the networks' probabilities, bent towards them, cut along edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.transforms import Compose
from monailabel.scribbles.transforms import ApplyGraphCutOptimisationd, MakeISegUnaryd
from scipy.ndimage import distance_transform_edt, find_objects

BACKGROUND, FOREGROUND = 1, 2
"""Values of strokes, 0 where there are none."""

CERTAINTY = 0.95
"""The networks' probabilities are kept between this and its complement, so that edges and strokes count as well."""

SPREAD = 3.0
"""How many times its reach away from the last stroke nothing changes at all."""


def cut(
    probability: np.ndarray,
    current: np.ndarray,
    image: np.ndarray,
    strokes: np.ndarray,
    spacing: Sequence[float],
    reach: float,
    smoothness: float,
) -> np.ndarray:
    """Correct the segmentation of one structure near strokes.

    Each stroke draws the probabilities around it to its side, by a weight that falls with the distance as a Gaussian;
    MONAI Label's graph cut then finds the boundary, smooth and along edges of the image, with the strokes themselves
    fixed. What lies further than ``SPREAD`` times the reach from all strokes stays as it is.

    Args:
        probability: of the structure, from the networks [H,W,D].
        current: the segmentation to correct [H,W,D], bool. Where it is not what the networks propose, somebody has
            drawn it, and it counts in place of their probability.
        image: the scan [H,W,D].
        strokes: ``FOREGROUND`` where the structure is, ``BACKGROUND`` where it is not, else 0 [H,W,D].
        spacing: size of a voxel in mm.
        reach: standard deviation of the Gaussian, in mm.
        smoothness: weight of the boundary's length in the graph cut.

    Returns:
        The corrected segmentation [H,W,D], bool.

    Source:
        The weighting is that of MIDeepSeg (Luo et al., Medical Image Analysis 2021) with Euclidean distances; the
        energy is that of Wang et al. (IEEE TMI 2018), as MONAI Label has it.
    """
    prior = probability.clip(1 - CERTAINTY, CERTAINTY)
    drawn = current != (probability > 0.5)
    prior = np.where(drawn, np.where(current, CERTAINTY, 1 - CERTAINTY), prior)
    distances = {
        kind: distance_transform_edt(strokes != kind, sampling=spacing)
        if (strokes == kind).any()
        else np.full(strokes.shape, np.inf)
        for kind in (BACKGROUND, FOREGROUND)
    }
    nearest = np.minimum(*distances.values())
    (box,) = find_objects((nearest <= SPREAD * reach).astype(np.uint8))
    weight = np.exp(-0.5 * (nearest[box] / reach) ** 2)
    wanted = distances[FOREGROUND][box] < distances[BACKGROUND][box]
    prior = (1 - weight) * prior[box] + weight * wanted
    data = {
        "image": _scaled(image[box])[None],
        "prior": np.stack([1 - prior, prior]).astype(np.float32),
        "strokes": strokes[box][None],
    }
    optimiser = Compose(
        [
            MakeISegUnaryd(
                image="image",
                logits="prior",
                scribbles="strokes",
                scribbles_bg_label=BACKGROUND,
                scribbles_fg_label=FOREGROUND,
            ),
            ApplyGraphCutOptimisationd(unary="unary", pairwise="image", lamda=smoothness, sigma=0.1),
        ]
    )
    found = np.asarray(optimiser(data)["pred"])[0] > 0.5
    corrected = current.copy()
    corrected[box] = np.where(nearest[box] <= SPREAD * reach, found, current[box])
    return corrected


def _scaled(image: np.ndarray) -> np.ndarray:
    """Intensities from 0 to 1, as the graph cut expects them."""
    low, high = np.percentile(image, (1, 99))
    return ((image - low) / max(high - low, np.finfo(np.float32).eps)).clip(0, 1).astype(np.float32)

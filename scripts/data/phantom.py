# SPDX-License-Identifier: Apache-2.0
"""The embedded demo data: a chamber with tubular branches among look-alikes, drawn from a seed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial.transform import Rotation

from ..errors import DataError
from ..progress import track

VERSION = 1
REFERENCE_SIZE = 48  # voxels along the shortest axis for which the lengths below are given
SMALLEST_SIZE = 16
LABELS = {"0": "background", "1": "chamber with branches"}

# Levels before gain, bias field and noise; blood is the level of the chamber and of every look-alike.
AIR, TISSUE, WALL, BLOOD = 0.05, 0.45, 0.25, 1.0


def phantom_dataset(
    folder: str | os.PathLike,
    seed: int = 0,
    size: Sequence[int] = (48, 48, 48),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    labeled: int = 4,
    unlabeled: int = 24,
    validation: int = 4,
    test: int = 8,
    progress: bool = True,
) -> str:
    """Write the phantom (NIfTI volumes and ``datalist.json``) into ``folder``, or reuse what is there.

    The volumes are made in a temporary folder beside it, which is renamed when complete: an interrupted run leaves no
    half data set, and of several processes that start together each ends with the same complete one.

    Args:
        folder: where; it must not exist, be empty, or hold a phantom of the same arguments.
        seed: the same seed and arguments give the same voxels.
        size: voxels along x, y, z, at least 16 each. Structures scale with the shortest axis.
        spacing: voxel size in mm, written into the affine. The shape is drawn in voxels.
        labeled: cases in ``training``; at least one.
        unlabeled: cases in ``unlabeled``; no label file is written for them.
        validation: cases in ``validation``.
        test: cases in ``test``.
        progress: whether to show a progress bar while writing.

    Returns:
        The folder, as a string for use in a config.

    Raises:
        ValueError: when ``size``, ``spacing`` or a count is out of range.
        DataError: when the folder holds something else, a phantom of other arguments, or one with files missing.

    Example:
        >>> folder = phantom_dataset("data/phantom")
        >>> load_datalist(Path(folder) / "datalist.json")["labels"]
        {0: 'background', 1: 'chamber with branches'}

    Source: ours.
    """
    counts = {"training": labeled, "unlabeled": unlabeled, "validation": validation, "test": test}
    _check_arguments(size, spacing, counts)
    recipe = {
        "phantom": VERSION,
        "seed": int(seed),
        "size": [int(n) for n in size],
        "spacing": [float(s) for s in spacing],
        "counts": {section: int(count) for section, count in counts.items()},
    }
    target = Path(folder).absolute()
    if _is_complete(target, recipe):
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        _write(draft, recipe, progress)
        _publish(draft, target, recipe)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return str(target)


def phantom_case(rng: np.random.Generator, size: Sequence[int] = (48, 48, 48)) -> tuple[np.ndarray, np.ndarray]:
    """Draw one case.

    Args:
        rng: the source of pose, size, contrast, bias field and noise.
        size: voxels along x, y, z.

    Returns:
        image, int16 ``[X, Y, Z]``, and label, uint8 ``[X, Y, Z]`` with 1 in the chamber and its branches.

    Source: ours.
    """
    size = tuple(int(n) for n in size)
    scale = min(size) / REFERENCE_SIZE
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in size), indexing="ij"), axis=-1)
    grid = (grid - (np.asarray(size, dtype=np.float32) - 1) / 2) / scale
    warped = grid + 1.4 * _smooth_fields(rng, size, count=3, coarse=5)

    pose = Rotation.from_rotvec(rng.normal(0, 0.14, 3)).as_matrix().astype(np.float32)
    centre = rng.uniform(-3, 3, 3).astype(np.float32)
    local = (warped - centre) @ pose
    grown = rng.uniform(0.85, 1.15)

    radii = np.array([10.5, 8.0, 9.0]) * grown * rng.uniform(0.92, 1.08, 3)
    depth = _ellipsoid(local, (0, 0, 0), radii)
    for path, radius in _branches(rng, radii):
        depth = np.minimum(depth, _tube(local, path, radius * grown))
    chamber = depth <= 0

    lookalikes = np.full(size, np.inf, dtype=np.float32)
    for shape in _lookalikes(rng, local, radii, grown):
        lookalikes = np.minimum(lookalikes, shape)
    # A wall of one to two voxels parts them from the chamber, as a septum does: only shape and place tell them apart.
    lookalike = (lookalikes <= 0) & (depth > 1.6)

    body = _ellipsoid(grid, rng.uniform(-1, 1, 3), np.asarray(size) / scale * rng.uniform(0.52, 0.6, 3)) <= 0
    level = np.where(body, TISSUE + 0.12 * _texture(rng, size, 2.2), AIR).astype(np.float32)
    level[body & (np.minimum(depth, lookalikes) < 1.6)] = WALL
    contrast = rng.uniform(0.8, 1.05)
    level[chamber] = BLOOD * contrast
    level[lookalike] = BLOOD * contrast * rng.uniform(0.98, 1.16)
    level += 0.07 * _texture(rng, size, 1.2) * (chamber | lookalike)

    level = gaussian_filter(level, 0.6 * scale)
    bias = np.exp(0.2 * _smooth_fields(rng, size, count=1, coarse=3)[..., 0])
    noise = rng.uniform(0.06, 0.1)
    real = level * bias + rng.normal(0, noise, size)
    image = np.hypot(real, rng.normal(0, noise, size)) * rng.uniform(300, 600)  # Rician, as in magnitude MR
    return np.clip(np.rint(image), 0, 32767).astype(np.int16), chamber.astype(np.uint8)


def _branches(rng: np.random.Generator, radii: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Three to four curved tubes that leave the chamber around fixed directions: (points [N, 3], radius) each."""
    directions = np.array([[0.8, 0.55, 0.3], [-0.8, 0.5, 0.35], [0.75, 0.45, -0.55], [-0.7, 0.55, -0.5]])
    branches = []
    for direction in directions[: rng.integers(3, 5)]:
        direction = direction + rng.normal(0, 0.12, 3)
        direction /= np.linalg.norm(direction)
        start, bend = direction * radii * 0.7, rng.normal(0, 2.5, 3)
        end = direction * (radii + rng.uniform(8, 12))
        t = np.linspace(0, 1, 16)[:, None]
        branches.append((start * (1 - t) + end * t + bend * t * (1 - t) * 2, rng.uniform(2.0, 2.9)))
    return branches


def _lookalikes(rng: np.random.Generator, local: np.ndarray, radii: np.ndarray, grown: float) -> list[np.ndarray]:
    """Signed depths of a neighbouring chamber without branches, a passing vessel and a round node."""
    below = np.array([rng.normal(0, 3), -radii[1] - rng.uniform(7.5, 9.5), rng.normal(0, 3)])
    neighbour = _ellipsoid(local, below, np.array([9.0, 6.5, 7.0]) * grown * rng.uniform(0.9, 1.1, 3))
    side, height = rng.choice([-1, 1]), np.linspace(-30, 30, 40)
    x, y = side * (radii[0] + rng.uniform(5.5, 7.5)), rng.uniform(-7, 1)
    sway = rng.uniform(1, 3) * np.sin(height / 9 + rng.uniform(0, 6))
    vessel = _tube(local, np.stack([x + sway, np.full_like(height, y), height], axis=1), rng.uniform(2.2, 3.2) * grown)
    angle = rng.uniform(0, 2 * np.pi)
    node_centre = np.array([15 * np.cos(angle), rng.uniform(8, 13), 15 * np.sin(angle)])
    return [neighbour, vessel, _ellipsoid(local, node_centre, np.full(3, rng.uniform(2.5, 4.0)))]


def _ellipsoid(points: np.ndarray, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Approximate signed distance to an ellipsoid's surface, negative inside."""
    radii = np.asarray(radii, dtype=np.float32)
    reach = np.linalg.norm((points - np.asarray(centre, dtype=np.float32)) / radii, axis=-1)
    return (reach - 1) * np.float32(radii.mean())


def _tube(points: np.ndarray, path: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to a tube around a densely sampled path, negative inside."""
    flat, path = points.reshape(-1, 3), path.astype(np.float32)
    squared = (flat**2).sum(1) + ((path**2).sum(1)[:, None] - 2 * path @ flat.T).min(0)
    return np.sqrt(np.maximum(squared, 0)).reshape(points.shape[:-1]) - np.float32(radius)


def _smooth_fields(rng: np.random.Generator, size: tuple[int, ...], count: int, coarse: int) -> np.ndarray:
    """Fields ``[*size, count]`` of low frequency and unit scale: normal values on a coarse grid, interpolated."""
    nodes = rng.normal(0, 1, (count, coarse, coarse, coarse)).astype(np.float32)
    return np.stack([zoom(n, [s / coarse for s in size], order=1, mode="nearest", grid_mode=True) for n in nodes], -1)


def _texture(rng: np.random.Generator, size: tuple[int, ...], grain: float) -> np.ndarray:
    """Smoothed noise of unit standard deviation."""
    noise = gaussian_filter(rng.normal(0, 1, size).astype(np.float32), grain)
    return noise / noise.std()


def _check_arguments(size: Sequence[int], spacing: Sequence[float], counts: dict[str, int]) -> None:
    if len(size) != 3 or min(size) < SMALLEST_SIZE:
        raise ValueError(f"size={tuple(size)}: three numbers of at least {SMALLEST_SIZE} voxels are needed.")
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing={tuple(spacing)}: three positive numbers (mm) are needed.")
    if counts["training"] < 1 or min(counts.values()) < 0:
        raise ValueError(f"{counts}: at least one labelled case is needed, and no count below 0.")


def _is_complete(target: Path, recipe: dict) -> bool:
    """Whether ``target`` holds this very phantom; False when there is nothing yet, DataError when something else."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise DataError(f"{target}: a file is in the place of the demo data's folder. Name another folder.")
    listing = target / "datalist.json"
    if not listing.is_file():
        if any(target.iterdir()):
            raise DataError(f"{target}: not empty, and no demo data. Name another folder; nothing was written.")
        return False
    try:
        found = json.loads(listing.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{listing}: not JSON ({error}). Delete the folder to have the demo data made anew.") from error
    if found.get("recipe") != recipe:
        raise DataError(
            f"{target}: holds other data than asked for ({found.get('recipe')} instead of {recipe}). "
            "Name another folder, or delete this one."
        )
    cases = [case for section in recipe["counts"] for case in found.get(section, [])]
    missing = [file for case in cases for file in case.values() if not (target / file).is_file()]
    if missing:
        raise DataError(
            f"{target}: {len(missing)} files of the demo data are missing. Delete the folder and run again."
        )
    return True


def _write(draft: Path, recipe: dict, progress: bool) -> None:
    (draft / "images").mkdir(parents=True)
    (draft / "labels").mkdir()
    affine = np.diag([*recipe["spacing"], 1.0])
    affine[:3, 3] = [-20.0, 12.5, 40.0]
    sections = [section for section, count in recipe["counts"].items() for _ in range(count)]
    datalist: dict = {"name": "phantom", "recipe": recipe, "labels": LABELS, **{s: [] for s in recipe["counts"]}}
    for index, section in enumerate(track(sections, len(sections), "Making the demo data", progress)):
        name = f"phantom_{index:03d}.nii.gz"
        image, label = phantom_case(np.random.default_rng([recipe["seed"], index]), recipe["size"])
        case = {"image": f"images/{name}"}
        nibabel.save(nibabel.Nifti1Image(image, affine), draft / case["image"])
        if section != "unlabeled":
            case["label"] = f"labels/{name}"
            nibabel.save(nibabel.Nifti1Image(label, affine), draft / case["label"])
        datalist[section].append(case)
    (draft / "datalist.json").write_text(json.dumps(datalist, indent=1), encoding="utf-8")


def _publish(draft: Path, target: Path, recipe: dict) -> None:
    """Rename the finished draft; when another process was faster, its (equal) folder stands."""
    try:
        draft.rename(target)
    except OSError:
        if not _is_complete(target, recipe):
            raise

# SPDX-License-Identifier: Apache-2.0
"""Tasks of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022), by MONAI's downloader."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from tarfile import TarError
from urllib.error import URLError

from monai.apps import DecathlonDataset, check_hash, download_url, extractall

from ...errors import DataError

PREFIX = "decathlon:"


def prepare_decathlon(
    task: str, output: str | os.PathLike, source: str | os.PathLike | None = None, progress: bool = True
) -> str:
    """Download a task, check its MD5 sum, unpack it; what is there already is kept.

    The scans are whole and need no further preparation: ``dualseg split`` takes the folder as it is.

    Args:
        task: e.g. ``Task04`` or ``Task04_Hippocampus``.
        output: folder to unpack to; the archive is kept there too, so that it is downloaded once.
        source: the archive, or a folder that has it, where it has been downloaded before.
        progress: whether to show how far the download is.

    Returns:
        The task's folder, which holds ``dataset.json``, ``imagesTr``, ``labelsTr``.

    Raises:
        DataError: when there is no such task, the download fails, or the archive is damaged.

    Source: ours.
    """
    names = [name for name in DecathlonDataset.resource if task in (name, name.split("_")[0])]
    if not names:
        raise DataError(f"{task}: no task of the Decathlon. Name one of {', '.join(DecathlonDataset.resource)}.")
    name, output = names[0], Path(output)
    folder = output / name
    if (folder / "dataset.json").is_file():
        return str(folder)
    if folder.exists():
        raise DataError(f"{folder}: is there, but without dataset.json. Remove it, or name another output folder.")
    archive = _archive(name, output, source)
    url = DecathlonDataset.resource[name]
    by_hand = f"Download {url} by other means and name it with --source."
    try:
        output.mkdir(parents=True, exist_ok=True)
        own = archive.exists()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No hash value provided")
            download_url(url, archive, progress=progress)
        # the sum is compared here, as the error that MONAI raises for a wrong one differs between its versions
        if not check_hash(archive, DecathlonDataset.md5[name], "md5"):
            if not own:
                archive.unlink()
            raise DataError(f"{archive}: not the archive of {name} (MD5 sum). Remove it. {by_hand}")
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=output) as draft:
            extractall(archive, draft, has_base=False)
            (Path(draft) / name).rename(folder)
    except TarError as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Remove it. {by_hand}") from error
    except (URLError, RuntimeError) as error:
        raise DataError(f"{url}: cannot be downloaded ({getattr(error, 'reason', error)}). {by_hand}") from error
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). Make room, or name a folder of yours."
        ) from error
    return str(folder)


def _archive(name: str, output: Path, source: str | os.PathLike | None) -> Path:
    if source is None:
        return output / f"{name}.tar"
    path = Path(source) / f"{name}.tar" if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Name the archive {name}.tar, or its folder, with --source.")
    return path

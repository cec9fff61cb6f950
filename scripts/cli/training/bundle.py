# SPDX-License-Identifier: Apache-2.0
"""``dualseg bundle``: an editable copy of the whole bundle."""

# No postponed annotations here: Fire shows them as they are.

import shutil
from importlib.metadata import distribution
from pathlib import Path

from rich.console import Console

from ...bundle_files import BUNDLE, PACKAGE
from ...errors import DataError

__all__ = ["bundle"]

FOLDERS = ("configs", "models", "docs")


def bundle(output: str) -> None:
    """Write a copy of the bundle, its configs, weights and Python package, to change and to train from.

    Example: dualseg bundle my_bundle

    Args:
        output: folder to make.
    """
    target = Path(str(output))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists already. Name another folder.")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in FOLDERS:
        shutil.copytree(BUNDLE / name, target / name, ignore=ignored, dirs_exist_ok=True)
    in_wheel = shutil.ignore_patterns("__pycache__", "bundle")  # the copy has the package itself beside its configs
    shutil.copytree(PACKAGE, target / "scripts", ignore=in_wheel, dirs_exist_ok=True)
    shutil.copy(target / "configs" / "metadata.json", target / "metadata.json")
    own = BUNDLE / "LICENSE"
    license = own.read_text() if own.is_file() else distribution("dualseg").read_text("licenses/LICENSE")
    (target / "LICENSE").write_text(license)
    console = Console()
    console.print(f"written: {target}", highlight=False, soft_wrap=True)
    console.print(
        f"next: cd {target} && python -m monai.bundle run training --config_file configs/train.json",
        highlight=False,
        soft_wrap=True,
    )

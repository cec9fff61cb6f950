# SPDX-License-Identifier: Apache-2.0
"""A copy of the bundle to work in, hippocampus scans as studies, and a data set config that trains in seconds.

These tests need MONAI Label, which pins an older NumPy: run.sh makes an environment of its own and runs them.
"""

import importlib.util
import json
import shutil

import pytest

REASON = "MONAI Label is not installed: tests/monailabel/run.sh runs these tests in an environment of their own"

CLASSES = {0: "background", 1: "anterior hippocampus", 2: "posterior hippocampus"}


class _SkippedModule(pytest.Module):
    def collect(self):
        pytest.skip(REASON, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Skip a module, with the reason, before it imports what is not there."""
    if importlib.util.find_spec("monailabel.interfaces") is None:  # this folder is a namespace of that name
        return _SkippedModule.from_parent(parent, path=module_path)


@pytest.fixture(scope="session")
def hippocampus(shared_data):
    """{name: (image, label)} of 200 real scans."""
    folder = shared_data / "hippocampus"
    images = sorted((folder / "images").glob("*.nii.gz"))
    return {image.name.removesuffix(".nii.gz"): (image, folder / "labels" / image.name) for image in images}


@pytest.fixture(scope="session")
def copy_bundle(bundle_root, tmp_path_factory):
    """Make a copy of the bundle, in which a server may write."""

    def copy(to=None):
        root = to or tmp_path_factory.mktemp("bundle")
        for name in ("configs", "scripts", "models", "monailabel_app"):
            ignored = shutil.ignore_patterns("__pycache__", "model", "logs", "bin", "monailabel_train.json")
            shutil.copytree(bundle_root / name, root / name, ignore=ignored)
        return root

    return copy


@pytest.fixture(scope="session")
def make_studies(hippocampus, tmp_path_factory):
    """Make a studies folder with the first ``scans`` hippocampus scans, of which the first ``labels`` have a label."""

    def make(scans, labels=0):
        folder = tmp_path_factory.mktemp("studies")
        (folder / "labels" / "final").mkdir(parents=True)
        for number, (image, label) in enumerate(list(hippocampus.values())[:scans]):
            shutil.copy(image, folder)
            if number < labels:
                shutil.copy(label, folder / "labels" / "final")
        return folder

    return make


@pytest.fixture(scope="session")
def write_dataset(bundle_root, tmp_path_factory):
    """Write the hippocampus config with other settings of the cpu recipe; its path."""

    def write(**cpu):
        config = json.loads((bundle_root / "configs" / "datasets" / "hippocampus.json").read_text())
        config["cpu"] |= cpu
        path = tmp_path_factory.mktemp("config") / "dataset.json"
        path.write_text(json.dumps(config))
        return str(path)

    return write


@pytest.fixture(scope="session")
def tiny(write_dataset):
    """Networks and patches with which a step takes an instant."""
    return write_dataset(base_channels=4, patch_size=[32, 32, 32])


@pytest.fixture(scope="module")
def client(app):
    """MONAI Label's server with the module's app in it, in this process."""
    from fastapi.testclient import TestClient
    from lib.server import install
    from monailabel.app import app as server
    from monailabel.config import settings

    patch = pytest.MonkeyPatch()
    patch.setattr(settings, "MONAI_LABEL_APP_DIR", app.app_dir)
    patch.setattr(settings, "MONAI_LABEL_STUDIES", app.studies)
    install(server, app)
    yield TestClient(server, raise_server_exceptions=False)
    patch.undo()

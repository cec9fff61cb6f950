# SPDX-License-Identifier: Apache-2.0
"""Scans and labels on a DICOMweb server: one that is made of local files, and Orthanc where it is installed."""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import requests
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from raw_scans import write_plane, write_segmentation

SHAPE = (10, 8, 5)
SPACING = (0.5, 1.5, 2.0)  # of columns, rows, slices, as write_plane has it
TAIL, HEAD = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
TAIL[1:6, 2:7, 1:3], HEAD[7:9, 1:4, 3] = True, True
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class LocalFiles:
    """The part of a DICOMweb client that MONAI Label uses, on the files in a folder."""

    base_url = "http://localhost/files"

    def __init__(self, folder):
        self.folder = folder

    def _instances(self, series):
        found = map(pydicom.dcmread, sorted(self.folder.rglob("*.dcm")))
        return [one for one in found if series in (None, one.SeriesInstanceUID)]

    def search_for_series(self, search_filters):
        wanted = dict(search_filters)
        found = {str(one.SeriesInstanceUID): one for one in self._instances(wanted.pop("SeriesInstanceUID", None))}
        keys = ("StudyInstanceUID", "SeriesInstanceUID", "Modality")
        listed = [{key: one.get(key) for key in keys} for one in found.values()]
        matching = [one for one in listed if all(one[key] == value for key, value in wanted.items())]
        answers = []
        for one in matching:
            answer = pydicom.Dataset()
            for key, value in one.items():
                setattr(answer, key, value)
            answers.append(answer.to_json_dict())
        return answers

    def retrieve_series_metadata(self, study, series):
        return [one.to_json_dict() for one in self._instances(series)]

    def retrieve_series(self, study, series):
        return self._instances(series)


@pytest.fixture(scope="module")
def lib(copy_bundle, tmp_path_factory):
    """The app's modules; they are loaded with the app."""
    app_instance(str(copy_bundle() / "monailabel_app"), str(tmp_path_factory.mktemp("none")), {"labels": "head,tail"})
    import lib.dicomweb
    import lib.labels

    return lib


def write_series(folder, uid):
    pixels = np.random.default_rng(int(uid[-1])).integers(0, 100, (SHAPE[2], SHAPE[1], SHAPE[0]))
    for number, plane in enumerate(pixels):
        position = (0, 0, SPACING[2] * number)
        write_plane(folder / uid / f"{number}.dcm", plane, position, SeriesInstanceUID=uid, StudyInstanceUID="1.2")


@pytest.fixture
def files(tmp_path):
    for uid in ("1.2.3", "1.2.4"):
        write_series(tmp_path / "files", uid)
    return LocalFiles(tmp_path / "files")


def open_store(lib, client, cache):
    structures = {"head": 1, "tail": 2}
    return lib.dicomweb.SeriesDatastore(
        structures, client=client, search_filter={"Modality": "CT"}, cache_path=str(cache)
    )


def draw(files, name, masks, day, **options):
    dates = {"StudyInstanceUID": "1.2", "ContentDate": day, "ContentTime": "101500"}
    write_segmentation(files.folder / f"{name}.dcm", masks, SPACING, **dates, **options)


def labels_of(store):
    """{series: class numbers} of the datalist; each label must lie on its scan's voxels."""
    found = {}
    for case in store.datalist():
        image, label = nibabel.load(case["image"]), nibabel.load(case["label"])
        to_image = np.linalg.inv(image.affine) @ label.affine
        assert np.allclose(np.abs(to_image[:3, :3]).round(5), np.eye(3)) and image.shape == label.shape == SHAPE
        drawn = np.asarray(label.dataobj)
        flips = [axis for axis in range(3) if to_image[axis, axis] < 0]
        found[Path(case["image"]).name.removesuffix(".nii.gz")] = np.flip(drawn, flips) if flips else drawn
    return found


def test_the_newest_segmentation_of_a_series_is_its_label(lib, files, tmp_path):
    store = open_store(lib, files, tmp_path / "cache")
    assert sorted(store.list_images()) == ["1.2.3", "1.2.4"] and labels_of(store) == {}
    draw(files, "older", {"Tail": HEAD, "organ of others": TAIL}, "20250101")
    assert np.array_equal(labels_of(store)["1.2.3"], 2 * HEAD)
    draw(files, "newer", {"tail": TAIL, "HEAD": HEAD}, "20250102")  # numbers of segments are not those of classes
    assert np.array_equal(labels_of(store)["1.2.3"], HEAD + 2 * TAIL)
    draw(files, "of others", {"organ of others": TAIL}, "20250103")
    assert store.get_labeled_images() == ["1.2.3"] and store.get_unlabeled_images() == ["1.2.4"]
    other = open_store(lib, files, tmp_path / "other cache")
    assert np.array_equal(labels_of(other)["1.2.3"], HEAD + 2 * TAIL)
    (files.folder / "newer.dcm").unlink()
    (files.folder / "older.dcm").unlink()
    assert labels_of(store) == {}


def test_a_series_that_came_in_part_is_fetched_again(lib, files, tmp_path, monkeypatch):
    store = open_store(lib, files, tmp_path / "cache")
    whole = files.retrieve_series

    def break_off(study, series):
        yield from whole(study, series)[:2]
        raise ConnectionError("the server went away")

    monkeypatch.setattr(files, "retrieve_series", break_off)
    with pytest.raises(ConnectionError):
        store.get_image_uri("1.2.3")
    monkeypatch.undo()
    assert nibabel.load(store.get_image_uri("1.2.3")).shape == SHAPE
    assert not list((tmp_path / "cache").rglob(".incoming_*"))


def test_segmentations_of_others_are_no_labels(lib, files, tmp_path):
    draw(files, "organ", {"organ of others": TAIL}, "20250101")
    draw(files, "elsewhere", {"tail": TAIL}, "20250101", on="9.9")
    store = open_store(lib, files, tmp_path / "cache")
    assert labels_of(store) == {} and store.get_labeled_images() == []


def test_a_segmentation_beside_the_voxels_of_its_scan_is_named(lib, files, tmp_path):
    draw(files, "shifted", {"tail": TAIL}, "20250101", shift=0.2)
    checks = lib.labels.LabelChecks(None)
    (problem,) = checks.problems(open_store(lib, files, tmp_path / "cache"))
    assert "not on the voxels of its scan" in problem


def test_scribbles_are_no_segmentation(lib, files, tmp_path):
    store = open_store(lib, files, tmp_path / "cache")
    with pytest.raises(HTTPException, match="cannot say what nobody has annotated"):
        store.save_label("1.2.3", "label.nii.gz", "final", {lib.labels.SCRIBBLES: True})


@pytest.fixture
def orthanc(tmp_path):
    """Address of a server that holds two series."""
    if not shutil.which("Orthanc") or not PLUGIN.is_file() or not shutil.which("itkimage2segimage"):
        pytest.skip("needs Orthanc with its DICOMweb plugin (Debian: orthanc-dicomweb), and `pip install dcmqi`")
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, dicom_port = free.getsockname()[1], other.getsockname()[1]
    folders = {"StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db")}
    ports = {"HttpPort": port, "DicomPort": dicom_port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False}
    plugin = {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    (tmp_path / "orthanc.json").write_text(json.dumps(folders | ports | plugin))
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    requests.get(f"{address}/system", timeout=5).raise_for_status()
                    break
                except requests.RequestException:
                    time.sleep(0.2)
            for uid in ("1.2.3", "1.2.4"):
                write_series(tmp_path / "scans", uid)
            for file in (tmp_path / "scans").rglob("*.dcm"):
                requests.post(f"{address}/instances", data=file.read_bytes(), timeout=30).raise_for_status()
            yield f"{address}/dicom-web"
        finally:
            server.terminate()


def test_a_label_goes_to_orthanc_and_comes_back_on_another_machine(copy_bundle, orthanc, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {"Modality": "CT"})
    bundle = copy_bundle()

    def store_at(cache):
        monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / cache))
        return app_instance(str(bundle / "monailabel_app"), orthanc, {"labels": "head,tail"}).datastore()

    store = store_at("here")
    assert sorted(store.list_images()) == ["1.2.3", "1.2.4"] and store.get_labeled_images() == []
    scan = nibabel.load(store.get_image_uri("1.2.3"))
    nibabel.save(nibabel.Nifti1Image((HEAD + 2 * TAIL).astype(np.uint8), scan.affine), tmp_path / "label.nii.gz")
    names = {"label_info": [{"name": "head", "idx": 1}, {"name": "tail", "idx": 2}]}
    store.save_label("1.2.3", str(tmp_path / "label.nii.gz"), "final", names)
    assert store.get_labeled_images() == ["1.2.3"] and store.get_unlabeled_images() == ["1.2.4"]
    for one in (store, store_at("elsewhere")):
        assert np.array_equal(labels_of(one)["1.2.3"], HEAD + 2 * TAIL)

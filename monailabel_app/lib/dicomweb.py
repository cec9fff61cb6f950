# SPDX-License-Identifier: Apache-2.0
"""Scans and labels on a DICOMweb server, such as Orthanc: MONAI Label's datastore, with labels on their scan's grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset

from scripts.data.io.dicom_labels import dicom_labels, draw_label
from scripts.data.io.formats.dicom import dicom_volume
from scripts.data.io.formats.nifti import save_nifti

from .labels import SCRIBBLES
from .shared_list import OneAtATime

logger = logging.getLogger(__name__)

__all__ = ["SeriesDatastore"]


class SeriesDatastore(OneAtATime, DICOMWebDatastore):
    """Series of a DICOMweb server, and the DICOM SEG objects that refer to them (ours).

    MONAI Label's own reads of a SEG no more than the slices that something was drawn in, takes the number of a segment
    for its class, any SEG of a series for its label, and remembers for two hours which series have one. Here a label
    has all slices of its scan, segments become classes by their names, the newest SEG of a series is its label, and one
    that has just been submitted counts. A series of which the server sent a part only is not taken for the whole.

    Args:
        structures: {name: class number} of the server.
        options: those of ``DICOMWebDatastore``.
    """

    def __init__(self, structures: Mapping[str, int], **options: Any) -> None:
        self._structures = {name.lower(): number for name, number in structures.items()}
        self._seen: dict[str, tuple[str, str]] = {}
        super().__init__(**options)

    def get_image_uri(self, image_id: str) -> str:
        """The file of a scan; its series is brought if need be."""
        series = Path(self._datastore.image_path()) / image_id
        if not (series.is_dir() and any(series.iterdir())):
            with TemporaryDirectory(prefix=".incoming_", dir=series.parent) as folder:
                whole = Path(folder) / image_id
                dicom_web_download_series(None, image_id, str(whole), self._client, self._fetch_by_frame)
                try:
                    whole.rename(series)
                except OSError:
                    if not series.is_dir():  # else another request brought it first
                        raise
        return super().get_image_uri(image_id)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The file of a label; of the SEG ``label_id`` of the series ``image_id`` it is made if need be.

        Raises:
            DataError: when the SEG does not lie on its scan's voxels.
        """
        if image_id:
            self.get_image_uri(image_id)  # brings the series, too
        with self._turn:
            here = super(DICOMWebDatastore, self).get_label_uri(image_id or label_id, label_tag)
            if here or not image_id:
                return here
            series = dicom_volume(Path(self._datastore.image_path()) / image_id)
            with TemporaryDirectory() as folder:
                dicom_web_download_series(None, label_id, folder, self._client, self._fetch_by_frame)
                (label,) = dicom_labels(folder)
                classes = {name: n for name in label.names if (n := self._structures.get(name.lower())) is not None}
                file = Path(folder) / "label.nii.gz"
                save_nifti(draw_label(label, series, classes), series.affine, file)
                LocalDatastore.save_label(self, image_id, str(file), label_tag, self._dicom_info(label_id))
            return super(DICOMWebDatastore, self).get_label_uri(image_id, label_tag)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """As in MONAI Label: a final label goes to the server, as DICOM SEG; the others stay here.

        Raises:
            HTTPException: 400 for scribbles as a final label.
        """
        if label_tag == DefaultLabelTag.FINAL and label_info.get(SCRIBBLES):
            raise HTTPException(
                400, f"{image_id}: these are scribbles. DICOM SEG cannot say what nobody has annotated: draw all of it."
            )
        return super().save_label(image_id, label_filename, label_tag, label_info, label_id)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The series of which a SEG has one of the structures."""
        return list(self._newest())

    def _newest(self) -> dict[str, str]:
        """{series: its newest SEG that has one of the structures}; of each SEG the server is asked once."""
        newest: dict[str, tuple[str, str]] = {}
        listed = set(self.list_images())
        for found in map(Dataset.from_json, self._client.search_for_series(search_filters={"Modality": "SEG"})):
            series = str(found.SeriesInstanceUID)
            if series not in self._seen:
                self._seen[series] = self._describe(str(found.StudyInstanceUID), series)
            image, made = self._seen[series]
            if image in listed:
                newest[image] = max(newest.get(image, ("", "")), (made, series))
        return {image: series for image, (_, series) in newest.items()}

    def _describe(self, study: str, series: str) -> tuple[str, str]:
        """The scan that a SEG was drawn on, "" if it has none of the structures, and when it was made."""
        content = Dataset.from_json(self._client.retrieve_series_metadata(study, series)[0])
        referenced, segments = (content.get(name) or [] for name in ("ReferencedSeriesSequence", "SegmentSequence"))
        if not referenced or not {str(one.SegmentLabel).lower() for one in segments} & self._structures.keys():
            logger.warning("SEG %s has no segment %s, or no series: no label", series, ", ".join(self._structures))
            return "", ""
        made = f"{content.get('ContentDate', '')}{content.get('ContentTime', '')}"
        return str(referenced[0].SeriesInstanceUID), made

    def _download_labeled_data(self) -> None:
        """Bring the newest SEG of every series; drop labels whose SEG is gone or is not the newest any more."""
        tag, newest = DefaultLabelTag.FINAL, self._newest()
        here = {image: self.get_label_info(image, tag) for image in LocalDatastore.get_labeled_images(self)}
        gone = [image for image, info in here.items() if info.get("SeriesInstanceUID") != newest.get(image)]
        for image in gone:
            self.remove_label(image, tag)
        if gone:
            self.refresh()  # at once, and not when its watcher gets round to it
        for image, series in newest.items():
            self.get_label_uri(series, tag, image)

# SPDX-License-Identifier: Apache-2.0
"""Small public releases made on the spot, with the folders, axes and quirks of the real ones."""

from __future__ import annotations

import locale
from pathlib import Path

import itk
import nibabel
import numpy as np
import pydicom


def write_nrrd(path: Path, voxels: np.ndarray, spacing: float = 0.625) -> None:
    """``voxels`` [X, Y, Z] as ITK writes them: axes to L, P, S."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.image_from_array(np.ascontiguousarray(voxels.T))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([3.0, -4.0, 5.0])
    itk.imwrite(image, str(path))


def atrial_case(folder: Path, shape=(12, 11, 8), seed=0) -> tuple[np.ndarray, np.ndarray]:
    """``lgemri.nrrd`` and ``laendo.nrrd``, whose foreground is 255, as in the 2018 challenge."""
    rng = np.random.default_rng(seed)
    image, label = rng.integers(0, 255, shape).astype(np.uint8), np.zeros(shape, np.uint8)
    label[tuple(slice(n // 3, n // 2 + 1) for n in shape)] = 255
    write_nrrd(folder / "lgemri.nrrd", image)
    write_nrrd(folder / "laendo.nrrd", label)
    return image, label // 255


def write_slice(
    path: Path, pixels: np.ndarray, instance: int, height: float, series: str = "1.2.3.4", frame: str = ""
) -> None:
    """One CT slice, ``pixels`` [rows, columns] in Hounsfield units, 0.7 mm by 0.8 mm, at ``height`` mm.

    ``frame`` is the UID of its frame of reference; without one no DICOM SEG can refer to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.image_from_array(np.ascontiguousarray(pixels, np.int16))
    image.SetSpacing([0.7, 0.8])
    header = {
        "0008|0060": "CT",
        "0018|0050": "1.5",
        "0020|000d": "1.2.3",
        "0020|000e": series,
        "0020|0013": str(instance),
        "0020|0032": f"-20\\-30\\{height}",
        "0020|0037": "1\\0\\0\\0\\1\\0",
        **({"0020|0052": frame} if frame else {}),
        "0028|1052": "-1024",
        "0028|1053": "1",
    }
    content = itk.MetaDataDictionary()
    for tag, value in header.items():
        content[tag] = value
    image.SetMetaDataDictionary(content)
    writer = itk.GDCMImageIO.New()
    writer.KeepOriginalUIDOn()
    before = locale.setlocale(locale.LC_ALL)
    itk.imwrite(image, str(path), imageio=writer)
    locale.setlocale(locale.LC_ALL, before)  # which GDCM sets to C when it writes


def pancreas_case(root: Path, number: int, shape=(30, 26, 12), head_first=True, nbia=True) -> tuple:
    """A DICOM series and its label file; returns Hounsfield units and label, both [column, row, height].

    The pancreas is what has 90 HU. The label's z is the instance number, whichever way the patient lies; its header
    says otherwise. ``nbia``: the folders of today's download, else those of the archive's older one.
    """
    image = np.random.default_rng(number).integers(-100, 60, shape).astype(np.int16)
    image[:2] = -1000  # air
    image[3 * shape[0] // 5 : -4, 3 : shape[1] // 2, shape[2] // 6 : shape[2] // 2] = 90
    label = (image == 90).astype(np.uint8)
    patient = f"PANCREAS_{number:04d}"
    series = Path("Pancreas-CT", patient, f"11-24-2015-{patient}-Pancreas-18957", "Pancreas-99667")
    series = root / "manifest-1599750808610" / series if nbia else root / "DOI" / patient / "1.2.826.0" / "1.2.826.1"
    for height in range(shape[2]):
        instance = shape[2] - height if head_first else height + 1
        name = f"1-{instance:03d}.dcm" if nbia else f"{instance - 1:06d}.dcm"
        write_slice(series / name, image[:, :, height].T, instance, 1.5 * height)
    stored = label[:, :, ::-1] if head_first else label
    path = root / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04d}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([-0.7, 0.8, 1.5, 1])), path)
    return image, label


def brain_case(root: Path, name: str, grade="HGG", shape=(24, 22, 20), suffix=".nii.gz", seed=0) -> tuple:
    """All files of a BraTS case: zeros around the brain; tumour parts 1, 2 and 4."""
    rng = np.random.default_rng(seed)
    image, label = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
    image[4:-3, 3:-2, 2:-4] = rng.integers(50, 900, image[4:-3, 3:-2, 2:-4].shape)
    label[8:12, 8:12, 8:12], label[8:10, 8:10, 8:10], label[8, 8, 8] = 2, 1, 4
    affine = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
    folder = root / "MICCAI_BraTS_2019_Data_Training" / grade / name
    folder.mkdir(parents=True)
    for role in ("flair", "t1", "t1ce", "t2", "seg"):
        voxels = label if role == "seg" else image
        nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / f"{name}_{role}{suffix}")
    return image, (label > 0).astype(np.uint8)


def write_plane(path: Path, pixels: np.ndarray, position, directions=(1, 0, 0, 0, 1, 0), **tags) -> None:
    """One slice by pydicom, ``pixels`` [rows, columns] of 16 bit, 1.5 mm between rows and 0.5 mm between columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    slice_ = pydicom.Dataset()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = pydicom.uid.CTImageStorage
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = pydicom.uid.generate_uid()
    slice_.Modality, slice_.SeriesInstanceUID, slice_.SliceThickness = "CT", "1.2.3", "1"
    slice_.Rows, slice_.Columns = pixels.shape
    slice_.PixelSpacing, slice_.ImagePositionPatient = [1.5, 0.5], [float(length) for length in position]
    slice_.ImageOrientationPatient = [float(length) for length in directions]
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
    slice_.RescaleSlope, slice_.RescaleIntercept = "1", "0"
    slice_.PixelData = pixels.astype("<i2").tobytes()
    for tag, value in tags.items():
        setattr(slice_, tag, value)
    save_dicom(slice_, path)


def save_dicom(dataset: pydicom.Dataset, path: Path) -> None:
    """Write a whole file, with pydicom 2, which MONAI Label 0.8 needs, and 3."""
    if int(pydicom.__version__.split(".")[0]) > 2:
        dataset.save_as(path, enforce_file_format=True)
        return
    syntax = dataset.file_meta.TransferSyntaxUID
    dataset.is_little_endian, dataset.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    dataset.save_as(path, write_like_original=False)


def sequence(**tags) -> list[pydicom.Dataset]:
    """A sequence of one item."""
    item = pydicom.Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    return [item]


def save_object(content: pydicom.Dataset, path: Path, sop_class: str) -> None:
    """Write what is no image, in a series of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content.file_meta = pydicom.dataset.FileMetaDataset()
    content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = sop_class
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = pydicom.uid.generate_uid()
    content.SeriesInstanceUID = pydicom.uid.generate_uid()
    save_dicom(content, path)


def write_segmentation(
    path: Path, masks: dict[str, np.ndarray], spacing: tuple[float, ...], on: str = "1.2.3", shift: float = 0.0, **tags
) -> None:
    """A binary SEG with a frame for each slice in which a structure is, rows from the last to the first."""
    columns, rows, _ = next(iter(masks.values())).shape
    content = pydicom.Dataset()
    content.Modality, content.SegmentationType = "SEG", "BINARY"
    content.ReferencedSeriesSequence = sequence(SeriesInstanceUID=on)
    numbers = dict(enumerate(masks, start=1))
    content.SegmentSequence = [sequence(SegmentNumber=n, SegmentLabel=name)[0] for n, name in numbers.items()]
    content.SharedFunctionalGroupsSequence = sequence(
        PixelMeasuresSequence=sequence(PixelSpacing=[spacing[1], spacing[0]], SliceThickness="2"),
        PlaneOrientationSequence=sequence(ImageOrientationPatient=[1, 0, 0, 0, -1, 0]),
    )
    planes, frames = [], []
    for number, name in numbers.items():
        for height in np.flatnonzero(masks[name].any((0, 1))):
            planes.append(masks[name][:, ::-1, height].T)
            position = [shift, spacing[1] * (rows - 1), spacing[2] * float(height)]
            frames += sequence(
                PlanePositionSequence=sequence(ImagePositionPatient=position),
                SegmentIdentificationSequence=sequence(ReferencedSegmentNumber=number),
            )
    content.PerFrameFunctionalGroupsSequence = frames
    content.Rows, content.Columns, content.NumberOfFrames = rows, columns, len(planes)
    content.SamplesPerPixel, content.PhotometricInterpretation, content.PixelRepresentation = 1, "MONOCHROME2", 0
    content.BitsAllocated, content.BitsStored, content.HighBit = 1, 1, 0
    packed = np.packbits(np.stack(planes).astype(np.uint8), bitorder="little").tobytes()
    content.PixelData = packed + bytes(len(packed) % 2)
    for tag, value in tags.items():
        setattr(content, tag, value)
    save_object(content, path, pydicom.uid.SegmentationStorage)

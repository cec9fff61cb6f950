# SPDX-License-Identifier: Apache-2.0
"""Data: datalists, their checks, the embedded phantom, and the two streams of batches."""

from ..annotation import IGNORED
from ..errors import DataError, report_data_errors_briefly
from .augmentation.affine_crop import RandAffineCropd, rotation_range
from .augmentation.class_counts import ClassCountsd
from .augmentation.gaussian import FastRandGaussianNoised, FastRandGaussianSmoothd
from .augmentation.on_device import DRAWN, DrawIntensityd, VaryIntensity, draw_intensity
from .caching.choice import cached_dataset
from .caching.disk import DiskCacheDataset
from .caching.named_dataset import NamedCacheDataset
from .convert import convert_scans
from .datalist.cases import Case, CaseCollection, collect_cases
from .datalist.check import CaseReport, DataReport, check_data, inspect_data
from .datalist.fingerprint import Fingerprint, fingerprint
from .datalist.locations import (
    check_patch_size,
    claim_folder,
    find_datalist,
    find_images,
    find_weights,
    scans_to_segment,
)
from .datalist.read import SECTIONS, load_datalist
from .datalist.split import split_cases
from .datalist.write import write_datalist
from .incomplete_labels import has_partial_labels, unlabeled_cases
from .io.formats.names import prediction_name
from .io.readers import DicomReader, H5Reader, PlanarReader, TextHeaderReader, ThreadSafeNibabelReader
from .io.volumes import Volume, open_volume
from .phantom import phantom_case, phantom_dataset
from .pseudo_labels import ignored_value, repeat_labelled, with_pseudo_labels
from .releases.decathlon import prepare_decathlon
from .releases.prepare import prepare_release
from .streams import ReadAheadLoader, TwoStreams, loader_workers
from .transforms.annotated_label import AnnotatedLabeld, LeaveOutIgnoredd
from .transforms.anti_alias import AntiAliasd
from .transforms.center_crop import CenterCropd
from .transforms.enclosed_background import EnclosedBackgroundd
from .transforms.field_of_view import FieldOfViewd
from .transforms.label_on_image import LabelOnImaged
from .transforms.lone_spacing import LoneSpacingd
from .transforms.normalize_by_modality import NormalizeByModalityd
from .transforms.plane import PlaneOfVolumed
from .transforms.regions import DecodeRegionsd, RegionMasksd, decode_regions
from .transforms.save_segmentation import SaveSegmentationd

__all__ = [
    "DRAWN",
    "IGNORED",
    "SECTIONS",
    "AnnotatedLabeld",
    "AntiAliasd",
    "Case",
    "CaseCollection",
    "CaseReport",
    "CenterCropd",
    "ClassCountsd",
    "DataError",
    "DataReport",
    "DecodeRegionsd",
    "DicomReader",
    "DrawIntensityd",
    "EnclosedBackgroundd",
    "FastRandGaussianNoised",
    "FastRandGaussianSmoothd",
    "FieldOfViewd",
    "DiskCacheDataset",
    "Fingerprint",
    "H5Reader",
    "LabelOnImaged",
    "LeaveOutIgnoredd",
    "LoneSpacingd",
    "NamedCacheDataset",
    "NormalizeByModalityd",
    "PlanarReader",
    "PlaneOfVolumed",
    "RandAffineCropd",
    "RegionMasksd",
    "SaveSegmentationd",
    "TextHeaderReader",
    "ThreadSafeNibabelReader",
    "ReadAheadLoader",
    "TwoStreams",
    "VaryIntensity",
    "Volume",
    "cached_dataset",
    "check_data",
    "check_patch_size",
    "claim_folder",
    "collect_cases",
    "convert_scans",
    "decode_regions",
    "draw_intensity",
    "find_datalist",
    "find_images",
    "find_weights",
    "fingerprint",
    "has_partial_labels",
    "ignored_value",
    "inspect_data",
    "load_datalist",
    "loader_workers",
    "open_volume",
    "phantom_case",
    "phantom_dataset",
    "prediction_name",
    "prepare_decathlon",
    "prepare_release",
    "repeat_labelled",
    "report_data_errors_briefly",
    "rotation_range",
    "scans_to_segment",
    "split_cases",
    "unlabeled_cases",
    "with_pseudo_labels",
    "write_datalist",
]

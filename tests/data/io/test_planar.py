# SPDX-License-Identifier: Apache-2.0
"""PNG, TIFF, JPEG: the numbers that Pillow sees, on the axes that a viewer shows; what is no plane is named."""

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from scripts.data import DataError, open_volume
from scripts.data.io.formats.nifti import MARK, is_own_result
from scripts.data.io.formats.planar import read_planar, save_png

GREY = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)  # 5 rows, 7 columns


def loaded(path):
    return LoadImaged("image", ensure_channel_first=True)({"image": str(path)})["image"]


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("grey.png", GREY),
        ("grey16.png", GREY.astype(np.uint16) * 300),
        ("yes_or_no.png", GREY % 2 == 0),
        ("grey.tif", GREY),
        ("grey16.tiff", GREY.astype(np.uint16) * 300),
        ("real.tif", GREY.astype(np.float32) / 7),
        ("grey.bmp", GREY),
    ],
)
def test_columns_are_the_first_axis_and_values_stay(tmp_path, name, pixels):
    Image.fromarray(pixels).save(tmp_path / name)
    with open_volume(tmp_path / name) as volume:
        assert volume.shape == (7, 5, 1) and volume.channels == 1 and volume.flat and volume.spacing == (1, 1, 1)
        assert np.array_equal(np.concatenate(list(volume.slabs()), axis=2)[..., 0].T, pixels.astype(float))
    image = loaded(tmp_path / name)
    assert image.shape == (1, 7, 5, 1)
    assert np.array_equal(image[0, :, :, 0].numpy().T, pixels.astype(np.float32))


def test_colours_are_three_channels(tmp_path):
    colours = np.stack([GREY, 100 + GREY, 200 - GREY], axis=-1)
    opaque = np.concatenate([colours, np.full((5, 7, 1), 255, np.uint8)], axis=-1)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    for name in ("rgb.png", "opaque.png"):
        with open_volume(tmp_path / name) as volume:
            assert volume.channels == 3
            assert [int(slab[3, 2, 0]) for slab in volume.slabs()] == colours[2, 3].tolist()
        assert np.array_equal(loaded(tmp_path / name)[..., 0].numpy().transpose(2, 1, 0), colours)


def test_a_palette_gives_its_indices(tmp_path):
    indexed = Image.new("P", (7, 5))
    indexed.putdata((GREY % 3).ravel().tolist())
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indexed.save(tmp_path / "label.png")
    with open_volume(tmp_path / "label.png") as volume:
        assert volume.indexed and np.array_equal(next(volume.slabs())[..., 0].T, GREY % 3)


def _pages(path):
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)])


def _turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY).save(path, exif=exif)


def _transparent(path):
    Image.fromarray(np.stack([GREY] * 4, axis=-1)).save(path)


def _truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("stack.tif", _pages, "stack.tif: 2 pages"),
        ("photo.jpg", _turned, "photo.jpg: is to be turned"),
        ("glass.png", _transparent, "glass.png: partly transparent"),
        ("ink.jpg", lambda path: Image.new("CMYK", (7, 5)).save(path), "ink.jpg: colours in CMYK"),
        ("cut.png", _truncated, "cut.png: cannot be read"),
        ("text.png", lambda path: path.write_text("no image"), "text.png: cannot be read"),
        ("script.png", lambda path: Image.fromarray(GREY).save(path, format="EPS"), "script.png: cannot be read"),
    ],
)
def test_what_is_no_plane_of_numbers_is_named(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_planar(tmp_path / name)


@pytest.mark.parametrize(("most", "kind"), [(255, np.uint8), (1000, np.uint16)])
def test_results_are_written_pixel_for_pixel_and_known_again(tmp_path, most, kind):
    classes = (np.arange(35).reshape(7, 5) % 2 * most).astype(np.int32)
    path = tmp_path / "scan_seg.png"
    save_png(classes, path, MARK.decode())
    stored = np.asarray(Image.open(path))
    assert stored.dtype == kind and np.array_equal(stored, classes.T)
    assert is_own_result(path)
    Image.fromarray(GREY).save(tmp_path / "scan.png")
    assert not is_own_result(tmp_path / "scan.png")


@pytest.mark.parametrize("pixels", [np.array([[-1]]), np.array([[70000]]), np.array([[0.5]])])
def test_what_a_png_cannot_hold_is_refused(tmp_path, pixels):
    with pytest.raises(DataError, match="whole numbers from 0 to 65535"):
        save_png(pixels, tmp_path / "scan_seg.png")

"""Image files: bit depth, transparency, orientation, masks, and files that cannot be read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_2d import image_to_tensor, write_test_image
from tiny_pipeline import max_difference

from limbeck.priors.dataset_folder import load_dataset
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.pixels import Pixels
from limbeck.system.image_files import (
    MAX_IMAGE_PIXELS,
    image_file_size,
    read_image,
    read_mask,
)
from limbeck.system.notices import display_notices

SIZE = (8, 8)


def save(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def ramp(top: float, dtype: type) -> np.ndarray:
    """Rows from 0 to ``top``, 8 pixels wide."""
    values = np.linspace(0, top, 64).reshape(SIZE)
    return (values.round() if dtype is not np.float32 else values).astype(dtype)


def test_images_are_cropped_and_not_distorted(tmp_path: Path) -> None:
    path = write_test_image(tmp_path / "wide.png", 24, 48, 0.8)
    with Image.open(path) as image:
        center = image_to_tensor(image.crop((12, 0, 36, 24)))
    assert max_difference(read_image(path, (24, 24)), center) < 0.01


@pytest.mark.parametrize(
    ("name", "top", "dtype"),
    [
        ("gray8.png", 255, np.uint8),
        ("gray16.png", 65535, np.uint16),
        ("gray16.tif", 65535, np.uint16),
        ("gray16.pgm", 65535, np.uint16),
        ("float.tif", 1, np.float32),
    ],
)
def test_values_are_scaled_by_their_bit_depth(
    name: str, top: float, dtype: type, tmp_path: Path
) -> None:
    """A gray ramp of every depth is the same image, of mean 1/2."""
    path = save(ramp(top, dtype), tmp_path / name)
    expected = torch.linspace(0, 1, 64).reshape(1, *SIZE).expand(3, -1, -1)
    assert max_difference(read_image(path, SIZE), expected) < 0.5 / 255 + 1e-6
    assert max_difference(read_mask(path, SIZE), expected[:1]) < 0.5 / 255 + 1e-6
    assert abs(float(read_image(path, (5, 5)).mean()) - 0.5) < 0.01


def write_png(path: Path, color_type: int, rows: list[bytes], bits: int = 16) -> Path:
    """Write a PNG by hand: Pillow writes no 16 bits per channel of colors."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    width = len(rows[0]) * 8 // (bits * channels)
    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_colors_of_16_bits_are_scaled(color_type: int, channels: int, tmp_path: Path) -> None:
    value = struct.pack(">H", 20000)
    pixel = value * (channels - (color_type in (4, 6))) + b"\xff\xff" * (color_type in (4, 6))
    path = write_png(tmp_path / "x.png", color_type, [pixel * 8] * 8)
    assert max_difference(read_image(path, SIZE), torch.full((3, *SIZE), 20000 / 65535)) < 1 / 255


def test_a_mask_of_16_bits_keeps_its_gray(tmp_path: Path) -> None:
    pixels = np.zeros(SIZE, np.uint16)
    pixels[:, 4:] = 20000
    mask = read_mask(save(pixels, tmp_path / "mask.png"), SIZE)
    assert max_difference(mask[0, :, 6:], torch.full((8, 2), 20000 / 65535)) < 1e-6
    assert float(mask[0, :, :2].max()) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, bool])
def test_a_mask_of_0_and_1_is_black_and_white(dtype: type, tmp_path: Path) -> None:
    pixels = np.zeros(SIZE, dtype)
    pixels[:, 4:] = 1
    suffix = "tif" if dtype is np.int32 else "png"
    mask = read_mask(save(pixels, tmp_path / f"mask.{suffix}"), SIZE)
    assert torch.equal(mask, torch.tensor(pixels.astype(np.float32))[None])


def test_a_gray_mask_of_two_values_stays_gray(tmp_path: Path) -> None:
    pixels = np.zeros(SIZE, np.uint8)
    pixels[:, 4:] = 128
    assert abs(float(read_mask(save(pixels, tmp_path / "m.png"), SIZE).max()) - 128 / 255) < 1e-6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_composited_over_white(mode: str, tmp_path: Path) -> None:
    """A transparent corner over magenta used to read magenta."""
    image = Image.new("RGBA", SIZE, (255, 0, 255, 0))
    image.paste((0, 0, 0, 255), (4, 0, 8, 8))
    path = tmp_path / "x.png"
    if mode == "P":
        palette = Image.new("P", SIZE, 1)
        palette.putpalette([0, 0, 0, 255, 0, 255])
        palette.paste(0, (4, 0, 8, 8))
        palette.save(path, transparency=1)
    else:
        image.convert(mode).save(path)
    shown: list[str] = []
    with display_notices(shown.append):
        reads = [read_image(path, SIZE) for _ in range(2)]
    for read in reads:
        assert torch.equal(read[:, :, :4], torch.ones(3, 8, 4))
        assert torch.equal(read[:, :, 4:], torch.zeros(3, 8, 4))
    assert shown == ["transparent pixels of images are composited over white"]


@pytest.mark.filterwarnings("ignore:transparent")
def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", SIZE, (0, 0, 0, 128)).save(tmp_path / "x.png")
    read = read_image(tmp_path / "x.png", SIZE)
    assert max_difference(read, torch.full((3, *SIZE), 1 - 128 / 255)) < 1.01 / 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_the_orientation_of_exif_is_honored(suffix: str, tmp_path: Path) -> None:
    upright = Image.new("RGB", (16, 8), "black")
    upright.paste("white", (0, 0, 8, 8))  # white at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    path = tmp_path / f"photo.{suffix}"
    options = {"quality": 95} if suffix in ("jpg", "webp") else {}
    upright.rotate(90, expand=True).save(path, exif=exif.tobytes(), **options)
    assert image_file_size(path) == (16, 8)
    read = read_image(path, (8, 16))
    assert float(read[:, :, :6].min()) > 0.9 and float(read[:, :, 10:].max()) < 0.1


@pytest.mark.filterwarnings("ignore:transparent")
def test_a_data_set_is_read_by_the_same_reader(tmp_path: Path) -> None:
    save(ramp(65535, np.uint16), tmp_path / "ramp.png")
    image = Image.new("RGBA", SIZE, (255, 0, 255, 0))
    image.save(tmp_path / "clear.png")
    clear, gray = load_dataset(tmp_path, 8).images
    assert int(clear.min()) == 255
    expected = read_image(tmp_path / "ramp.png", SIZE)
    assert max_difference(gray / 255, expected) < 1 / 255
    assert abs(float(gray.float().mean()) / 255 - 0.5) < 0.01


# files that cannot be read


def png_bytes(size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that states a large size."""
    data = bytearray(png_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def float_tiff(value: float) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full(SIZE, 0.5, np.float32)
    pixels[3, 3] = value
    Image.fromarray(pixels).save(buffer, "TIFF")
    return buffer.getvalue()


def int_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(ramp(1 << 20, np.int32)).save(buffer, "TIFF")
    return buffer.getvalue()


UNREADABLE = {
    "text": (b"not an image", "is not an image that can be read: cannot identify image file$"),
    "empty": (b"", "is not an image that can be read"),
    "truncated": (png_bytes()[:1500], "is not an image that can be read: "),
    "broken chunk": (
        png_bytes()[:60] + b"\0\0\0\0" + png_bytes()[64:],
        "is not an image that can be read: ",
    ),
    "broken header": (
        png_bytes().replace(b"IDAT", b"ID\x00T", 1),
        "is not an image that can be read",
    ),
    "bomb": (bomb(30000, 30000), "is not an image that can be read: .* exceeds limit"),
    "large": (
        bomb(12000, 12000),
        rf"has 12000 x 12000 pixels; at most {MAX_IMAGE_PIXELS:,} in all",
    ),
    "no pixels": (bomb(0, 5), "is not an image that can be read"),
    "NaN": (float_tiff(float("nan")), "has pixels that are not finite"),
    "infinity": (float_tiff(float("inf")), "has pixels that are not finite"),
    "beyond 1": (float_tiff(7.5), r"has pixels from 0\.5 to 7\.5"),
    "32 bits": (int_tiff(), "has pixels of 32-bit integers, whose white is not known"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files_are_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, message = UNREADABLE[case]
    path = tmp_path / "red_cat.png"
    path.write_bytes(data)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=rf"red_cat\.png {message}") as error:
            read(path, SIZE)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="red_cat"):
        load_dataset(tmp_path)
    assert capsys.readouterr().err == ""


def test_the_file_of_a_representation_is_named(prior, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image file .*none\.png"):
        Pixels(images=(tmp_path / "none.png",)).build(prior, 1, 0)
    path = tmp_path / "text.png"
    path.write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png is not an image that can be read"):
        Gaussians2D(images=(path,)).build(prior, 1, 0)

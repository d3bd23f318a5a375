"""Own images with captions, cached as the renders of the world are."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from limbeck.system.files import read_text, write_text

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MIN_IMAGES = 200
_HELD_OUT_SHARE = 0.05
SIZE = 64  #: Height and width of the images that the model is trained on.


@dataclass(frozen=True)
class CaptionedImage:
    """An image file and its captions.

    Attributes:
        path: image file.
        captions: one or more texts; training draws one of them at a time.
    """

    path: Path
    captions: tuple[str, ...]


def find_captioned_images(folder: Path) -> list[CaptionedImage]:
    """Find the images of a folder and their captions.

    The layout is that of the ``imagefolder`` of diffusers' training scripts: a ``metadata.jsonl``
    with ``file_name`` and ``text`` per line, or a text file of the same name beside each image,
    one caption per line.

    Args:
        folder: folder of images; without ``metadata.jsonl`` folders in it are searched too.

    Returns:
        At least 200 images, sorted by path.

    Raises:
        ValueError: if the folder is missing, an image has no caption, a caption no image, or there
            are fewer than 200 images.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    listing = folder / "metadata.jsonl"
    images = _listed_images(listing) if listing.exists() else _images_with_text_files(folder)
    if len(images) < _MIN_IMAGES:
        raise ValueError(
            f"{folder} has {len(images)} images with captions; training needs {_MIN_IMAGES}"
        )
    return sorted(images, key=lambda image: image.path)


def _listed_images(listing: Path) -> list[CaptionedImage]:
    images, folder = [], listing.parent
    # not splitlines: a caption may hold line separators of Unicode
    for number, line in enumerate(read_text(listing).split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number} of {listing}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} is not JSON: {error.msg}") from None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise ValueError(f"{place} has no file_name")
        texts = row.get("text")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise ValueError(f"{place} has no text: write a caption, or a list of captions")
        path = folder / row["file_name"]
        if Path(row["file_name"]).is_absolute() or ".." in Path(row["file_name"]).parts:
            raise ValueError(f"{place} names {path}: file_name must be a path below {folder}")
        if not path.is_file():
            raise ValueError(f"{place} names {path}, which is no file")
        images.append(CaptionedImage(path, _captions(texts, place)))
    return images


def _images_with_text_files(folder: Path) -> list[CaptionedImage]:
    paths = [p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()]
    without = [p for p in paths if not p.with_suffix(".txt").is_file()]
    if without:
        raise ValueError(
            f"{len(without)} of {len(paths)} images have no caption, first {min(without)}: write "
            f"one into {min(without).with_suffix('.txt').name} beside it, or list all images in "
            f"{folder / 'metadata.jsonl'}"
        )
    images = []
    for path in paths:
        text = read_text(path.with_suffix(".txt"))
        images.append(CaptionedImage(path, _captions(text.split("\n"), str(path))))
    return images


def _captions(texts: list[str], place: str) -> tuple[str, ...]:
    captions = tuple(text.strip() for text in texts if text.strip())
    if not captions:
        raise ValueError(f"the caption of {place} is empty")
    return captions


def prepare_images(folder: Path, out: Path) -> None:
    """Cache own images in ``out/train`` and ``out/test``, unless they are there already.

    A fixed twentieth of the images, by a hash of their names, is held out from training.

    Args:
        folder: see ``find_captioned_images``.
        out: folder of the training.

    Raises:
        ValueError: if the folder or an image in it cannot be used.
    """
    images = find_captioned_images(folder)
    names = [str(image.path.relative_to(folder)) for image in images]
    rank = np.argsort([zlib.crc32(name.encode()) for name in names], kind="stable")
    num_held_out = round(_HELD_OUT_SHARE * len(images))
    for part, rows in (("test", rank[:num_held_out]), ("train", np.sort(rank[num_held_out:]))):
        _cache_images([images[i] for i in rows], out / part)


def _cache_images(images: list[CaptionedImage], folder: Path) -> None:
    captions = [[str(image.path), *image.captions] for image in images]
    done = folder / "captions.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == captions:
        return
    pixels = np.stack([_read_square(image.path) for image in images])
    folder.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)  # from here on the images are not those of the old captions
    np.save(folder / "images.npy", pixels)
    write_text(done, json.dumps(captions, ensure_ascii=False))


def _read_square(path: Path) -> UInt8[np.ndarray, "64 64 3"]:
    """Read an image, cropped around its center to a square."""
    from limbeck.system.image_files import read_image

    return (read_image(path, (SIZE, SIZE)) * 255).round().byte().permute(1, 2, 0).numpy()

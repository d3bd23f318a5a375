"""Folders of images as exact priors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from limbeck.priors.exact import DataSet
from limbeck.system.image_files import IMAGE_SUFFIXES, read_image


def load_dataset(folder: Path, size: int = 64) -> DataSet:
    """Load the images below a folder as an exact prior.

    Args:
        folder: searched recursively. The label of an image is its path in words:
            ``cats/red_one.png`` is "cats/red one".
        size: height and width to which images are cropped (to a centered square) and resized.

    Raises:
        ValueError: if there is no image, or one cannot be read.
    """
    files = dataset_files(folder)
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for i, path in enumerate(files):
        images[i] = (read_image(path, (size, size)) * 255).round()
    return DataSet(images, dataset_labels(folder, files))


def dataset_folder(name: str) -> Path:
    """Return the folder of a model ``dataset:FOLDER``.

    Args:
        name: name of the model.
    """
    return Path(name.removeprefix("dataset:")).expanduser()


def dataset_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted.

    Args:
        folder: searched recursively.

    Raises:
        ValueError: if there is none.
    """
    if not folder.is_dir():
        raise ValueError(f"no data set: {folder} is not a folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")
    return files


def dataset_labels(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """Return the label of each image: its path in words.

    Args:
        folder: folder of the data set.
        files: images below it.
    """
    paths = [str(path.relative_to(folder).with_suffix("")) for path in files]
    return tuple(path.replace("_", " ").replace("-", " ") for path in paths)

"""Edits to evaluate: which image each was made from, and where it may differ."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limbeck.evaluation.image_sets import ImageSet, Key, list_images, pair_unit, prompt_of
from limbeck.methods.base import EditMethod
from limbeck.representations.inpainting import Inpainting
from limbeck.runs.editing import image_config
from limbeck.runs.images import particle_stems
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class EditFiles:
    """Where a user's source images and masks lie.

    Attributes:
        sources: a folder of images, in the order of the edits, or one file. None: those of the
            runs.
        masks: the same of masks. None: those of the runs, or none.
    """

    sources: Path | None = None
    masks: Path | None = None


def is_edit(experiment: Experiment) -> bool:
    """Whether the final images of a run are edits of its initial images."""
    is_edited = isinstance(experiment.method, EditMethod)
    if not _initial_files(experiment) or (experiment.method.optimizes == "noise" and not is_edited):
        return False
    return bool(experiment.source_prompt) or is_edited


def run_edits(images: ImageSet, folder: Path, experiment: Experiment, files: EditFiles) -> ImageSet:
    """Give the final images of a run their source images and masks.

    The unit of intervals is then the pair of source image and prompts.

    Args:
        images: the final images.
        folder: run folder.
        experiment: its experiment.
        files: files that are used instead.

    Raises:
        ValueError: if a source image or mask no longer exists, or numbers do not fit.
    """
    total, particles = experiment.total, experiment.particles
    sources: Sequence[Path] = [
        folder / "edit" / f"{stem}-before.png" for stem in particle_stems(total, particles)
    ]
    if not all(path.is_file() for path in sources):
        sources = _repeated(_initial_files(experiment), total, "source images")
    masks: Sequence[Path] = ()
    if isinstance(experiment.representation, Inpainting):
        masks = _repeated(experiment.representation.masks, total, "masks")
    if files.sources is not None:
        sources = _listed(files.sources, total, "--source-images")
    if files.masks is not None:
        masks = _listed(files.masks, total, "--masks")
    prompts = [text for text in experiment.source_prompts or [""] for _ in range(particles)]
    prompts = prompts * (total // len(prompts))
    return _with_pairs(images, sources, masks, prompts, experiment.seed)


def folder_edits(images: ImageSet, files: EditFiles) -> ImageSet:
    """Give images of any tool their source images and masks.

    Args:
        images: the edited images, with their target prompts.
        files: the source images, and masks if there are any.

    Raises:
        ValueError: if numbers do not fit, or a file does not exist.
    """
    total = len(images.paths)
    assert files.sources is not None
    sources = _listed(files.sources, total, "--source-images")
    masks = () if files.masks is None else _listed(files.masks, total, "--masks")
    return _with_pairs(images, sources, masks, [""] * total, 0)


def _initial_files(experiment: Experiment) -> tuple[Path, ...]:
    return image_config(experiment.representation).images


def _listed(path: Path, total: int, option: str) -> list[Path]:
    """One file for each of ``total`` edits, from a file or a folder."""
    files = [path] if path.is_file() else list_images(path)
    return _repeated(files, total, f"images of {option}")


def _repeated(files: Sequence[Path], total: int, what: str) -> list[Path]:
    """Each file for equally many edits next to each other."""
    if total % len(files):
        raise ValueError(
            f"{len(files)} {what} for {total} edits: give one for all, or one for each edit or "
            "for equally many edits next to each other"
        )
    return [path for path in files for _ in range(total // len(files))]


def _with_pairs(
    images: ImageSet,
    sources: Sequence[Path],
    masks: Sequence[Path],
    source_prompts: Sequence[str],
    seed: int,
) -> ImageSet:
    for path in dict.fromkeys((*sources, *masks)):
        if not path.is_file():
            raise ValueError(
                f"{path}, from which an image was edited, no longer exists: give the files with "
                "--source-images and --masks"
            )
    digests = {p: hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in dict.fromkeys(sources)}
    keys: list[Key] = []
    counts: dict[str, int] = {}
    for key, path, text in zip(images.keys, sources, source_prompts, strict=True):
        unit = pair_unit(prompt_of(key[0]), text, digests[path])
        counts[unit] = counts.get(unit, -1) + 1
        keys.append((unit, (seed, counts[unit])))
    return replace(images, keys=tuple(keys), sources=tuple(sources), masks=tuple(masks))

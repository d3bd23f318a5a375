"""Sets of images to evaluate: a folder with a prompt file, or finished 2D runs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limbeck.config.comparison import fingerprint
from limbeck.config.yaml import read_yaml
from limbeck.diffusion.sampling import Sampling
from limbeck.evaluation.judge import run_family
from limbeck.runs.folder_state import refuse_unfinished
from limbeck.runs.images import SCATTER_FILE, particle_stems
from limbeck.system.files import one_line, read_text
from limbeck.system.image_files import IMAGE_SUFFIXES
from limbeck.training.experiment import Experiment

#: prompt, or for edits a ``pair_unit``; seed of the run and index within it
Key = tuple[str, tuple[int, int]]
_UNIT_SEPARATOR = "\x1f"  #: no prompt has this control character


def pair_unit(prompt: str, source_prompt: str, source: str) -> str:
    """The unit of edits: edits of other images, or from other prompts, are other units.

    Args:
        prompt: target prompt.
        source_prompt: source prompt, or "".
        source: what identifies the source image.
    """
    return _UNIT_SEPARATOR.join((prompt, source_prompt, source))


def is_pair(unit: str) -> bool:
    """Whether a unit is a pair of source image and prompts, not a prompt."""
    return _UNIT_SEPARATOR in unit


def prompt_of(unit: str) -> str:
    """The prompt that images of a unit should show."""
    return unit.partition(_UNIT_SEPARATOR)[0]


@dataclass(frozen=True)
class ImageSet:
    """Images with their prompts.

    Attributes:
        label: what made them.
        paths: image files.
        keys: prompt and seed of each; those of two sets with the same key are paired.
        sources: of edits, the source image of each; else empty.
        masks: of edits with masks, the mask of each, white where it may change.
    """

    label: str
    paths: tuple[Path, ...]
    keys: tuple[Key, ...]
    sources: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, by name, numbers in names by value.

    Of a folder of ours, such as that of a run, those in its ``final``.

    Raises:
        ValueError: if there are none.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}: give a folder of images")
    if (folder / "final").is_dir():
        folder = folder / "final"
    entries = (path for path in folder.iterdir() if path.is_file())
    files = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(files, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key by which image-2 comes before image-10; 01 and 1 are told apart by the name."""
    parts = [part for part in re.split(r"(\d+)", path.name) if part]
    keys = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return keys, path.name


def read_prompts(path: Path, option: str = "--prompts") -> list[str] | dict[str, str]:
    """Read a prompt file.

    Args:
        path: a text file with one prompt per line (empty lines and those that begin with # are
            skipped); a .tsv or .csv file with a column ``Prompt``; or a .json file with a list of
            prompts, with an object that holds one such list, or with an object that maps file names
            to prompts.
        option: names the file in messages.

    Raises:
        ValueError: if it cannot be read, holds no prompts, or something else.
    """
    if not path.is_file():
        raise ValueError(f"{option} {path}: there is no such file")
    text, suffix = read_text(path), path.suffix.lower()
    prompts: object
    if suffix in (".tsv", ".csv"):
        prompts = _prompt_column(path, text)
    elif suffix == ".json":
        try:
            prompts = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {one_line(error)}") from error
        if isinstance(prompts, dict) and len(prompts) == 1:
            (only,) = prompts.values()
            prompts = only if isinstance(only, list) else prompts
    elif suffix == ".jsonl":
        raise ValueError(
            f"{path} has an object in each line, and which of its texts is the prompt is not "
            "known: give a .txt file with one prompt per line, or a .json list of prompts"
        )
    else:
        # not splitlines: a prompt may hold line separators of Unicode
        lines = [line.strip() for line in text.split("\n")]
        prompts = [line for line in lines if line and not line.startswith("#")]
    texts: object = list(prompts.values()) if isinstance(prompts, dict) else prompts
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return prompts if isinstance(prompts, dict) else texts
    raise ValueError(
        f"{path} must hold prompts: one per line, a .tsv or .csv column Prompt, or JSON, a list of "
        "them or an object that maps file names to them"
    )


def _prompt_column(path: Path, text: str) -> list[str]:
    """The texts in the column ``Prompt`` or ``Prompts``; quotes in a .tsv are part of them."""
    head, *rows = _table_rows(path, text) or [[]]
    names = [name.strip().lower() for name in head]
    column = next((names.index(name) for name in ("prompt", "prompts") if name in names), None)
    if column is None:
        found = ", ".join(names) or "none"
        raise ValueError(f"{path} has no column Prompt or Prompts, only: {found}")
    prompts: list[str] = []
    for number, row in enumerate(rows, 1):
        if not any(row):
            continue  # as an empty line
        if any(map(str.strip, row[len(names) :])) and path.suffix.lower() == ".csv":
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells for {len(names)} columns: put a text "
                'that has commas in double quotes, as "a mug, red"'
            )
        prompts.append("".join(row[column : column + 1]).strip())
        if not prompts[-1]:
            raise ValueError(
                f"{path}: the prompt of row {number} is empty, and prompts are those of the images "
                "in their order: fill it in, or delete the row"
            )
    return prompts


def _table_rows(path: Path, text: str) -> list[list[str]]:
    """The cells of a table by row, without empty lines."""
    is_tsv = path.suffix.lower() == ".tsv"
    lines = io.StringIO(text)
    try:
        if is_tsv:
            return [row for row in csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE) if row]
        return [row for row in csv.reader(lines, strict=True) if row]
    except csv.Error as error:
        hint = "" if is_tsv else "; a text that has quotes or commas is put in double quotes"
        raise ValueError(f"{path} is not a valid table: {one_line(error)}{hint}") from error


def match_prompts(folder: Path, prompts: Sequence[str] | Mapping[str, str]) -> ImageSet:
    """Give each image of a folder its prompt.

    Args:
        folder: folder of images, see ``list_images``.
        prompts: a list, in the order of the images: one prompt per image, or equally many images
            per prompt, next to each other. Or prompts by file name, with or without suffix.

    Raises:
        ValueError: if numbers or names do not fit.
    """
    paths = list_images(folder)
    if isinstance(prompts, Mapping):
        own = _prompts_by_name(paths, prompts)
    elif len(paths) % len(prompts):
        raise ValueError(
            f"{paths[0].parent} has {len(paths)} images for {len(prompts)} prompts: give one "
            "prompt per image, or equally many images per prompt, or prompts by file name in a "
            ".json file"
        )
    else:
        own = [prompts[i * len(prompts) // len(paths)] for i in range(len(paths))]
    return ImageSet(str(folder), tuple(paths), numbered_keys(own, 1, 0))


def numbered_keys(prompts: Sequence[str], per_prompt: int, seed: int) -> tuple[Key, ...]:
    """Prompt, seed and number of each image; a prompt that is given twice is counted on.

    Args:
        prompts: the prompts, in the order of the images.
        per_prompt: adjacent images of each.
        seed: seed of all.
    """
    counts = dict.fromkeys(prompts, 0)
    keys = []
    for prompt in prompts:
        for _ in range(per_prompt):
            keys.append((prompt, (seed, counts[prompt])))
            counts[prompt] += 1
    return tuple(keys)


def _prompts_by_name(paths: Sequence[Path], prompts: Mapping[str, str]) -> list[str]:
    """The prompt of each file; every file and every name must occur."""
    known = {path.name for path in paths} | {path.stem for path in paths}
    if missing := [name for name in prompts if name not in known]:
        raise ValueError(f"{paths[0].parent} has no image {missing[0]!r}, which has a prompt")
    own = [prompts.get(path.name, prompts.get(path.stem)) for path in paths]
    if None in own:
        raise ValueError(f"{paths[own.index(None)]} has no prompt in the .json file")
    return [prompt for prompt in own if prompt is not None]


def is_sample_folder(folder: Path) -> bool:
    """Whether a folder was written by ``limbeck sample``."""
    return (folder / "sample.yaml").is_file() and not (folder / "run.yaml").exists()


def read_sampling(folder: Path) -> Sampling:
    """Read what made a folder of ``limbeck sample``."""
    return read_yaml(Sampling, folder / "sample.yaml")


def sampling_without_prompts(sampling: Sampling) -> Sampling:
    """Return a sampling that is equal for folders that differ only in prompts and seed."""
    return replace(sampling, prompts=("prompt",), seed=0)


def sample_images(folder: Path) -> ImageSet:
    """Return the images of a folder of ``limbeck sample``.

    Args:
        folder: the folder.

    Raises:
        ValueError: if images are missing.
    """
    sampling = read_sampling(folder)
    source = "samples of a critic" if sampling.critic else f"samples of {sampling.model}"
    label = f"{source}, {sampling.steps} steps, guidance {sampling.guidance:g}"
    if sampling.generator is not None:
        label = f"samples of the generator {sampling.generator.name}, 1 pass"
    return _final_images(
        folder,
        f"{label} ({fingerprint(sampling_without_prompts(sampling))})",
        sampling.prompts,
        sampling.num_images,
        sampling.seed,
        "limbeck sample",
    )


def run_images(folder: Path, experiment: Experiment) -> ImageSet:
    """Return the final images of a finished 2D run.

    Args:
        folder: run folder.
        experiment: its experiment.

    Raises:
        ValueError: if the run is unfinished, or images are missing.
    """
    refuse_unfinished(folder, experiment)
    return _final_images(
        folder,
        run_family(experiment),
        experiment.prompts,
        experiment.particles,
        experiment.seed,
        "the command in command.txt",
    )


def _again(folder: Path, command: str) -> str:
    return f"delete {folder} and repeat {command}"


def _final_images(
    folder: Path, label: str, prompts: Sequence[str], per_prompt: int, seed: int, command: str
) -> ImageSet:
    """The images in ``final``, which are sorted by prompt.

    Args:
        folder: folder of a run or of samples.
        label: what made them.
        prompts: the prompts.
        per_prompt: images of each.
        seed: seed of the run.
        command: what writes missing images.
    """
    stems = particle_stems(len(prompts) * per_prompt, per_prompt)
    paths = tuple(folder / "final" / f"{stem}.png" for stem in stems)
    missing = [path for path in paths if not path.is_file()]
    if (folder / SCATTER_FILE).is_file():
        raise ValueError(
            f"{folder} has no images to judge, since x0 of its model is no image, and the law of "
            "the model is not known: it is no GaussianMixture and no DataSet"
        )
    if len(missing) == len(paths):
        raise ValueError(
            f"{folder / 'final'} holds no images to judge: they were removed; "
            f"{_again(folder, command)} to make them"
        )
    if missing:
        raise ValueError(f"{missing[0]} is missing; {_again(folder, command)} to make it")
    return ImageSet(label, paths, numbered_keys(prompts, per_prompt, seed))

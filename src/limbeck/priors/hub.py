"""Models by name: a folder, one file, or a hub id. What the cache holds needs no network; what it lacks is named, with its size."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from limbeck.priors.catalog import find_model

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_UNUSED_PARTS = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
    "watermarker",
)  #: parts of a pipeline that are not used


def resolve_model(model: str, index: str = "model_index.json") -> Path:
    """The folder, or single file, of a model; fetched from the hub where it is named by an id and is not in the cache yet.

    index: the file that every such folder has. Raises ValueError where there is no such thing, or it cannot be fetched.
    """
    path = Path(model).expanduser()
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no .safetensors file, and other files are not read: weights that need pickle can run code"
        )
    if path.exists():
        return path
    named = HUB_ID.fullmatch(model)
    if named is None or path.suffix == ".safetensors":
        raise ValueError(
            f"no model {model!r}: give world, gaussians, dataset:FOLDER, an existing pipeline folder, a .safetensors file, or a "
            "hub id like owner/name or owner/name@revision"
        )
    cached = find_cached(named["repo"], named["revision"], index)
    return cached or _download(named["repo"], named["revision"], index)


def find_cached(
    repo: str, revision: str | None, index: str = "model_index.json", weights: bool = True
) -> Path | None:
    """The folder of a model in the cache, where nothing of it is missing."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, index, revision=revision)
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder is not None and not (weights and missing_parts(folder)) else None


def missing_parts(folder: Path) -> list[str]:
    """Parts that a folder's model_index.json names and whose files are not all there."""
    index = folder / "model_index.json"
    if not index.is_file():  # of one part alone
        return [] if _is_complete(folder) else [folder.name]
    return [part for part in pipeline_parts(index) if not _is_complete(folder / part)]


def pipeline_parts(index: Path) -> list[str]:
    """Folders of the parts that a model_index.json names and a prior may need."""
    said = json.loads(index.read_text())
    return [
        part
        for part, what in said.items()
        if isinstance(what, list) and what[0] is not None and part not in _UNUSED_PARTS
    ]


def _is_complete(part: Path) -> bool:
    """Whether a part has a configuration, and each of its weights where it should have any."""
    if not part.is_dir():
        return False
    if not (part / "config.json").is_file():  # tokenizers and schedulers
        return any(part.iterdir())
    for listing in part.glob("*.index*.json"):
        return all(
            (part / name).is_file()
            for name in json.loads(listing.read_text())["weight_map"].values()
        )
    return any(p.suffix in _WEIGHT_SUFFIXES for p in part.iterdir())


def required_files(files: Iterable[str], parts: Collection[str], configurations: bool = False) -> list[str]:
    """Of the files of a repository those that a prior reads: of each part configurations, and one set of weights.

    Safetensors go before pickles, full precision before 16 bits. parts: folders of the pipeline; none for a repository that is one
    part. configurations: no weights at all.
    """
    by_part: dict[str, list[str]] = {}
    for file in files:
        head = file.rpartition("/")[0]
        if head in parts or (not head and not parts):
            by_part.setdefault(head, []).append(file)
    chosen = ["model_index.json"] if parts else []
    for inside in by_part.values():
        chosen += [
            f for f in inside if f.endswith((".json", ".txt", ".model")) and ".index." not in f
        ]
        weights = [
            f
            for f in inside
            if f.endswith(_WEIGHT_SUFFIXES)
            and re.search(r"(^|/)(diffusion_pytorch_model|model|pytorch_model)\b", f)
        ]
        sets = [
            [
                f
                for f in weights
                if f.endswith(ending)
                and (".fp16" in f) == half
                and "ema" not in f
                and "flax" not in f
            ]
            for ending in _WEIGHT_SUFFIXES
            for half in (False, True)
        ]
        best = next((s for s in sets if s), [])
        if best and not configurations:
            half, ending = ".fp16" in best[0], best[0].rpartition(".")[2]
            chosen += best + [
                f for f in inside if ".index." in f and ending in f and (".fp16" in f) == half
            ]
    return sorted(chosen)


def _download(repo: str, revision: str | None, index: str, configurations: bool = False) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    model = find_model(repo)
    amount = "" if configurations else f", about {model.download:.1f} GB" if model else ""
    what = f"{repo}{f' at {revision}' if revision else ''}"
    fetch = f"hf download {repo}{f' --revision {revision}' if revision else ''}"
    if model is not None and model.gone and repo == model.repo:
        raise ValueError(
            f"{repo} has left the hub; the same weights are at {' or '.join(model.mirrors)}{amount}"
        )
    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"{what} is not in the cache, or not all of it, and HF_HUB_OFFLINE is set: fetch it once{amount}, with {fetch}"
        )
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or []}
        whole = "model_index.json" in sizes
        parts = (
            pipeline_parts(Path(hf_hub_download(repo, "model_index.json", revision=revision)))
            if whole
            else ()
        )
        files = required_files(sizes, parts, configurations)
        print(
            f"limbeck: fetching {what}, {sum(sizes[f] for f in files) / 1e9:.1f} GB",
            file=sys.stderr,
        )
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=files))
    except Exception as error:  # of whichever library carries the requests
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        other = (
            f"; the same weights are at {' or '.join(model.mirrors)}"
            if model and model.mirrors
            else ""
        )
        raise ValueError(
            f"{what} is not in the cache and could not be fetched{amount}{other}: {reason}"
        ) from error
    if not (folder / index).is_file():
        raise ValueError(f"{what} is on the hub but holds no {index}: it is no diffusers pipeline")
    return folder


def resolve_config(single: Path, said: str) -> Path:
    """The folder whose configurations and tokenizers belong to a checkpoint that is one file.

    said: a folder or hub id; if empty it is told from the names and shapes of the weights. ValueError where it has to be fetched
    and cannot be, or where the checkpoint says of itself that it is of another kind than the folder.
    """
    repo = said or detect_repo_id(single)
    path = Path(repo).expanduser()
    if path.is_dir():
        return path
    named = HUB_ID.fullmatch(repo)
    if named is None:
        raise ValueError(f"no configuration {repo!r}: give a pipeline folder or a hub id")
    cached = find_cached(named["repo"], named["revision"], weights=False)
    if cached is not None:
        return cached
    try:
        return _download(named["repo"], named["revision"], "model_index.json", configurations=True)
    except ValueError as error:
        hint = f"{single} needs the configurations and tokenizers of {repo} (some MB of text); --model.config FOLDER names others"
        raise ValueError(f"{hint}. {error}") from error


def detect_repo_id(single: Path) -> str:
    """The hub id of the model whose layout a checkpoint has, by the names and shapes of its weights."""
    from diffusers.loaders.single_file_utils import (
        DIFFUSERS_DEFAULT_PIPELINE_PATHS,
        infer_diffusers_model_type,
    )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        kind = infer_diffusers_model_type(load_file(single))
    except SafetensorError as error:
        raise ValueError(f"{single} is no .safetensors file that can be read: {error}") from error
    repo = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    model = find_model(repo)
    return model.mirrors[0] if model is not None and model.gone else repo

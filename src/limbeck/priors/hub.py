"""Model files by name: a folder, a single file, or a repository of the Hugging Face Hub.

A model that is complete in the local cache needs no network. If it has to be downloaded and cannot
be, the error gives its size and the command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from limbeck.priors.catalog import KnownModel, find_model, similar_repo_ids
from limbeck.priors.weight_files import CAMERA_WEIGHT, preferred_weights, read_weights
from limbeck.system.files import read_json_object

REPO_ID_PATTERN = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
#: Components of a pipeline that no prior uses.
_UNUSED_PARTS: tuple[str, ...] = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
    "watermarker",
)
#: Pipelines whose image encoder is used, and no text encoder.
_IMAGE_PIPELINES = ("Zero123Pipeline", "Zero1to3StableDiffusionPipeline")

# Why not DiffusionPipeline.download: it needs an option for repositories with fp16 weights only,
# takes no repository of one component (an autoencoder), cannot leave out the weights (as for the
# configurations of a single-file checkpoint), and does not report the size before it downloads.
# Without a network it can judge a cache complete only by a file listing of an earlier online call.


def resolve_model(model: str, index: str = "model_index.json") -> Path:
    """Return the folder or single file of a model; download it if it is not in the cache.

    Args:
        model: a path or a hub id ``owner/name@revision``.
        index: file that every folder of this kind has.

    Raises:
        ValueError: if there is no such model, or it cannot be downloaded.
    """
    path = Path(model).expanduser()
    if path.is_file() and path.suffix != ".safetensors" and not _is_mvdream_pickle(path):
        raise ValueError(
            f"{path} is no .safetensors file; others are not read, because unpickling runs code "
            "(of a .pt file of MVDream only tensors are read); what Zero123's .ckpt files hold is "
            "published as folders, too, such as kxic/zero123-xl"
        )
    if path.exists():
        return path
    match = REPO_ID_PATTERN.fullmatch(model)
    if match is None or path.suffix in (".safetensors", ".pt"):
        raise ValueError(
            f"no model {model!r}: give world, world-mv, gaussians, dataset:FOLDER, an existing "
            "pipeline folder, a .safetensors file, or a hub id like owner/name or "
            "owner/name@revision"
        )
    repo_id, revision = match["repo"], match["revision"]
    return find_cached(repo_id, revision, index) or _download(repo_id, revision, index)


def _is_mvdream_pickle(path: Path) -> bool:
    return path.suffix == ".pt" and CAMERA_WEIGHT in read_weights(path)


def resolve_files(model: str, names: Sequence[str]) -> Path:
    """Return the folder of a hub repository with some of its files; download them if needed.

    Args:
        model: a hub id ``owner/name@revision``.
        names: the files; the first one must exist, others may be missing in the repository.

    Raises:
        ValueError: if it is no hub id, or the files cannot be downloaded.
    """
    match = REPO_ID_PATTERN.fullmatch(model)
    if match is None:
        raise ValueError(f"{model!r} is no hub id: give owner/name or owner/name@revision")
    repo_id, revision = match["repo"], match["revision"]
    cached = find_cached(repo_id, revision, names[0], weights=False)
    return cached or _download(repo_id, revision, names[0], only=names)


def find_cached(
    repo_id: str, revision: str | None, index: str = "model_index.json", weights: bool = True
) -> Path | None:
    """Return the folder of a repository in the local cache; None if it is not there or incomplete.

    Args:
        repo_id: ``owner/name``.
        revision: branch, tag or commit; None for the main branch.
        index: file that the folder must have.
        weights: whether all weights must be there.
    """
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repo_id, index, revision=revision)
    if not isinstance(file, str):
        return None
    folder = Path(file).parent
    return None if weights and missing_parts(folder) else folder


def missing_parts(folder: Path) -> list[str]:
    """Return the components of a pipeline folder whose files are not all there.

    A folder without ``model_index.json`` is one component itself.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        return [] if _is_complete(folder) else [folder.name]
    return [part for part in pipeline_parts(index) if not _is_complete(folder / part)]


def pipeline_parts(index: Path) -> list[str]:
    """Return the components that a ``model_index.json`` names and a prior may use."""
    found, unused = read_json_object(index), _UNUSED_PARTS
    if found.get("_class_name") in _IMAGE_PIPELINES:
        unused = ("safety_checker", "feature_extractor", "text_encoder", "tokenizer")
    elif found.get("_class_name") == "MVDreamPipeline":  # ImageDream's, if there is one
        unused = ("safety_checker", "feature_extractor")
    return [
        part
        for part, value in found.items()
        if isinstance(value, list) and value and value[0] is not None and part not in unused
    ]


def _is_complete(part: Path) -> bool:
    """Whether a component has its configuration, and all its weights if it should have any."""
    if not part.is_dir():
        return False
    if not (part / "config.json").is_file():  # a tokenizer or a scheduler
        return any(part.iterdir())
    weights = preferred_weights(file.name for file in part.iterdir())
    if weights is None:
        return False
    shards = [read_json_object(part / index).get("weight_map") for index in weights.indices]
    return all(
        isinstance(files, dict) and all((part / str(file)).is_file() for file in files.values())
        for files in shards
    )


def required_files(
    files: Iterable[str], parts: Collection[str], config_only: bool = False
) -> list[str]:
    """Return the files of a repository that a prior reads.

    These are the configurations of each component and one set of its weights: safetensors before
    pickles, full precision before fp16 and other variants.

    Args:
        files: paths in the repository.
        parts: folders of the pipeline; empty for a repository that is one component.
        config_only: leave out the weights.
    """
    by_part: dict[str, list[str]] = {}
    for file in files:
        part = file.rpartition("/")[0]
        if part in parts or (not part and not parts):
            by_part.setdefault(part, []).append(file)
    required = ["model_index.json"] if parts else []
    for part_files in by_part.values():
        required += [
            file
            for file in part_files
            if file.endswith((".json", ".txt", ".model", ".jinja")) and ".index." not in file
        ]
        weights = None if config_only else preferred_weights(part_files)
        if weights is not None:
            required += [*weights.files, *weights.indices]
    return sorted(required)


def _download(
    repo_id: str,
    revision: str | None,
    index: str,
    config_only: bool = False,
    only: Sequence[str] = (),
) -> Path:
    """Download a repository to the cache, or ``only`` some of its files.

    Raises:
        ValueError: if it has left the hub, the hub is offline or cannot be reached, or the
            repository has no file ``index``.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    model = find_model(repo_id)
    size = f" (about {model.download_gb:.1f} GB)" if model and not config_only else ""
    what = f"{repo_id} at {revision}" if revision else repo_id
    similar = similar_repo_ids(repo_id) if model is None else []
    hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
    missing = f"{what}{size} is not on this machine, or not all of it"
    if model is not None and model.removed and repo_id == model.repo_id:
        raise ValueError(f"{repo_id} has left the hub; {_mirrors(model)}{size}")
    command = f"hf download {repo_id}" + (f" --revision {revision}" if revision else "")
    copying = f"run {command} where there is a network and give its folder instead of the name"
    if constants.HF_HUB_OFFLINE:
        message = f"{missing}, and HF_HUB_OFFLINE forbids downloads: unset it, or {copying}"
        raise ValueError(message + hint)
    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        parts: list[str] = []
        if "model_index.json" in sizes:
            path = hf_hub_download(repo_id, "model_index.json", revision=revision)
            parts = pipeline_parts(Path(path))
        wanted = [file for file in only if file in sizes]
        files = wanted if only else required_files(sizes, parts, config_only)
        total_gb = sum(sizes[file] for file in files) / 1e9
        print(f"limbeck: downloading {what}, {total_gb:.1f} GB", file=sys.stderr)
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=files))
    except Exception as error:  # of whichever library carries the requests
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        mirrors = f"; {_mirrors(model)}" if model and model.mirrors else ""
        if isinstance(error, HfHubHTTPError):
            cause = "the hub refuses it"
            cure = "check the name, or hf auth login if it is private or has a license to accept"
        else:
            cause, cure = "the hub cannot be reached", f"connect and try again, or {copying}"
        raise ValueError(f"{missing}, and {cause}: {cure}{mirrors} ({reason}){hint}") from error
    if not (folder / index).is_file():
        kind = "it is another model" if only else "it is no diffusers pipeline"
        raise ValueError(f"{what} is on the hub but has no {index}: {kind}{hint}")
    return folder


def _mirrors(model: KnownModel) -> str:
    return f"the same weights are at {' or '.join(model.mirrors)}"


def resolve_config(single_file: Path, config: str) -> Path:
    """Return the folder with the configurations and tokenizers of a single-file checkpoint.

    Args:
        single_file: the checkpoint.
        config: a folder or a hub id; if empty, it is detected from the weights.

    Raises:
        ValueError: if it is neither in the cache nor can be downloaded.
    """
    repo = config or detect_repo_id(single_file)
    path = Path(repo).expanduser()
    if path.is_dir():
        return path
    match = REPO_ID_PATTERN.fullmatch(repo)
    if match is None:
        raise ValueError(f"no configuration {repo!r}: give a pipeline folder or a hub id")
    repo_id, revision = match["repo"], match["revision"]
    cached = find_cached(repo_id, revision, weights=False)
    if cached is not None:
        return cached
    try:
        return _download(repo_id, revision, "model_index.json", config_only=True)
    except ValueError as error:
        raise ValueError(
            f"{single_file} needs the configurations and tokenizers of {repo} (some MB of text); "
            f"--model.config FOLDER gives others. {error}"
        ) from error


def detect_repo_id(single_file: Path) -> str:
    """Return the hub id of the model whose layout a checkpoint has.

    It is detected from the names and shapes of the weights.

    Raises:
        ValueError: if the file cannot be read.
    """
    from diffusers.loaders.single_file_utils import (
        DIFFUSERS_DEFAULT_PIPELINE_PATHS,
        infer_diffusers_model_type,
    )

    weights = read_weights(single_file)
    if not weights:
        raise ValueError(f"{single_file} holds no tensors")
    if CAMERA_WEIGHT in weights and any(name.endswith("to_k_ip.weight") for name in weights):
        return "ashawkey/imagedream-ipmv-diffusers"
    model_type = infer_diffusers_model_type(weights)
    repo_id = DIFFUSERS_DEFAULT_PIPELINE_PATHS[model_type]["pretrained_model_name_or_path"]
    if CAMERA_WEIGHT in weights and model_type == "v2":
        repo_id = "stabilityai/stable-diffusion-2-1-base"  # MVDream predicts eps, as it does
    model = find_model(repo_id)
    return model.mirrors[0] if model is not None and model.removed else repo_id

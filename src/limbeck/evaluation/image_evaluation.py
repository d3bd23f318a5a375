"""Evaluation of sets of images: of any folder with a prompt file, and of finished 2D runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limbeck.diffusion.sampling import Sampling
from limbeck.evaluation.edit_sets import EditFiles, folder_edits, is_edit, run_edits
from limbeck.evaluation.estimates import estimate_all, estimate_differences
from limbeck.evaluation.evaluation_files import notify_dropped, write_evaluation
from limbeck.evaluation.exact_runs import (
    add_law_metrics,
    find_law,
    has_no_images,
    list_particles,
    named_modes,
)
from limbeck.evaluation.image_sets import (
    ImageSet,
    is_sample_folder,
    match_prompts,
    read_prompts,
    read_sampling,
    run_images,
    sample_images,
    sampling_without_prompts,
)
from limbeck.evaluation.image_tables import (
    WORLD_FEATURES,
    difference_table,
    estimate_table,
    notes,
    to_json,
)
from limbeck.evaluation.judge import without_prompts
from limbeck.evaluation.measured_edits import add_edit_values
from limbeck.evaluation.measured_images import (
    FeatureNetwork,
    MeasuredImages,
    add_clip_values,
    add_scores,
    embed_files,
    measure_images,
    merge_measured,
)
from limbeck.evaluation.references import ReferenceImages, open_reference
from limbeck.evaluation.set_names import name_sets
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.image_scores.base import ImageScore
from limbeck.metrics.inception import InceptionFeatures
from limbeck.metrics.r_precision import compared_columns
from limbeck.metrics.structure_distance import DinoKeys
from limbeck.metrics.true_law import ExactPrior
from limbeck.runs.reopen import read_experiment
from limbeck.runs.report.pages import write_report
from limbeck.training.experiment import Experiment
from limbeck.world.pretrained import load_evaluator

_NO_FILES = EditFiles()


@dataclass(frozen=True)
class ImageJudges:
    """The networks that judge images.

    Attributes:
        clip: CLIP; None: without CLIP score and CLIP R-Precision, and with the features of the
            world's evaluator.
        clip_name: what was given as CLIP.
        texts: texts that CLIP compares each prompt with; none: the prompts of all sets.
        scores: scores of single images.
        inception: Inception, in whose features sets are then compared; None: without it.
        dino: vision transformer for the structure distance of edits; None: without it.
        lpips: network of LPIPS, for edits with masks; None: without it.
    """

    clip: CLIPSimilarity | None = None
    clip_name: str = ""
    texts: tuple[str, ...] = ()
    scores: tuple[ImageScore, ...] = ()
    inception: InceptionFeatures | None = None
    dino: DinoKeys | None = None
    lpips: Any = None

    def network(self, evaluator: Any) -> FeatureNetwork:
        """The network in whose features sets of images are compared."""
        if self.inception is not None:
            return FeatureNetwork(self.inception.name, self.inception.size, self.inception.embed)
        if self.clip is not None:
            return _clip_network(self.clip, self.clip_name)
        return FeatureNetwork(WORLD_FEATURES, 64, evaluator.features)

    def compared_with(self, measured: Sequence[MeasuredImages]) -> tuple[str, ...]:
        """The texts that CLIP compares each prompt of some sets with."""
        return self.texts or tuple(text for images in measured for text in images.prompts)


def _clip_network(clip: CLIPSimilarity, name: str) -> FeatureNetwork:
    return FeatureNetwork(f"CLIP {name}", clip.size, clip.embed_images)


def measure_sets(sets: Sequence[ImageSet], judges: ImageJudges) -> list[MeasuredImages]:
    """Measure sets of images; CLIP compares each prompt with those of all sets.

    Args:
        sets: the sets.
        judges: the networks.
    """
    evaluator = load_evaluator()
    network = judges.network(evaluator)
    measured = [
        add_scores(measure_images(own, network, evaluator), own, judges.scores) for own in sets
    ]
    measured = [
        add_edit_values(images, own, judges.clip, judges.dino, judges.lpips)
        if own.sources
        else images
        for images, own in zip(measured, sets, strict=True)
    ]
    if judges.clip is None:
        return measured
    texts, clip = judges.compared_with(measured), judges.clip
    if judges.inception is None:
        return [add_clip_values(images, images.features, clip, texts) for images in measured]
    by_clip = _clip_network(clip, judges.clip_name)
    return [
        add_clip_values(images, embed_files(own.paths, by_clip), clip, texts)
        for images, own in zip(measured, sets, strict=True)
    ]


def report_sets(
    measured: Sequence[MeasuredImages], judges: ImageJudges, truth: ReferenceImages | None
) -> tuple[str, dict[str, Any]]:
    """Tables of all sets and of the differences of the others to the first, and their JSON.

    Args:
        measured: the sets.
        judges: the networks.
        truth: true images for the distances.
    """
    estimates = [estimate_all(images, truth) for images in measured]
    lines: list[str] = []
    sets = []
    for images, own in zip(measured, estimates, strict=True):
        counts = f"{_count(len(images.keys), images.noun)}, {_count(len(images.prompts), 'prompt')}"
        lines += [f"{images.label}: {counts}", "", *estimate_table(own), ""]
        sets.append({"label": images.label, "metrics": to_json(own)})
    differences = []
    for images in measured[1:]:
        own = estimate_differences(measured[0], images, truth)
        title = f"{images.label} minus {measured[0].label}"
        if not own:
            lines += [f"{title}: no prompt and seed in common", ""]
            continue
        lines += [f"{title}, paired by prompt and seed:", "", *difference_table(own), ""]
        entry = {"label": images.label, "minus": measured[0].label, "metrics": to_json(own)}
        differences.append(entry)
    with_features = [len(images.keys) for images in measured if images.has_features]
    name = judges.network(load_evaluator()).name if with_features else None
    if name is not None:
        lines += notes(estimates, max(with_features), name)
    if truth is not None and not any("kid" in own for own in estimates):
        lines.append("no distances: they need at least 4 images, and 8 reference images")
    if any("clip_r_precision" in own for own in estimates):
        texts = _num_texts(measured, judges)
        lines.append(f"CLIP R-Precision is among {texts} texts: chance is {100 / texts:.2g} %")
    return "\n".join(lines), {"features": name, "sets": sets, "differences": differences}


def _num_texts(measured: Sequence[MeasuredImages], judges: ImageJudges) -> int:
    """Number of texts that CLIP chooses from; the largest if some prompts are not among them."""
    others = tuple(dict.fromkeys(judges.compared_with(measured)))
    prompts = tuple(dict.fromkeys(text for own in measured for text in own.prompts))
    texts = tuple(dict.fromkeys((*prompts, *others)))
    return int(compared_columns(prompts, texts, others).sum(1).max())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def evaluate_folders(
    folders: Sequence[Path],
    prompts: Path,
    reference: Path | None,
    judges: ImageJudges,
    edits: EditFiles = _NO_FILES,
) -> tuple[str, dict[str, Any]]:
    """Evaluate folders of images that any tool made for the prompts of a file.

    Args:
        folders: folders of images.
        prompts: file of their prompts.
        reference: folder of true images for the distances, or ``world`` for its renders.
        judges: the networks.
        edits: source images and masks, if the images are edits.

    Returns:
        Tables, and the same as JSON, with the hash of the prompt file.

    Raises:
        ValueError: if a folder has no images, or they do not fit the prompts.
    """
    texts = read_prompts(prompts)
    sets = [match_prompts(folder, texts) for folder in folders]
    if edits.sources is not None:
        sets = [folder_edits(own, edits) for own in sets]
    _check_edit_options(sets, judges, edits)
    truth = open_reference(reference, judges.network(load_evaluator()))
    measured = measure_sets(sets, judges)
    text, report = report_sets(measured, judges, truth)
    if judges.clip is not None:
        report["texts"] = _num_texts(measured, judges)
    report["prompts"] = {
        "file": str(prompts),
        "sha256": hashlib.sha256(prompts.read_bytes()).hexdigest(),
    }
    return text, report | {"reference": None if reference is None else str(reference)}


def evaluate_runs(
    folders: Sequence[Path],
    reference: Path | None,
    judges: ImageJudges,
    device: str,
    edits: EditFiles = _NO_FILES,
) -> tuple[str, dict[Path, dict[str, Any]]]:
    """Evaluate finished 2D runs and folders of ``limbeck sample``.

    Those that differ only in prompts and seed are one set. Runs on exact priors are also compared
    with the law.

    Args:
        folders: the folders.
        reference: folder of true images for the distances, or ``world`` for its renders.
        judges: the networks.
        device: device of exact priors.
        edits: source images and masks to use instead of those of runs that edit.

    Returns:
        Tables of the sets, and the content of eval.json by folder.

    Raises:
        ValueError: if a run is unfinished or lacks images.
    """
    runs = {
        folder: None if is_sample_folder(folder) else read_experiment(folder) for folder in folders
    }
    laws = {f: None if e is None else find_law(e, device) for f, e in runs.items()}
    measured_sets = _measure_runs(runs, laws, judges, edits, reference is not None)
    truth = open_reference(reference, judges.network(load_evaluator()))
    families: dict[str, list[MeasuredImages]] = {}
    made_by: dict[str, Experiment | Sampling] = {}
    reports = {}
    for (folder, experiment), measured in zip(runs.items(), measured_sets, strict=True):
        own: dict[str, Any] = {"reference": None if reference is None else str(reference)}
        if experiment is not None:
            own |= {"step": experiment.steps}
        if judges.clip is not None:
            own["texts"] = _num_texts(measured_sets, judges)
        law = laws[folder]
        if experiment is not None and law is not None:
            measured, shares = add_law_metrics(measured, folder, experiment, law)
            own |= {"mode_shares": named_modes(law, shares)} if shares else {}
        families.setdefault(measured.label, []).append(measured)
        made_by[measured.label] = _without_prompts(folder, experiment)
        _, report = report_sets([measured], judges, truth)
        own |= {"features": report["features"], **report["sets"][0]}
        own |= {"bounds": dict(measured.bounds)} if measured.bounds else {}
        reports[folder] = own | {"by_prompt": measured.means_by_prompt()}
    names = name_sets(made_by)
    merged = [merge_measured(family) for family in families.values()]
    named = [replace(images, label=names[images.label]) for images in merged]
    text, _ = report_sets(named, judges, truth)
    return text, reports


def _measure_runs(
    runs: Mapping[Path, Experiment | None],
    laws: Mapping[Path, ExactPrior | None],
    judges: ImageJudges,
    edits: EditFiles,
    has_reference: bool,
) -> list[MeasuredImages]:
    """Measure runs in their order; particles that are no images have no metrics but of the law.

    Args:
        runs: experiment by folder; None for samples.
        laws: exact prior by folder; None if the model is none.
        judges: the networks.
        edits: source images and masks to use instead of those of runs that edit.
        has_reference: whether the images are compared with others.

    Raises:
        ValueError: if images are asked for where there are none.
    """
    points = [folder for folder in runs if has_no_images(folder) and laws[folder] is not None]
    if points and (has_reference or judges != ImageJudges(texts=judges.texts)):
        raise ValueError(
            f"{points[0]} has no images to judge, since x0 of its model is no image: leave out the "
            "reference, networks and scores of images, which leaves its metrics of the law"
        )
    images = {
        folder: _images_of(folder, e, edits) for folder, e in runs.items() if folder not in points
    }
    _check_edit_options(list(images.values()), judges, edits)
    found = dict(zip(images, measure_sets(list(images.values()), judges), strict=True))
    for folder in points:
        experiment = runs[folder]
        assert experiment is not None  # samples have images
        found[folder] = list_particles(folder, experiment)
    return [found[folder] for folder in runs]


def _without_prompts(folder: Path, experiment: Experiment | None) -> Experiment | Sampling:
    if experiment is None:
        return sampling_without_prompts(read_sampling(folder))
    return without_prompts(experiment)


def _images_of(folder: Path, experiment: Experiment | None, edits: EditFiles) -> ImageSet:
    if experiment is None:
        return sample_images(folder)
    images = run_images(folder, experiment)
    return run_edits(images, folder, experiment, edits) if is_edit(experiment) else images


def _check_edit_options(sets: Sequence[ImageSet], judges: ImageJudges, edits: EditFiles) -> None:
    """Refuse options of edits that would have no effect on any of the sets."""
    given = {
        "--source-images": edits.sources,
        "--masks": edits.masks,
        "--dino": judges.dino,
        "--lpips": judges.lpips,
    }
    used = [name for name, value in given.items() if value is not None]
    if used and not any(own.sources for own in sets):
        raise ValueError(
            f"{used[0]} is for edits, and none of these images has a source image: give "
            "--source-images, or runs of limbeck edit"
        )
    if judges.lpips is not None and not any(own.masks for own in sets):
        raise ValueError(
            "--lpips compares what lies outside masks, and there are none: give --masks"
        )


def write_evaluations(reports: Mapping[Path, Mapping[str, Any]]) -> None:
    """Write eval.json into each folder atomically, and its table into the report of a run."""
    dropped = {}
    for folder, report in reports.items():
        dropped[folder] = write_evaluation(folder, report)
        if not is_sample_folder(folder):
            write_report([folder])
    notify_dropped(dropped)

"""evaluate finished runs, or any folder of images with its prompts"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.evaluation.edit_sets import EditFiles
    from limbeck.evaluation.image_evaluation import ImageJudges
    from limbeck.metrics.clip import CLIPSimilarity
    from limbeck.metrics.inception import InceptionFeatures
    from limbeck.metrics.preference.base import PreferenceModel
    from limbeck.metrics.structure_distance import DinoKeys


@dataclass(frozen=True)
class EvalOptions:
    """What is evaluated, and with which models.

    Attributes:
        folders: folders of runs or samples; with --prompts folders of images.
        prompts: prompts of the images of the folders, which any tool may have made: a text file
            with one per line, in the order of the file names, or a .json file that maps file names
            to prompts; docs/prompts.md has prompt sets.
        reference: folder of true images, for KID, CMMD, Frechet distance, precision, recall,
            density and coverage of images; or world, for renders of what the prompts say.
        clip: folder or hub id of a CLIPModel with its tokenizer, for CLIP score and CLIP
            R-Precision; sets of images are then compared in its features.
        inception: inception-2015-12-05.pt, in whose features sets of images are then compared: the
            Frechet distance is FID.
        pick_score: folder or hub id of the CLIPModel of PickScore with its tokenizer, such as
            yuvalkirstain/PickScore_v1.
        hps: the same of HPSv2, such as adams-story/HPSv2-hf.
        image_reward: folder or hub id of ImageReward.pt, such as THUDM/ImageReward.
        source_images: folder of the source images of edits, in their order, or one image file for
            all. Runs of edits know their own.
        masks: the same of masks, white where an edit may change its image.
        dino: folder or hub id of a ViTModel of DINO, such as facebook/dino-vitb8, for the structure
            distance of edits.
        lpips: also LPIPS outside the masks, by the package lpips, which you install yourself.
        texts: file of the texts that CLIP R-Precision compares each prompt with, in the formats of
            --prompts; by default the prompts of all folders and, in 3D, the other objects of the
            world.
        out: .json file to write the results of --prompts to.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    folders: tuple[Path, ...] = ()
    prompts: Path | None = None
    reference: Path | None = None
    clip: str | None = None
    inception: Path | None = None
    pick_score: str | None = None
    hps: str | None = None
    image_reward: str | None = None
    source_images: Path | None = None
    masks: Path | None = None
    dino: str | None = None
    lpips: bool = False
    texts: Path | None = None
    out: Path | None = None
    device: str = "auto"


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck eval``: print tables, and write eval.json of each run into its folder."""
    from limbeck.cli.run_folder import check_distinct, check_new_file, without_own_pages
    from limbeck.config.command_line import parse
    from limbeck.runs.find_runs import find_folder

    about = (
        "Evaluate finished runs in their FOLDERs: write eval.json into each, and print a table. "
        "With --prompts FILE, evaluate FOLDERs of images that any tool made."
    )
    (options,) = parse([(EvalOptions, None)], argv, "limbeck eval", about, "folders")
    if not options.folders:
        raise ValueError("a run folder is missing: limbeck eval runs/NAME [runs/OTHER ...]")
    if options.texts is not None and options.clip is None:
        raise ValueError("--texts needs --clip FOLDER")
    if options.out is not None:
        if options.prompts is None:
            raise ValueError("--out needs --prompts FILE: runs have their eval.json")
        check_new_file(options.out)
    if options.prompts is not None:
        check_distinct(options.folders)
        return _evaluate_folders(options)

    from limbeck.evaluation.image_sets import is_sample_folder
    from limbeck.graphics.cameras.samplers import NoCamera
    from limbeck.runs.reopen import last_stage, read_experiment

    given = without_own_pages(options.folders)
    folders = [last_stage(find_folder(folder)) for folder in given]
    check_distinct(folders)
    is_2d = set()
    for folder in folders:
        _refuse_images_alone(folder)
        sampler = None if is_sample_folder(folder) else read_experiment(folder).camera_sampler
        is_2d.add(sampler is None or isinstance(sampler, NoCamera))
    if is_2d == {True}:
        return _evaluate_2d(options, folders)
    if is_2d == {True, False}:
        raise ValueError("2D and 3D runs have different metrics: evaluate them by two commands")
    if options.reference is not None:
        raise ValueError("--reference is for images: 3D runs are compared with true renders")
    if options.inception is not None:
        raise ValueError("--inception is for images: 3D runs are compared in other features")
    edit_options = (options.source_images, options.masks, options.dino, options.lpips or None)
    if edit_options != (None,) * 4:
        raise ValueError("--source-images, --masks, --dino and --lpips are for edits, not 3D runs")
    return _evaluate_3d(options, folders)


def _refuse_images_alone(folder: Path) -> None:
    """Say what a folder of images lacks, if it is no run."""
    from limbeck.system.image_files import IMAGE_SUFFIXES

    if not folder.is_dir() or any((folder / f"{kind}.yaml").exists() for kind in ("run", "sample")):
        return
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
        raise ValueError(
            f"{folder} is not a run folder: it has no run.yaml; to evaluate its images, name their "
            "prompts with --prompts FILE"
        )


def _load_clip(model: str | None, device: str) -> CLIPSimilarity | None:
    if model is None:
        return None
    from limbeck.metrics.clip import CLIPSimilarity
    from limbeck.priors.loading import pick_device

    return CLIPSimilarity(model, pick_device(device))


def _load_inception(options: EvalOptions) -> InceptionFeatures | None:
    if options.inception is None:
        return None
    from limbeck.metrics.inception import InceptionFeatures
    from limbeck.priors.loading import pick_device

    return InceptionFeatures(options.inception, pick_device(options.device))


def _load_preferences(options: EvalOptions) -> tuple[PreferenceModel, ...]:
    from limbeck.metrics.preference.hps import HPS
    from limbeck.metrics.preference.image_reward import ImageReward
    from limbeck.metrics.preference.pick_score import PickScore
    from limbeck.priors.loading import pick_device

    given = (
        (PickScore, options.pick_score),
        (HPS, options.hps),
        (ImageReward, options.image_reward),
    )
    return tuple(
        kind(model, pick_device(options.device)) for kind, model in given if model is not None
    )


def _judge_names(options: EvalOptions) -> dict[str, str]:
    """What was given as each network: values of two models are not comparable."""
    given = {
        "clip": options.clip,
        "pick_score": options.pick_score,
        "hps": options.hps,
        "image_reward": options.image_reward,
        "inception": options.inception,
        "dino": options.dino,
    }
    return {name: str(model) for name, model in given.items() if model is not None}


def _load_judges(options: EvalOptions) -> ImageJudges:
    from limbeck.evaluation.image_evaluation import ImageJudges

    return ImageJudges(
        clip=_load_clip(options.clip, options.device),
        clip_name=options.clip or "",
        texts=_read_texts(options),
        preferences=_load_preferences(options),
        inception=_load_inception(options),
        dino=_load_dino(options.dino, options.device),
        lpips=_load_lpips(options.device) if options.lpips else None,
    )


def _load_dino(model: str | None, device: str) -> DinoKeys | None:
    if model is None:
        return None
    from limbeck.metrics.structure_distance import DinoKeys
    from limbeck.priors.loading import pick_device

    return DinoKeys(model, pick_device(device))


def _load_lpips(device: str) -> Any:
    from limbeck.metrics.lpips_distance import load_lpips
    from limbeck.priors.loading import pick_device

    return load_lpips(pick_device(device))


def _edit_files(options: EvalOptions) -> EditFiles:
    from limbeck.evaluation.edit_sets import EditFiles

    return EditFiles(options.source_images, options.masks)


def _read_texts(options: EvalOptions) -> tuple[str, ...]:
    from limbeck.evaluation.image_sets import read_prompts

    if options.texts is None:
        return ()
    texts = read_prompts(options.texts, "--texts")
    return tuple(texts.values() if isinstance(texts, dict) else texts)


def _evaluate_folders(options: EvalOptions) -> None:
    from limbeck.evaluation.image_evaluation import evaluate_folders
    from limbeck.system.files import write_text

    assert options.prompts is not None
    text, report = evaluate_folders(
        options.folders,
        options.prompts,
        options.reference,
        _load_judges(options),
        _edit_files(options),
    )
    print(text)
    report["judges"] = _judge_names(options)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _evaluate_2d(options: EvalOptions, folders: Sequence[Path]) -> None:
    from limbeck.evaluation.image_evaluation import evaluate_runs, write_evaluations

    judges = _load_judges(options)
    text, reports = evaluate_runs(
        folders, options.reference, judges, options.device, _edit_files(options)
    )
    for report in reports.values():
        report["judges"] = _judge_names(options)
    write_evaluations(reports)
    print(text)


def _evaluate_3d(options: EvalOptions, folders: Sequence[Path]) -> None:
    from limbeck.config.yaml import options as options_of
    from limbeck.evaluation import judge
    from limbeck.evaluation.evaluation_files import notify_dropped, write_evaluation
    from limbeck.evaluation.set_names import name_sets
    from limbeck.evaluation.tables import comparison_table, summary_line
    from limbeck.priors.loading import load, notify_unknown_words
    from limbeck.runs.report.pages import write_report
    from limbeck.world.pretrained import load_evaluator

    runs = [judge.open_finished_run(folder) for folder in folders]
    judges = judge.RunJudges(
        load_evaluator(),
        _load_clip(options.clip, options.device),
        _load_preferences(options),
        prompts=tuple(prompt for run in runs for prompt in run.experiment.prompts),
        texts=_read_texts(options),
    )
    loaded, priors = {}, []  # runs of the same model share its prior
    for run in runs:
        notify_unknown_words(run.experiment.model, run.experiment.all_prompts)
        key = str(options_of(run.experiment)["model"]), run.experiment.precision
        if key not in loaded:
            loaded[key] = load(run.experiment.model, options.device, run.experiment.precision)
        priors.append(loaded[key])
        judge.check_evaluable(run, priors[-1], judges)
    evaluations, dropped = [], {}
    for run, prior in zip(runs, priors, strict=True):
        evaluation = judge.evaluate_run(run, prior, judges)
        evaluation.report["judges"] = _judge_names(options)
        evaluations.append(evaluation)
        dropped[run.folder] = write_evaluation(run.folder, evaluation.report)
        print(f"{run.folder / 'eval.json'}: {summary_line(evaluation.report)}", flush=True)
        write_report([run.folder])
    notify_dropped(dropped)
    if len(runs) > 1:
        experiments = [judge.without_prompts(run.experiment) for run in runs]
        families = (evaluation.family for evaluation in evaluations)
        names = name_sets(dict(zip(families, experiments, strict=True)))
        print(comparison_table(evaluations, names))

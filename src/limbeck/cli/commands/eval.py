"""evaluate finished runs, or any folder of images with its prompts"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.cli.judge_options import JudgeOptions

if TYPE_CHECKING:
    from limbeck.evaluation.edit_sets import EditFiles
    from limbeck.evaluation.image_evaluation import ImageJudges
    from limbeck.metrics.inception import InceptionFeatures
    from limbeck.metrics.structure_distance import DinoKeys


@dataclass(frozen=True)
class EvalOptions:
    """What is evaluated, and with which models.

    Attributes:
        folders: folders of runs, samples or sweeps, of which all finished runs are evaluated; with
            --prompts folders of images.
        prompts: prompts of the images of the folders, which any tool may have made: a text file
            with one per line, in the order of the file names, or a .json file that maps file names
            to prompts; docs/prompts.md has prompt sets.
        reference: folder of true images, for KID, CMMD, Frechet distance, precision, recall,
            density and coverage of images; or world, for renders of what the prompts say.
        inception: inception-2015-12-05.pt, in whose features sets of images are then compared: the
            Frechet distance is FID.
        source_images: folder of the source images of edits, in their order, or one image file for
            all. Runs of edits know their own.
        masks: the same of masks, white where an edit may change its image.
        dino: folder or hub id of a ViTModel of DINO, such as facebook/dino-vitb8, for the structure
            distance of edits.
        lpips: also LPIPS outside the masks, by the package lpips, which you install yourself.
        out: .json file to write the results of --prompts to.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    folders: tuple[Path, ...] = ()
    prompts: Path | None = None
    reference: Path | None = None
    inception: Path | None = None
    source_images: Path | None = None
    masks: Path | None = None
    dino: str | None = None
    lpips: bool = False
    out: Path | None = None
    device: str = "auto"


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck eval``: print tables, and write eval.json of each run into its folder."""
    from limbeck.cli.run_folder import check_distinct, check_new_file, without_own_files
    from limbeck.config.command_line import parse
    from limbeck.runs.find_runs import find_folder

    about = (
        "Evaluate finished runs in their FOLDERs: write eval.json into each, and print a table. "
        "With --prompts FILE, evaluate FOLDERs of images that any tool made."
    )
    sections = [(EvalOptions, None), (JudgeOptions, None)]
    options, judges = parse(sections, argv, "limbeck eval", about, "folders")
    if not options.folders:
        raise ValueError("a run folder is missing: limbeck eval runs/NAME [runs/OTHER ...]")
    if options.out is not None:
        if options.prompts is None:
            raise ValueError("--out needs --prompts FILE: runs have their eval.json")
        check_new_file(options.out)
    if options.prompts is not None:
        check_distinct(options.folders)
        return _evaluate_folders(options, judges)

    from limbeck.sweeps.sweep_file import SWEEP_FILE, is_sweep_folder
    from limbeck.system.notices import notify

    given = [find_folder(folder) for folder in without_own_files(options.folders)]
    sweeps = [folder for folder in given if is_sweep_folder(folder)]
    folders = [run for folder in given for run in _runs_of(folder, folder in sweeps)]
    check_distinct(folders)
    if _are_2d(folders):
        _evaluate_2d(options, judges, folders)
    else:
        _refuse_options_of_images(options)
        _evaluate_3d(options, judges, folders)
    for sweep in sweeps:
        notify(
            f"limbeck sweep {sweep / SWEEP_FILE} writes these metrics into {sweep / 'results.csv'} "
            "and its page"
        )


def _runs_of(folder: Path, is_sweep: bool) -> list[Path]:
    """The run of a folder, of a preset the last stage; of a sweep all finished runs, in its order.

    Raises:
        ValueError: if a sweep has none.
    """
    from limbeck.runs.reopen import last_stage
    from limbeck.sweeps.results import count_runs, finished_runs
    from limbeck.system.notices import notify

    if not is_sweep:
        return [last_stage(folder)]
    names = finished_runs(folder)
    if not names:
        raise ValueError(f"{folder} has no finished run: limbeck sweep {folder / 'sweep.yaml'}")
    if left_out := count_runs(folder) - len(names):
        notify(f"{left_out} of the runs of {folder} did not finish and are left out")
    return [last_stage(folder / name) for name in names]


def _refuse_options_of_images(options: EvalOptions) -> None:
    """Refuse options that would have no effect on 3D runs."""
    if options.reference is not None:
        raise ValueError("--reference is for images: 3D runs are compared with true renders")
    if options.inception is not None:
        raise ValueError("--inception is for images: 3D runs are compared in other features")
    edit_options = (options.source_images, options.masks, options.dino, options.lpips or None)
    if edit_options != (None,) * 4:
        raise ValueError("--source-images, --masks, --dino and --lpips are for edits, not 3D runs")


def _are_2d(folders: Sequence[Path]) -> bool:
    """Whether runs are 2D; else all are 3D.

    Raises:
        ValueError: if some are and some are not, or if a folder is none of a run.
    """
    from limbeck.evaluation.image_sets import is_sample_folder
    from limbeck.graphics.cameras.samplers import NoCamera
    from limbeck.runs.reopen import read_experiment

    is_2d = set()
    for folder in folders:
        _refuse_images_alone(folder)
        sampler = None if is_sample_folder(folder) else read_experiment(folder).camera_sampler
        is_2d.add(sampler is None or isinstance(sampler, NoCamera))
    if is_2d == {True, False}:
        raise ValueError("2D and 3D runs have different metrics: evaluate them by two commands")
    return is_2d == {True}


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


def _load_inception(options: EvalOptions) -> InceptionFeatures | None:
    if options.inception is None:
        return None
    from limbeck.metrics.inception import InceptionFeatures
    from limbeck.priors.loading import pick_device

    return InceptionFeatures(options.inception, pick_device(options.device))


def _load_judges(options: EvalOptions, judges: JudgeOptions) -> ImageJudges:
    from limbeck.evaluation.image_evaluation import ImageJudges

    return ImageJudges(
        clip=judges.load_clip(options.device),
        clip_name=judges.clip or "",
        texts=judges.read_texts(),
        scores=judges.load_scores(options.device),
        inception=_load_inception(options),
        dino=_load_dino(options.dino, options.device),
        lpips=_load_lpips(options.device) if options.lpips else None,
    )


def _names(options: EvalOptions, judges: JudgeOptions) -> dict[str, str]:
    """What was given as each network."""
    given = {"inception": options.inception, "dino": options.dino}
    return judges.names() | {name: str(file) for name, file in given.items() if file is not None}


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


def _evaluate_folders(options: EvalOptions, judges: JudgeOptions) -> None:
    from limbeck.evaluation.image_evaluation import evaluate_folders
    from limbeck.system.files import write_text

    assert options.prompts is not None
    text, report = evaluate_folders(
        options.folders,
        options.prompts,
        options.reference,
        _load_judges(options, judges),
        _edit_files(options),
    )
    print(text)
    report["judges"] = _names(options, judges)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _evaluate_2d(options: EvalOptions, judges: JudgeOptions, folders: Sequence[Path]) -> None:
    from limbeck.evaluation.image_evaluation import evaluate_runs, write_evaluations

    networks = _load_judges(options, judges)
    text, reports = evaluate_runs(
        folders, options.reference, networks, options.device, _edit_files(options)
    )
    for report in reports.values():
        report["judges"] = _names(options, judges)
    write_evaluations(reports)
    print(text)


def _evaluate_3d(options: EvalOptions, judges: JudgeOptions, folders: Sequence[Path]) -> None:
    from limbeck.config.yaml import options as options_of
    from limbeck.evaluation import judge
    from limbeck.evaluation.evaluation_files import notify_dropped, write_evaluation
    from limbeck.evaluation.set_names import name_sets
    from limbeck.evaluation.tables import comparison_table, summary_line
    from limbeck.priors.loading import load, notify_unknown_words
    from limbeck.runs.report.pages import write_report
    from limbeck.world.pretrained import load_evaluator

    runs = [judge.open_finished_run(folder) for folder in folders]
    networks = judge.RunJudges(
        load_evaluator(),
        judges.load_clip(options.device),
        judges.load_scores(options.device),
        prompts=tuple(prompt for run in runs for prompt in run.experiment.prompts),
        texts=judges.read_texts(),
    )
    loaded, priors = {}, []  # runs of the same model share its prior
    for run in runs:
        notify_unknown_words(run.experiment.model, run.experiment.all_prompts)
        key = str(options_of(run.experiment)["model"]), run.experiment.precision
        if key not in loaded:
            loaded[key] = load(run.experiment.model, options.device, run.experiment.precision)
        priors.append(loaded[key])
        judge.check_evaluable(run, priors[-1], networks)
    evaluations, dropped = [], {}
    for run, prior in zip(runs, priors, strict=True):
        evaluation = judge.evaluate_run(run, prior, networks)
        evaluation.report["judges"] = _names(options, judges)
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

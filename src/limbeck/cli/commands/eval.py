"""evaluate finished 3D runs from 32 held-out cameras"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvalOptions:
    """What is evaluated, and with which models.

    Attributes:
        folders: run folders.
        clip: folder of a CLIPModel with its tokenizer, for CLIP R-Precision.
        texts: text file with one distractor per line for R-Precision, besides the prompts of all
            runs and the other objects of the world.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    folders: tuple[Path, ...] = ()
    clip: Path | None = None
    texts: Path | None = None
    device: str = "auto"


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck eval``: write eval.json of each run, update its report, print a summary."""
    from limbeck.cli.run_folder import find_folder
    from limbeck.config.command_line import parse

    about = (
        "Evaluate finished 3D runs in their FOLDERs: write eval.json into each, and its table "
        "into the report."
    )
    (options,) = parse([(EvalOptions, None)], argv, "limbeck eval", about, "folders")
    if not options.folders:
        raise ValueError("a run folder is missing: limbeck eval runs/NAME [runs/OTHER ...]")
    if options.texts is not None and options.clip is None:
        raise ValueError("--texts needs --clip FOLDER")

    from limbeck.config.yaml import options as options_of
    from limbeck.evaluation import judge
    from limbeck.evaluation.tables import comparison_table, summary_line
    from limbeck.metrics.clip import CLIPSimilarity
    from limbeck.priors.loading import load, notify_unknown_words, pick_device
    from limbeck.runs.report.pages import write_report
    from limbeck.world.pretrained import load_evaluator

    runs = [judge.open_finished_run(folder) for folder in map(find_folder, options.folders)]
    clip = None
    if options.clip is not None:
        clip = CLIPSimilarity(options.clip, pick_device(options.device))
    loaded, priors = {}, []  # runs of the same model share its prior
    for run in runs:
        notify_unknown_words(run.experiment.model, run.experiment.all_prompts)
        key = str(options_of(run.experiment)["model"]), run.experiment.precision
        if key not in loaded:
            loaded[key] = load(run.experiment.model, options.device, run.experiment.precision)
        priors.append(loaded[key])
        judge.check_evaluable(run, priors[-1], clip)
    texts = (
        options.texts.read_text(encoding="utf-8").splitlines() if options.texts is not None else []
    )
    distractors = [prompt for run in runs for prompt in run.experiment.prompts]
    distractors += [text for text in texts if text.strip()]
    evaluator, evaluations = load_evaluator(), []
    for run, prior in zip(runs, priors, strict=True):
        evaluation = judge.evaluate_run(run, prior, evaluator, clip, distractors)
        evaluations.append(evaluation)
        path = judge.write_evaluation(run, evaluation.report)
        print(f"{path}: {summary_line(evaluation.report['mean'])}", flush=True)
        write_report([run.folder])
    if len(runs) > 1:
        print(comparison_table(evaluations))

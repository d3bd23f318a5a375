"""judge finished 3D runs from 32 held-out cameras"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvalOptions:
    """What is judged, and by whom.

    folders: run folders. clip: folder of a CLIPModel with its tokenizer, for CLIP R-Precision. texts: file of texts, one a line,
    that CLIP has to tell the prompts apart from, beside the prompts of all the runs and the world's other objects. device: auto,
    cpu, cuda, cuda:N or mps.
    """

    folders: tuple[Path, ...] = ()
    clip: Path | None = None
    texts: Path | None = None
    device: str = "auto"


def main(argv: Sequence[str]) -> None:
    """``limbeck eval``: a line per run, eval.json and its place in the report of its folder, and with several a table."""
    from limbeck.config.command_line import parse

    about = "Judge finished 3D runs in their FOLDERs, and write eval.json and its table in the report into each."
    (wanted,) = parse([(EvalOptions, None)], argv, "limbeck eval", about, "folders")
    if not wanted.folders:
        raise ValueError("a run folder is missing: limbeck eval runs/NAME [runs/OTHER ...]")
    if wanted.texts is not None and wanted.clip is None:
        raise ValueError("--texts are for CLIP, and no --clip FOLDER is given")

    from limbeck.evaluation.judge import (
        check_evaluable,
        evaluate_run,
        open_finished_run,
        write_evaluation,
    )
    from limbeck.evaluation.tables import comparison_table, summary_line
    from limbeck.metrics.clip import CLIPSimilarity
    from limbeck.priors.loading import load, pick_device
    from limbeck.runs.report import pages as report
    from limbeck.world.pretrained import load_evaluator

    runs = [open_finished_run(folder) for folder in wanted.folders]
    texts = (
        [text for text in wanted.texts.read_text().splitlines() if text.strip()]
        if wanted.texts is not None
        else []
    )
    clip = (
        CLIPSimilarity(wanted.clip, pick_device(wanted.device)) if wanted.clip is not None else None
    )
    models = {(e.model, e.precision) for e in (run.experiment for run in runs)}
    priors = {key: load(key[0], wanted.device, key[1]) for key in models}
    prior_of = lambda e: priors[e.model, e.precision]  # noqa: E731
    for run in runs:
        check_evaluable(run, prior_of(run.experiment), clip)
    others = [*(prompt for run in runs for prompt in run.experiment.prompts), *texts]
    evaluator, done = load_evaluator(), []
    for run in runs:
        done.append(evaluate_run(run, prior_of(run.experiment), evaluator, clip, others))
        print(
            f"{write_evaluation(run, done[-1].report)}: {summary_line(done[-1].report['mean'])}",
            flush=True,
        )
        report.write_report([run.folder])
    if len(runs) > 1:
        print(comparison_table(done))

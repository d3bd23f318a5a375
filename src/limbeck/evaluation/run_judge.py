"""Evaluation of finished runs one at a time, as a sweep makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from limbeck.evaluation.evaluation_files import write_evaluation
from limbeck.evaluation.image_evaluation import ImageJudges, evaluate_runs
from limbeck.evaluation.judge import RunJudges, check_evaluable, evaluate_run, open_finished_run
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.image_scores.base import ImageScore
from limbeck.priors.loading import load
from limbeck.runs.reopen import read_experiment
from limbeck.runs.report.pages import write_report
from limbeck.runs.report.run_data import read_run_data
from limbeck.world.pretrained import load_evaluator


@dataclass(frozen=True)
class RunJudge:
    """Evaluates a finished run as ``limbeck eval`` does, with the prompts of all runs of a sweep.

    Attributes:
        prompts: prompts of all runs.
        texts: texts that CLIP compares each prompt with; none: the prompts.
        clip: CLIP; None: without CLIP score and CLIP R-Precision.
        scores: scores of single images.
        names: what was given as each network, as eval.json has it.
        device: device of the model of a run.
    """

    prompts: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    clip: CLIPSimilarity | None = None
    scores: tuple[ImageScore, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"

    def __call__(self, folder: Path) -> None:
        """Write eval.json of a run, unless it has one by the same networks and scores.

        Args:
            folder: run folder.

        Raises:
            ValueError: if the run cannot be evaluated.
        """
        names, known = dict(self.names), read_run_data(folder).evaluation
        if known and known.get("judges") == names:
            return
        is_2d = isinstance(read_experiment(folder).camera_sampler, NoCamera)
        report = self._judge_images(folder) if is_2d else self._judge_views(folder)
        write_evaluation(folder, report | {"judges": names})
        write_report([folder])

    def _judge_images(self, folder: Path) -> dict[str, object]:
        judges = ImageJudges(
            clip=self.clip,
            clip_name=self.names.get("clip", ""),
            texts=self.texts or self.prompts,
            scores=self.scores,
        )
        _, reports = evaluate_runs([folder], None, judges, self.device)
        return reports[folder]

    def _judge_views(self, folder: Path) -> dict[str, object]:
        judges = RunJudges(load_evaluator(), self.clip, self.scores, self.prompts, self.texts)
        run = open_finished_run(folder)
        e = run.experiment
        prior = load(e.model, self.device, e.precision)
        check_evaluable(run, prior, judges)
        return evaluate_run(run, prior, judges).report

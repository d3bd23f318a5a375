"""What judges the runs of a sweep when they have finished, as ``limbeck eval`` would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli.judge_options import JudgeOptions
    from limbeck.cli.sweep_command_line import SweepOptions
    from limbeck.evaluation.run_judge import RunJudge
    from limbeck.sweeps.expansion import Search
    from limbeck.sweeps.planned_runs import PlannedRun

#: metrics that need a network, and the option that gives it
_NETWORKS = {
    "clip_score": "clip",
    "clip_r_precision": "clip",
    "clip": "clip",
    "clip_shape": "clip",
    "pick_score": "pick_score",
    "hps": "hps",
    "image_reward": "image_reward",
}
#: metrics of images by prompt that need none
_EVALUATED = ("vendi_4", "vendi_8", "log_p", "energy_distance", "sliced_wasserstein", "mode_error")


def check_score(search: Search, judges: JudgeOptions) -> None:
    """Refuse early a search for a score that no run will have.

    Args:
        search: the search.
        judges: what judges the runs.

    Raises:
        ValueError: if there is no such score, or its network is not given.
    """
    from limbeck.metrics.run_scores import RUN_SCORES
    from limbeck.runs.report.tables import SCORES

    score, own = search.score, [score.metric for score in judges.load_own_scores()]
    network = _NETWORKS.get(score)
    if network is not None and getattr(judges, network) is None:
        flag = network.replace("_", "-")
        raise ValueError(
            f"--{search.word} {score} needs a network: give its folder or hub id with --{flag}"
        )
    known = dict.fromkeys((*own, *RUN_SCORES, *SCORES, *_EVALUATED, *_NETWORKS))
    if score not in known:
        raise ValueError(
            f"--{search.word} {score}: no such score; there are {', '.join(known)}, and those of "
            "your own with --score FILE.py"
        )


def load_judge(
    options: SweepOptions,
    judges: JudgeOptions,
    search: Search | None,
    runs: Sequence[PlannedRun],
) -> RunJudge | None:
    """What judges each run when it has finished; None if nothing is asked for.

    Args:
        options: options of the sweep.
        judges: networks and scores.
        search: what Optuna searches for, which may be a metric of ``limbeck eval``.
        runs: the runs, or of a search such with random settings.
    """
    from limbeck.metrics.run_scores import RUN_SCORES

    is_searched = search is not None and search.score not in RUN_SCORES
    if not (options.eval or is_searched or judges.names()):
        return None
    from limbeck.evaluation.run_judge import RunJudge

    experiments = [experiment for run in runs for experiment in run.stages.values()]
    return RunJudge(
        prompts=tuple(dict.fromkeys(prompt for e in experiments for prompt in e.prompts)),
        texts=judges.read_texts(),
        clip=judges.load_clip(options.device),
        scores=judges.load_scores(options.device),
        names=judges.names(),
        device=options.device,
    )

"""Quality of a method's images against the network passes spent on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from limbeck.leaderboard.execution.budget import network_passes
from limbeck.leaderboard.execution.image_results import to_bytes
from limbeck.leaderboard.execution.text_to_image import SAMPLING
from limbeck.leaderboard.execution.workers import load_prior
from limbeck.leaderboard.images.cells import compute_cell, decoded_images, experiment_of
from limbeck.leaderboard.images.judgment import judge_images, tuning_objective
from limbeck.leaderboard.images.measurement import Measurement
from limbeck.leaderboard.report.judged_row import CurvePoint
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.intervals import SHARE
from limbeck.system.finite import NonFiniteError
from limbeck.training.trainer import Run
from limbeck.world.pretrained import shared_evaluator


@dataclass(frozen=True)
class QualityCurve(Measurement):
    """Images of a run at some shares of its steps, judged by the world's evaluator.

    The images are those of one run, whose schedules end with it. Sampling has no images before its
    end, and samples with as many steps instead.

    Attributes:
        shares: shares of the steps.
    """

    kind: ClassVar[str] = "curve"

    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 1.0)

    @property
    def image_steps(self) -> int:
        return len(self.prompts) * self.steps

    def measure(self) -> dict[str, Any]:
        """Steps, passes per image, and ``all`` and ``objective`` of every prompt at each share."""
        points = self._sample() if self.name == SAMPLING else self._distill()
        evaluator, out = shared_evaluator("cpu"), []
        for steps, passes, images in points:
            judged = judge_images(images, self.prompts, evaluator)
            objective = [
                tuning_objective(image[None], [prompt], evaluator)
                for image, prompt in zip(images, self.prompts, strict=True)
            ]
            values = {"all": judged["all"].by_unit, "objective": objective}
            out.append({"steps": steps, "passes": passes, **values})
        return {"points": out}

    def _stops(self) -> list[int]:
        return sorted({max(round(share * self.steps), 1) for share in self.shares})

    def _sample(self) -> list[tuple[int, float, UInt8[Tensor, "n 3 h w"]]]:
        """Steps, passes per image and images of samples."""
        prior = load_prior(self.precision)
        cells = [replace(self.cell(self.prompts), steps=steps) for steps in self._stops()]
        results = [compute_cell(cell, prior) for cell in cells]
        return [(result.steps, result.passes, result.images) for result in results]

    def _distill(self) -> list[tuple[int, float, UInt8[Tensor, "n 3 h w"]]]:
        """Steps, passes per image and images of runs, of one prompt each if they train a critic."""
        runs = [self._run(group) for group in self.prompt_groups()]
        return [
            (
                steps,
                sum(run[i][0] for run in runs) / len(self.prompts),
                torch.cat([run[i][1] for run in runs]),
            )
            for i, steps in enumerate(self._stops())
        ]

    def _run(self, prompts: tuple[str, ...]) -> list[tuple[int, UInt8[Tensor, "n 3 h w"]]]:
        """Passes so far and images of a run at every stop; gray images from a bad value on."""
        prior = load_prior(self.precision)
        before, out = network_passes(prior), []  # first: the setup of a run may call the network
        run = Run(experiment_of(self.cell(self.prompts), prompts), prior)
        for stop in self._stops():
            try:
                while run.step < stop:
                    run.advance()
                images = decoded_images(run)
            except NonFiniteError:  # every later attempt of the same step fails as well
                images = torch.full((len(prompts), 3, *prior.image_size), 0.5)
            out.append((network_passes(prior) - before, to_bytes(images)))
        return out


def curve_points(result: Mapping[str, Any]) -> tuple[CurvePoint, ...]:
    """The curve with its intervals.

    Args:
        result: result of ``QualityCurve``.
    """

    def share(values: Sequence[float]) -> Estimate:
        return mean_estimate(values, SHARE)

    return tuple(
        CurvePoint(point["steps"], point["passes"], share(point["all"]), share(point["objective"]))
        for point in result["points"]
    )

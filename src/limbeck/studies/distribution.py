"""Is the distribution recovered, where it is known?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.noise import FixedPerParticleNoise
from limbeck.distillation.timesteps.deterministic import LinearTimesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import LambdaWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture
from limbeck.representations.latents import Latents
from limbeck.runs.report.schedule_plots import save
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.trainer import Run


def mixture() -> GaussianMixture:
    """Three round Gaussians of unequal weight and width in the plane."""
    means = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]])
    return GaussianMixture(means, torch.tensor([0.5, 0.35, 0.35]), torch.tensor([0.5, 0.3, 0.2]))


def energy_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|, 0 for equal distributions (Szekely & Rizzo 2013)."""
    own = lambda x: torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))  # noqa: E731
    return float(2 * torch.cdist(a, b).mean() - own(a) - own(b))


def _told(figures: dict) -> str:
    words = {
        name: " ".join(f"{value:.2f}" for value in figures[name]) for name in ("shares", "widths")
    }
    return f"shares {words['shares']}\nwidths {words['widths']}\nenergy distance {figures['energy']:.3f}"


@dataclass(frozen=True)
class DistributionStudy(Study):
    """Many particles on a mixture of three Gaussians with exact scores and guidance 1: where do SDS, VSD with the exact critic, and
    one fixed noise per particle (CFD) take them? Shares of the modes, widths and energy distance to the truth are measured.
    """

    particles: int = 2048
    steps: int = 1000
    rate: float = 0.02

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        cfd: dict = {
            "noise": FixedPerParticleNoise(),
            "timesteps": LinearTimesteps(),
            "weight": LambdaWeight(),
            "optimizer": Adam(beta1=0.0),
        }
        return {
            "SDS": self._of(SDS(1.0)),
            "VSD, exact critic": self._of(VSD(1.0, critic=ExactCritic())),
            "CFD": self._of(SDS(1.0), **cfd),
        }

    def _of(self, method: Method, **other: object) -> Experiment:
        usual: dict = {
            "timesteps": UniformTimesteps(),
            "optimizer": Adam(fall=0.5),
            "representation": Latents(self.rate),
        } | other
        return Experiment(
            ("all",),
            method=method,
            particles=self.particles,
            steps=self.steps,
            seed=self.seed,
            **usual,
        )

    def run(self, out: Path, device: str = "auto") -> Path:
        out.mkdir(parents=True, exist_ok=True)
        toy, rng = mixture(), torch.Generator().manual_seed(self.seed)
        rows, centres = self.rows(), toy.means.float()
        which = torch.multinomial(
            torch.tensor([0.5, 0.3, 0.2]), self.particles, replacement=True, generator=rng
        )
        truth = centres[which] + toy.stds.float()[which, None] * torch.randn(
            self.particles, 2, generator=rng
        )
        ended = {"truth": truth} | {
            label: self._ended(what, toy)
            for label, what in rows.items()
            if isinstance(what, Experiment)
        }
        figures = {label: self._measured(x, centres, truth) for label, x in ended.items()}
        (out / "figures.json").write_text(json.dumps(figures, indent=1))
        figure = Figure(figsize=(2.6 * len(ended), 3.9), layout="constrained")
        for panel, (label, x) in zip(
            figure.subplots(1, len(ended), sharex=True, sharey=True), ended.items(), strict=True
        ):
            panel.plot(*x.T, ".", markersize=1.5, alpha=0.5)
            panel.set(title=label, xlim=(-4, 3.5), ylim=(-3.5, 3.5), aspect="equal")
            told = figures[label]
            shares = " ".join(f"{s:.2f}" for s in told["shares"])
            panel.set_xlabel(
                f"shares {shares}\nwidths {' '.join(f'{w:.2f}' for w in told['widths'])}\nenergy distance {told['energy']:.3f}"
            )
        save(figure, out / "study.png")
        return out / "study.png"

    def _ended(self, what: Experiment, toy: GaussianMixture) -> Tensor:
        run = Run(what, toy)
        while run.step < what.steps:
            run.advance()
        return run.representation.render(RenderRequest(torch.arange(what.total))).image.detach()

    @staticmethod
    def _measured(x: Tensor, centres: Tensor, truth: Tensor) -> dict:
        near = torch.cdist(x, centres).argmin(1)
        widths = [
            float((x[near == k] - x[near == k].mean(0)).square().mean().sqrt())
            for k in range(len(centres))
        ]
        return {
            "shares": [round(float((near == k).float().mean()), 3) for k in range(len(centres))],
            "widths": [round(w, 3) for w in widths],
            "energy": round(energy_distance(x, truth), 4),
        }

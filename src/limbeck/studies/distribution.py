"""Which methods recover a distribution that is known?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from limbeck.diffusion.model_options import Precision
from limbeck.diffusion.prior import Prior
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
from limbeck.metrics.energy_distance import energy_distance
from limbeck.metrics.mixture_modes import mode_shares
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.loading import pick_device
from limbeck.representations.latents import Latents
from limbeck.runs.report.schedule_plots import save_figure
from limbeck.studies.base import Study
from limbeck.system.files import read_json_object, write_text
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.trainer import Run

_SHARES = (0.5, 0.3, 0.2)  #: weights of the modes


def three_gaussians() -> GaussianMixture:
    """Three isotropic Gaussians of unequal weight and width in the plane."""
    means = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]])
    return GaussianMixture(means, torch.tensor([0.5, 0.35, 0.35]), torch.tensor(_SHARES))


@dataclass(frozen=True)
class DistributionStudy(Study):
    """SDS, VSD with the exact critic and CFD on a mixture of three Gaussians.

    Scores are exact and the guidance scale is 1. CFD is SDS with one fixed noise per particle.
    Shares and widths of the modes and the energy distance to samples of the mixture are
    measured.
    """

    particles: int = field(default=2048, metadata={"minimum": 2})  # a distance needs pairs
    steps: int = 1000
    lr: float = 0.02
    prompts: tuple[str, ...] = field(default=("all",), init=False)
    model: str = field(default="three Gaussians", init=False)
    precision: Precision = field(default="auto", init=False)  # exact scores have no weights

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        cfd: dict[str, Any] = {
            "noise": FixedPerParticleNoise(),
            "timesteps": LinearTimesteps(),
            "weight": LambdaWeight(),
            "optimizer": Adam(decay_start=1.0, beta1=0.0),
        }
        return {
            "SDS": self._experiment(SDS(1.0)),
            "VSD, exact critic": self._experiment(VSD(1.0, critic=ExactCritic())),
            "CFD": self._experiment(SDS(1.0), **cfd),
        }

    def _experiment(self, method: Method, **changes: Any) -> Experiment:
        settings: dict[str, Any] = {
            "timesteps": UniformTimesteps(),
            "optimizer": Adam(decay_start=0.5),
            "representation": Latents(self.lr),
            "particles": self.particles,
            "steps": self.steps,
            "seed": self.seed,
        }
        return Experiment(self.prompts, method=method, **(settings | changes))

    def load_prior(self, device: str) -> GaussianMixture:
        pick_device(device)  # refuses one that is not there; exact scores need none
        return three_gaussians()

    def _run(self, out: Path, prior: Prior) -> Path:
        assert isinstance(prior, GaussianMixture)
        self._refuse_other_options(out)
        truth = self._samples(prior, draw=0)  # another draw than the one that is shown
        points = {"samples": self._samples(prior, draw=1)}
        for label, row in self.rows().items():
            assert isinstance(row, Experiment)
            points[label] = _final_points(row, prior)
        means = prior.means.float()
        metrics = {label: _measure(x, means, truth) for label, x in points.items()}
        write_text(out / "metrics.json", json.dumps(metrics, indent=1))
        figure = Figure(figsize=(2.6 * len(points), 3.9), layout="constrained")
        panels = figure.subplots(1, len(points), sharex=True, sharey=True)
        for panel, (label, x) in zip(panels, points.items(), strict=True):
            panel.plot(*x.T, ".", markersize=1.5, alpha=0.5)
            panel.set(title=label, xlim=(-4, 3.5), ylim=(-3.5, 3.5), aspect="equal")
            panel.set_xlabel(_caption(metrics[label]))
        save_figure(figure, out / "study.png")
        return out / "study.png"

    def _refuse_other_options(self, out: Path) -> None:
        """Note the options in the folder; raise ValueError if it holds results of others.

        The runs have no folders of their own that would refuse them.
        """
        names = ("particles", "steps", "lr", "seed")
        path, own = out / "options.json", {name: getattr(self, name) for name in names}
        before = read_json_object(path) if path.is_file() else own
        for name, value in own.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{out} holds this study with {name} {before.get(name)}, not {value}: choose "
                    "another folder"
                )
        write_text(path, json.dumps(own) + "\n")

    def _samples(self, prior: GaussianMixture, draw: int) -> Float[Tensor, "n 2"]:
        """An independent draw of samples of the mixture, as many as particles."""
        rng = torch.Generator().manual_seed(2 * self.seed + draw)
        shares = torch.tensor(_SHARES)
        mode = torch.multinomial(shares, self.particles, replacement=True, generator=rng)
        noise = torch.randn(self.particles, 2, generator=rng)
        return prior.means.float()[mode] + prior.stds.float()[mode, None] * noise


def _final_points(experiment: Experiment, prior: GaussianMixture) -> Float[Tensor, "n 2"]:
    """Particles after the last step."""
    run = Run(experiment, prior)
    while run.step < experiment.steps:
        run.advance()
    particles = RenderRequest(torch.arange(experiment.total))
    return run.representation.render(particles).image.detach()


def _measure(
    points: Float[Tensor, "n 2"], means: Float[Tensor, "k 2"], samples: Float[Tensor, "m 2"]
) -> dict[str, Any]:
    """Share and standard deviation of the points nearest to each mean, and energy distance.

    The standard deviation is None where no point is nearest.
    """
    nearest = torch.cdist(points, means).argmin(1)
    groups = [points[nearest == k] for k in range(len(means))]
    widths = [
        round(float((group - group.mean(0)).square().mean().sqrt()), 3) if len(group) else None
        for group in groups
    ]
    return {
        "shares": [round(share, 3) for share in mode_shares(points, means).tolist()],
        "widths": widths,
        "energy_distance": round(energy_distance(points, samples), 4),
    }


def _caption(metrics: dict[str, Any]) -> str:
    shares = " ".join(f"{share:.2f}" for share in metrics["shares"])
    widths = " ".join("-" if width is None else f"{width:.2f}" for width in metrics["widths"])
    energy = metrics["energy_distance"]
    return f"shares {shares}\nwidths {widths}\nenergy distance {energy:.3f}"

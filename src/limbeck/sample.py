"""Plain sampling, DDIM and ancestral, from any prior: the reference every method is compared with, and a look into a saved
critic."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from limbeck.prior import Conditions, Precision, Prior, guided
from limbeck.schedule import expand


@dataclass(frozen=True)
class Sampling:
    """What is sampled.

    prompts: one or more texts. negative: what guidance leads away from. model: as in a run. seed: of the noise.
    precision: of the frozen weights, as in a run. steps: network
    calls per picture. guidance: 1 is none. sampler: ddim (deterministic) or ancestral.
    count: pictures per prompt. critic: a run folder whose critic is sampled instead of the prior.
    """

    prompts: tuple[str, ...]
    negative: str = ""
    model: str = "world"
    steps: int = 50
    guidance: float = 5.0
    sampler: Literal["ddim", "ancestral"] = "ddim"
    count: int = 4
    seed: int = 0
    critic: Path | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise ValueError("a prompt is missing: give at least one text that is not empty")
        for name in ("steps", "count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@torch.no_grad()
def sample(prior: Prior, told: Conditions, start: Float[Tensor, "b ..."], steps: int, guidance: float, eta: float = 0.0,
           rng: torch.Generator | None = None) -> Float[Tensor, "b ..."]:  # fmt: skip
    """From noise at the schedule's last time down to x0 in ``steps`` network calls.

    eta 0 is DDIM (Song et al. 2020, eq. 12), 1 ancestral sampling; what lies between scales its noise, eq. 16.
    """
    times = prior.schedule.ladder(steps).to(start.device)
    xt = start
    for i, t in enumerate(times):
        now = t.expand(len(xt))
        said = guided(prior, xt, now, told, guidance)
        if i + 1 == len(times):
            return said.x0
        later = times[i + 1].expand(len(xt))
        a, s = prior.schedule.alpha(now), prior.schedule.sigma(now)
        b, r = prior.schedule.alpha(later), prior.schedule.sigma(later)
        fresh = eta * (r / s) * (1 - (a / b) ** 2).clamp_min(0).sqrt()
        kept = (r**2 - fresh**2).clamp_min(0).sqrt()
        xt = expand(b, xt) * said.x0 + expand(kept, xt) * said.eps
        if eta > 0:
            xt = xt + expand(fresh, xt) * torch.randn(xt.shape, generator=rng).to(xt)
    raise ValueError(f"steps must be at least 1, not {steps}")


def saved_critic(folder: Path, prior: Prior) -> Prior:
    """The critic of a finished or unfinished run, as a prior. ValueError where the run has none."""
    from limbeck.checkpoint import read_checkpoint
    from limbeck.config import load
    from limbeck.run import Run

    if not (folder / "run.yaml").exists():
        raise ValueError(f"{folder} is no run folder: it has no run.yaml")
    run = Run(load((folder / "run.yaml").read_text()), prior)
    tensors, note = read_checkpoint(folder / "checkpoint.safetensors")
    run.load(tensors, note["step"])
    critic = run.experiment.method.critic_prior(prior, run.state)
    if critic is None:
        raise ValueError(f"{folder}: method {type(run.experiment.method).__name__} has no critic to sample from")
    return critic


def sample_to_folder(sampling: Sampling, prior: Prior, folder: Path) -> Path:
    """Sample and write final.png, final/, sample.yaml, scores.json and cost.json; returns final.png."""
    from limbeck.metrics import score_pictures
    from limbeck.pictures import save_finals

    told = Conditions(prior.condition(sampling.prompts), prior.condition([sampling.negative] * len(sampling.prompts)))
    source = saved_critic(sampling.critic, prior) if sampling.critic else prior
    rows = torch.arange(len(sampling.prompts)).repeat_interleave(sampling.count).to(prior.device)
    rng = torch.Generator().manual_seed(sampling.seed)
    noise = torch.randn(len(rows), *prior.shape, generator=rng).to(prior.device)
    before, began = prior.meter.rows, time.perf_counter()
    eta = 1.0 if sampling.sampler == "ancestral" else 0.0
    images = [
        prior.decode(
            sample(source, told[rows[i : i + 32]], noise[i : i + 32], sampling.steps, sampling.guidance, eta, rng)
        ).detach()
        for i in range(0, len(rows), 32)
    ]
    pictures = torch.cat(images).cpu()
    seconds = time.perf_counter() - began
    save_finals(folder, pictures, sampling.count)
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(sampling).items()}
    plain["prompts"] = list(sampling.prompts)
    (folder / "sample.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    (folder / "scores.json").write_text(json.dumps(score_pictures(pictures, sampling.prompts, sampling.count), indent=1))
    cost = {"seconds": {"sampling": seconds}, "evaluations": prior.meter.rows - before}
    (folder / "cost.json").write_text(json.dumps(cost, indent=1))
    return folder / "final.png"

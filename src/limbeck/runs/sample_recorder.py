"""Samples that leave a folder behind, of a model or of a run's critic."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml

from limbeck.training.experiment import Experiment
from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.system.checkpoint import read_checkpoint
from limbeck.config.yaml import from_yaml
from limbeck.distillation.critics.base import Critic
from limbeck.metrics.run_scores import score_pictures
from limbeck.runs.images import save_finals
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.training.trainer import Run
from limbeck.diffusion.sampling import Sampling, sample


def saved_critic(folder: Path, prior: Prior, camera: bool = False) -> Prior:
    """The critic of a finished or unfinished run, as a prior. ValueError where the run has none, or none that knows cameras."""
    if not (folder / "run.yaml").exists():
        raise ValueError(f"{folder} is no run folder: it has no run.yaml")
    run = Run(from_yaml(Experiment, (folder / "run.yaml").read_text()), prior)
    tensors, note = read_checkpoint(folder / "checkpoint.safetensors")
    run.load(tensors, note["step"])
    critic = run.experiment.method.critic_prior(prior, run.state)
    if critic is None:
        raise ValueError(f"{folder}: method {type(run.experiment.method).__name__} has no critic to sample from")
    if camera and not (isinstance(run.state, Critic) and run.state.camera):
        raise ValueError(f"{folder}: its critic was told no cameras; leave --camera out")
    return run.state.standalone() if isinstance(run.state, Critic) else critic


def sample_to_folder(sampling: Sampling, prior: Prior, folder: Path) -> Path:
    """Sample and write final.png, final/, sample.yaml, scores.json and cost.json; returns final.png."""
    source = saved_critic(sampling.critic, prior, bool(sampling.camera)) if sampling.critic else prior
    told = Conditions(source.condition(sampling.prompts), source.condition([sampling.negative_prompt] * len(sampling.prompts)))
    if sampling.camera:
        azimuth, elevation, distance = (torch.full((len(sampling.prompts),), number) for number in sampling.camera)
        pose = orbit_cameras(azimuth.deg2rad(), elevation.deg2rad(), distance, 40.0).pose.to(prior.device)  # whatever its field of view
        told = Conditions(replace(told.pos, pose=pose), replace(told.null, pose=pose))
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
    plain["prompts"], plain["camera"] = list(sampling.prompts), list(sampling.camera)
    (folder / "sample.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    (folder / "scores.json").write_text(json.dumps(score_pictures(pictures, sampling.prompts, sampling.count), indent=1))
    cost = {"elapsed": seconds, "seconds": {"sampling": seconds}, "evaluations": prior.meter.rows - before}
    (folder / "cost.json").write_text(json.dumps(cost, indent=1))
    return folder / "final.png"

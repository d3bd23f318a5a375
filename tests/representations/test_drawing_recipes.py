"""The recipes of VectorFusion and SVGDreamer on their page run, with a tiny model in place."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limbeck.config.command_line import parse
from limbeck.distillation.augmentations import PerspectiveCrop
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

PAGE = Path(__file__).parents[2] / "docs/representations.md"


def recipe(method: str) -> Experiment:
    """The command for Stable Diffusion with this method on the page."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = (
        found
        for found in re.findall(r"^    limbeck run (.+)$", text, re.M)
        if f"--method {method} " in found and "stable-diffusion" in found
    )
    (experiment,) = parse([(Experiment, None)], shlex.split(command), "run", "", "prompts")
    return experiment


@pytest.mark.parametrize("method", ["sds", "vsd"])
def test_a_recipe_runs(method: str, prior) -> None:
    experiment = recipe(method)
    run = Run(replace(experiment, model="world", precision="float32"), prior)
    contours = list(run.representation.params["points"])
    critic = [] if method == "sds" else [p.clone() for p in run.state.adapters.parameters()]
    for _ in range(2):
        before = [p.detach().clone() for p in contours]
        step = run.advance()
        moved = [i for i, p in enumerate(contours) if not torch.equal(p, before[i])]
        assert moved == step.inputs.particle.tolist()
        assert bool(step.gradient.isfinite().all())
    if method == "vsd":
        trained = list(run.state.adapters.parameters())
        assert any(not torch.equal(p, q) for p, q in zip(trained, critic, strict=True))


def test_the_recipes_have_the_numbers_of_their_code() -> None:
    sds = recipe("sds")
    assert sds.method == SDS(100.0)
    assert (sds.timesteps.t_min, sds.timesteps.t_max) == (0.05, 0.95)
    assert (sds.representation.num_paths, sds.steps) == (128, 1000)
    assert sds.augmentation == PerspectiveCrop(0.5, 0.7, 1 - 512 / 600, 0.0)
    vpsd = recipe("vsd")
    assert isinstance(vpsd.method, VSD) and isinstance(vpsd.method.critic, LoRACritic)
    assert (vpsd.method.guidance, vpsd.method.critic.rank) == (7.5, 4)
    assert (vpsd.representation.num_paths, vpsd.steps) == (256, 2000)
    training = vpsd.method.critic.training
    assert (vpsd.total, vpsd.batch_size, training.batch_size, training.lr) == (6, 4, 2, 1e-4)
    assert (vpsd.timesteps.t_max, vpsd.timesteps.late_t_max) == (0.98, 0.5)

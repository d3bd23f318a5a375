"""What needs CUDA: the same steps as on the CPU. Run with `make gpu`."""

from __future__ import annotations

import pytest
import torch

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("representation", [Latents(), Pixels()])
@pytest.mark.parametrize(
    "method",
    [
        SDS(7.5),
        VSD(critic=LoRACritic(4)),
        VSD(critic=SmallUNetCritic(16, CriticTraining(lr=1e-3))),
    ],
)
def test_three_steps_agree_with_the_cpu(eps_folder, method, representation):
    experiment = Experiment(
        ("a red mug", "a blue car"),
        method=method,
        representation=representation,
        particles=2,
        steps=3,
    )
    runs = [Run(experiment, StableDiffusion(str(eps_folder), device)) for device in ("cpu", "cuda")]
    for _ in range(3):
        for run in runs:
            run.advance()
    for a, b in zip(*(run.representation.parameters() for run in runs), strict=True):
        assert torch.allclose(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-3)


def test_sixteen_bits_stay_near(eps_folder):
    experiment = Experiment(("a red mug",), method=VSD(), particles=2, steps=2)
    kept = []
    for dtype in (torch.float32, torch.bfloat16):
        run = Run(experiment, StableDiffusion(str(eps_folder), "cuda", dtype))
        step = run.advance()
        kept.append(step.gradient)
    assert (kept[0] - kept[1]).norm() < 0.05 * kept[0].norm()

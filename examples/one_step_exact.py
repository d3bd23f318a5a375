"""One-step generators of a law that is known: the table on exact priors of docs/one-step.md.

    python examples/one_step_exact.py                        # eight seeds: a quarter of an hour
    python examples/one_step_exact.py --seeds 2 --steps 200  # to try it

Every method trains a multilayer perceptron on three Gaussians in the plane (plane_prior.py), with
the same batch, learning rates and number of steps. Its samples are compared with true draws.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.sampling import sample_x0
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.discriminators.exact import ExactDiscriminator
from limbeck.distillation.weights import UniformWeight
from limbeck.methods.base import Method
from limbeck.methods.denoising_student import DenoisingStudent
from limbeck.methods.dmd2 import DMD2
from limbeck.methods.f_distill import FDistill
from limbeck.methods.sds import SDS
from limbeck.methods.sid import SiD
from limbeck.methods.sim import SIM
from limbeck.methods.vsd import VSD
from limbeck.metrics.energy_distance import energy_distance
from limbeck.metrics.intervals import Interval, mean_interval
from limbeck.metrics.mixture_modes import mode_error, mode_shares, mode_spread
from limbeck.metrics.true_law import draw_from_law
from limbeck.representations.generator import Generator, OneStepGenerator
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.trainer import Run

PROMPT, BATCH, COUNT = "all", 256, 4096
LR = 1e-3  #: of generator and critic
CRITIC = NetworkCritic(training=CriticTraining(lr=LR))
METHODS: Mapping[str, Method] = {
    "dmd2": DMD2(1.0, critic=CRITIC),
    "f-distill": FDistill(1.0, critic=CRITIC, discriminator=ExactDiscriminator()),
    "vsd": VSD(1.0, critic=CRITIC),
    "sid": SiD(1.0, critic=CRITIC),
    "sim": SIM(1.0, critic=CRITIC),
    "sds": SDS(1.0),
    "denoising-student": DenoisingStudent(1.0, 10),
}
METRICS: Mapping[str, tuple[float, float]] = {
    "energy distance": (-torch.inf, torch.inf),
    "mode error": (0.0, 1.0),
    "spread": (0.0, torch.inf),
}


def plane() -> type:
    """The class of plane_prior.py."""
    path = Path(__file__).with_name("plane_prior.py")
    spec = importlib.util.spec_from_file_location("plane_prior", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Plane


def train(method: Method, steps: int, seed: int) -> Tensor:
    """Train a generator and return samples of its EMA weights."""
    experiment = Experiment(
        (PROMPT,),
        model=plane()(),
        method=method,
        representation=Generator(lr=LR, critic_warmup=100),
        weight=UniformWeight(),
        optimizer=Adam(decay_start=0.5),
        batch_size=BATCH,
        steps=steps,
        seed=seed,
    )
    run = Run(experiment, experiment.model)
    while run.step < steps:
        run.advance()
    assert isinstance(run.representation, OneStepGenerator)
    z = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(seed))
    condition = run.prior.condition([PROMPT])[torch.zeros(COUNT, dtype=torch.long)]
    with torch.no_grad():
        return run.representation.sample(z, condition)


def ddim(steps: int, seed: int) -> Tensor:
    """Samples of DDIM."""
    prior = plane()()
    z = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(seed))
    condition = prior.condition([PROMPT])[torch.zeros(COUNT, dtype=torch.long)]
    return sample_x0(prior, Conditions(condition, condition), z, steps, 1.0)


def judge(points: Tensor, seed: int) -> dict[str, float]:
    """Compare points with true draws."""
    prior = plane()()
    rng = torch.Generator().manual_seed(1000 + seed)
    true = draw_from_law(prior, PROMPT, COUNT, rng)
    shares = mode_shares(points.double(), prior.means.double())
    return {
        "energy distance": energy_distance(points, true),
        "mode error": mode_error(shares, prior.weights.double()),
        "spread": mode_spread(points.double(), prior.means.double(), prior.stds.double()),
    }


def formatted(values: list[float], bounds: Interval, is_difference: bool = False) -> str:
    """Mean over the seeds and its interval, in bold if it excludes zero."""
    interval = mean_interval(values, bounds, is_difference)
    sign = "+" if is_difference else ""
    text = f"{sum(values) / len(values):{sign}.3f}"
    if interval is not None:
        text += f" [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"
        if is_difference and interval[0] * interval[1] > 0:
            text = f"**{text}**"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, help="trainings of every method")
    parser.add_argument("--steps", type=int, default=1000, help="steps of a training")
    arguments = parser.parse_args()
    rows: dict[str, Callable[[int], Tensor]] = {
        "true draws": lambda seed: draw_from_law(
            plane()(), PROMPT, COUNT, torch.Generator().manual_seed(seed)
        ),
        "DDIM, 10 steps": lambda seed: ddim(10, seed),
        "DDIM, 50 steps": lambda seed: ddim(50, seed),
    }
    for name, method in METHODS.items():
        rows[name] = lambda seed, method=method: train(method, arguments.steps, seed)
    first: dict[str, list[float]] = {}
    print("| | seconds | energy distance | minus dmd2 | mode error | spread |")
    print("|---|---|---|---|---|---|")
    for name, draw in rows.items():
        start = time.process_time()
        found = [judge(draw(seed), seed) for seed in range(arguments.seeds)]
        seconds = (time.process_time() - start) / arguments.seeds
        values = {metric: [result[metric] for result in found] for metric in METRICS}
        first = values if name == "dmd2" else first
        energy, cells = values["energy distance"], {}
        for metric, bounds in METRICS.items():
            cells[metric] = formatted(values[metric], bounds)
        minus = ""
        if first and name != "dmd2":
            pairs = zip(energy, first["energy distance"], strict=True)
            minus = formatted(
                [own - other for own, other in pairs], METRICS["energy distance"], True
            )
        own = [f"{seconds:.0f}", cells["energy distance"], minus]
        print(
            f"| {name} | {' | '.join([*own, cells['mode error'], cells['spread']])} |", flush=True
        )


if __name__ == "__main__":
    main()

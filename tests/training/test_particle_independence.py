"""Particle 0 of 1 equals particle 0 of 64, for every noise, timesteps and method.

So does particle 0 of a second prompt, which is not the first row.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from own_meshes import mapped_box
from small_2d import write_noise_image, write_test_image
from tiny_pipeline import max_difference

from limbeck.config.discovery import choices
from limbeck.distillation.noise import Noise
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.distillation.timesteps.base import RandomTimesteps, Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.lmc import LMC
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.priors.loading import load
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.latents import Latents
from limbeck.representations.noise import NoiseMap
from limbeck.system.random import RunSeed
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

#: Methods whose particles interact: a critic shared by the particles, or repulsion.
COUPLED = {"csd-edit", "dmd2", "esd", "f-distill", "repulsive", "reward-vsd"} | {
    "sid",
    "sim",
    "svgd",
    "trace",
    "vsd",
}
#: Methods that compare attention features, which an exact prior has none of.
NETWORK_ONLY = {"cds"}
EDITS = {"bridge", "reward-bridge"} | {
    n for n, cls in choices(EditMethod).items() if cls.needs_source
}
PROMPTS = ("red disc", "blue ring")
#: Representations that start from images of the user's.
FROM_IMAGES = {"inpainting", "noise-map"}
#: Representations with one network for all particles.
ONE_NETWORK = {"generator"}


@pytest.fixture(scope="module")
def prior() -> GaussianMixture:
    return colored_shapes(6)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write_noise_image(tmp_path_factory.mktemp("image") / "noise.png", 6)


def experiment_of(name: str, image) -> Experiment:
    method = (
        LMC(projection=LearnedProjection(4, 3, 3)) if name == "lmc" else choices(Method)[name]()
    )
    if method.optimizes == "noise":
        noise = NoiseMap(images=(image,))
        start = {"representation": noise, "source_prompt": ("blue ring",)}
        return Experiment(("red disc",), method=method, steps=3, **start)
    times = UniformTimesteps(per_row=not method.needs_shared_times)
    e = Experiment(("red disc",), method=method, steps=3, timesteps=times)
    if name in EDITS:
        start = Latents(images=(image,), init_std=0.1)
        return replace(e, source_prompt=("blue ring",), representation=start)
    return e


def run_of(e: Experiment, prior, particles: int) -> Run:
    run = Run(replace(e, particles=particles), prior)
    for _ in range(e.steps):
        run.advance()
    return run


def particle_zero(run: Run) -> torch.Tensor:
    """The first particle of each prompt."""
    with torch.no_grad():
        return run.representation.render(run.eval_request(1)).image[:: run.experiment.particles]


def check_particle_zero(e: Experiment, prior, others: int = 64) -> None:
    alone, among = (run_of(e, prior, n) for n in (1, others))
    assert max_difference(particle_zero(alone), particle_zero(among)) < 1e-6
    initial = Run(e, prior)
    assert max_difference(particle_zero(alone), particle_zero(initial)) > 1e-4  # it has moved


@pytest.mark.parametrize("name", sorted(set(choices(Method)) - COUPLED - NETWORK_ONLY))
def test_methods(name: str, prior, image) -> None:
    check_particle_zero(experiment_of(name, image), prior)


@pytest.mark.parametrize("name", sorted(set(choices(Method)) - COUPLED - NETWORK_ONLY - EDITS))
def test_methods_with_two_prompts(name: str, prior, image) -> None:
    e = experiment_of(name, image)
    if not e.source_prompt:  # a noise map has one prompt
        check_particle_zero(replace(e, prompts=PROMPTS), prior, others=3)


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
@pytest.mark.parametrize("noise", choices(Noise).values())
def test_noises(noise: type, prompts: tuple[str, ...], prior) -> None:
    if not noise.needs_views:
        check_particle_zero(Experiment(prompts, noise=noise(), steps=3), prior)
        return
    cameras, splats = Orbit(2, view_prompts=("", "", "", "")), GaussianSplats(num_gaussians=12)
    e = Experiment(prompts, noise=noise(), representation=splats, cameras=cameras, steps=3)
    few, many = (Run(replace(e, particles=n), prior).advance().inputs.eps for n in (1, 8))
    for few_rows, many_rows in zip(few.split(2), many.split(16), strict=True):
        # rounding of the depth moves single texels over the edge of a pixel
        assert float(((few_rows - many_rows[:2]).abs() < 1e-5).double().mean()) > 0.99


@pytest.mark.parametrize(
    "name", sorted(set(choices(RepresentationConfig)) - FROM_IMAGES - ONE_NETWORK)
)
def test_initial_values_with_two_prompts(name: str, prior, tmp_path) -> None:
    options = {}
    if name == "mesh":
        options["from_"] = tmp_path / "box.glb"
        mapped_box().export(options["from_"])
    config = choices(RepresentationConfig)[name](**options)
    few, many = (dict(config.build(prior, 2 * n, RunSeed(5, n)).named_parameters()) for n in (1, 3))
    if name == "latents":  # all particles in one tensor
        assert torch.equal(few["particles.all"][1], many["particles.all"][3])
        return
    number = re.compile(r"^((?:\w*[a-z]\w*\.)+)1(?=\.|$)")
    compared = {key: number.sub(r"\g<1>3", key) for key in few}
    compared = {key: other for key, other in compared.items() if key != other}
    assert len(compared) == len(few) / 2
    assert all(torch.equal(few[key], many[other]) for key, other in compared.items())


@pytest.mark.parametrize("name", ["strokes", "paths", "gaussians-2d", "siren", "fourier"])
def test_initial_values_with_an_image_per_prompt(name: str, prior, tmp_path) -> None:
    images = tuple(write_test_image(tmp_path / f"{i}.png", 16, 16, 0.4 * i) for i in range(2))
    config = choices(RepresentationConfig)[name](images=images, init_steps=0)
    few, many = (config.build(prior, 2 * n, RunSeed(5, n)) for n in (1, 3))
    for key in few.params:
        assert torch.equal(few.params[key][1], many.params[key][3]), key


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
@pytest.mark.parametrize("cls", choices(Timesteps).values())
def test_timesteps(cls: type, prompts: tuple[str, ...], per_row: bool, prior) -> None:
    timesteps = cls(per_row=per_row) if issubclass(cls, RandomTimesteps) else cls()
    check_particle_zero(Experiment(prompts, timesteps=timesteps, steps=3), prior)


@pytest.mark.parametrize("name", sorted(COUPLED))
def test_coupled_methods_draw_the_same_for_a_particle(name: str, prior) -> None:
    source = ("blue ring",) if name in EDITS else ()
    method = choices(Method)[name]()
    e = Experiment(("red disc",), source_prompt=source, method=method, steps=1)
    if method.needs_shared_times:
        e = replace(e, timesteps=UniformTimesteps(per_row=False))
    few, many = (Run(replace(e, particles=n), prior).advance().inputs for n in (2, 64))
    for key in ("t", "eps", "x0"):
        assert torch.equal(getattr(few, key)[0], getattr(many, key)[0])
    assert torch.equal(few.rng.normal("any", 5), many.rng[:2].normal("any", 5))


def test_a_particle_takes_the_same_draws_in_any_batch(prior) -> None:
    e = Experiment(("red disc",), method=SDS(7.5), particles=6, steps=3)
    whole, part = Run(e, prior), Run(replace(e, batch_size=2), prior)
    a, b = whole.advance().inputs, part.advance().inputs
    assert len(b.particle) == 2
    for key in ("t", "eps", "x0"):
        assert torch.equal(getattr(a, key)[b.particle], getattr(b, key))


@pytest.mark.parametrize("method", [SDS(7.5), choices(Method)["ism"](), VSD(7.5)])
def test_on_the_embedded_model(method: Method) -> None:
    prior = load("world", "cpu")
    e = Experiment(("a red mug",), method=method, steps=1)
    alone, among = (Run(replace(e, particles=n), prior) for n in (1, 3))
    first, second = alone.advance(), among.advance()
    assert torch.equal(first.inputs.eps[0], second.inputs.eps[0])
    assert torch.equal(first.inputs.t[0], second.inputs.t[0])
    if not isinstance(method, VSD):  # a shared critic couples the particles
        scale = float(first.gradient.abs().max())  # batched kernels round differently
        assert max_difference(first.gradient[0], second.gradient[0]) < 1e-4 * scale

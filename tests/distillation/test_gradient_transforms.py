"""Gradient transforms: their formulas, non-finite gradients, and their effect in a run."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ball_representation import Ball
from tiny_pipeline import f64, max_difference, normal

from limbeck.distillation.gradient_transforms import (
    Clip,
    Normalize,
    NormalizeBatch,
    NoTransform,
    PixelClip,
)
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.base import StatelessMethod
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run


def test_clip_bounds_every_element_and_its_bound_grows():
    g = 5 * normal(4, 6)
    clip = Clip(1.0, 3.0, end_at=0.5)
    for step, c in ((0, 1.0), (5, 2.0), (10, 3.0), (19, 3.0)):
        expected = torch.from_numpy(np.clip(g.numpy(), -c, c))
        assert max_difference(clip(g, step, 20), expected) == 0
    assert max_difference(Clip(1.0, 3.0, end_at=0.0)(g, 0, 20), g.clamp(-3, 3)) == 0
    assert max_difference(Clip(3.0, 1.0)(g, 10, 20), g.clamp(-2, 2)) == 0
    assert max_difference(Clip()(g, 0, 20), g.clamp(-2, 2)) == 0
    assert max_difference(Clip()(g, 20, 20), g.clamp(-8, 8)) == 0


def test_normalize_scales_every_row_and_keeps_zeros():
    g = normal(4, 3, 5, 5) * f64([1e-12, 1.0, 1e9, 0.0])[:, None, None, None]
    out = Normalize(2.0)(g, 0, 10)
    assert max_difference(out.square().mean((1, 2, 3)).sqrt()[:3], f64([2.0] * 3)) < 1e-12
    assert max_difference(out[3], torch.zeros(3, 5, 5)) == 0
    for a, b in zip(out[:3], g[:3], strict=True):
        assert max_difference(a / a.norm(), b / b.norm()) < 1e-12


@pytest.mark.parametrize("size", [1e20, 1e-24])
def test_squares_neither_overflow_nor_underflow(size):
    g = torch.full((1, 4), size)
    assert torch.allclose(Normalize()(g, 0, 1), torch.ones(1, 4))
    assert torch.allclose(NormalizeBatch(2.0)(g, 0, 1), torch.ones(1, 4))


def test_normalize_batch_is_the_l2_norm_over_all_rows_as_in_csds_code():
    """Rows of length 3 and 4 together have length 5."""
    g = f64([[3.0, 0.0], [0.0, -4.0]])
    assert max_difference(NormalizeBatch()(g, 0, 10), f64([[0.6, 0.0], [0.0, -0.8]])) < 1e-15
    assert max_difference(NormalizeBatch(10.0)(1e9 * g, 0, 10), 2 * g) < 1e-14
    assert max_difference(Normalize()(g, 0, 10), f64([[2**0.5, 0.0], [0.0, -(2**0.5)]])) < 1e-15
    assert max_difference(NormalizeBatch()(0 * g, 0, 10), 0 * g) == 0


@pytest.mark.parametrize(
    "transform",
    [Clip(0.01, 0.01), Normalize(0.5), NormalizeBatch(0.5)],
    ids=lambda g: type(g).__name__,
)
def test_the_particle_descends_the_transformed_gradient(transform):
    experiment = Experiment(
        ("red disc",),
        method=SDS(5.0),
        grad_transform=transform,
        representation=Latents(0.5),
        optimizer=SGD(),
        particles=2,
        steps=1,
    )
    run = Run(experiment, colored_shapes(8))
    before = torch.stack(list(run.representation.particles)).detach().clone()
    step = run.advance()
    plain = Run(replace(experiment, grad_transform=NoTransform()), colored_shapes(8)).advance()
    assert torch.equal(step.gradient, transform(plain.gradient, 0, 1))
    after = torch.stack(list(run.representation.particles))
    assert max_difference(after, before - 0.5 * step.gradient) < 1e-6


@dataclass(frozen=True)
class ConstantDirection(StatelessMethod):
    value: float = float("inf")

    def __call__(self, prior, inputs, state):
        return torch.full_like(inputs.x0, self.value)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(
    "transform", [Clip(), Normalize(), NormalizeBatch()], ids=lambda g: type(g).__name__
)
def test_a_non_finite_gradient_stays_non_finite(transform, value):
    method = ConstantDirection(value)
    experiment = Experiment(("red disc",), method=method, grad_transform=transform, steps=1)
    run = Run(experiment, colored_shapes(8))
    with pytest.raises(NonFiniteError, match="the direction the method returned"):
        run.advance()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Clip(0.0), "start_value must be positive, not 0.0"),
        (lambda: Clip(1.0, -1.0), "end_value must be positive, not -1.0"),
        (lambda: Clip(end_at=1.5), "end_at must be a fraction"),
        (lambda: Normalize(0.0), "rms must be positive, not 0.0"),
        (lambda: NormalizeBatch(-1.0), "norm must be positive, not -1.0"),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_identity_55_pixel_clip_shortens_each_pixel_and_keeps_its_direction():
    g = normal(2, 3, 5, 5) * 0.3
    out = PixelClip(0.1).of_image(g)
    largest = g.abs().amax(1)
    assert max_difference(out.abs().amax(1), largest.clamp(max=0.1)) < 1e-15
    assert max_difference(out * largest[:, None], g * out.abs().amax(1)[:, None]) < 1e-15
    assert max_difference(PixelClip(2.0).of_image(g), g) == 0
    assert max_difference(PixelClip(0.1).of_image(0 * g), 0 * g) == 0
    g[0, 0, 0, 0] = torch.inf  # the run must stop at it
    assert not bool(PixelClip(0.1).of_image(g).isfinite().all())


@pytest.mark.parametrize("views", [1, 2])
def test_pixel_clip_bounds_the_gradient_of_each_rendered_image(views):
    """Of pixels: the parameter is the image, so that one step of SGD shows its gradient."""
    cameras = {"representation": Ball(), "cameras": Orbit(per_particle=views)} if views > 1 else {}
    start = {"representation": Pixels(lr=1.0, num_levels=1)} | cameras
    gradients = {}
    for transform in (NoTransform(), PixelClip(1e9), PixelClip(0.01)):
        options = {"method": SDS(30.0), "optimizer": SGD(), "grad_transform": transform}
        run = Run(Experiment(("red disc",), steps=1, **start, **options), colored_shapes(8))
        seen = []
        render = run.render
        run.render = lambda request: _seen(render(request), seen)  # noqa: B023
        run.advance()
        gradients[transform] = seen[-1].image.grad
    free, loose, tight = gradients.values()
    assert torch.equal(free, loose)
    assert (views * free).abs().max() > 0.02
    assert max_difference(tight * views, PixelClip(0.01).of_image(free * views)) < 1e-9


def _seen(render, seen):
    if render.image.requires_grad:
        render.image.retain_grad()
        seen.append(render)
    return render


def test_pixel_clip_needs_rendered_images():
    experiment = Experiment(("red disc",), grad_transform=PixelClip(), representation=Latents())
    with pytest.raises(ValueError, match="pixel-clip changes the gradients of rendered images"):
        Run(experiment, colored_shapes(8))

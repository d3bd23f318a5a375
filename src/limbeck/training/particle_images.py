"""Images of the particles of a run."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.training.trainer import Run


def particle_images(run: Run, request: RenderRequest) -> Float[Tensor, "b 3 h w"]:
    """Return images of particles in [0, 1]; of noise, those that the method samples from it.

    Args:
        run: the run.
        request: the particles, with cameras if they are 3D.
    """
    method, prior = run.experiment.method.at(1.0), run.prior
    if method.optimizes != "noise":
        return run.representation.images(prior, request)
    conditions = replace(run.prompts.conditions_for(request.particle), denoise_steps=1)
    if run.source is not None:
        conditions = run.source.shown(conditions, request.particle)
    noise = run.representation.render(request).image
    return prior.decode(method.x0_of_noise(prior, noise, conditions))

"""Advice against out-of-memory errors."""

import re

import pytest
import torch

from limbeck.diffusion.model_options import Model
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.nerf import NeRF
from limbeck.system.out_of_memory import (
    MEMORY_ADVICE,
    insufficient_memory_message,
    is_out_of_memory,
    out_of_memory_advice,
)
from limbeck.training.experiment import Experiment


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (Experiment, {"particles", "batch_size", "precision"}),
        (Model, {"vae"}),
        (Orbit, {"per_particle"}),
        (NeRF, {"size", "resolution", "samples"}),
        (DMTet, {"grid_resolution"}),
        (GaussianSplats, {"num_gaussians"}),
    ],
)
def test_the_advice_names_existing_options(owner, names):
    assert names <= set(owner.__dataclass_fields__)
    for name in names:
        assert re.search(rf"[-.]{name.replace('_', '-')}\b", MEMORY_ADVICE)


def test_messages_are_one_line_with_the_advice():
    for message in (
        out_of_memory_advice("CUDA out of memory"),
        insufficient_memory_message(2 << 30, 1 << 30, "a step"),
    ):
        assert MEMORY_ADVICE in message and "\n" not in message


def test_errors_of_torch_and_python_are_recognized():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))

"""Sparse storage of checkpoints: small, and the same bit by bit."""

from __future__ import annotations

import torch
from safetensors import safe_open
from tiny_pipeline import normal

from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.dmtet import DMTet
from limbeck.system.checkpoint import SPARSE_MIN_SIZE, read_checkpoint, write_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def as_bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(torch.uint8) if value.ndim else value


def test_large_tensors_of_mostly_zeros_are_stored_as_values_and_indices(tmp_path):
    size, path = SPARSE_MIN_SIZE, tmp_path / "a.safetensors"
    sparse = torch.zeros(2, size // 2)
    sparse[0, 5], sparse[1, 7], sparse[1, 8], sparse[0, 9] = -0.0, torch.nan, torch.inf, 1e-45
    dense = normal(size, dtype=torch.float32)
    tensors = {
        "sparse": sparse,
        "dense": dense,
        "zero": torch.zeros(size),
        "small": torch.zeros(size - 1),
        "scalar": torch.tensor(3.0),
        "half": torch.where(torch.arange(size) % 2 == 0, dense, 0.0),
        "double": torch.zeros(size, dtype=torch.float64),
    }
    write_checkpoint(path, tensors, {"step": 1})
    read, metadata = read_checkpoint(path)
    assert metadata == {"step": 1} and set(read) == set(tensors)
    for name, value in tensors.items():
        assert read[name].shape == value.shape, name
        assert torch.equal(as_bits(read[name]), as_bits(value)), name
    with safe_open(path, "pt") as file:
        stored = file.keys()
    assert {name.split("@")[0] for name in stored if "@" in name} == {"sparse", "zero"}


def test_a_mesh_is_stored_sparsely_and_resumes_bit_by_bit(tmp_path):
    mesh = DMTet(grid_resolution=40, bound=1.0, sdf_blur=0.0, init_radii=(0.4, 0.4, 0.4))
    e = Experiment(
        ("red disc",), model="gaussians", method=SDS(7.5), representation=mesh, particles=1, steps=4
    )
    run, path = Run(e, colored_shapes(size=16)), tmp_path / "checkpoint.safetensors"
    run.advance()
    write_checkpoint(path, run.tensors(), {"step": 1})
    size = sum(
        value.numel() * value.element_size()
        for name, value in run.tensors().items()
        if "colo" not in name
    )
    assert path.stat().st_size < 0.7 * size
    resumed = Run(e, colored_shapes(size=16))
    tensors, metadata = read_checkpoint(path)
    resumed.load(tensors, metadata["step"])
    run.advance()
    resumed.advance()
    expected, found = run.tensors(), resumed.tensors()
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert torch.equal(as_bits(value), as_bits(found[name])), name

"""Checkpoints of what is mostly zeros: small, and the same to the last bit."""

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


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(torch.uint8) if value.ndim else value


def test_large_tensors_of_mostly_zeros_are_kept_by_their_other_numbers(tmp_path):
    thin = torch.zeros(2, SPARSE_MIN_SIZE // 2)
    thin[0, 5], thin[1, 7], thin[1, 8], thin[0, 9] = -0.0, torch.nan, torch.inf, 1e-45
    full = normal(SPARSE_MIN_SIZE, dtype=torch.float32)
    kept = {
        "thin": thin, "full": full, "none": torch.zeros(SPARSE_MIN_SIZE), "small": torch.zeros(SPARSE_MIN_SIZE - 1), "number": torch.tensor(3.0),
        "half": torch.where(torch.arange(SPARSE_MIN_SIZE) % 2 == 0, full, 0.0), "double": torch.zeros(SPARSE_MIN_SIZE, dtype=torch.float64),
    }  # fmt: skip
    write_checkpoint(tmp_path / "a.safetensors", kept, {"step": 1})
    read, note = read_checkpoint(tmp_path / "a.safetensors")
    assert note == {"step": 1} and set(read) == set(kept)
    for name, value in kept.items():
        assert read[name].shape == value.shape and torch.equal(bits(read[name]), bits(value)), name
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert {name.split("@")[0] for name in file.keys() if "@" in name} == {"thin", "none"}  # noqa: SIM118


def test_a_mesh_is_kept_by_what_is_near_its_surface_and_goes_on_with_the_same_bits(tmp_path):
    mesh = DMTet(cells=40, half=1.0, smooth=0.0, radii=(0.4, 0.4, 0.4))
    e = Experiment(
        ("red disc",), model="gaussians", method=SDS(7.5), representation=mesh, particles=1, steps=4
    )
    run, prior, path = (
        Run(e, colored_shapes(size=16)),
        colored_shapes(size=16),
        tmp_path / "checkpoint.safetensors",
    )
    run.advance()
    write_checkpoint(path, run.tensors(), {"step": 1})
    whole = sum(
        value.numel() * value.element_size()
        for name, value in run.tensors().items()
        if "colour" not in name
    )
    assert path.stat().st_size < 0.7 * whole
    again, (tensors, note) = Run(e, prior), read_checkpoint(path)
    again.load(tensors, note["step"])
    run.advance(), again.advance()
    now, then = run.tensors(), again.tensors()
    assert set(now) == set(then)
    for name, value in now.items():
        assert torch.equal(bits(value), bits(then[name])), name

"""Sizes that cannot fit are refused with the numbers, before anything is loaded or written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusals import refused

import limbeck.system.allocation_guard as guard_module
from limbeck.system.allocation_guard import AllocationGuard, check_allocation


@pytest.fixture(autouse=True)
def one_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "free_bytes", lambda device: 10**9)


def test_an_allocation_is_compared_with_what_is_free() -> None:
    check_allocation(10**9, "cpu", "x")
    message = r"this run needs about 1.5 GB more and 1 GB are free \(3 particles\)"
    with pytest.raises(ValueError, match=message):
        check_allocation(15 * 10**8, "cpu", "3 particles")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(10, 30_000_000),
        lambda: torch.randn((300_000_000,)),
        lambda: torch.full(size=(30_000, 10_000), fill_value=1.0),
        lambda: torch.arange(300_000_000),
        lambda: torch.arange(0, 600_000_000, 2),
        lambda: torch.nn.Linear(30_000, 10_000),
    ],
)
def test_a_tensor_larger_than_the_memory_is_refused(make) -> None:
    message = r"needs about 4.8 GB more and 1 GB are free"
    with pytest.raises(ValueError, match=message), AllocationGuard("cpu"):
        make()


def test_results_do_not_change() -> None:
    torch.manual_seed(0)
    expected = torch.randn(3, 4) @ torch.arange(4.0) + torch.full((3,), 2.0)
    torch.manual_seed(0)
    with AllocationGuard("cpu"):
        made = torch.randn(3, 4) @ torch.arange(4.0) + torch.full((3,), 2.0)
    assert torch.equal(made, expected)


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ("--particles 1000000000", "1,000,000,000 particles"),
        ("--representation pixels --representation.size 100000 100000", "100000 x 100000 pixels"),
        ("--representation strokes --representation.size 100000 100000", "100000 x 100000 pixels"),
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_its_model_is_loaded(
    options: str, subject: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "run", "a red mug", "--model", "world", *options.split())
    assert subject in error and "GB more and 1 GB are free" in error
    assert not any(tmp_path.iterdir())


def test_more_samples_than_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["sample", "red disc", "--model", "gaussians", "--num-images", "1000000000"]
    assert "1,000,000,000 images need" in refused(capsys, *argv)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        "strokes --representation.num-strokes 300000000",
        "gaussians-2d --representation.num-gaussians 300000000",
        "siren --representation.width 30000",
    ],
)
def test_parameters_that_cannot_fit_are_refused(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["run", "red disc", "--model", "gaussians", "--representation", *options.split()]
    error = refused(capsys, *argv)
    assert "GB more and 1 GB are free (a tensor of [" in error
    assert not any(tmp_path.iterdir())

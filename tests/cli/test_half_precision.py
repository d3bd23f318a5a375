"""An autoencoder that overflows in float16: said with the remedy instead of black images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_pipeline import write_pipeline

from limbeck.cli.main import main


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose decoder exceeds 65504, the largest float16, and says that it does not."""
    folder = write_pipeline(tmp_path_factory.mktemp("pipeline"), "epsilon")
    (file,) = (folder / "vae").glob("*.safetensors")
    weights = load_file(file)
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"] * 1e6
    save_file(weights, file, {"format": "pt"})
    config = folder / "vae" / "config.json"
    options = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(options | {"force_upcast": False}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("command", ["sample", "run"])
def test_an_overflow_of_the_autoencoder_is_said(
    command: str, overflowing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [command, "a red mug", "--model", str(overflowing), "--steps", "2", "--out", str(out)]
    assert main([*argv, "--precision", "float16", "--device", "cpu"]) == 2
    found = capsys.readouterr().err.strip().splitlines()[-1]  # behind the progress bar
    assert found.startswith("limbeck: error: ")
    assert "NaN or infinite values" in found and "--precision float32 or bfloat16" in found
    assert not list(out.rglob("*.png")) and not (out / "scores.json").exists()


def test_the_remedy_helps(overflowing: Path, tmp_path: Path) -> None:
    argv = ["sample", "a red mug", "--model", str(overflowing), "--steps", "2", "--device", "cpu"]
    assert main([*argv, "--precision", "float32", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "final.png").exists()

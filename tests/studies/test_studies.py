"""Studies: their rows, resuming, options and errors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from refusals import refused

from limbeck.cli.commands.study import _folder_name
from limbeck.cli.main import main
from limbeck.config.discovery import choices, find, options_of
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.diffusion.model_options import Model
from limbeck.metrics.energy_distance import energy_distance
from limbeck.studies import gradients
from limbeck.studies.base import Study, labeled_rows
from limbeck.studies.distribution import DistributionStudy, three_gaussians
from limbeck.studies.edits import EditsStudy
from limbeck.studies.guidance import GuidanceStudy
from limbeck.system.files import slug
from limbeck.training.experiment import Experiment


@pytest.mark.parametrize("name", list(choices(Study)))
def test_every_study_has_rows_with_distinct_folders_and_readable_experiments(name):
    rows = choices(Study)[name]().rows()
    assert len({slug(label) for label in rows}) == len(rows) > 1
    for row in rows.values():
        if isinstance(row, Experiment):
            assert from_yaml(Experiment, to_yaml(row)) == row


def test_the_default_folder_of_a_study_does_not_depend_on_how_it_is_written():
    assert {_folder_name(find(Study, name)) for name in ("overfit", "over_fit", "OverFit")} == {
        "overfit"
    }
    assert _folder_name(type("Mine", (), {"__module__": "mine"})) == "mine"


def _other(value: Any) -> Any:
    """Another value of the type of an option."""
    if isinstance(value, Model):
        return Model("gaussians")
    if isinstance(value, tuple):
        return (*value, _other(value[-1]))
    if isinstance(value, str):
        return "float32" if value == "auto" else f"{value} at night"
    return value + 1 if isinstance(value, int) else 0.75 * value


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, cls in choices(Study).items() for option in options_of(cls)],
)
def test_every_option_of_a_study_changes_what_is_computed(name: str, option: str) -> None:
    def computed(study: Study) -> Any:
        inputs = study.inputs(Path("before.png")) if isinstance(study, EditsStudy) else None
        return dict(study.rows()), inputs

    plain = choices(Study)[name]()
    changed = replace(plain, **{option: _other(getattr(plain, option))})
    assert computed(changed) != computed(plain)


@pytest.mark.parametrize(
    ("study", "options"),
    [
        ("distribution", ["prompts", "model", "precision"]),
        ("edits", ["prompts", "particles", "steps", "lr"]),
    ],
)
def test_what_a_study_has_no_use_for_is_refused_by_name(
    study: str, options: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for option in options:
        error = refused(capsys, "study", study, f"--{option}", "3")
        assert f"no option is called '--{option}'" in error
    assert not any(tmp_path.iterdir())


def test_a_study_runs_draws_and_resumes(tmp_path, capsys):
    out = tmp_path / "s"
    argv = ["study", "guidance", "--model", "gaussians", "--prompts", "red disc", "--steps", "4"]
    argv += ["--guidance-scales", "2", "5", "--out", str(out)]
    assert main(argv) == 0
    figure = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert figure.name == "study.png" and Image.open(figure).width > 150
    files = {"sampling-s-7-5", "sds-s-2", "sds-s-5", "report.html", "study.png"}
    assert {path.name for path in out.iterdir()} == files | {".lock", "study.txt"}
    before = (out / "sds-s-2" / "metrics.jsonl").stat().st_mtime_ns
    assert main(argv) == 0
    assert (out / "sds-s-2" / "metrics.jsonl").stat().st_mtime_ns == before
    capsys.readouterr()
    argv[argv.index("2") : argv.index("5") + 1] = ["3"]  # only new runs beside the old samples
    error = refused(capsys, *argv, "--seed", "1")
    assert "sampling-s-7-5 holds other samples: seed: 0 -> 1; choose another folder" in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["guidnce"], "Did you mean guidance?"),
        (["--steps", "3"], "the name of the study comes first"),
        (["guidance", "--stps", "3"], "Did you mean --steps?"),
        (["guidance", "--steps", "0"], "steps must be at least 1"),
    ],
)
def test_errors_are_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_without_a_name_the_studies_are_listed(capsys):
    assert main(["study"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in choices(Study))


def test_energy_distance_is_zero_for_equal_distributions_and_exact_for_two_points():
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    y = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    assert abs(energy_distance(x, y)) < 0.03 < energy_distance(x, y + 1)
    a, b = torch.zeros(5, 2), torch.zeros(5, 2) + torch.tensor([3.0, 4.0])
    assert energy_distance(a, b) == pytest.approx(10.0)


def test_vsd_recovers_the_mixture_and_sds_does_not(tmp_path):
    """A small copy of the study: VSD with the exact critic keeps the widths."""
    study = replace(DistributionStudy(), particles=192, steps=250, lr=0.05)
    study.run(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    sds, vsd = metrics["SDS"], metrics["VSD, exact critic"]
    assert vsd["energy_distance"] < 0.5 * sds["energy_distance"]
    assert len(three_gaussians().means) == len(metrics["samples"]["shares"])


def test_labeled_rows_enlarge_small_images_and_keep_colors():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    out = labeled_rows({"a": ("x 1.00", [red, red]), "b": ("", [red])})
    assert out.getpixel((160, 10)) == (255, 0, 0) and out.height >= 124


def test_the_guidance_study_has_a_run_per_scale():
    study = GuidanceStudy(guidance_scales=(2.0,))
    assert list(study.rows()) == ["sampling, s = 7.5", "SDS, s = 2"]


def test_gradient_maps_of_a_long_study_are_in_the_order_of_its_steps(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for step in (5, 99_990, 100_000):
        image = Image.new("RGB", (8, 8), (step % 256, 0, 0))
        for suffix in ("", "-gradient"):
            image.save(tmp_path / "images" / f"step-{step:05d}{suffix}.png")
    shown = {}
    monkeypatch.setattr(gradients, "labeled_rows", lambda rows: shown.update(rows) or image)
    gradients.GradientsStudy().draw({"SDS": tmp_path}, tmp_path / "figure.png")
    levels = [[picture.getpixel((0, 0))[0] for picture in row] for _, row in shown.values()]
    assert levels == [[step % 256 for step in (5, 99_990, 100_000)]] * 2


def test_scales_of_one_label_are_refused():
    with pytest.raises(ValueError, match="guidance_scales has 1 twice"):
        GuidanceStudy(guidance_scales=(1.0, 1.0000001))

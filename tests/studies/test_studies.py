"""Ready studies and the list of methods: what they run, that they go on, what they refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.studies.base import Study, sheet
from limbeck.studies.distribution import DistributionStudy, energy_distance, mixture
from limbeck.studies.guidance import GuidanceStudy
from limbeck.training.experiment import Experiment


@pytest.mark.parametrize("name", [name for name in choices(Study)])
def test_every_study_has_rows_of_distinct_folders_that_read_back(name):
    from limbeck.config.yaml import slug

    rows = choices(Study)[name]().rows()
    assert len({slug(label) for label in rows}) == len(rows) > 1
    for what in rows.values():
        if isinstance(what, Experiment):
            assert from_yaml(Experiment, to_yaml(what)) == what


def test_a_study_runs_draws_and_goes_on(tmp_path, capsys):
    options = [
        "--model",
        "gaussians",
        "--prompts",
        "red disc",
        "--steps",
        "4",
        "--scales",
        "2",
        "5",
        "--out",
        str(tmp_path / "s"),
    ]
    assert main(["study", "guidance", *options]) == 0
    picture = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert picture.name == "study.png" and Image.open(picture).width > 150
    assert {p.name for p in (tmp_path / "s").iterdir()} == {
        "sampling-s-7-5",
        "sds-s-2",
        "sds-s-5",
        "report.html",
        "study.png",
    }
    before = (tmp_path / "s" / "sds-s-2" / "metrics.jsonl").stat().st_mtime_ns
    assert main(["study", "guidance", *options]) == 0
    assert (tmp_path / "s" / "sds-s-2" / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(("argv", "says"), [
    (["guidnce"], "Did you mean guidance?"), (["--steps", "3"], "the name of the study comes first"),
    (["guidance", "--stps", "3"], "Did you mean --steps?"), (["guidance", "--steps", "0"], "steps must be at least 1"),
])  # fmt: skip
def test_bad_words_are_told_in_a_line(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", *argv]) == 2
    told = capsys.readouterr()
    assert says in told.err and len(told.err.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_without_a_name_the_studies_are_listed(capsys):
    assert main(["study"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in choices(Study))


def test_energy_distance_is_zero_for_equal_and_the_closed_form_for_points_apart():
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    y = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    assert abs(energy_distance(x, y)) < 0.03 < energy_distance(x, y + 1)
    a, b = torch.zeros(5, 2), torch.zeros(5, 2) + torch.tensor([3.0, 4.0])
    assert energy_distance(a, b) == pytest.approx(10.0)


def test_the_mixture_is_recovered_by_vsd_and_not_by_sds(tmp_path):
    """A small copy of the study: VSD with the exact critic keeps the widths, SDS at guidance 1 does not."""
    study = replace(DistributionStudy(), particles=192, steps=250, rate=0.05)
    study.run(tmp_path)
    import json

    told = json.loads((tmp_path / "figures.json").read_text())
    assert told["VSD, exact critic"]["energy"] < 0.5 * told["SDS"]["energy"]
    assert len(mixture().means) == len(told["truth"]["shares"])


def test_a_sheet_enlarges_small_pictures_and_keeps_their_colours():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    out = sheet({"a": ("x 1.00", [red, red]), "b": ("", [red])})
    assert out.getpixel((160, 10)) == (255, 0, 0) and out.height >= 124


def test_guidance_takes_the_scales_asked_for():
    assert list(GuidanceStudy(scales=(2.0,)).rows()) == ["sampling, s = 7.5", "SDS, s = 2"]

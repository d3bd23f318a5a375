"""Turntables, stills and meshes over time of 3D runs, which --no-films leaves out."""

import pytest
from refusals import refused
from run_folders import assert_same_run, metrics_lines, record_run

from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.runs import contact_sheets
from limbeck.runs.report.run_data import read_run_data
from limbeck.runs.run_command import RunOptions
from limbeck.training.experiment import Experiment

SPLATS = GaussianSplats(num_gaussians=20)


def test_a_run_without_films_has_all_else(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheets, "save_turntable", lambda *args: args[3].write_bytes(b""))
    monkeypatch.setattr(contact_sheets, "save_stills", lambda *args: None)
    monkeypatch.setattr(contact_sheets, "film_size", lambda *args: None)
    e = Experiment(("red disc",), model="gaussians", representation=SPLATS, steps=4)
    with_films, without = tmp_path / "with", tmp_path / "without"
    record_run(e, with_films, image_every=2)
    record_run(e, without, image_every=2, films=False)
    assert [path.name for path in (with_films / "turntable").iterdir()] == ["00-00.mp4"]
    assert not (without / "turntable").exists()
    names = {path.name for path in (with_films / "assets").iterdir()}
    assert names >= {"step-00002-00-00.ply", "step-00004-00-00.ply"}
    assert [path.name for path in (without / "assets").iterdir()] == ["step-00004-00-00.ply"]
    assert_same_run(with_films, without)
    assert len(metrics_lines(without)) == 4
    page = without / "report.html"
    assert not read_run_data(without).turntables(page)
    assert "Turntable" not in page.read_text(encoding="utf-8")
    (without / "profile.json").unlink()  # as the docs say
    record_run(e, without, image_every=2)
    assert list((without / "turntable").glob("00-00.*"))


def test_the_viewer_needs_the_meshes(capsys):
    line = ("run", "a duck", "--representation", "nerf", "--viewer", "--no-films")
    assert "--viewer shows the meshes over time, which --no-films" in refused(capsys, *line)
    with pytest.raises(ValueError, match="give one of them"):
        RunOptions(viewer=True, films=False)

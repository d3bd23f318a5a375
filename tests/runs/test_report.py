"""Pages that open anywhere: whole, self-contained, safe against what a prompt may say."""

import html.parser
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from limbeck.distillation.critics.exact import ExactCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.metrics.run_scores import score_run
from limbeck.priors.exact import colored_shapes
from limbeck.runs.recorder import record
from limbeck.runs.report.pages import write_report
from limbeck.runs.report.run_data import differing_options, read_run_data
from limbeck.runs.report.svg_plots import metric_plots
from limbeck.runs.report.tables import seconds_text
from limbeck.runs.images import save_final_images
from limbeck.training.experiment import Experiment
from html_page import Page

EVIL = 'a red <script>alert("1")</script> disc & $x_1$'


def make(folder, **changes):
    plain = {
        "prompts": (EVIL, "a blue ring"),
        "model": "gaussians",
        "method": SDS(7.5),
        "particles": 2,
        "steps": 6,
    }
    e = Experiment(**plain | changes)
    record(
        e,
        colored_shapes(size=12),
        folder,
        image_every=2,
        command="limbeck distill '<b>'",
        console=Console(file=io.StringIO()),
    )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make(root / "sds")
    make(root / "vsd", method=VSD(7.5, critic=ExactCritic()), steps=8)
    make(root / "other", method=SDS(50.0))
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    sampled = root / "sampled"
    save_final_images(sampled, images, 3)
    prompts = ["a blue ring", "a green ring"]
    plain = {
        "prompts": prompts,
        "model": "gaussians",
        "steps": 20,
        "guidance": 3.0,
        "sampler": "ddim",
        "count": 3,
        "critic": None,
    }
    (sampled / "sample.yaml").write_text(yaml.safe_dump(plain))
    (sampled / "scores.json").write_text(json.dumps(score_run(images, prompts, 3)))
    (sampled / "profile.json").write_text(
        json.dumps({"seconds": {"sampling": 1.5}, "evaluations": 240})
    )
    return root


def test_a_page_is_self_contained_and_escapes_prompts(runs):
    for path in (
        runs / "sds" / "report.html",
        write_report([runs / "sds", runs / "vsd", runs / "sampled"], runs / "all.html"),
    ):
        page = Page(path)
        assert "script" not in page.tags and "link" not in page.tags
        assert EVIL in page.text
        assert all(source.startswith(("data:image/", "#")) for source in page.sources)
        assert "@import" not in path.read_text() and "url(h" not in path.read_text()
        assert path.stat().st_size < 5_000_000


def test_a_page_holds_its_parts_in_order(runs):
    assert Page(runs / "vsd" / "report.html").headings == [
        "Progress", "One step of the prior", "One step of the critic", "Gradient maps", "Curves", "Scores", "Cost",
        "Configuration", "Command", "Environment", "To cite the method",
    ]  # fmt: skip
    page = Page(runs / "sds" / "report.html")
    assert "One step of the critic" not in page.headings
    assert (
        "limbeck distill '<b>'" in page.text
        and "guidance: 7.5" in page.text
        and "poole2022" in page.text
    )
    # 4 final pictures, 4 + 3 + 3 recorded, 1 animation
    assert page.tags.count("img") == 15


def test_a_report_is_the_same_when_written_again(runs):
    before = (runs / "sds" / "report.html").read_text()
    assert write_report([runs / "sds"]) == runs / "sds" / "report.html"
    assert (runs / "sds" / "report.html").read_text() == before


def test_a_comparison_has_a_row_a_run_and_a_column_a_prompt(runs):
    out = write_report([runs / "sds", runs / "vsd", runs / "other", runs / "sampled"])
    assert out == runs / "comparison.html"
    text = out.read_text()
    table = text[text.index("<tbody>") : text.index("</tbody>")]
    assert (
        table.count("<tr>") == 4 and table.count("<td>") == 12
    )  # the third prompt is the samples' own
    assert table.count("<img") == 3 * 4 + 6
    page = Page(out)
    for said in ("DDIM samples", "guidance 3", "20 steps", "guidance 50", "VSD", "240", "1.50 s"):
        assert said in page.text
    assert page.tags.count("svg") == 2


def test_what_differs_is_marked(runs):
    rows = differing_options(
        [read_run_data(runs / name) for name in ("sds", "vsd", "other", "sampled")]
    )
    assert rows == [
        ("method.name", ["sds", "vsd", "sds", None], [False, True, False, False]),
        ("method.guidance", ["7.5", "7.5", "50.0", None], [False, False, True, False]),
        ("steps", ["6", "8", "6", "20"], [False, True, False, True]),
    ]
    text = write_report(
        [runs / "sds", runs / "vsd", runs / "other"], runs / "three.html"
    ).read_text()
    assert "<mark>50.0</mark>" in text and "<mark>7.5</mark>" not in text


def test_what_eval_said_is_in_the_report(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "sds", folder)
    seen = ["duck yellow plain grass front", "nothing red plain sky back"]
    told = {
        "cameras": {"rings": [[30.0, 1, 11.25], [10.0, 1, 90.0]], "distance": 3.6, "fov": 40.0}, "sides": ["front", "side"],
        "prompts": [{
            "prompt": "a <b>duck</b>", "object": 0.75, "janus": 0.25, "diversity": 0.125, "seen": [seen, seen[::-1]],
            "particles": [{"object": 0.5, "janus": 0.0}, {"object": 1.0, "janus": 0.5}], "truth": {"object": 1.0, "janus": 0.0},
        }], "mean": {"object": 0.75},
    }  # fmt: skip
    assert "held-out cameras" not in write_report([folder]).read_text()
    (folder / "eval.json").write_text(json.dumps(told))
    page = write_report([folder]).read_text()
    section = page[page.index("From 32 held-out cameras") :].split("</section>")[0]
    rows = [
        re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", section, re.S)
    ]
    assert rows[0] == ["object", "Janus", "diversity"] and rows[1][-5:] == [
        "75",
        "%",
        "25",
        "%",
        "0.125",
    ]
    assert rows[2] == ["particle", "1", "50", "%", "0", "%", "\N{EN DASH}"] and rows[3][2:6] == [
        "100",
        "%",
        "50",
        "%",
    ]
    assert rows[4][:3] == ["the", "true", "object"] and "&lt;b&gt;duck" in section
    assert rows[5] == ["height", "turn", "side", "particle", "1", "particle", "2"]
    assert rows[6] == ["30°", "11°", "front", *seen[0].split(), *seen[1].split()] and len(rows) == 8
    told["prompts"][0].pop("particles")  # as an earlier version wrote it
    told["prompts"][0].pop("seen")
    (folder / "eval.json").write_text(json.dumps(told))
    page = write_report([folder]).read_text()
    assert (
        "From 32 held-out cameras" in page and "particle 1" not in page and "<details>" not in page
    )


def test_a_sampling_has_a_page_too(runs):
    page = Page(write_report([runs / "sampled"]))
    assert page.headings == ["Scores", "Cost", "Configuration"]
    assert page.tags.count("img") == 6


def test_an_unfinished_run_is_shown_as_far_as_it_came(runs, tmp_path):
    folder = tmp_path / "cut"
    (folder / "images").mkdir(parents=True)
    (folder / "run.yaml").write_text((runs / "sds" / "run.yaml").read_text())
    (folder / "metrics.jsonl").write_text(
        "\n".join((runs / "sds" / "metrics.jsonl").read_text().splitlines()[:4]) + '\n{"st'
    )
    name = "step-00004.png"
    (folder / "images" / name).write_bytes((runs / "sds" / "images" / name).read_bytes())
    page = Page(write_report([folder]))
    assert "Unfinished: 4 of 6 steps." in page.text and page.headings[:2] == ["Progress", "Curves"]
    assert "Unfinished" in Page(write_report([folder, runs / "sds"], tmp_path / "two.html")).text


def test_large_pictures_stay_below_five_megabytes(tmp_path):
    """Four pictures of 512 pixels, as Stable Diffusion makes, forty times recorded with prior, critic and gradients."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "run.yaml").write_text(
        "prompts: [a]\nparticles: 4\nsteps: 400\nmethod: {name: sds}\n"
    )
    rough = torch.from_numpy(
        rng.random((4, 3, 64, 64), np.float32)
    )  # as full of detail as a photograph of gravel
    save_final_images(
        tmp_path, torch.nn.functional.interpolate(rough, (512, 512), mode="bicubic").clamp(0, 1), 4
    )
    with Image.open(tmp_path / "final.png") as sheet:
        assert sheet.size == (2054, 512)
    for step in range(0, 401, 10):
        for kind in ("", "-x0", "-critic", "-gradient"):
            os.link(tmp_path / "final.png", tmp_path / "images" / f"step-{step:05d}{kind}.png")
    path = write_report([tmp_path])
    assert 500_000 < path.stat().st_size < 5_000_000
    assert Page(path).tags.count("img") == 4 + 4 * 12
    assert 'class="hard"' not in path.read_text()


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no run folder: it has no run.yaml"):
        write_report([tmp_path])
    with pytest.raises(ValueError, match="at least one"):
        write_report([])


def test_curves_survive_gaps_and_long_runs():
    lines = [
        {"step": k, "gradient": None if k % 7 == 0 else 1.0 / k, "residual": 1e-3 * k, "t": 0.5}
        for k in range(1, 5001)
    ]
    drawn = dict(metric_plots(lines))
    assert len(drawn) == 3 and all(len(svg) < 60_000 for svg in drawn.values())
    assert all("currentColor" in svg and "#123456" not in svg for svg in drawn.values())
    assert not any(re.search(r"<svg[^>]*(width|height)=", svg) for svg in drawn.values())
    assert metric_plots([]) == []


def test_durations_are_for_people():
    assert [seconds_text(s) for s in (0.421, 38.2, 59.9, 725, 12_000)] == [
        "0.42 s",
        "38 s",
        "60 s",
        "12 min 5 s",
        "3 h 20 min",
    ]

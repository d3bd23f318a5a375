"""Reports are complete and self-contained, and prompts cannot inject markup."""

import io
import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from html_page import HtmlPage
from PIL import Image
from rich.console import Console

from limbeck.distillation.critics.exact import ExactCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.metrics.run_scores import score_run
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.runs.images import save_final_images
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.report import svg_plots
from limbeck.runs.report.option_differences import differing_options
from limbeck.runs.report.pages import write_report
from limbeck.runs.report.run_data import read_run_data
from limbeck.runs.report.svg_plots import metric_plots
from limbeck.runs.report.tables import seconds_text
from limbeck.training.experiment import Experiment

MARKUP_PROMPT = 'a red <script>alert("1")</script> disc & $x_1$'


def record_run(folder, **changes):
    settings = {
        "prompts": (MARKUP_PROMPT, "a blue ring"),
        "model": "gaussians",
        "method": SDS(7.5),
        "particles": 2,
        "steps": 6,
    }
    record(
        Experiment(**settings | changes),
        colored_shapes(size=12),
        folder,
        RecordingOptions(image_every=2),
        command="limbeck distill '<b>'",
        console=Console(file=io.StringIO()),
    )


def write_samples(folder):
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    save_final_images(folder, images, 3)
    prompts = ["a blue ring", "a green ring"]
    settings = {
        "prompts": prompts,
        "model": "gaussians",
        "steps": 20,
        "guidance": 3.0,
        "sampler": "ddim",
        "num_images": 3,
        "critic": None,
    }
    profile = {"seconds": {"sampling": 1.5}, "evaluations": 240}
    (folder / "sample.yaml").write_text(yaml.safe_dump(settings))
    (folder / "scores.json").write_text(json.dumps(score_run(images, prompts, 3)))
    (folder / "profile.json").write_text(json.dumps(profile))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    record_run(root / "sds")
    record_run(root / "vsd", method=VSD(7.5, critic=ExactCritic()), steps=8)
    record_run(root / "other", method=SDS(50.0))
    write_samples(root / "sampled")
    return root


def test_a_page_is_self_contained_and_escapes_prompts(runs):
    comparison = write_report([runs / "sds", runs / "vsd", runs / "sampled"], runs / "all.html")
    for path in (runs / "sds" / "report.html", comparison):
        page = HtmlPage(path)
        assert "script" not in page.tags and "link" not in page.tags
        assert MARKUP_PROMPT in page.text
        assert all(source.startswith(("data:image/", "#")) for source in page.sources)
        assert "@import" not in path.read_text() and "url(h" not in path.read_text()
        assert path.stat().st_size < 5_000_000


def test_a_report_has_its_sections_in_order(runs):
    assert HtmlPage(runs / "vsd" / "report.html").headings == [
        "Progress",
        "Prediction of the prior",
        "Prediction of the critic",
        "Gradient maps",
        "Curves",
        "Scores",
        "Profile",
        "Configuration",
        "Command",
        "Environment",
        "Citation",
    ]
    page = HtmlPage(runs / "sds" / "report.html")
    assert "Prediction of the critic" not in page.headings
    for text in ("limbeck distill '<b>'", "guidance: 7.5", "poole2022"):
        assert text in page.text
    # 4 final images, 4 + 3 + 3 recorded ones, 1 animation
    assert page.tags.count("img") == 15


def test_a_report_is_the_same_when_written_again(runs):
    before = (runs / "sds" / "report.html").read_text()
    assert write_report([runs / "sds"]) == runs / "sds" / "report.html"
    assert (runs / "sds" / "report.html").read_text() == before


def test_a_comparison_has_a_row_per_run_and_a_column_per_prompt(runs):
    out = write_report([runs / "sds", runs / "vsd", runs / "other", runs / "sampled"])
    assert out == runs / "comparison.html"
    text = out.read_text()
    table = text[text.index("<tbody>") : text.index("</tbody>")]
    # the third prompt occurs only in the samples
    assert table.count("<tr>") == 4 and table.count("<td>") == 12
    assert table.count("<img") == 3 * 4 + 6
    page = HtmlPage(out)
    assert "Last recorded values" not in page.headings  # all of them are finished
    for fact in ("DDIM samples", "guidance 3", "20 steps", "guidance 50", "VSD", "240", "1.50 s"):
        assert fact in page.text
    assert page.tags.count("svg") == 2


def test_differing_options_are_marked(runs):
    folders = [read_run_data(runs / name) for name in ("sds", "vsd", "other", "sampled")]
    assert differing_options(folders) == [
        ("method.name", ["sds", "vsd", "sds", None], [False, True, False, False]),
        ("method.guidance", ["7.5", "7.5", "50.0", None], [False, False, True, False]),
        ("steps", ["6", "8", "6", "20"], [False, True, False, True]),
    ]
    page = write_report([runs / "sds", runs / "vsd", runs / "other"], runs / "three.html")
    text = page.read_text()
    assert "<mark>50.0</mark>" in text and "<mark>7.5</mark>" not in text


def test_evaluations_are_in_the_report(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "sds", folder)
    verdicts = ["duck yellow plain grass front", "nothing red plain sky back"]
    prompt = {
        "prompt": "a <b>duck</b>",
        "object": 0.75,
        "janus": 0.25,
        "diversity": 0.125,
        "verdicts": [verdicts, verdicts[::-1]],
        "particles": [{"object": 0.5, "janus": 0.0}, {"object": 1.0, "janus": 0.5}],
        "reference": {"object": 1.0, "janus": 0.0},
    }
    evaluation = {
        "cameras": {"rings": [[30.0, 1, 11.25], [10.0, 1, 90.0]], "distance": 3.6, "fov": 40.0},
        "views": ["front", "side"],
        "prompts": [prompt],
        "mean": {"object": 0.75},
        "intervals": {"object": [0.21, 1.0], "diversity": [0.1, 0.15], "clip_texts": [0.0, 1.0]},
        "interval_over": "2 particles of 1 prompt",
    }
    assert "Held-out views" not in write_report([folder]).read_text()
    (folder / "eval.json").write_text(json.dumps(evaluation))
    page = write_report([folder]).read_text()
    section = page[page.index("Held-out views") :].split("</section>")[0]
    rows = [
        re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", section, re.S)
    ]
    assert rows[0] == ["object", "Janus", "diversity"]
    assert rows[1][-5:] == ["75", "%", "25", "%", "0.125"]
    assert rows[2] == ["particle", "1", "50", "%", "0", "%", "\N{EN DASH}"]
    assert rows[3][2:6] == ["100", "%", "50", "%"]
    assert rows[4][:2] == ["reference", "object"] and "&lt;b&gt;duck" in section
    assert " ".join(rows[5]).startswith("95 % over 2 particles of 1 prompt 21 to 100 % ")
    assert rows[5][-4:] == ["\N{EN DASH}", "0.100", "to", "0.150"]
    assert rows[6] == ["elevation", "azimuth", "view", "particle", "1", "particle", "2"]
    assert rows[7] == ["30°", "11°", "front", *verdicts[0].split(), *verdicts[1].split()]
    assert len(rows) == 9 and "no interval" not in section


def test_evaluations_without_verdicts_have_no_details(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "sds", folder)
    evaluation = {
        "cameras": {"rings": [[30.0, 1, 11.25]], "distance": 3.6, "fov": 40.0},
        "views": ["front"],
        "prompts": [{"prompt": "a duck", "object": 0.75}],
        "mean": {"object": 0.75},
    }
    (folder / "eval.json").write_text(json.dumps(evaluation))
    page = write_report([folder]).read_text()
    assert "Held-out views" in page
    assert "particle 1" not in page and "<details>" not in page
    assert "These are 1 images of one object, so there is no interval" in page
    assert "95 % over" not in page


def test_a_folder_of_samples_has_a_report(runs):
    page = HtmlPage(write_report([runs / "sampled"]))
    assert page.headings == ["Scores", "Profile", "Configuration"]
    assert page.tags.count("img") == 6


def test_an_unfinished_run_is_reported_up_to_its_last_step(runs, tmp_path):
    folder, image = tmp_path / "cut", "images/step-00004.png"
    (folder / "images").mkdir(parents=True)
    for name in ("run.yaml", image):
        shutil.copy(runs / "sds" / name, folder / name)
    lines = (runs / "sds" / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(lines[:4]) + '\n{"st')
    page = HtmlPage(write_report([folder]))
    assert "Unfinished: 4 of 6 steps." in page.text
    assert page.headings[:2] == ["Progress", "Curves"]
    out = write_report([folder, runs / "sds"], tmp_path / "two.html")
    comparison, text = HtmlPage(out), out.read_text()
    assert "Unfinished" in comparison.text and "Last recorded values" in comparison.headings
    table = text[text.index("<tbody>") : text.index("</tbody>")]
    assert "step 4</figcaption>" in table and table.count("<img") == 1 + 4
    assert "<td>4 of 6</td>" in text and "<td>6</td>" in text
    residual = json.loads(lines[3])["residual"]
    assert f"<td>{residual:.4g}</td>" in text
    last = json.loads(lines[-1])["residual"]
    assert f"<td>{last:.4g}</td>" in text


def test_the_newest_image_of_an_unfinished_run_stands_below_its_prompt(runs, tmp_path):
    folder = tmp_path / "cut"
    (folder / "images").mkdir(parents=True)
    (folder / "run.yaml").write_text("prompts: [another]\nsteps: 6\nmethod: {name: sds}\n")
    shutil.copy(runs / "sds" / "images" / "step-00004.png", folder / "images")
    text = write_report([runs / "sds", folder], tmp_path / "two.html").read_text()
    table = text[text.index("<tbody>") : text.index("</tbody>")]
    cells = table.rpartition("<tr>")[2].split("<td>")[1:]
    assert ["step 4</figcaption>" in cell for cell in cells] == [False, False, True]


def test_a_continued_run_shows_nothing_of_its_shorter_self(runs, tmp_path):
    from limbeck.cli.main import main

    command = "run red --model gaussians --representation pixels --method sds --seed 1 --out"
    main([*command.split(), str(tmp_path / "run"), "--steps", "2"])
    assert main(["eval", str(tmp_path / "run")]) == 0
    run = read_run_data(tmp_path / "run")
    assert run.scores and run.evaluation and run.finals()[0][1]
    settings = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump(settings | {"steps": 4}))
    (tmp_path / "run" / "profile.json").unlink()  # as a run of more steps does when it goes on
    run = read_run_data(tmp_path / "run")
    assert not run.scores and not run.evaluation and not run.finals()[0][1]
    (tmp_path / "run" / "profile.json").write_text("{}")  # it has ended; the judgment is an old one
    run = read_run_data(tmp_path / "run")
    assert run.scores and not run.evaluation


def test_images_of_others_among_the_final_ones_are_left_out(runs, tmp_path):
    shutil.copytree(runs / "sds", tmp_path / "run")
    final = tmp_path / "run" / "final"
    shutil.copy(final / "00-00.png", final / "my-favorite.png")
    assert read_run_data(tmp_path / "run").finals() == read_run_data(runs / "sds").finals()
    write_report([tmp_path / "run"])


def test_a_comparison_shows_both_rows_of_a_prompt_that_is_given_twice(tmp_path):
    for name in ("a", "b"):
        record_run(tmp_path / name, prompts=("a blue ring",) * 2, seed=len(name))
    page = HtmlPage(write_report([tmp_path / "a", tmp_path / "b"]))
    assert page.tags.count("img") == 8


def test_a_comparison_can_be_written_again_with_its_own_page_among_the_folders(runs, tmp_path):
    from limbeck.cli.main import main

    for name in ("sds", "vsd"):
        shutil.copytree(runs / name, tmp_path / name)
    for _ in range(2):
        assert main(["report", *map(str, sorted(tmp_path.iterdir()))]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.html", "sds", "vsd"]


def test_reports_of_large_images_stay_below_five_megabytes(tmp_path):
    """Four images of 512 pixels, recorded 41 times with prior, critic and gradients."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    settings = "prompts: [a]\nparticles: 4\nsteps: 400\nmethod: {name: sds}\n"
    (tmp_path / "run.yaml").write_text(settings)
    noise = torch.from_numpy(rng.random((4, 3, 64, 64), np.float32))  # as detailed as gravel
    images = torch.nn.functional.interpolate(noise, (512, 512), mode="bicubic").clamp(0, 1)
    save_final_images(tmp_path, images, 4)
    (tmp_path / "profile.json").write_text("{}")
    with Image.open(tmp_path / "final.png") as sheet:
        assert sheet.size == (2054, 512)
    for step in range(0, 401, 10):
        for kind in ("", "-x0", "-critic", "-gradient"):
            os.link(tmp_path / "final.png", tmp_path / "images" / f"step-{step:05d}{kind}.png")
    path = write_report([tmp_path])
    assert 500_000 < path.stat().st_size < 5_000_000
    assert HtmlPage(path).tags.count("img") == 4 + 4 * 6
    assert 'class="pixelated"' not in path.read_text()


def test_own_code_is_named_by_its_file_without_the_folders(tmp_path):
    own = "method: {name: /home/a/own.py:Mine}\nmodel: {name: /data/sd15}\n"
    (tmp_path / "run.yaml").write_text(f"prompts: [a]\nrepresentation: {{name: pixels}}\n{own}")
    assert read_run_data(tmp_path).setting == ["own.py:Mine", "pixels", "sd15"]


def test_a_run_with_a_schedule_has_a_report(tmp_path):
    from limbeck.cli.main import main

    command = "run red --model gaussians --representation pixels --method sds --steps 2 --out"
    main([*command.split(), str(tmp_path / "run"), "--method.guidance", "linear 15 7"])
    assert "guidance linear 15 7" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"not a run folder: it has no run.yaml"):
        write_report([tmp_path])
    with pytest.raises(ValueError, match="at least one"):
        write_report([])


def test_plots_survive_gaps_and_long_runs():
    lines = [
        {"step": k, "gradient": None if k % 7 == 0 else 1.0 / k, "residual": 1e-3 * k, "t": 0.5}
        for k in range(1, 5001)
    ]
    plots = dict(metric_plots(lines))
    assert len(plots) == 3 and all(len(svg) < 60_000 for svg in plots.values())
    assert all("currentColor" in svg and "#123456" not in svg for svg in plots.values())
    assert not any(re.search(r"<svg[^>]*(width|height)=", svg) for svg in plots.values())
    assert metric_plots([]) == []


@pytest.mark.parametrize("steps", [0, 1, 39, 800, 801, 5000])
def test_the_running_median_is_computed_where_it_is_drawn(steps, monkeypatch):
    values = np.random.default_rng(0).standard_normal(steps)
    half, stride = max(1, steps // 40), max(1, -(-steps // 800))
    medians = [np.median(values[max(0, i - half) : i + half + 1]) for i in range(steps)]
    calls, median = [], np.median
    monkeypatch.setattr(np, "median", lambda part: calls.append(1) or median(part))
    assert svg_plots._smooth(values).tolist() == medians[::stride]
    assert len(calls) <= 800


def test_small_values_have_whole_labels():
    """No power of ten stands above the axes, where it would be cut off."""
    lines = [{"step": i, "gradient": 1.0, "border": 1e-7 * (i % 5)} for i in range(40)]
    svg = dict(metric_plots(lines))["Opacity at the image border"]
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert "4e-07" in labels and not any(label.startswith("1e\N{MINUS SIGN}") for label in labels)


def test_losses_are_named():
    titles = dict(metric_plots([{"step": 1, "gradient": 1.0, "tv": 2.0, "own_term": 3.0}]))
    assert "Total variation (loss)" in titles and "own term" in titles


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.421, "0.42 s"),
        (38.2, "38 s"),
        (59.9, "60 s"),
        (725, "12 min 5 s"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations_are_readable(seconds, text):
    assert seconds_text(seconds) == text


def test_particles_without_images_are_shown_as_points(tmp_path):
    prior = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.ones(2))
    page = record(
        Experiment((MARKUP_PROMPT, "b"), method=SDS(1.0), particles=8, steps=2),
        prior,
        tmp_path,
        console=Console(file=io.StringIO()),
    )
    with Image.open(tmp_path / "particles.png") as image:
        assert image.width == pytest.approx(3 * 1.75 * 180, abs=2)  # the law and two prompts
    assert "Particles" in HtmlPage(page).headings and not (tmp_path / "failures.json").exists()


def test_a_method_of_ones_own_keeps_the_case_of_its_name(runs):
    run = read_run_data(runs / "sds")
    assert run.method == "SDS"
    assert replace(run, config=run.config | {"method": {"name": "x/mine.py:Mine"}}).method == "Mine"

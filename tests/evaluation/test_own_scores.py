"""A score of the user's own, from its file to the tables of images and sweeps."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limbeck.cli.main import main

CONTRAST = str(Path(__file__).parents[2] / "examples" / "own_score.py")


def image_folder(folder, heights, size=(8, 6)):
    """Images whose lower half is gray: the standard deviation is half of it."""
    folder.mkdir()
    for number, height in enumerate(heights):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[size[0] // 2 :] = height
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


def score_file(path, body):
    path.write_text(
        "import torch\n"
        "from limbeck.metrics.image_scores.base import ImageScore\n"
        f"class Mine(ImageScore):\n{body}"
    )
    return str(path)


def test_it_has_values_intervals_and_differences(tmp_path):
    heights = [40, 80, 120, 200]
    first = image_folder(tmp_path / "first", heights)
    second = image_folder(tmp_path / "second", [h + 20 for h in heights], size=(10, 4))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mug\na car\na duck\na tree\n")
    argv = ["eval", first, second, "--prompts", str(prompts), "--score", CONTRAST]
    assert main([*argv, "--out", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    values = [own["metrics"]["contrast"]["value"] for own in report["sets"]]
    assert values == pytest.approx([55 / 255, 65 / 255], abs=1e-6)  # half of the means
    (difference,) = report["differences"]
    found = difference["metrics"]["contrast"]
    assert [found[end] for end in ("value", "low", "high")] == pytest.approx([10 / 255] * 3)
    ((judge, digest),) = report["judges"].items()
    assert judge == f"score {CONTRAST}" and len(digest) == 16


def test_it_gets_each_image_with_its_prompt_and_images_of_one_size_at_a_time(tmp_path):
    body = (
        "    def score(self, images, prompts):\n"
        "        assert len({image.shape for image in images}) == 1\n"
        "        return torch.tensor([float(len(prompt)) for prompt in prompts])\n"
    )
    path = score_file(tmp_path / "mine.py", body)
    image_folder(tmp_path / "images", [10, 20])
    Image.new("RGB", (3, 5)).save(tmp_path / "images" / "2.png")
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"0": "ab", "1": "abcd", "2": "abcdef"}))
    argv = ["eval", str(tmp_path / "images"), "--prompts", str(prompts), "--score", path]
    assert main([*argv, "--out", str(tmp_path / "out.json")]) == 0
    (own,) = json.loads((tmp_path / "out.json").read_text())["sets"]
    assert own["metrics"]["mine"]["value"] == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    def score(self, images, prompts): return 1.0\n", "returned float for 2 images"),
        ("    def score(self, images, prompts): return images\n", "of shape [2, 3, 8, 6] for 2"),
        (
            "    def score(self, images, prompts): return torch.full((2,), torch.nan)\n",
            "returned a value that is not finite",
        ),
        (
            "    def score(self, images, prompts): return images.foo()\n",
            "mine.py:4, in Mine.score: AttributeError",
        ),
        ("    pass\n", "it defines no image score"),
        (
            "    name = 'object'\n    def score(self, images, prompts): pass\n",
            "is called 'object', which is taken",
        ),
        (
            "    name = 'seed'\n    def score(self, images, prompts): pass\n",
            "is called 'seed', which is taken",
        ),
        (
            "    name = 'my score'\n    def score(self, images, prompts): pass\n",
            "which is not of lowercase letters, digits and _",
        ),
        (
            "    bounds = 1\n    def score(self, images, prompts): pass\n",
            "must be two finite numbers",
        ),
        (
            "    bounds = (0, 1)\n"
            "    def score(self, images, prompts): return torch.full((2,), 1.5)\n",
            "returned a value outside its bounds (0, 1) for 2 images",
        ),
        (
            "    bounds = (1, 0)\n    def score(self, images, prompts): pass\n",
            "must be two finite numbers",
        ),
        (
            "    def __init__(self, size): pass\n    def score(self, images, prompts): pass\n",
            "TypeError",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, capsys, body, message):
    images = image_folder(tmp_path / "images", [40, 80])
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mug\na car\n")
    path = score_file(tmp_path / "mine.py", body)
    assert main(["eval", images, "--prompts", str(prompts), "--score", path]) == 2
    out, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert message in line and not out


def test_two_scores_of_one_name_are_refused(tmp_path, capsys):
    images = image_folder(tmp_path / "images", [40, 80])
    (tmp_path / "prompts.txt").write_text("a mug\na car\n")
    body = "    name = 'contrast'\n    def score(self, images, prompts): pass\n"
    path = score_file(tmp_path / "mine.py", body)
    argv = ["eval", images, "--prompts", str(tmp_path / "prompts.txt"), "--score", CONTRAST, path]
    assert main(argv) == 2
    assert "two scores of --score are called 'contrast'" in capsys.readouterr().err


def test_a_name_that_is_no_file_is_refused(tmp_path, capsys):
    images = image_folder(tmp_path / "images", [40, 80])
    (tmp_path / "prompts.txt").write_text("a mug\na car\n")
    argv = ["eval", images, "--prompts", str(tmp_path / "prompts.txt"), "--score", "hps"]
    assert main(argv) == 2
    assert "--score takes FILE.py or FILE.py:Class, not 'hps'" in capsys.readouterr().err


def test_a_sweep_has_the_metrics_of_its_evaluation_when_all_runs_do(tmp_path, capsys):
    out = tmp_path / "sweep"
    argv = ["sweep", "red disc", "blue ring", "--model", "gaussians", "--particles", "2"]
    argv += ["--method.guidance", "1", "30", "--steps", "2", "--device", "cpu"]
    assert main([*argv, "--out", str(out), "--workers", "1"]) == 0
    first, second = (row["run"] for row in table_of(out)[::2])
    assert "log_p" not in table_of(out)[0]

    assert main(["eval", str(out / first), "--score", CONTRAST]) == 0
    assert main(["sweep", str(out / "sweep.yaml")]) == 0
    assert "contrast" not in table_of(out)[0]  # one of two would be compared with nothing
    assert "limbeck eval has judged 1 of 2 finished runs" in (out / "report.html").read_text()

    capsys.readouterr()
    assert main(["eval", str(out), "--score", CONTRAST]) == 0
    text, errors = capsys.readouterr()
    assert text.index("guidance 1.0") < text.index("guidance 30.0")  # in the order of the sweep
    assert f"limbeck sweep {out / 'sweep.yaml'} writes these metrics" in errors
    assert main(["sweep", str(out / "sweep.yaml")]) == 0
    rows = table_of(out)
    assert [row["run"] for row in rows] == [first, first, second, second]
    for row, run in ((rows[0], first), (rows[3], second)):
        report = json.loads((out / run / "eval.json").read_text())
        own = {found["prompt"]: found for found in report["by_prompt"]}[row["prompt"]]
        for name in ("contrast", "log_p", "energy_distance", "saturation"):
            assert float(row[name]) == pytest.approx(own[name])
    page = (out / "report.html").read_text()
    assert main(["eval", str(out / second)]) == 0  # without the score, which the first run has
    assert main(["sweep", str(out / "sweep.yaml")]) == 0
    assert "contrast" not in table_of(out)[0] and "log_p" not in table_of(out)[0]
    assert "judged some runs by other networks or scores" in (out / "report.html").read_text()
    assert ">contrast<" in page and ">mean log p<" in page
    assert "With the metrics of limbeck eval" in page
    named = sorted(map(str, out.glob("[!.]*")))  # as a shell expands sweep/*
    assert main(["eval", *named]) == 0 and main(["report", *named]) == 0
    assert "Comparison of 2 runs" in (out / "comparison.html").read_text()


def test_intervals_of_a_share_stay_within_its_bounds_in_tables_and_sweeps(tmp_path):
    """All images have the value 1: of few of them this says little about others."""
    body = (
        "    bounds = (0, 1)\n"
        "    def score(self, images, prompts): return torch.ones(len(images))\n"
    )
    share = score_file(tmp_path / "mine.py", body)
    out = tmp_path / "sweep"
    argv = ["sweep", "red disc", "blue ring", "--model", "gaussians", "--steps", "1"]
    argv += ["--method.guidance", "1", "30", "--lr", "0.1", "0.2", "--out", str(out)]
    assert main([*argv, "--device", "cpu", "--workers", "1"]) == 0
    assert main(["eval", str(out), "--score", share]) == 0
    run = table_of(out)[0]["run"]
    report = json.loads((out / run / "eval.json").read_text())
    found = report["metrics"]["mine"]
    assert report["bounds"] == {"mine": [0, 1]}
    assert found["value"] == found["high"] == 1 and 0.2 < found["low"] < 0.5
    assert main(["sweep", str(out / "sweep.yaml")]) == 0
    page = (out / "report.html").read_text()
    assert f'1.000 <span class="soft">[{found["low"]:.3f}, 1.000]' in page
    with (out / "effects.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["score"] == "mine"]
    assert {float(row["difference"]) for row in rows} == {0}
    assert all(float(row["low"]) < -0.5 < 0.5 < float(row["high"]) for row in rows)


def test_the_page_shows_the_whole_of_the_example():
    page = (Path(__file__).parents[2] / "docs" / "eval.md").read_text(encoding="utf-8")
    _, _, code = Path(CONTRAST).read_text(encoding="utf-8").partition("import annotations\n\n")
    assert code and code in page


def table_of(sweep):
    with (sweep / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))

"""`limbeck eval` on folders of images of any tool, and on 2D runs of ours."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from run_folders import experiment
from tiny_clip import write_clip
from world_images import write_world_images

from limbeck.cli.main import main
from limbeck.evaluation.measured_images import FeatureNetwork, embed_files
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.kid import kid
from limbeck.metrics.square_images import center_square
from limbeck.metrics.vendi import vendi_score
from limbeck.priors.exact import colored_shapes
from limbeck.runs.recorder import record
from limbeck.system.image_files import read_whole_image
from limbeck.training.optimizers import SGD
from limbeck.world.pretrained import load_evaluator


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """True images, the same with noise, and a reference; prompts.txt belongs to the first two."""
    folder = tmp_path_factory.mktemp("world")
    prompts = write_world_images(folder / "true", 24)
    write_world_images(folder / "noisy", 24, noise=45)
    write_world_images(folder / "reference", 60, seed=1)
    (folder / "prompts.txt").write_text("\n".join(prompts))
    return folder


def features(folder, count):
    images = [read_whole_image(folder / f"img-{i}.png") for i in range(count)]
    with torch.no_grad():
        return load_evaluator().features(torch.stack(images))


def test_a_folder_and_its_prompts_are_enough(world, tmp_path, capsys):
    out = tmp_path / "results.json"
    argv = ["eval", str(world / "true"), str(world / "noisy"), "--out", str(out)]
    argv += ["--prompts", str(world / "prompts.txt"), "--reference", str(world / "reference")]
    assert main(argv) == 0
    text, report = capsys.readouterr().out, json.loads(out.read_text())
    true, noisy = (entry["metrics"] for entry in report["sets"])
    own = features(world / "true", 24)
    assert true["vendi"]["value"] == pytest.approx(vendi_score(own), rel=1e-4)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    reference = features(world / "reference", 60)
    assert true["kid"]["value"] == pytest.approx(kid(own, reference[order[24:]]), rel=1e-4)
    floor = kid(reference[order[:24]], reference[order[24:]])
    assert true["kid"]["floor"] == noisy["kid"]["floor"] == pytest.approx(floor, rel=1e-4)
    assert true["kid"]["low"] < 0 < true["kid"]["high"] and noisy["kid"]["low"] > 0
    assert true["object"]["value"] == 1 and 0.8 < true["object"]["low"] < 0.9
    assert "frechet" not in true  # of 24 images
    (difference,) = report["differences"]
    assert difference["metrics"]["object"]["high"] < 0 < difference["metrics"]["kid"]["low"]
    assert report["features"] == "the world's evaluator" and len(report["prompts"]["sha256"]) == 64
    assert "paired by prompt and seed" in text and "| KID x 1000 " in text
    assert main(argv) == 2  # nothing is overwritten


def test_images_that_the_evaluator_does_not_judge_are_counted(world, tmp_path, capsys):
    mixed = shutil.copytree(world / "true", tmp_path / "mixed")
    for i in range(4):
        Image.open(mixed / f"img-{i}.png").resize((128, 128)).save(mixed / f"img-{i}.png")
    prompts = ["--prompts", str(world / "prompts.txt")]
    assert main(["eval", str(mixed), *prompts]) == 0
    assert "the evaluator judges 20 of 24 images: " in capsys.readouterr().out
    assert main(["eval", str(world / "true"), *prompts]) == 0
    assert "the evaluator judges" not in capsys.readouterr().out


def test_clip_gives_scores_and_features(world, tmp_path, capsys):
    folder = write_clip(tmp_path / "clip")
    out = tmp_path / "results.json"
    argv = ["eval", str(world / "true"), "--prompts", str(world / "prompts.txt")]
    assert main([*argv, "--clip", str(folder), "--out", str(out), "--device", "cpu"]) == 0
    metrics = json.loads(out.read_text())["sets"][0]["metrics"]
    prompts = (world / "prompts.txt").read_text().splitlines()
    clip = CLIPSimilarity(folder)
    images = torch.stack([read_whole_image(world / "true" / f"img-{i}.png") for i in range(24)])
    similarity = clip.similarity(images, prompts)
    expected = similarity.diagonal().mean().item()
    assert metrics["clip_score"]["value"] == pytest.approx(expected, abs=1e-5)
    best = (similarity.argmax(1) == torch.arange(24)).float().mean().item()
    assert metrics["clip_r_precision"]["value"] == pytest.approx(best)
    assert f"features: CLIP {folder}" in capsys.readouterr().out
    # a single prompt has no R-Precision
    one = tmp_path / "one.txt"
    one.write_text("a duck")
    assert main(["eval", str(world / "true"), "--prompts", str(one), "--clip", str(folder)]) == 0
    table = capsys.readouterr().out
    assert "CLIP R-Precision" not in table and "24 images of 1 prompt" in table


def test_texts_are_what_clip_compares_with(world, tmp_path, capsys):
    folder, out, texts = write_clip(tmp_path / "clip"), tmp_path / "out.json", tmp_path / "t.json"
    prompts = (world / "prompts.txt").read_text().splitlines()
    others = [prompts[0].upper() + ".", "a red car", prompts[1], "a cone"]  # two are prompts
    texts.write_text(json.dumps(others))
    argv = ["eval", str(world / "true"), "--prompts", str(world / "prompts.txt"), "--device", "cpu"]
    assert main([*argv, "--clip", str(folder), "--texts", str(texts), "--out", str(out)]) == 0
    found = json.loads(out.read_text())["sets"][0]["metrics"]["clip_r_precision"]
    clip = CLIPSimilarity(folder)
    images = torch.stack([read_whole_image(world / "true" / f"img-{i}.png") for i in range(24)])
    own, similarity = clip.paired_similarity(images, prompts), clip.similarity(images, others)
    similarity[0, 0] = similarity[1, 2] = -1.0  # no prompt is compared with itself
    expected = (own > similarity.amax(1)).float().mean().item()
    assert len(set(prompts)) == 24
    assert "CLIP R-Precision is among 5 texts: chance is 20 %" in capsys.readouterr().out
    assert found["value"] == pytest.approx(expected)


def test_images_of_any_size_and_shape(tmp_path):
    sizes = [(64, 64), (300, 200), (70, 90)]
    for i, size in enumerate(sizes):
        Image.new("RGB", size, "red").save(tmp_path / f"{i}.png")
    network = FeatureNetwork("mean", 8, lambda x: x.mean((2, 3)))
    found = embed_files([tmp_path / f"{i}.png" for i in range(3)], network)
    assert torch.allclose(found, torch.tensor([1.0, 0.0, 0.0]).expand(3, 3), atol=1e-5)
    wide = torch.arange(10.0).expand(3, 4, 10)
    assert center_square(wide)[0, 0].tolist() == [3, 4, 5, 6]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the exact prior, of two seeds, and two that differ in an option each."""
    folder = tmp_path_factory.mktemp("runs")
    changes: dict[str, dict] = {
        "a": {},
        "b": {"seed": 1},
        "c": {"steps": 14},
        "d": {"optimizer": SGD()},
    }
    for name, own in changes.items():
        console = Console(file=io.StringIO())
        record(experiment(**own), colored_shapes(), folder / name, console=console)
    return folder


def test_runs_are_judged_by_the_same_metrics_and_by_the_true_law(runs, capsys):
    assert main(["eval", *(str(runs / name) for name in "abcd"), "--device", "cpu"]) == 0
    text, report = capsys.readouterr().out, json.loads((runs / "a" / "eval.json").read_text())
    headings = [line for line in text.splitlines() if line.endswith("images, 2 prompts")]
    assert headings == [  # a and b are one set; only the last differs in more than its steps
        "SDS, Latents, 12 steps; optimizer adam: 8 images, 2 prompts",
        "SDS, Latents, 14 steps: 4 images, 2 prompts",
        "SDS, Latents, 12 steps; optimizer sgd: 4 images, 2 prompts",
    ]
    assert report["step"] == 12 and report["metrics"]["saturation"]["n"] == 4
    metrics = report["metrics"]
    assert {"vendi", "diversity", "log_p", "energy_distance", "sliced_wasserstein"} <= set(metrics)
    # after 12 steps everything is far from the law, whose own samples are the floor
    assert metrics["log_p"]["value"] < metrics["log_p"]["floor"]
    for name in ("energy_distance", "sliced_wasserstein"):
        assert metrics[name]["value"] > 2 * abs(metrics[name]["floor"])
    shares = report["mode_shares"]["a red disc"]
    assert len(shares) == 12 and sum(shares.values()) == pytest.approx(1)
    # the same particles as images in a folder have the same metrics
    prompts = runs / "prompts.txt"
    prompts.write_text("a red disc\na blue ring")
    out = runs / "folder.json"
    assert main(["eval", str(runs / "a"), "--prompts", str(prompts), "--out", str(out)]) == 0
    folder = json.loads(out.read_text())["sets"][0]["metrics"]
    assert {name: metrics[name] for name in folder} == folder


def refusal(capsys, *argv):
    assert main(["eval", *map(str, argv)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_what_does_not_fit_is_refused_in_one_line(world, runs, tmp_path, capsys):
    folder, prompts = world / "true", world / "prompts.txt"
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3):
        Image.new("RGB", (4, 4)).save(few / f"{i}.png")
    assert "--prompts FILE" in refusal(capsys, folder)
    assert "3 images for 24 prompts" in refusal(capsys, few, "--prompts", prompts)
    argv = (folder, "--prompts", prompts, "--reference")
    assert "at least 4 images, not 3" in refusal(capsys, *argv, few)
    assert "does not exist" in refusal(capsys, *argv, tmp_path / "none")
    assert "--out needs --prompts" in refusal(capsys, runs / "a", "--out", tmp_path / "x.json")
    clip = refusal(capsys, folder, "--prompts", prompts, "--clip", tmp_path / "none")
    assert "holds no CLIP model" in clip
    (runs / "b" / "final" / "01-01.png").unlink()
    assert "01-01.png is missing" in refusal(capsys, runs / "b")


def test_samples_are_a_set_of_their_own(runs, tmp_path, capsys):
    samples = tmp_path / "samples"
    words = ["a red disc", "a blue ring", "--model", "gaussians", "--steps", "5"]
    assert main(["sample", *words, "--num-images", "2", "--out", str(samples)]) == 0
    capsys.readouterr()
    assert main(["eval", str(runs / "a"), str(samples)]) == 0
    text = capsys.readouterr().out
    assert "samples of gaussians, 5 steps, guidance 5: 4 images" in text
    assert "minus SDS" in text and "saturation" in (samples / "eval.json").read_text()
    assert "Metrics with intervals" in (runs / "a" / "report.html").read_text()


def test_metrics_that_another_evaluation_leaves_out_are_named(world, runs, capsys):
    folder = runs / "c"
    assert main(["eval", str(folder), "--reference", str(world / "true")]) == 0
    assert "kid" in json.loads((folder / "eval.json").read_text())["metrics"]
    assert "no longer" not in capsys.readouterr().err
    assert main(["eval", str(folder)]) == 0
    (notice,) = capsys.readouterr().err.splitlines()
    assert "eval.json had kid, cmmd" in notice and "no longer" in notice


def test_vendi_scores_of_other_numbers_of_images_are_not_compared(tmp_path, capsys):
    """The score grows with the number: five seeds against eight say nothing about diversity."""
    rng, prompts = np.random.default_rng(0), tmp_path / "prompts.txt"
    prompts.write_text("a duck\na mug")
    for name, per_prompt in (("five", 5), ("eight", 8)):
        (tmp_path / name).mkdir()
        for i in range(2 * per_prompt):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    out = tmp_path / "out.json"
    folders = [str(tmp_path / name) for name in ("five", "eight")]
    assert main(["eval", *folders, "--prompts", str(prompts), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    five, eight = (entry["metrics"] for entry in report["sets"])
    assert "vendi_4" in five and "vendi_8" not in five and {"vendi_4", "vendi_8"} <= set(eight)
    (difference,) = report["differences"]
    assert difference["metrics"]["vendi_4"]["n"] == 2 and "vendi_8" not in difference["metrics"]
    assert difference["metrics"]["vendi"]["n"] == 10  # the pairs of images alone

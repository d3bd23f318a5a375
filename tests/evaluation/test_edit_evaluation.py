"""`limbeck eval` on edits: what is kept outside masks, pairs as units, options of the user."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_clip import write_clip
from tiny_dino import write_dino

from limbeck.cli.main import main
from limbeck.evaluation.image_sets import is_pair, pair_unit, prompt_of
from limbeck.methods.dds import DDS
from limbeck.methods.sdedit import SDEdit
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.structure_distance import DinoKeys, structure_distance
from limbeck.priors.exact import colored_shapes
from limbeck.representations.latents import Latents
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.edit_options import EditOptions
from limbeck.runs.editing import edit_to_folder
from limbeck.runs.recorder import record
from limbeck.system.image_files import read_whole_image
from limbeck.training.experiment import Experiment


def save_noise(path, seed, size=24):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return path


def save_mask(path, left, size=24):
    """White from column ``left`` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size, size), np.uint8)
    mask[:, left:] = 255
    Image.fromarray(mask).save(path)
    return path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")) / 255


def by_hand(edited, source, keep):
    """Mean squared error, PSNR and SSIM over the kept pixels."""
    x, y = pixels(edited), pixels(source)
    error = np.mean((x - y)[keep] ** 2)
    rows, columns = np.indices(keep.shape)
    similarities = []
    for v, u in np.argwhere(keep):
        far = np.maximum(np.abs(rows - v), np.abs(columns - u)) > 5
        weights = np.exp(-((rows - v) ** 2 + (columns - u) ** 2) / (2 * 1.5**2))
        weights[far | ~keep] = 0
        weights = (weights / weights.sum())[:, :, None]
        a, b = ((weights * image).sum((0, 1)) for image in (x, y))
        spread = [(weights * d * e).sum((0, 1)) for d, e in ((x - a,) * 2, (y - b,) * 2)]
        joint = (weights * (x - a) * (y - b)).sum((0, 1))
        luminance = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
        similarities.append(luminance * (2 * joint + 9e-4) / (sum(spread) + 9e-4))
    return error, -10 * math.log10(error), np.mean(similarities)


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
    """Edits of two images towards one target prompt by DDS and SDEdit, two each; masks."""
    folder = tmp_path_factory.mktemp("edits")
    photos = tuple(save_noise(folder / f"{i}.png", i) for i in range(2))
    masks = tuple(save_mask(folder / "masks" / f"{i}.png", 9 + i) for i in range(2))
    inputs = EditInputs(photos, ("a blue disc",), ("a red disc",))
    for name, method in (("dds", DDS(2.0)), ("sdedit", SDEdit(2.0, denoise_steps=2))):
        options = EditOptions(method, steps=2, particles=2, model="colored-shapes")
        console = Console(file=io.StringIO())
        edit_to_folder(inputs, options, colored_shapes(), folder / name, console=console)
    inputs = EditInputs(photos, ("a blue disc",), ("a red disc",), masks)
    options = EditOptions(DDS(2.0), steps=2, model="colored-shapes")
    edit_to_folder(inputs, options, colored_shapes(), folder / "masked", console=console)
    return folder


def evaluate(folder, *argv):
    assert main(["eval", str(folder), "--device", "cpu", *map(str, argv)]) == 0
    return json.loads((folder / "eval.json").read_text(encoding="utf-8"))["metrics"]


def test_the_pair_of_image_and_prompts_is_the_unit(edits, capsys):
    metrics = evaluate(edits / "dds")
    assert metrics["change"]["n"] == 4 and metrics["change"]["over"] == "2 pairs"
    sources = sorted((edits / "dds" / "edit").glob("*-before.png"))
    finals = sorted((edits / "dds" / "final").glob("*.png"))
    changes = [
        np.sqrt(np.mean((pixels(a) - pixels(b)) ** 2)) for a, b in zip(finals, sources, strict=True)
    ]
    assert metrics["change"]["value"] == pytest.approx(np.mean(changes), rel=1e-5)
    assert "psnr_outside" not in metrics
    assert "4 images, 1 prompt" in capsys.readouterr().out
    page = (edits / "dds" / "report.html").read_text(encoding="utf-8")
    assert "RMS change" in page


def test_two_methods_are_compared_pair_by_pair(edits, capsys):
    folders = [str(edits / name) for name in ("dds", "sdedit")]
    assert main(["eval", *folders, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "paired by prompt and seed" in text
    rows = [line for line in text.splitlines() if line.startswith("| RMS change")]
    assert len(rows) == 3 and all("| 2 pairs |" in row for row in rows)


def test_masks_of_the_user_say_what_counts(edits):
    metrics = evaluate(edits / "sdedit", "--masks", edits / "masks")
    values = []
    for i in range(2):
        keep = np.arange(24) < 9 + i
        for particle in range(2):
            edited = edits / "sdedit" / "final" / f"{i:02d}-{particle:02d}.png"
            values.append(by_hand(edited, edits / f"{i}.png", np.broadcast_to(keep, (24, 24))))
    mse, psnr, ssim = np.mean(values, 0)
    assert metrics["mse_outside"]["value"] == pytest.approx(mse, rel=1e-5)
    assert metrics["psnr_outside"]["value"] == pytest.approx(psnr, rel=1e-5)
    assert metrics["ssim_outside"]["value"] == pytest.approx(ssim, rel=1e-5)


def test_masks_of_the_run_leave_nothing_changed_outside(edits):
    metrics = evaluate(edits / "masked")
    assert metrics["mse_outside"]["value"] == 0 and metrics["ssim_outside"]["value"] == 1
    assert metrics["change"]["value"] > 0


def test_clip_and_dino_judge_edits_of_any_tool(edits, tmp_path):
    clip, dino = write_clip(tmp_path / "clip"), write_dino(tmp_path / "dino")
    images, sources = (
        [save_noise(tmp_path / name / f"{i}.png", seed + i, 32) for i in range(2)]
        for name, seed in (("images", 10), ("sources", 20))
    )
    mask = save_mask(tmp_path / "mask.png", 20, 32)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a yellow duck\na yellow cube\n", encoding="utf-8")
    argv = ["eval", tmp_path / "images", "--prompts", prompts, "--clip", clip, "--dino", dino]
    argv += ["--source-images", tmp_path / "sources", "--masks", mask, "--device", "cpu"]
    argv += ["--out", tmp_path / "out.json"]
    assert main(list(map(str, argv))) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["judges"] == {"clip": str(clip), "dino": str(dino)} and report["texts"] == 2
    metrics = report["sets"][0]["metrics"]
    own, other = (torch.stack(list(map(read_whole_image, paths))) for paths in (images, sources))
    expected = structure_distance(own, other, DinoKeys(dino)).mean().item()
    assert metrics["structure_distance"]["value"] == pytest.approx(expected, rel=1e-5)
    assert metrics["structure_distance_published"]["value"] != pytest.approx(expected, rel=0.1)
    own[:, :, :, :20] = 0
    cosines = CLIPSimilarity(clip).similarity(own, ["a yellow duck", "a yellow cube"]).diagonal()
    assert metrics["clip_edited"]["value"] == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert metrics["clip_score"]["over"] == "2 pairs"


def test_an_edit_without_an_edited_part_has_no_score_of_it(tmp_path):
    clip = write_clip(tmp_path / "clip")
    for name, seed in (("images", 10), ("sources", 20)):
        for i in range(2):
            save_noise(tmp_path / name / f"{i}.png", seed + i, 32)
    for i, left in enumerate((32, 20)):  # the first one is black
        save_mask(tmp_path / "masks" / f"{i}.png", left, 32)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a yellow duck\na yellow cube\n", encoding="utf-8")
    argv = ["eval", tmp_path / "images", "--prompts", prompts, "--clip", clip]
    argv += ["--source-images", tmp_path / "sources", "--masks", tmp_path / "masks"]
    argv += ["--device", "cpu", "--out", tmp_path / "out.json"]
    assert main(list(map(str, argv))) == 0
    metrics = json.loads((tmp_path / "out.json").read_text())["sets"][0]["metrics"]
    assert metrics["clip_edited"]["n"] == 1 and metrics["psnr_outside"]["n"] == 2


def test_a_scaled_mask_keeps_its_size(tmp_path):
    edited, source = save_noise(tmp_path / "x" / "0.png", 0), save_noise(tmp_path / "y.png", 1)
    mask = save_mask(tmp_path / "mask.png", 9 * 8, 24 * 8)
    (tmp_path / "prompts.txt").write_text("a yellow duck\n", encoding="utf-8")
    argv = [
        "eval",
        tmp_path / "x",
        "--prompts",
        tmp_path / "prompts.txt",
        "--source-images",
        source,
    ]
    argv += ["--masks", mask, "--device", "cpu", "--out", tmp_path / "out.json"]
    assert main(list(map(str, argv))) == 0
    metrics = json.loads((tmp_path / "out.json").read_text())["sets"][0]["metrics"]
    mse, _, _ = by_hand(edited, source, np.broadcast_to(np.arange(24) < 9, (24, 24)))
    assert metrics["mse_outside"]["value"] == pytest.approx(mse, rel=1e-5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dino", "DINO"], "--dino is for edits, and none of these images has a source image"),
        (["--masks", "MASKS"], "--masks is for edits"),
        (["--source-images", "SOURCES"], "3 images of --source-images for 4 edits: give one"),
    ],
)
def test_options_without_edits_are_refused(edits, tmp_path, capsys, argv, message):
    for i in range(3):
        save_noise(tmp_path / "sources" / f"{i}.png", i)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a yellow duck\n", encoding="utf-8")
    files = {"SOURCES": tmp_path / "sources", "MASKS": edits / "masks"}
    files["DINO"] = write_dino(tmp_path / "dino")
    own = [str(files.get(word, word)) for word in argv]
    folder = edits / "dds" / "final"
    assert main(["eval", str(folder), "--prompts", str(prompts), *own]) == 2
    assert message in capsys.readouterr().err


def test_a_source_image_that_is_gone_is_named(edits, tmp_path, capsys):
    folder = tmp_path / "run"
    photo = save_noise(tmp_path / "gone.png", 5)
    experiment = Experiment(
        ("a blue disc",),
        source_prompt=("a red disc",),
        method=DDS(2.0),
        model="colored-shapes",
        representation=Latents(0.1, images=(photo,)),
        steps=1,
    )
    record(experiment, colored_shapes(), folder, console=Console(file=io.StringIO()))
    photo.unlink()
    assert main(["eval", str(folder), "--device", "cpu"]) == 2
    assert "gone.png, from which an image was edited, no longer exists" in capsys.readouterr().err
    save_noise(photo, 5)
    assert "change" in evaluate(folder)


def test_the_prompt_of_a_unit_is_the_target_prompt():
    unit = pair_unit("a blue disc", "a red disc", "12ab")
    assert prompt_of(unit) == "a blue disc" == prompt_of("a blue disc")
    assert is_pair(unit) and not is_pair("a blue disc")

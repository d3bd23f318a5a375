"""Edits with ground truth: 64 rendered images, one attribute of each to change, every method.

    python examples/edit_study.py                      # table and figure of docs/editing.md
    python examples/edit_study.py --count 16 --only dds pds

Scenes are held out from training, and both the source and the target are rendered. Only edits for
which the evaluator recognizes both renders are used, so that its verdict on an edited image can be
trusted. Every method has the defaults of ``limbeck edit``. Writes table.md, figure.png and all
edited images into a folder below runs/edit-study that is named by count, seed and weights; finished
rows are not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import limbeck as lb
from limbeck.config.comparison import fingerprint
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.export.png import to_uint8
from limbeck.methods.cds import CDS
from limbeck.methods.dds import DDS
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.edit_options import EditOptions, default_options
from limbeck.runs.editing import GRADIENT_MAP_STEPS, edit_experiments
from limbeck.runs.images import heat_map
from limbeck.training.trainer import Run
from limbeck.world.pretrained import load_evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    OBJECTS,
    PATTERNS,
    Scenes,
    caption,
    random_scenes,
    render_scenes,
)

OUT = Path("runs/edit-study")
CHANGED = ("color", "pattern", "background", "object")
COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}


@dataclass(frozen=True)
class Edits:
    """Scenes before and after, and the attribute in which each pair differs."""

    before: Scenes
    after: Scenes
    changed: tuple[str, ...]

    @property
    def descriptions(self) -> list[str]:
        """What changes, as ``red to blue``."""
        pairs = zip(self.before.labels(), self.after.labels(), self.changed, strict=True)
        return [
            f"{ATTRIBUTES[name][old[COLUMN[name]]]} to {ATTRIBUTES[name][new[COLUMN[name]]]}"
            for old, new, name in pairs
        ]


def to_tensor(scenes: Scenes) -> Tensor:
    """Renders of scenes, in [0, 1]."""
    return images_to_tensor(render_scenes(scenes))


def correct_attributes(scenes: Scenes, images: Tensor) -> np.ndarray:
    """Whether the evaluator sees each attribute of a scene, ``[N, 5]``.

    The view is always correct for objects whose views look the same.
    """
    correct = load_evaluator().judge(images).numpy() == scenes.labels()
    correct[:, COLUMN["view"]] |= ~scenes.asymmetric
    return correct


def draw_edits(count: int, seed: int) -> Edits:
    """Draw held-out scenes with one attribute changed, equally many of each attribute."""
    rng, num_candidates = np.random.default_rng(seed), 4 * count
    before = random_scenes(num_candidates, rng, unseen=True)
    changed = np.array([CHANGED[i % len(CHANGED)] for i in range(num_candidates)])
    values = {name: getattr(before, name).copy() for name in CHANGED}
    for i, name in enumerate(changed):
        num_values = len(ATTRIBUTES[name])
        values[name][i] = (values[name][i] + rng.integers(1, num_values)) % num_values
    after = replace(before, **values)
    recognized = correct_attributes(before, to_tensor(before)).all(1)
    recognized &= correct_attributes(after, to_tensor(after)).all(1)
    per_attribute = count // len(CHANGED)
    chosen = [np.flatnonzero(recognized & (changed == name))[:per_attribute] for name in CHANGED]
    rows = np.stack(chosen).T.flatten()
    return Edits(before[rows], after[rows], tuple(changed[rows]))


def captions(scenes: Scenes) -> tuple[str, ...]:
    """Captions without the view, which should not change."""
    return tuple(
        caption(OBJECTS[o], COLORS[c], PATTERNS[p], BACKGROUNDS[b])
        for o, c, p, b, _ in scenes.labels()
    )


def evaluate(edits: Edits, images: Tensor) -> dict[str, float]:
    """Evaluate edited images.

    Returns:
        Shares of edits whose changed attribute is reached, whose other attributes are all kept,
        and both, also by attribute; and the mean RMS distance to the true image.
    """
    correct = correct_attributes(edits.after, images)
    correct[:, COLUMN["view"]] |= ~edits.before.asymmetric
    rows, column = np.arange(len(images)), np.array([COLUMN[name] for name in edits.changed])
    reached = correct[rows, column]
    correct[rows, column] = True
    kept = correct.all(1)
    both = reached & kept
    difference = images - to_tensor(edits.after)
    metrics = {"reached": reached.mean(), "kept": kept.mean(), "both": both.mean()}
    metrics["distance"] = difference.square().mean((1, 2, 3)).sqrt().mean().item()
    metrics |= {name: both[np.array(edits.changed) == name].mean() for name in CHANGED}
    return {name: float(value) for name, value in metrics.items()}


def method_options() -> dict[str, EditOptions]:
    """Options of each row of the table: those of ``limbeck edit --method NAME``."""
    pds = default_options(PDS)
    return {
        "DDS": default_options(DDS),
        "PDS, published": pds,
        "PDS, consistent": replace(pds, method=replace(pds.method, coefficients="consistent")),
        "CDS": default_options(CDS),
        "SDEdit": default_options(SDEdit),
    }


def run_edits(
    options: EditOptions, files: Sequence[Path], edits: Edits, prior: Prior
) -> tuple[Tensor, Tensor]:
    """Edited images, and the norm of the mean gradient of the first steps."""
    inputs = EditInputs(tuple(files), captions(edits.after), captions(edits.before))
    (experiment,) = edit_experiments(inputs, options, prior).values()
    run, gradients = Run(experiment, prior), []
    while run.step < experiment.steps:
        step = run.advance()
        if step.step <= GRADIENT_MAP_STEPS:
            gradients.append(step.gradient)
    images = []
    with torch.no_grad():
        for particles in torch.arange(experiment.total).split(16):
            request = RenderRequest(particles)
            images.append(run.representation.images(prior, request).float().cpu())
    return torch.cat(images), torch.stack(gradients).mean(0).norm(dim=1).cpu()


def draw_figure(
    columns: dict[str, Tensor], edits: Edits, rows: Sequence[int], size: int = 72
) -> Image.Image:
    """One row per edit and one column per method, in few colors for a small file."""
    font, left, top, cell = ImageFont.load_default(10), 104, 18, size + 4
    out = Image.new("RGB", (left + cell * len(columns), top + cell * len(rows)), "white")
    draw = ImageDraw.Draw(out)
    for x, (title, images) in enumerate(columns.items()):
        draw.text((left + x * cell, 4), title, fill="black", font=font)
        for y, pixels in enumerate(to_uint8(images[list(rows)])):
            image = Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)
            out.paste(image, (left + x * cell, top + y * cell))
    for y, row in enumerate(rows):
        draw.text((2, top + y * cell + size // 2 - 6), edits.descriptions[row], "black", font)
    return out.quantize(160, dither=Image.Dither.NONE)


def format_table(results: dict[str, dict[str, float]]) -> str:
    """The results in Markdown."""
    names = ("reached", "kept", "both", *CHANGED, "distance", "seconds", "evaluations")
    formats = {"distance": "{:.3f}", "seconds": "{:.0f}", "evaluations": "{:.0f}"}
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, row in results.items():
        cells = [formats.get(name, "{:.0%}").format(row[name]) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def save_images(images: Tensor, folder: Path) -> None:
    """Save images as numbered files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(to_uint8(images)):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")


def load_images(folder: Path) -> Tensor:
    """Load what ``save_images`` saved."""
    files = sorted(folder.glob("*.png"))
    return images_to_tensor(np.stack([np.asarray(Image.open(path)) for path in files]))


def compute_row(options: EditOptions, edits: Edits, prior: Prior, folder: Path) -> dict[str, float]:
    """Compute a row of the table and save its images, or read it if it is finished."""
    finished = folder / "row.json"
    if finished.exists():
        return json.loads(finished.read_text(encoding="utf-8"))
    files = sorted((folder.parent / "before").glob("*.png"))
    start, rows = time.perf_counter(), prior.call_counter.rows
    images, gradients = run_edits(options, files, edits, prior)
    seconds = time.perf_counter() - start
    evaluations = (prior.call_counter.rows - rows) / len(files)
    save_images(images, folder)
    maps = heat_map(gradients, float(gradients.flatten().quantile(0.99)))
    maps = torch.nn.functional.interpolate(maps, images.shape[-2:])
    save_images(maps, folder / "gradient")
    row = evaluate(edits, images) | {"seconds": seconds, "evaluations": evaluations}
    finished.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return row


def autoencode(prior: Prior, images: Tensor) -> Tensor:
    """Encode and decode images."""
    with torch.no_grad():
        parts = [prior.decode(prior.encode(part.to(prior.device))) for part in images.split(16)]
    return torch.cat(parts).cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=64, help="number of edits, a multiple of 4")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--only", nargs="*", help="parts of row names, such as dds or published")
    arguments = parser.parse_args()
    prior = lb.load("world", precision=arguments.precision)
    edits = draw_edits(arguments.count, arguments.seed)
    files = prior.files.folder  # type: ignore[attr-defined]
    weights = (files / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()[:8]
    folder = OUT / f"{len(edits.changed)}-{arguments.seed}-{digest}"
    before, after = to_tensor(edits.before), to_tensor(edits.after)
    save_images(before, folder / "before")
    no_cost = {"seconds": 0.0, "evaluations": 0.0}
    results = {
        "not edited": evaluate(edits, before) | no_cost,
        "through the autoencoder": evaluate(edits, autoencode(prior, before)) | no_cost,
    }
    columns = {"before": before, "true": after}
    for name, options in method_options().items():
        if arguments.only and not any(part.lower() in name.lower() for part in arguments.only):
            continue
        row_folder = folder / f"{name.lower().replace(', ', '-')}-{fingerprint(options)}"
        results[name] = compute_row(options, edits, prior, row_folder)
        columns[name.replace("consistent", "consist.")] = load_images(row_folder)
        if name == "PDS, published":
            columns["its gradient"] = load_images(row_folder / "gradient")
        (folder / "table.md").write_text(format_table(results), encoding="utf-8")
        figure = draw_figure(columns, edits, range(min(8, len(before))))
        figure.save(folder / "figure.png", optimize=True)
        print(format_table({name: results[name]}).splitlines()[-1], flush=True)
    print(f"\n{format_table(results)}\n{folder}")


if __name__ == "__main__":
    main()

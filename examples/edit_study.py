"""Edits whose truth is known: 64 rendered pictures of the world, each to change in one attribute, by every editing method.

    python examples/edit_study.py                       # the table and the picture of docs/editing.md
    python examples/edit_study.py --count 16 --only dds pds

The scenes are held out from training, and both they and what they shall become are rendered; only edits whose two renders the
evaluator reads right are taken, so that what it says of an edited picture can be believed. Every method has the settings of
``limbeck edit``.
Writes table.md, picture.png and every edited picture into a folder below runs/edit-study named by count, seed and weights; rows
that are there already are not computed again.
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
from limbeck.config.yaml import fingerprint
from limbeck.methods.cds import CDS
from limbeck.methods.dds import DDS
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.runs.editing import How, LOOKS, Pictures, experiments, suited
from limbeck.runs.images import heat
from limbeck.graphics.export.png import to_bytes
from limbeck.training.trainer import Run
from limbeck.world.pretrained import load_evaluator
from limbeck.world.render_cache import as_images
from limbeck.world.scene import ATTRIBUTES, BACKGROUNDS, COLOURS, OBJECTS, PATTERNS, Scenes, caption, random_scenes, render

OUT = Path("runs/edit-study")
CHANGED = ("colour", "pattern", "background", "object")
VIEW = list(ATTRIBUTES).index("view")


@dataclass(frozen=True)
class Edits:
    """Scenes before and after, and which attribute differs in each."""

    before: Scenes
    after: Scenes
    changed: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """What changes, as ``red to blue``."""
        pairs = zip(self.before.labels(), self.after.labels(), self.changed, strict=True)
        column = {name: i for i, name in enumerate(ATTRIBUTES)}
        return [
            f"{ATTRIBUTES[k][a[column[k]]]} to {ATTRIBUTES[k][b[column[k]]]}" for a, b, k in pairs
        ]


def right(scenes: Scenes, images: Tensor) -> np.ndarray:
    """``[N, 5]`` whether the evaluator sees what a scene holds; the view counts where views differ."""
    hit = load_evaluator().judge(images).numpy() == scenes.labels()
    hit[:, VIEW] |= ~scenes.asymmetric
    return hit


def draw_edits(count: int, seed: int) -> Edits:
    """Held-out scenes with one attribute changed to another value, in turn; as many of each attribute."""
    rng, many = np.random.default_rng(seed), 4 * count
    before = random_scenes(many, rng, unseen=True)
    changed = np.array([CHANGED[i % len(CHANGED)] for i in range(many)])
    new = {name: getattr(before, name).copy() for name in CHANGED}
    for i, name in enumerate(changed):
        known = len(ATTRIBUTES[name])
        new[name][i] = (new[name][i] + rng.integers(1, known)) % known
    after = replace(before, **new)
    seen = right(before, as_images(render(before))).all(1) & right(
        after, as_images(render(after))
    ).all(1)
    rows = np.concatenate(
        [np.flatnonzero(seen & (changed == name))[: count // len(CHANGED)] for name in CHANGED]
    )
    rows = rows.reshape(len(CHANGED), -1).T.flatten()
    return Edits(before[rows], after[rows], tuple(changed[rows]))


def texts(scenes: Scenes) -> tuple[str, ...]:
    """Captions without the view, which is to stay."""
    return tuple(
        caption(OBJECTS[o], COLOURS[c], PATTERNS[p], BACKGROUNDS[b])
        for o, c, p, b, _ in scenes.labels()
    )


def judged(edits: Edits, images: Tensor) -> dict[str, float]:
    """Shares of edits whose changed attribute is reached, whose others are all kept, and both; distance to the true picture."""
    hit = right(edits.after, images)
    hit[:, VIEW] |= ~edits.before.asymmetric
    column = np.array([list(ATTRIBUTES).index(name) for name in edits.changed])
    rows = np.arange(len(column))
    reached = hit[rows, column]
    hit[rows, column] = True
    kept = hit.all(1)
    apart = (images - as_images(render(edits.after))).square().mean((1, 2, 3)).sqrt().mean().item()
    out = {
        "reached": reached.mean(),
        "kept": kept.mean(),
        "both": (reached & kept).mean(),
        "distance": apart,
    }
    for name in CHANGED:
        out[name] = (reached & kept)[np.array(edits.changed) == name].mean()
    return {name: float(value) for name, value in out.items()}


def settings() -> dict[str, How]:
    """The rows of the table: what ``limbeck edit --method NAME`` does."""
    pds = suited(PDS)
    return {
        "DDS": suited(DDS),
        "PDS, published": pds,
        "PDS, consistent": replace(pds, method=replace(pds.method, coefficients="consistent")),
        "CDS": suited(CDS),
        "SDEdit": suited(SDEdit),
    }


def edited(
    how: How, files: Sequence[Path], edits: Edits, prior: lb.priors.Stable
) -> tuple[Tensor, Tensor]:
    """The edited pictures, and the size of the mean gradient over the first steps."""
    what = Pictures(tuple(files), texts(edits.after), texts(edits.before))
    (experiment,) = experiments(what, how, prior).values()
    run, pull = Run(experiment, prior), []
    while run.step < experiment.steps:
        step = run.advance()
        pull += [step.gradient] if step.step <= LOOKS else []
    with torch.no_grad():
        parts = torch.arange(experiment.total).split(16)
        images = torch.cat(
            [
                run.representation.images(prior, RenderRequest(part)).float().cpu()
                for part in parts
            ]
        )
    return images, torch.stack(pull).mean(0).norm(dim=1).cpu()


def sheet(
    columns: dict[str, Tensor], edits: Edits, rows: Sequence[int], side: int = 72
) -> Image.Image:
    """One row per edit, one column per picture of it, in few colours so that the file is small."""
    font, left, top = ImageFont.load_default(10), 104, 18
    out = Image.new(
        "RGB", (left + (side + 4) * len(columns), top + (side + 4) * len(rows)), "white"
    )
    pen = ImageDraw.Draw(out)
    for x, (title, images) in enumerate(columns.items()):
        pen.text((left + x * (side + 4), 4), title, fill="black", font=font)
        for y, picture in enumerate(to_bytes(images[list(rows)])):
            cell = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
            out.paste(cell, (left + x * (side + 4), top + y * (side + 4)))
    for y, row in enumerate(rows):
        pen.text(
            (2, top + y * (side + 4) + side // 2 - 6), edits.words[row], fill="black", font=font
        )
    return out.quantize(160, dither=Image.Dither.NONE)


def table(results: dict[str, dict[str, float]]) -> str:
    """The results in Markdown."""
    names = ("reached", "kept", "both", *CHANGED, "distance", "seconds", "evaluations")
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, row in results.items():
        forms = {"distance": "{:.3f}", "seconds": "{:.0f}", "evaluations": "{:.0f}"}
        cells = [forms.get(name, "{:.0%}").format(row[name]) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def save(images: Tensor, folder: Path) -> list[Path]:
    """Pictures as files by number."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:02d}.png" for i in range(len(images))]
    for path, picture in zip(files, to_bytes(images), strict=True):
        Image.fromarray(picture).save(path)
    return files


def saved(folder: Path) -> Tensor:
    """What ``save`` wrote."""
    return as_images(
        np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])
    )


def row_of(
    name: str, how: How, edits: Edits, prior: lb.priors.Stable, folder: Path
) -> dict[str, float]:
    """One row of the table and its pictures in ``folder``; a row that is there is read."""
    known = folder / "row.json"
    if known.exists():
        return json.loads(known.read_text())
    files = sorted((folder.parent / "before").glob("*.png"))
    began, rows = time.perf_counter(), prior.meter.rows
    images, pull = edited(how, files, edits, prior)
    cost = {
        "seconds": time.perf_counter() - began,
        "evaluations": (prior.meter.rows - rows) / len(files),
    }
    save(images, folder)
    maps = heat(pull, float(pull.flatten().quantile(0.99)))
    save(torch.nn.functional.interpolate(maps, images.shape[-2:]), folder / "gradient")
    row = judged(edits, images) | cost
    known.write_text(json.dumps(row) + "\n")
    return row


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--count", type=int, default=64, help="edits, a multiple of 4")
    arguments.add_argument("--seed", type=int, default=2024)
    arguments.add_argument("--precision", default="bfloat16")
    arguments.add_argument(
        "--only", nargs="*", help="words of the rows wanted, such as dds or published"
    )
    chosen = arguments.parse_args()
    prior, edits = (
        lb.load("world", precision=chosen.precision),
        draw_edits(chosen.count, chosen.seed),
    )
    weights = hashlib.sha256(
        (prior.files.folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    ).hexdigest()[:8]
    folder = OUT / f"{len(edits.changed)}-{chosen.seed}-{weights}"
    before, true = as_images(render(edits.before)), as_images(render(edits.after))
    save(before, folder / "before")
    with torch.no_grad():
        there = torch.cat(
            [prior.decode(prior.encode(part.to(prior.device))).cpu() for part in before.split(16)]
        )
    free = {"seconds": 0.0, "evaluations": 0.0}
    results = {
        "not edited": judged(edits, before) | free,
        "through the autoencoder": judged(edits, there) | free,
    }
    columns = {"before": before, "true": true}
    for name, how in settings().items():
        if chosen.only and not any(word.lower() in name.lower() for word in chosen.only):
            continue
        here = folder / f"{name.lower().replace(', ', '-')}-{fingerprint(how)}"
        results[name] = row_of(name, how, edits, prior, here)
        columns[name.replace("consistent", "consist.")] = saved(here)
        if name == "PDS, published":
            columns["its gradient"] = saved(here / "gradient")
        (folder / "table.md").write_text(table(results))
        sheet(columns, edits, range(min(8, len(before)))).save(
            folder / "picture.png", optimize=True
        )
        print(table({name: results[name]}).splitlines()[-1], flush=True)
    print(f"\n{table(results)}\n{folder}")


if __name__ == "__main__":
    main()

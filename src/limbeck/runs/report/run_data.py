"""What a run or a sampling left behind, read back from its folder alone."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from PIL import Image

from limbeck.runs.metrics_log import read_metrics
from limbeck.runs.images import COLORBAR_WIDTH, VIEW_NAMES

_PIXELATED_MAX = 128  #: pictures of at most so many pixels across are shown with hard pixels


@dataclass(frozen=True)
class PageImage:
    """A picture inside a page: its data, its size in pixels, whether its pixels stay hard when it is enlarged."""

    source: str
    width: int
    height: int
    hard: bool
    caption: str = ""


def embed_image(path: Path, most: int, hard: bool, caption: str = "", cut: int = 0) -> PageImage:
    """A picture file as data in a page, at most ``most`` pixels across, without its ``cut`` columns at the right."""
    with Image.open(path) as file:
        picture = file.convert("RGBA")
    picture = picture.crop((0, 0, picture.width - cut, picture.height))
    if picture.width > most:
        size = (most, max(1, round(picture.height * most / picture.width)))
        how = Image.Resampling.NEAREST if hard and cut else Image.Resampling.LANCZOS
        picture = picture.resize(size, how, reducing_gap=None if hard and cut else 3.0)
    store = io.BytesIO()
    picture.save(store, "WEBP", lossless=hard, quality=82)
    data = base64.b64encode(store.getvalue()).decode()
    return PageImage(f"data:image/webp;base64,{data}", picture.width, picture.height, hard, caption)


def with_svg(picture: PageImage, drawing: Path) -> PageImage:
    """The SVG a picture is the raster of, in its place. As the source of an image it can neither run nor fetch anything."""
    data = base64.b64encode(drawing.read_bytes()).decode()
    return replace(picture, source=f"data:image/svg+xml;base64,{data}", hard=False)


@dataclass(frozen=True)
class RunData:
    """A run folder, or that of a sampling: ``sampled``."""

    path: Path
    sampled: bool
    text: str  #: the configuration as it was written
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def prompts(self) -> list[str]:
        said = self.settings.get("prompts", [])
        return [said] if isinstance(said, str) else list(said)

    @property
    def title(self) -> str:
        first = ", ".join(f"“{prompt}”" for prompt in self.prompts[:3])
        return first + (f" and {len(self.prompts) - 3} more" if len(self.prompts) > 3 else "")

    @property
    def method(self) -> str:
        """The method's name for people: short names are abbreviations, a class of one's own goes without its file."""
        if self.sampled:
            return f"{self.settings.get('sampler', 'ddim')} samples".replace("ddim", "DDIM")
        plain = self.settings.get("method", "")
        name = str(plain.get("name", "") if isinstance(plain, dict) else plain).rsplit(":", 1)[-1]
        return name.upper() if len(name) <= 5 else name

    @property
    def facts(self) -> list[str]:
        """The choices a caption names."""
        options = self.settings if self.sampled else self.settings.get("method", {})
        guidance = options.get("guidance") if isinstance(options, dict) else None
        each = self.settings.get("count" if self.sampled else "particles", 1)
        said = [self.method]
        if guidance is not None:
            said.append(f"guidance {guidance:g}")
        if self.sampled and self.settings.get("critic"):
            said.append(f"critic of {Path(str(self.settings['critic'])).name}")
        what = ("picture" if self.sampled else "particle") + ("s" if each != 1 else "")
        return [
            *said,
            f"{self.settings.get('steps')} steps",
            f"{each} {what}",
            str(self.settings.get("model", "")),
        ]

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else {}

    def _text(self, name: str) -> str:
        path = self.path / name
        return path.read_text().strip() if path.exists() else ""

    @cached_property
    def scores(self) -> dict[str, Any]:
        return self._json("scores.json")

    @cached_property
    def judged(self) -> dict[str, Any]:
        """What ``limbeck eval`` said; empty where it was not asked."""
        return self._json("eval.json")

    @cached_property
    def cost(self) -> dict[str, Any]:
        return self._json("cost.json")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.path / "metrics.jsonl")

    @property
    def command(self) -> str:
        return self._text("command.txt")

    @property
    def environment(self) -> str:
        told = self._json("environment.json")
        return yaml.safe_dump(told, sort_keys=False, allow_unicode=True).strip() if told else ""

    @property
    def bibtex(self) -> str:
        return self._text("references.bib")

    @property
    def unfinished(self) -> str:
        """How far an unfinished run came, empty for a finished one."""
        if (self.path / "cost.json").exists():
            return ""
        done = self.metrics[-1]["step"] if self.metrics else 0
        return f"Unfinished: {done} of {self.settings.get('steps')} steps."

    def seconds(self) -> dict[str, float]:
        return dict(self.cost.get("seconds", {}))

    def elapsed(self) -> float:
        """Seconds in all; of an unfinished run, until its last figures."""
        if self.cost:
            return float(self.cost.get("elapsed", sum(self.seconds().values())))
        return float(self.metrics[-1]["seconds"]) if self.metrics else 0.0

    def evaluations(self) -> int:
        if self.cost:
            return int(self.cost.get("evaluations", 0))
        return int(self.metrics[-1]["evaluations"]) if self.metrics else 0

    @cached_property
    def _hard(self) -> bool:
        for path in sorted((self.path / "final").glob("*.png"))[:1]:
            with Image.open(path) as picture:
                return picture.width <= _PIXELATED_MAX
        for path in sorted((self.path / "images").glob("step-*.png"))[:1]:
            with Image.open(path) as picture:
                across = (
                    len(VIEW_NAMES)
                    if self.sided
                    else max(int(self.settings.get("particles", 1)), 1)
                )
                return picture.width // across <= _PIXELATED_MAX
        return False

    def finals(self) -> list[tuple[str, list[PageImage]]]:
        """The final pictures by prompt; of an unfinished run, none."""
        place = {side.replace(" ", "-"): i for i, side in enumerate(VIEW_NAMES)}
        split = [(path, path.stem.split("-", 2)) for path in (self.path / "final").glob("*-*.png")]
        files = [
            path
            for path, _ in sorted(
                split, key=lambda one: (int(one[1][0]), int(one[1][1]), place.get(one[1][-1], 0))
            )
        ]
        most = 512 if len(files) <= 24 else 256
        rows: list[tuple[str, list[PageImage]]] = [(prompt, []) for prompt in self.prompts]
        for path in files:
            first, second, *side = path.stem.split("-")
            prompt, particle = int(first), int(second)
            if prompt < len(rows):
                picture = embed_image(
                    path, most, self._hard, " ".join(side) or f"{rows[prompt][0]}, {particle + 1}"
                )
                drawing = path.with_suffix(".svg")
                rows[prompt][1].append(with_svg(picture, drawing) if drawing.exists() else picture)
        return rows

    def turns(self, page: Path) -> list[tuple[str, str, PageImage | None]]:
        """Of what has sides, particle by particle: what it is, the address of its film as seen from the folder ``page`` lies in,
        and its stills."""
        out = []
        for film in sorted(
            p for p in (self.path / "turntable").glob("*-*") if p.suffix in (".mp4", ".webp")
        ):
            prompt, particle = (int(number) for number in film.stem.split("-"))
            stills = film.with_suffix(".png")
            address = quote(Path(os.path.relpath(film.resolve(), page.resolve().parent)).as_posix())
            name = f"{self.prompts[prompt]}, {particle + 1}"
            out.append(
                (
                    name,
                    address,
                    embed_image(stills, 1160, self._hard, name) if stills.exists() else None,
                )
            )
        return out

    def edits(self) -> list[tuple[str, str, list[PageImage]]]:
        """Of an edit: source, target and the pictures before, after, of the difference and of the gradient, one by one."""
        said = [said] if isinstance(said := self.settings.get("source", []), str) else list(said)
        sources = said * len(self.prompts) if len(said) == 1 else said or [""] * len(self.prompts)
        rows = []
        for after in sorted((self.path / "edit").glob("*-after.png")):
            prompt, stem = int(after.stem.split("-")[0]), after.stem.removesuffix("-after")
            kinds = ("before", "after", "difference", "gradient")
            images = [
                embed_image(after.with_name(f"{stem}-{kind}.png"), 384, self._hard, kind)
                for kind in kinds
            ]
            rows.append((sources[prompt], self.prompts[prompt], images))
        return rows

    @property
    def sided(self) -> bool:
        """Whether its pictures are of several sides of each particle."""
        return any((self.path / "images").glob("step-*-alpha.png")) or any(
            (self.path / "final").glob("*-*-*.png")
        )

    @property
    def drawn(self) -> bool:
        """Whether the final pictures are drawings, which a page shows as such."""
        return any((self.path / "final").glob("*.svg"))

    def film(self) -> str:
        """The animation of the run as data, empty where there is none or it is too heavy for a page."""
        path = self.path / "progress.webp"
        if not path.exists() or path.stat().st_size > 900_000:
            return ""
        return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()

    def recorded(self) -> list[int]:
        """Steps with pictures."""
        names = (
            re.fullmatch(r"step-(\d+)", path.stem)
            for path in (self.path / "images").glob("step-*.png")
        )
        return sorted(int(found[1]) for found in names if found)

    def strip(self, steps: Sequence[int], kind: str) -> list[PageImage]:
        """The pictures of one kind (``""``, ``-x0``, ``-critic``, ``-gradient``) at those of ``steps`` that have one."""
        files = [(step, self.path / "images" / f"step-{step:05d}{kind}.png") for step in steps]
        cut = COLORBAR_WIDTH if kind == "-gradient" else 0
        return [
            embed_image(path, 384, self._hard, f"step {step}", cut)
            for step, path in files
            if path.exists()
        ]

    def gradient_top(self) -> float:
        return float(self._json("images/gradient-scale.json").get("top", 0.0))


def read_run_data(path: Path) -> RunData:
    """The folder of a run or of a sampling; ValueError where it is neither."""
    for name in ("run.yaml", "sample.yaml"):
        if (path / name).is_file():
            text = (path / name).read_text()
            return RunData(path, name == "sample.yaml", text, yaml.safe_load(text))
    raise ValueError(f"{path} is no run folder: it has no run.yaml and no sample.yaml")


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {
            k: v
            for key, part in value.items()
            for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()
        }
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}


def differing_options(folders: Sequence[RunData]) -> list[tuple[str, list[str | None], list[bool]]]:
    """Options in which runs differ: name, the value in each folder (None where it has none), whether it is not the usual one.

    Samples have other options than runs and do not make a field differ; nor does an option that only one component has.
    """
    options = [_flat(one.settings) for one in folders]
    runs = [own for one, own in zip(folders, options, strict=True) if not one.sampled] or options
    names = dict.fromkeys(name for own in runs for name in own)
    rows = []
    for name in names:
        if len({own[name] for own in runs if name in own}) > 1:
            values = [own.get(name) for own in options]
            usual = max(values, key=values.count)
            rows.append((name, values, [value is not None and value != usual for value in values]))
    return rows

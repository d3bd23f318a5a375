"""Read a run folder, or a folder of samples, for its report."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from limbeck.config.strict_yaml import parse_yaml
from limbeck.runs.error_file import read_error
from limbeck.runs.final_products import read_failures
from limbeck.runs.images import (
    COLORBAR_WIDTH,
    SCATTER_FILE,
    VIEW_NAMES,
    columns_of_prompts,
    recorded_images,
)
from limbeck.runs.metrics_log import last_recorded_step, read_metrics
from limbeck.runs.notices_file import read_notices
from limbeck.runs.report.page_images import PageImage, embed_image, with_svg
from limbeck.system.files import read_json_object, read_text
from limbeck.system.image_files import image_file_size

_MAX_PIXELATED_WIDTH = 128  #: images up to this width are shown without smoothing
_OWN_IMAGE = re.compile(r"\d+-\d+(-|$)")  #: names of final images, among files of others
_MAX_SMALL_ROW = 2  #: contact sheets of more images in a row are wide ones
_IMAGE_WIDTH, _SHEET_WIDTH = 384, 720  #: of recorded images and of wide sheets, at most
_LEAST_FRAMES = 3  #: of an animation: the images beside it show two just as well
_MAX_ANIMATION_BYTES = 900_000  #: larger animations are left out of the report
_MAX_NOTEBOOK_VIDEO_BYTES = 4_000_000  #: larger turntables are left out of a notebook


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _component_name(value: Any) -> str:
    """Name of a component in run.yaml, which is a name or a mapping with a name.

    Of a file of the user's own, or a local model, the last part of its path.
    """
    name = str(value.get("name", "") if isinstance(value, dict) else value)
    return Path(name).name if Path(name).is_absolute() else name


@dataclass(frozen=True)
class RunData:
    """Contents of a run folder or a folder of samples.

    Attributes:
        path: the folder.
        is_sampling: whether it holds samples instead of a run.
        config_text: run.yaml or sample.yaml as written.
        config: the same, parsed.
    """

    path: Path
    is_sampling: bool
    config_text: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def prompts(self) -> list[str]:
        """All prompts."""
        return _as_list(self.config.get("prompts", []))

    @property
    def title(self) -> str:
        """The first prompts, quoted."""
        reference = self.config.get("reference")
        image = str(reference.get("image")) if isinstance(reference, dict) else ""
        first = ", ".join(
            f"“{prompt}”" if prompt else Path(image).name for prompt in self.prompts[:3]
        )
        return first + (f" and {len(self.prompts) - 3} more" if len(self.prompts) > 3 else "")

    @property
    def method(self) -> str:
        """Display name of the method: abbreviations in capitals, custom classes without file."""
        if self.is_sampling and self.config.get("generator"):
            return "one-step samples"
        if self.is_sampling:
            return f"{self.config.get('sampler', 'ddim')} samples".replace("ddim", "DDIM")
        file, _, name = _component_name(self.config.get("method", "")).rpartition(":")
        return name.upper() if len(name) <= 5 and not file else name

    @property
    def representation(self) -> str:
        """Name of the representation; empty for samples."""
        return _component_name(self.config.get("representation", ""))

    @property
    def facts(self) -> list[str]:
        """The settings named in captions: method, guidance, steps, number of images, model."""
        options = self.config if self.is_sampling else self.config.get("method", {})
        guidance = options.get("guidance") if isinstance(options, dict) else None
        count = self.config.get("num_images" if self.is_sampling else "particles", 1)
        facts = [self.method]
        if guidance is not None:
            text = guidance if isinstance(guidance, str) else f"{guidance:g}"  # or a schedule
            facts.append(f"guidance {text}")
        if self.is_sampling and self.config.get("critic"):
            facts.append(f"critic of {Path(str(self.config['critic'])).name}")
        unit = ("image" if self.is_sampling else "particle") + ("s" if count != 1 else "")
        model = _component_name(self.config.get("model", ""))
        if self.is_sampling and self.config.get("generator"):
            name = Path(str(self.config["generator"])).name
            return [self.method, f"generator {name}", f"{count} {unit}", model]
        return [*facts, f"{self.config.get('steps')} steps", f"{count} {unit}", model]

    @property
    def setting(self) -> list[str]:
        """Names of method, representation and model."""
        names = [_component_name(self.config.get(key, "")) for key in ("method", "representation")]
        return [*names, _component_name(self.config.get("model", ""))]

    @property
    def last_step(self) -> int:
        """Newest step in metrics.jsonl, of which only the end is read."""
        return last_recorded_step(self.path / "metrics.jsonl")

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return read_json_object(path) if path.exists() else {}

    def _text(self, name: str) -> str:
        path = self.path / name
        return read_text(path).strip() if path.exists() else ""

    @cached_property
    def scores(self) -> dict[str, Any]:
        """scores.json; empty if there is none, or the run has been continued since."""
        return {} if self.unfinished else self._json("scores.json")

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """eval.json, written by ``limbeck eval``; empty without one of these steps."""
        found, steps = self._json("eval.json"), self.config.get("steps")
        return {} if self.unfinished or found.get("step", steps) != steps else found

    @cached_property
    def profile(self) -> dict[str, Any]:
        """profile.json; empty if there is none."""
        return self._json("profile.json")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return read_metrics(self.path / "metrics.jsonl")

    @property
    def command(self) -> str:
        """Command lines of all sessions."""
        return self._text("command.txt")

    @property
    def environment(self) -> str:
        """environment.json as YAML."""
        environment = self._json("environment.json")
        if not environment:
            return ""
        return yaml.safe_dump(environment, sort_keys=False, allow_unicode=True).strip()

    @property
    def bibtex(self) -> str:
        """BibTeX entry of the method."""
        return self._text("references.bib")

    @property
    def unfinished(self) -> str:
        """Progress of an unfinished run, and its error; empty for a finished one."""
        if (self.path / "profile.json").exists():
            return ""
        step = self.metrics[-1]["step"] if self.metrics else 0
        text = f"Unfinished: {step} of {self.config.get('steps')} steps."
        error = read_error(self.path)
        return f"{text} Stopped by an error: {error}" if error else text

    @property
    def notices(self) -> list[str]:
        """Notices from before the first step, and about files that are missing."""
        return read_notices(self.path) + read_failures(self.path)

    def seconds(self) -> dict[str, float]:
        """Seconds by part of the run."""
        return dict(self.profile.get("seconds", {}))

    def elapsed(self) -> float:
        """Total seconds; of an unfinished run, until its last metrics."""
        if self.profile:
            return float(self.profile.get("elapsed", sum(self.seconds().values())))
        return float(self.metrics[-1]["seconds"]) if self.metrics else 0.0

    def seconds_left(self) -> float:
        """Time left at the speed so far; 0 before the first metrics and after the last step."""
        step = self.metrics[-1]["step"] if self.metrics else 0
        return self.elapsed() / step * (int(self.config["steps"]) - step) if step else 0.0

    def evaluations(self) -> int:
        """Network evaluations; of an unfinished run, until its last metrics."""
        if self.profile:
            return int(self.profile.get("evaluations", 0))
        return int(self.metrics[-1]["evaluations"]) if self.metrics else 0

    @cached_property
    def _pixelated(self) -> bool:
        """Whether the images of this run are small enough to be shown without smoothing."""
        for path in sorted((self.path / "final").glob("*.png"))[:1]:
            return image_file_size(path)[0] <= _MAX_PIXELATED_WIDTH
        for path in sorted((self.path / "images").glob("step-*.png"))[:1]:
            return image_file_size(path)[0] // self.images_per_row <= _MAX_PIXELATED_WIDTH
        return False

    @property
    def images_per_row(self) -> int:
        """Images in a row of a contact sheet."""
        if self.has_views:
            return len(VIEW_NAMES)
        return columns_of_prompts(self.num_particles, self._per_prompt)

    @property
    def num_particles(self) -> int:
        """Particles of all prompts."""
        return self._per_prompt * len(self.prompts)

    @property
    def _per_prompt(self) -> int:
        return max(int(self.config.get("particles", 1)), 1)

    @property
    def has_wide_sheets(self) -> bool:
        """Whether contact sheets have too many images in a row to be shown small."""
        return self.images_per_row > _MAX_SMALL_ROW

    def finals(self) -> list[tuple[str, list[PageImage]]]:
        """Final images by prompt; none for an unfinished run."""
        order = {view.replace(" ", "-"): i for i, view in enumerate(VIEW_NAMES)}
        files = []
        own = () if self.unfinished else (self.path / "final").glob("*-*.png")
        for path in own:
            if not _OWN_IMAGE.match(path.stem):
                continue
            prompt, particle, *view = path.stem.split("-", 2)
            key = (int(prompt), int(particle), order.get(view[0], 0) if view else 0)
            files.append((key, " ".join(view).replace("-", " "), path))
        files.sort()
        max_width = 512 if len(files) <= 24 else 256
        rows: list[tuple[str, list[PageImage]]] = [(prompt, []) for prompt in self.prompts]
        for (prompt_index, particle_index, _), view_name, path in files:
            if prompt_index >= len(rows):
                continue
            prompt, images = rows[prompt_index]
            caption = view_name or f"{prompt}, {particle_index + 1}"
            image = embed_image(path, max_width, self._pixelated, caption)
            drawing = path.with_suffix(".svg")
            images.append(with_svg(image, drawing) if drawing.exists() else image)
        return rows

    def scatter(self) -> PageImage | None:
        """Particles of a model without images, as points; None for images or an unfinished run."""
        path = self.path / SCATTER_FILE
        if self.unfinished or not path.exists():
            return None
        return embed_image(path, 1160, False, "the particles as points")

    def reference(self) -> list[PageImage]:
        """The reference image and each particle from its camera; none without a reference."""
        folder, scores = self.path / "reference", self._json("reference/scores.json")
        if not (folder / "image.png").exists():
            return []
        images = [embed_image(folder / "image.png", 256, False, "the image")]
        for stem, score in scores.items():
            caption = f"PSNR {score['psnr']:.1f} dB, silhouette {100 * score['iou']:.0f} %"
            if len(scores) > 1:
                caption = f"{stem}: {caption}"
            images.append(embed_image(folder / f"{stem}.png", 256, False, caption))
        return images

    def turntables(self, page: Path) -> list[tuple[str, str, PageImage | None]]:
        """Turntable of every 3D particle.

        Args:
            page: the page that will link to the videos.

        Returns:
            Caption, URL of the video relative to ``page``, and stills of each particle.
        """
        turntables = []
        folder = self.path / "turntable"
        for video in sorted([*folder.glob("*-*.mp4"), *folder.glob("*-*.webp")]):
            prompt, particle = (int(number) for number in video.stem.split("-"))
            url = Path(os.path.relpath(video.resolve(), page.resolve().parent)).as_posix()
            caption = f"{self.prompts[prompt]}, {particle + 1}"
            stills = video.with_suffix(".png")
            image = None
            if stills.exists():
                image = embed_image(stills, 1160, self._pixelated, caption)
            turntables.append((caption, quote(url), image))
        return turntables

    def turntable_sources(self) -> list[str]:
        """Turntables as data URLs, mp4 or webp; empty if they are too large together."""
        folder = self.path / "turntable"
        videos = sorted([*folder.glob("*-*.mp4"), *folder.glob("*-*.webp")])
        if sum(video.stat().st_size for video in videos) > _MAX_NOTEBOOK_VIDEO_BYTES:
            return []
        types = {".mp4": "video/mp4", ".webp": "image/webp"}
        return [
            f"data:{types[video.suffix]};base64,{base64.b64encode(video.read_bytes()).decode()}"
            for video in videos
        ]

    def edits(self) -> list[tuple[str, str, list[PageImage]]]:
        """Source prompt, target prompt and before, after, difference and gradient of each edit."""
        sources = _as_list(self.config.get("source_prompt", [])) or [""]
        if len(sources) == 1:
            sources *= len(self.prompts)
        rows = []
        for after in sorted((self.path / "edit").glob("*-after.png")):
            prompt, stem = int(after.stem.split("-")[0]), after.stem.removesuffix("-after")
            images = [
                embed_image(after.with_name(f"{stem}-{kind}.png"), 384, self._pixelated, kind)
                for kind in ("before", "after", "difference", "gradient")
            ]
            rows.append((sources[prompt], self.prompts[prompt], images))
        return rows

    @property
    def has_views(self) -> bool:
        """Whether each particle is shown from several views."""
        recorded = (self.path / "images").glob("step-*-alpha.png")
        return any(recorded) or any((self.path / "final").glob("*-*-*.png"))

    @property
    def has_svg(self) -> bool:
        """Whether the final images are drawings, which the report embeds as SVG."""
        return any((self.path / "final").glob("*.svg"))

    def animation(self) -> str:
        """progress.webp as a data URL; empty if it is too large or shows two images at most."""
        path = self.path / "progress.webp"
        if not path.exists() or len(self.image_steps()) < _LEAST_FRAMES:
            return ""
        if path.stat().st_size > _MAX_ANIMATION_BYTES:
            return ""
        return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()

    def image_steps(self) -> list[int]:
        """Steps with recorded images."""
        return list(recorded_images(self.path).get("", {}))

    def images_at(self, steps: Sequence[int], kind: str) -> list[PageImage]:
        """Recorded images of one kind, for those steps that have one.

        Args:
            steps: steps of the run.
            kind: suffix of the file names, such as ``""``, ``-x0``, ``-critic`` or ``-gradient``.
        """
        crop = COLORBAR_WIDTH if kind == "-gradient" else 0
        max_width = _SHEET_WIDTH if self.has_wide_sheets else _IMAGE_WIDTH
        files = [(step, self.path / "images" / f"step-{step:05d}{kind}.png") for step in steps]
        return [
            embed_image(path, max_width, self._pixelated, f"step {step}", crop)
            for step, path in files
            if path.exists()
        ]

    def gradient_scale(self) -> float:
        """Value at the top of the color scale of the gradient maps; 0 if there are none."""
        return float(self._json("images/gradient-scale.json").get("top", 0.0))


def read_run_data(path: Path) -> RunData:
    """Read a run folder or a folder of samples.

    Raises:
        ValueError: if the path is neither, or its configuration cannot be read.
    """
    for name in ("run.yaml", "sample.yaml"):
        if (path / name).is_file():
            text = read_text(path / name)
            try:
                options = parse_yaml(text)
            except ValueError as error:
                raise ValueError(f"{path / name}: {error}") from error
            if not isinstance(options, dict) or not options.get("prompts"):
                raise ValueError(f"{path / name} is not the configuration of a run: no prompts")
            return RunData(path, name == "sample.yaml", text, options)
    raise ValueError(f"{path} is not a run folder: it has no run.yaml and no sample.yaml")

"""Base class of studies: a question, the runs that answer it, and one figure that compares them."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from limbeck.config.checks import check_options
from limbeck.config.comparison import differences
from limbeck.config.discovery import component_name
from limbeck.config.yaml import read_yaml
from limbeck.diffusion.model_options import Model, Precision
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.timesteps.random import TwoStageTimesteps
from limbeck.methods.base import Method
from limbeck.priors.loading import load, notify_unknown_words
from limbeck.representations.latents import Latents
from limbeck.runs.folder_state import foreign_files
from limbeck.runs.images import save_png
from limbeck.runs.recorder import record
from limbeck.runs.report.pages import write_report
from limbeck.runs.sample_recorder import sample_to_folder
from limbeck.system.files import slug, write_text
from limbeck.system.folder_lock import folder_lock
from limbeck.system.image_files import open_image
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam

_LABEL_WIDTH = 150  #: width of the text at the left of a row, in pixels
_LABEL_METRICS = ("object", "color", "saturation", "diversity")  #: shown below a label, if recorded

ImageRows = Mapping[str, tuple[str, list[Image.Image]]]
"""Images of a figure by row label, each with the text below the label."""


@dataclass(frozen=True)
class Study(abc.ABC):
    """Runs that differ in one thing.

    A study that varies one of these options, or has no use for it, declares it anew with
    ``init=False``: it is then no option of that study and refused by name.

    Attributes:
        prompts: prompts of every run.
        particles: particles per prompt.
        steps: optimization steps of every run.
        lr: peak learning rate; it decays linearly to 0 over the second half of the run.
        model: model of every run: an object or a name that ``limbeck run --model`` accepts.
        seed: seed of every run.
        precision: dtype of the frozen weights, as in a run.
    """

    prompts: tuple[str, ...] = field(
        default=("a striped red mug", "a yellow duck on grass", "a purple mushroom in the snow"),
        kw_only=True,
    )
    particles: int = field(default=2, kw_only=True, metadata={"minimum": 1})
    steps: int = field(default=400, kw_only=True, metadata={"minimum": 1})
    lr: float = field(default=0.1, kw_only=True, metadata={"minimum": 0})
    model: Model | Prior | str = field(default_factory=Model, kw_only=True)
    seed: int = field(default=0, kw_only=True, metadata={"minimum": 0, "maximum": 2**32 - 1})
    precision: Precision = field(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        check_options(self)
        if not self.prompts or not all(text.strip() for text in self.prompts):
            raise ValueError("a prompt is missing: give at least one text that is not empty")
        for option in fields(self):
            self._check_list(option.name, getattr(self, option.name), option.default)

    @staticmethod
    def _check_list(name: str, values: Any, default: Any) -> None:
        """Refuse a list that compares nothing, and numbers that would name the same row."""
        if values == () and default:
            raise ValueError(f"{name} is empty: give at least one value to compare")
        if not isinstance(values, tuple) or not all(isinstance(v, float) for v in values):
            return
        labels = [f"{value:g}" for value in values]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(
                f"{name} has {twice[0]} twice to six digits, which names a row: give values that "
                "differ more"
            )

    @abc.abstractmethod
    def rows(self) -> Mapping[str, Experiment | Sampling]:
        """Runs and samplings by row label, in the order of the figure."""

    def run(self, out: Path, device: str = "auto") -> Path:
        """Run what is not finished yet, and draw the figure.

        Args:
            out: folder; gets one run folder per row, report.html and study.png.
            device: as for ``limbeck.load``.

        Returns:
            The figure, ``out/study.png``.

        Raises:
            ValueError: if the folder holds files of something else, or another process writes it.
        """
        self.rows()  # refuses options before anything is loaded or written
        name, mark = component_name(type(self)), out / "study.txt"
        if not mark.exists() and (names := foreign_files(out)):
            raise ValueError(
                f"{out} holds files already ({names[0]}), and nothing is overwritten; choose "
                "another folder"
            )
        if mark.exists() and (other := mark.read_text(encoding="utf-8").strip()) != name:
            raise ValueError(f"{out} holds the study {other}, not {name}: choose another folder")
        prior = self.load_prior(device)
        with folder_lock(out):
            write_text(mark, name + "\n")
            return self._run(out, prior)

    def load_prior(self, device: str) -> Prior:
        """Load the model of the study, before anything is written."""
        notify_unknown_words(self.model, self.prompts)
        prior = load(self.model, device, self.precision)
        prior.condition(self.prompts)  # refuses unknown words early
        return prior

    def _run(self, out: Path, prior: Prior) -> Path:
        """Run what is not finished yet into a folder of this study, and draw the figure."""
        rows, folders = self.rows(), {}
        for label, row in rows.items():
            folders[label] = out / slug(label)
            print(f"{label}:", flush=True)
            self.run_row(row, prior, folders[label])
        write_report(list(folders.values()), out / "report.html")
        figure = out / "study.png"
        self.draw(folders, figure)
        return figure

    def run_row(self, row: Experiment | Sampling, prior: Prior, folder: Path) -> None:
        """Run an experiment or a sampling into a folder, unless it is finished.

        Args:
            row: what to run.
            prior: the model.
            folder: output folder.

        Raises:
            ValueError: if the folder holds something else.
        """
        if isinstance(row, Experiment):
            record(row, prior, folder, command=f"limbeck study {component_name(type(self))}")
        elif not (folder / "profile.json").exists():
            sample_to_folder(row, prior, folder)
        elif changed := differences(read_yaml(Sampling, folder / "sample.yaml"), row):
            raise ValueError(
                f"{folder} holds other samples: {changed[0]}; choose another folder or delete this "
                "one"
            )

    def draw(self, folders: Mapping[str, Path], path: Path) -> None:
        """Draw the final images of each run in one row, with its label and mean scores.

        Args:
            folders: run folders by row label.
            path: PNG file to write.
        """
        rows = {}
        for label, folder in folders.items():
            means = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["mean"]
            scores = [f"{name} {means[name]:.2f}" for name in _LABEL_METRICS if name in means]
            files = sorted((folder / "final").glob("*.png"))
            rows[label] = "\n".join(scores), [read_rgb(path) for path in files]
        save_png(labeled_rows(rows), path)

    def distill(self, method: Method, **changes: Any) -> Experiment:
        """An experiment with the settings of this study.

        Args:
            method: distillation method.
            **changes: other fields of ``Experiment``.
        """
        defaults: dict[str, Any] = {
            "timesteps": TwoStageTimesteps(),
            "representation": Latents(self.lr),
            "optimizer": Adam(decay_start=0.5),
            "model": self.model,
            "particles": self.particles,
            "steps": self.steps,
            "seed": self.seed,
            "precision": self.precision,
        }
        return Experiment(self.prompts, method=method, **(defaults | changes))

    def sampling(self, guidance: float) -> Sampling:
        """Plain samples of the same prompts."""
        return Sampling(
            self.prompts,
            model=self.model,
            guidance=guidance,
            num_images=self.particles,
            seed=self.seed,
            precision=self.precision,
        )


def read_rgb(path: Path) -> Image.Image:
    """Read an image file as RGB."""
    return open_image(path).convert("RGB")


def labeled_rows(rows: ImageRows, min_height: int = 64) -> Image.Image:
    """Arrange rows of images on white, each with its label and text at the left.

    Args:
        rows: images of one size by label.
        min_height: smaller images are enlarged to at least this height, in pixels.
    """
    strips = {label: _strip(images, min_height) for label, (_, images) in rows.items()}
    height = max(max(strip.height for strip in strips.values()), 60)
    width = _LABEL_WIDTH + max(strip.width for strip in strips.values())
    out = Image.new("RGB", (width, len(rows) * (height + 4) - 4), "white")
    draw, bold, plain = ImageDraw.Draw(out), ImageFont.load_default(12), ImageFont.load_default(9)
    for i, (label, (text, _)) in enumerate(rows.items()):
        top = i * (height + 4)
        draw.text((2, top + 1), label, fill="black", font=bold)
        draw.multiline_text((2, top + 17), text, fill="#555555", font=plain, spacing=1)
        out.paste(strips[label], (_LABEL_WIDTH, top))
    return out


def _strip(images: list[Image.Image], min_height: int) -> Image.Image:
    factor = max(1, -(-min_height // images[0].height))
    width = sum(image.width * factor + 2 for image in images) - 2
    strip = Image.new("RGB", (width, images[0].height * factor), "white")
    left = 0
    for image in images:
        size = (image.width * factor, image.height * factor)
        strip.paste(image.resize(size, Image.Resampling.NEAREST), (left, 0))
        left += size[0] + 2
    return strip

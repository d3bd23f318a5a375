"""Pictures that shall show something else: what is edited, how, and the folder an edit leaves behind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.config import yaml as config
from limbeck.runs import images as pictures
from limbeck.runs.report import pages as report
from limbeck.training.optimizers import Adam, Optimizer, SGD
from limbeck.training.experiment import Experiment
from limbeck.distillation.gradient_transforms import GradientTransform, NoTransform
from limbeck.methods.base import EditMethod
from limbeck.methods.dds import DDS
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.distillation.noise import IndependentNoise, Noise
from limbeck.diffusion.model_options import Precision, RuntimeOptions
from limbeck.diffusion.prior import Prior
from limbeck.runs.recorder import record, refuse_other
from limbeck.representations.base import RepresentationConfig, fitted_size, image_file_size, read_image
from limbeck.representations.latents import Latents
from limbeck.representations.inpainting import Inpainting
from limbeck.training.trainer import Run
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.distillation.timesteps.random import UniformTimesteps as UniformTimes
from limbeck.distillation.weights import UniformWeight as UniformWeight
from limbeck.distillation.weights import Weight

SMALLEST, LONGEST = 16, 4  #: pixels on the short side; long side over short side
LOOKS = 16  #: steps whose mean is the gradient map
FULL = 0.5  #: difference that has the brightest colour


@dataclass(frozen=True)
class Pictures:
    """What is edited: of pictures, sources, targets and masks, one for all or one for each.

    pictures: files, of any aspect. target: what each shall show. source: what each shows. mask: files of the size of their
    pictures, white where something may change; everything else is kept.
    """

    pictures: tuple[Path, ...]
    target: tuple[str, ...]
    source: tuple[str, ...] = ()
    mask: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError("a picture is missing: limbeck edit photo.png --source-prompt TEXT --target-prompt TEXT")
        for name in ("target", "source"):
            if (name == "target" and not self.target) or not all(text.strip() for text in getattr(self, name)):
                raise ValueError(f"--{name} is missing: say what the pictures {'shall show' if name == 'target' else 'show'}")
        for name in ("pictures", "target", "source", "mask"):
            if len(getattr(self, name)) not in (0, 1, self.count):
                raise ValueError(f"{len(getattr(self, name))} of --{name} for {self.count} edits: give one for all or one for each")

    @property
    def count(self) -> int:
        """How many edits there are."""
        return max(len(self.pictures), len(self.target), len(self.source), len(self.mask))

    def each(self) -> list[tuple[Path, str, str, Path | None]]:
        """Picture, source, target and mask of every edit."""
        spread = lambda parts: list(parts) * (self.count if len(parts) == 1 else 1) or [None] * self.count  # noqa: E731
        return list(zip(*(spread(p) for p in (self.pictures, self.source, self.target, self.mask)), strict=True))

    def check(self) -> None:
        """ValueError where a file is no picture, too small, too long, or a mask is of another size than its picture."""
        for picture, _, _, mask in self.each():
            width, height = image_file_size(picture)
            if min(width, height) < SMALLEST:
                raise ValueError(f"{picture} is {width} x {height} pixels, too small to edit: the short side needs {SMALLEST}")
            if max(width, height) > LONGEST * min(width, height):
                raise ValueError(
                    f"{picture} is {width} x {height} pixels: cut it until the long side is at most {LONGEST} short ones"
                )
            if mask is not None and image_file_size(mask) != (width, height):
                own = " x ".join(map(str, image_file_size(mask)))
                raise ValueError(f"{mask} is {own} pixels, but {picture} is {width} x {height}: a mask has the size of its picture")


@dataclass(frozen=True)
class How:
    """How pictures are edited. The defaults are those that suit the method.

    method: what leads from source to target. steps: iterations. rate: peak learning rate of the latents. negative: what guidance
    leads away from, on both sides. model: ``world`` (embedded), or a Stable Diffusion 1/2 folder or hub id. particles: results per
    picture. seed: decides every random draw. precision: of the frozen weights, as in a run. running: how the model is
    run, the same.
    """

    method: EditMethod = field(default_factory=lambda: DDS(guidance=3.0))
    steps: int = 40
    rate: float = 0.2
    timesteps: Timesteps = field(default_factory=lambda: UniformTimes(0.05, 0.95))
    weight: Weight = field(default_factory=UniformWeight)
    optimizer: Optimizer = field(default_factory=SGD)
    noise: Noise = field(default_factory=IndependentNoise)
    gradient: GradientTransform = field(default_factory=NoTransform)
    negative: str = ""
    model: str = "world"
    particles: int = 1
    seed: int = 0
    precision: Precision = "auto"
    running: RuntimeOptions = field(default_factory=RuntimeOptions)


def suited(method: type[EditMethod]) -> How:
    """A method with the settings found good for it on the embedded model; one of your own takes those of DDS."""
    if issubclass(method, SDEdit):
        return How(method(guidance=5.0), steps=1, rate=1.0, timesteps=FixedTimesteps(0.7))
    if issubclass(method, PDS):
        return How(method(guidance=7.5), steps=60, rate=0.05, optimizer=Adam())
    return How(method(guidance=3.0))


def experiments(what: Pictures, how: How, prior: Prior) -> dict[tuple[int, int], Experiment]:
    """One experiment per size that the pictures have in the model, each of all pictures of that size."""
    sizes: dict[tuple[int, int], list[tuple[Path, str, str, Path | None]]] = {}
    for one in what.each():
        sizes.setdefault(fitted_size(one[0], prior), []).append(one)
    return {size: _experiment(rows, how) for size, rows in sizes.items()}


def _experiment(rows: list[tuple[Path, str, str, Path | None]], how: How) -> Experiment:
    images, sources, targets, masks = zip(*rows, strict=True)
    latents: RepresentationConfig = Latents(rate=how.rate, images=images)
    return Experiment(
        targets, negative_prompt=how.negative, source_prompt=() if sources[0] is None else sources, model=how.model, method=how.method,
        representation=latents if masks[0] is None else Inpainting(latents, masks), timesteps=how.timesteps, weight=how.weight,
        noise=how.noise, grad_transform=how.gradient, optimizer=how.optimizer, particles=how.particles, steps=how.steps, seed=how.seed,
        precision=how.precision, runtime=how.running,
    )  # fmt: skip


def default_folder(what: Pictures, how: How) -> Path:
    """``edits/target-method-fingerprint``: another for other options and for other pictures under the same names."""
    held = hashlib.sha256(b"".join(path.read_bytes() for path in (*what.pictures, *what.mask)))
    held.update((config.fingerprint(what) + config.fingerprint(how)).encode())
    return Path("edits") / f"{config.slug(what.target[0])}-{component_name(type(how.method))}-{held.hexdigest()[:8]}"


def begun(spec: RepresentationConfig) -> RepresentationConfig:
    """The representation that has the images, masked or not."""
    return spec.inner if isinstance(spec, Inpainting) else spec


def gradient_map(experiment: Experiment, prior: Prior) -> Float[Tensor, "n h w"]:
    """Size of the mean gradient at every place, over the first steps of the run, which are made once more for it."""
    run, steps = Run(experiment, prior), min(LOOKS, experiment.steps)
    mean = torch.stack([run.advance().gradient for _ in range(steps)]).mean(0)
    return mean.float().flatten(1, -3).norm(dim=1).cpu()


def edit_run(experiment: Experiment, prior: Prior, folder: Path, every: int, command: str, console: Console | None) -> Path:
    """A run folder and, in ``edit/``, before, after, difference and gradient of every picture; returns its report."""
    first, inside = begun(experiment.representation).initial_images(prior, experiment.total), folder / "edit"
    assert first is not None
    for i, image in enumerate(first):
        path, sheet = (
            inside / f"{i // experiment.particles:02d}-{i % experiment.particles:02d}-before.png",
            pictures.grid(image[None], 1),
        )
        if path.exists() and not torch.equal(read_image(path, tuple(image.shape[1:])), (image * 255).round() / 255):
            raise ValueError(f"{folder} holds edits of other pictures by the same name: name another folder or delete that one")
        inside.mkdir(parents=True, exist_ok=True)
        pictures.save_picture(sheet, path)
    record(experiment, prior, folder, every=every, command=command, console=console)
    maps = gradient_map(experiment, prior)
    top = float(maps.flatten().quantile(0.99)) or 1.0
    for i, image in enumerate(first):
        stem, size = f"{i // experiment.particles:02d}-{i % experiment.particles:02d}", tuple(image.shape[1:])
        after = read_image(folder / "final" / f"{stem}.png", size)
        pictures.save_picture(pictures.grid(after[None], 1), inside / f"{stem}-after.png")
        apart = pictures.heat((after - image).abs().mean(0, keepdim=True), FULL)
        pictures.save_picture(pictures.grid(apart, 1), inside / f"{stem}-difference.png")
        pull = torch.nn.functional.interpolate(pictures.heat(maps[i : i + 1], top), size)
        pictures.save_picture(pictures.grid(pull, 1), inside / f"{stem}-gradient.png")
    return report.write([folder])


def places(folder: Path, sizes: dict[tuple[int, int], Experiment]) -> dict[Path, Experiment]:
    """The run folder of each experiment: the folder itself, or one below it per size."""
    if len(sizes) == 1:
        return dict(zip([folder], sizes.values(), strict=True))
    return {folder / f"{width}x{height}": experiment for (height, width), experiment in sizes.items()}


def edit_to_folder(
    what: Pictures, how: How, prior: Prior, folder: Path, every: int = 0, command: str = "", console: Console | None = None
) -> Path:
    """Edit pictures into ``folder`` and return its page; pictures of several sizes in the model are a run each, on one page.

    Raises ValueError for pictures, masks or texts that cannot be used, before anything is written.
    """
    what.check()
    runs = places(folder, experiments(what, how, prior))
    for place, experiment in runs.items():
        refuse_other(place, experiment)
        Run(experiment, prior)  # refuses what cannot run, of all sizes before the first is edited
    pages = [edit_run(experiment, prior, place, every, command, console) for place, experiment in runs.items()]
    return pages[0] if len(pages) == 1 else report.write_edits([page.parent for page in pages], folder / "report.html")

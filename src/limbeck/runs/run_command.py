"""The options of ``limbeck run``: what is run, from which defaults, and how it is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.config.command_line import parse, value_of
from limbeck.config.comparison import fingerprint
from limbeck.config.discovery import component_name
from limbeck.config.yaml import naming_options, read_yaml
from limbeck.priors.loading import pick_device
from limbeck.runs.find_runs import RUNS, find_folder
from limbeck.runs.loggers import Logger
from limbeck.runs.recording_options import RecordingOptions
from limbeck.system.files import slug
from limbeck.system.notices import notify
from limbeck.training.experiment import Experiment, with_lr
from limbeck.training.idle_options import notify_idle_options
from limbeck.training.model_defaults import CHOICES, default_experiment
from limbeck.training.presets.base import Preset

NO_PROMPTS = ("(a prompt)",)  #: prompts of a preset before the command line gives some
SHORT_HELP = (
    "prompts",
    "preset",
    "method",
    "representation",
    "model",
    "steps",
    "particles",
    "lr",
    "image",
    "out",
    "logger",
    "viewer",
)


@dataclass(frozen=True)
class StartOptions:
    """Where the defaults of the options come from.

    Attributes:
        preset: recipe of a paper, possibly in several stages, whose options are the defaults.
        config: run.yaml of a run or its folder, whose options are the defaults.
    """

    preset: Preset | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        if self.config is not None and self.preset is not None:
            raise ValueError("config must be left out where a preset is given: both bring defaults")

    def defaults(self, chosen: Mapping[str, Any]) -> RunDefaults:
        """The defaults: of the preset's first stage, the file, or the model and the method.

        Args:
            chosen: what is chosen for ``CHOICES``, as ``default_experiment`` takes it.
        """
        stages = self.preset.stages(NO_PROMPTS) if self.preset is not None else {}
        if self.config is not None:
            default = read_yaml(Experiment, _config_file(self.config))
        elif stages:
            default = next(iter(stages.values()))
        else:
            default = default_experiment(NO_PROMPTS, chosen)
        return RunDefaults(default, self, stages)


@dataclass(frozen=True)
class RunOptions:
    """How a run is recorded and watched.

    Attributes:
        lr: peak learning rate of the representation, short for --representation.lr.
        image: image of the object of a 3D run, cut out or on white, short for --reference.image.
        out: run folder; by default it is named after the prompt, the method and the options.
        image_every: steps between recorded images; 0 for about ten per run.
        checkpoint_every: steps between checkpoints; 0 for one every 30 seconds.
        device: auto, cpu, cuda, cuda:N or mps.
        viewer: show a 3D run in the browser while it runs.
        logger: where metrics and images go besides the run folder.
        stop_on_collapse: abort a 3D run once its renders are empty or uniform fog.
        films: turntables, stills and meshes over time of a 3D run, which take up to a minute.
        dry_run: take three steps in memory and print time and memory of the run; write nothing.
    """

    lr: float | None = field(default=None, metadata={"minimum": 0})
    image: Path | None = None
    out: Path | None = None
    image_every: int = 0
    checkpoint_every: int = 0
    device: str = "auto"
    viewer: bool = False
    logger: Logger | None = None
    stop_on_collapse: bool = True
    films: bool = True
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name in ("image_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.viewer and not self.films:
            raise ValueError(
                "--viewer shows the meshes over time, which --no-films leaves out: give one of them"
            )

    @property
    def recording(self) -> RecordingOptions:
        """What is written into the run folder, and how often."""
        return RecordingOptions(
            self.image_every, self.checkpoint_every, self.stop_on_collapse, self.films
        )


class RunDefaults(NamedTuple):
    """What the options of ``limbeck run`` are by default.

    Attributes:
        experiment: the defaults: of a preset's first stage, a run.yaml, or the model.
        start: where they come from.
        stages: the stages of the preset; empty without one.
    """

    experiment: Experiment
    start: StartOptions
    stages: Mapping[str, Experiment]

    @property
    def sections(self) -> list[tuple[type, Any]]:
        """The dataclasses of the command with their defaults, as ``parse`` takes them."""
        return [(Experiment, self.experiment), (StartOptions, self.start), (RunOptions, None)]


@dataclass(frozen=True)
class RunCommand:
    """A ``limbeck run`` that is understood.

    Attributes:
        experiment: what is run; of a preset its first stage, with the options that were given.
        options: how it is recorded.
        preset: the recipe that the options come from.
        stages: the stages of the preset without the options that were given.
    """

    experiment: Experiment
    options: RunOptions
    preset: Preset | None
    stages: Mapping[str, Experiment]

    @property
    def has_stages(self) -> bool:
        """Whether it makes a run folder per stage, in one folder."""
        return len(self.stages) > 1

    @property
    def folder(self) -> Path:
        """Where it writes: ``--out``, or a name that is the same for the same options."""
        if self.options.out is not None:
            return self.options.out
        recipe = component_name(type(self.preset)) if self.preset is not None else ""
        if self.preset is None or not self.has_stages:
            return default_run_folder(self.experiment, recipe)
        digest = fingerprint(self.experiment)  # has the options that all stages share
        if self.preset != type(self.preset)(size=self.preset.size):
            digest += f"-{fingerprint(self.preset)}"  # its options may change later stages only
        return RUNS / f"{slug(self.experiment.prompts[0])}-{recipe}-{digest}"


def default_run_folder(experiment: Experiment, preset: str = "") -> Path:
    """``runs/PROMPT-METHOD-REPRESENTATION-FINGERPRINT``, always the same one per experiment.

    Args:
        experiment: what is run.
        preset: name of its preset, which takes the place of the method; empty without one.
    """
    recipe = preset or component_name(type(experiment.method))
    what = component_name(type(experiment.representation))
    name = f"{slug(experiment.prompts[0])}-{recipe}-{what}-{fingerprint(experiment)}"
    return RUNS / name


def run_defaults(argv: Sequence[str]) -> RunDefaults:
    """The defaults that the words of a command line choose by preset, file, model and method.

    Raises:
        ValueError: if there is no such preset, or the file cannot be read.
    """
    (start,) = parse([(StartOptions, None)], argv, lenient=True)
    return start.defaults({part: value_of(argv, f"--{part}") for part in CHOICES})


def read_run_command(argv: Sequence[str]) -> RunCommand:
    """Read the words behind ``limbeck run``.

    Raises:
        ValueError: if a word is not understood, a value is refused, or a prompt is missing.
        SystemExit: after ``--help``.
    """
    defaults = run_defaults(argv)
    image = value_of(argv, "--image")
    if image is not None and value_of(argv, "--reference.image") is not None:
        raise given_twice("--image", "--reference.image")
    words = [*argv] if image is None else ["--reference.image", image, *argv]
    experiment, start, options = parse(
        defaults.sections,
        words,
        "limbeck run",
        "Optimize particles for each PROMPT into a run folder. The same command resumes a run.",
        "prompts",
        SHORT_HELP,
    )
    if experiment.prompts == NO_PROMPTS and experiment.reference.image is not None:
        experiment = replace(experiment, prompts=("",))
    if experiment.prompts == NO_PROMPTS:
        experiment.reference.check_effect()  # a recipe from an image lacks the image
        raise ValueError("a prompt is missing: give at least one text that is not empty")
    _notify_loose_words(experiment.prompts)
    notify_idle_options(experiment.representation, defaults.experiment.representation)
    if start.preset is not None:
        start.preset.check_model(experiment.model)
        start.preset.check_start(experiment)
    experiment = _with_found_folder(experiment)
    if options.lr is not None:
        if value_of(argv, "--representation.lr") is not None:
            raise given_twice("--lr", "--representation.lr")
        with naming_options(options):
            experiment = with_lr(experiment, options.lr)
    pick_device(options.device)  # refuses one that this machine lacks
    return RunCommand(experiment, options, start.preset, defaults.stages)


def _notify_loose_words(prompts: Sequence[str]) -> None:
    """Say it if a prompt seems to lack quotes, so that each of its words is a prompt."""
    words = {prompt.lower() for prompt in prompts}
    has_article = bool(words & {"a", "an", "the"})
    if len(prompts) > 1 and has_article and not any(" " in prompt for prompt in prompts):
        notify(
            f"{len(prompts)} prompts of one word each, such as {prompts[0]!r}: put a prompt of "
            f'several words in quotes, as in limbeck run "{" ".join(prompts)}"'
        )


def given_twice(short: str, full: str) -> ValueError:
    """The error for an option beside its short form, as one of them would have no effect.

    Args:
        short: the short form, such as ``--lr``.
        full: the option, such as ``--representation.lr``.
    """
    return ValueError(f"{short} is short for {full}: give one of them")


def _config_file(path: Path) -> Path:
    """The file that ``--config`` names: a run folder stands for its run.yaml."""
    path = find_folder(path)
    return path / "run.yaml" if path.is_dir() else path


def _with_found_folder(experiment: Experiment) -> Experiment:
    """The experiment with the run that ``init_from latest`` stands for."""
    start = experiment.representation.init_from
    if start is None or (found := find_folder(start)) == start:
        return experiment
    representation = replace(experiment.representation, init_from=found)  # type: ignore[call-arg]
    return replace(experiment, representation=representation)

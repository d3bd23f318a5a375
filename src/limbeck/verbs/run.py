"""optimise particles for one or more prompts and write a run folder with its report"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.mirror import Mirror


@dataclass(frozen=True)
class Watched:
    """Where a run goes and how it is watched.

    out: run folder, made of prompt, method and options if left out. every: steps between pictures and checkpoints, 0 to let the
    run choose. device: auto, cpu, cuda, cuda:N or mps. config: a run's run.yaml, whose options are the defaults here. mirror:
    where figures and pictures go besides the folder.
    """

    out: Path | None = None
    every: int = 0
    device: str = "auto"
    config: Path | None = None
    mirror: Mirror | None = None

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every must be at least 0, not {self.every}")


def main(argv: Sequence[str]) -> None:
    """``limbeck run``: make or continue a run folder."""
    from limbeck import config
    from limbeck.experiment import Experiment
    from limbeck.options import parse, said
    from limbeck.places import check_folder, default_folder, going_on

    file = said(argv, "config")
    default = config.load_file(Path(file)) if file is not None else None
    about = "Optimise particles for each PROMPT and write a run folder. The same command goes on with a run that was stopped."
    experiment, place = parse([(Experiment, default), (Watched, None)], argv, "limbeck run", about, "prompts")
    command = shlex.join(["limbeck", "run", *argv])
    folder = place.out or default_folder(experiment)
    check_folder(folder, experiment)

    from limbeck.loading import load
    from limbeck.record import record

    prior = load(experiment.model, place.device, experiment.precision, experiment.parts)
    texts = [text for prompt in experiment.prompts for text in experiment.looking.texts(prompt)]
    prior.condition(texts)  # a prompt this model cannot hear is told before a folder is made
    with going_on(command):
        print(record(experiment, prior, folder, every=place.every, command=command, mirror=place.mirror))

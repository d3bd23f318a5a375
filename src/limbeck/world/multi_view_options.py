"""Options of the training of a multi-view model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limbeck.config.checks import check_options
from limbeck.config.ranges import check_minimums, check_positive
from limbeck.world.pretrained import WEIGHTS
from limbeck.world.training_options import check_device, check_pipeline, open_training_folder

#: Options that a resumed training cannot change.
_FIXED_OPTIONS = (
    "init_from",
    "batch_size",
    "lr",
    "view_words",
    "single_views",
    "reference_views",
    "seed",
)


@dataclass(frozen=True)
class MultiViewTraining:
    """Training of a model that sees four views of an object at once and takes their cameras.

    Attributes:
        out: output folder; a stopped training resumes from it.
        init_from: pipeline folder of a model of `limbeck train-world` on renders of the world, to
            start from. None: the embedded world.
        steps: optimizer steps, of .75 s on one core each. The learning rate is constant for 70 % of
            them and then falls to 0. May be changed when a training is resumed: a step count of
            1.4 times those done begins the fall now.
        num_groups: groups of four views to train on; may be raised when a training is resumed.
        batch_size: groups per worker and step.
        lr: learning rate; that of the layers which hear the camera is 10 times as high.
        view_words: share of the groups whose captions name the views; falls to .2 with the learning
            rate.
        single_views: share of the steps in which every view is an image of its own, without camera.
        reference_views: share of the groups of which one view is given as a clean image.
        device: auto, cpu or cuda. auto: cuda if available, else cpu.
        workers: training processes. 0: one per core on a CPU; always 1 on other devices.
        seed: seed of the training; the groups have fixed seeds.
    """

    out: Path = Path("multi-view-training")
    init_from: Path | None = None
    steps: int = 24_000
    num_groups: int = 40_000
    batch_size: int = 16
    lr: float = 1.5e-4
    view_words: float = 0.5
    single_views: float = 0.2
    reference_views: float = 0.3
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**32 - 1})

    def __post_init__(self) -> None:
        check_options(self)
        check_positive(self, "lr")
        check_minimums(self, workers=0, num_groups=1, batch_size=1, steps=1)
        for name in ("view_words", "single_views", "reference_views"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")

    @property
    def pipeline(self) -> Path:
        """Pipeline folder to start from."""
        return self.init_from or WEIGHTS


def open_multi_view_training(config: MultiViewTraining) -> None:
    """Make the folder of a training, or check that the one there is of the same training.

    Args:
        config: the options of the training; they are written into the folder.

    Raises:
        ValueError: if the folder holds other files, or a training with other options, or what the
            options name is missing.
    """
    options = {name: str(value) for name, value in vars(config).items() if name in _FIXED_OPTIONS}
    options["multi_view"] = "True"
    open_training_folder(config.out, options, lambda: _check_inputs(config))


def _check_inputs(config: MultiViewTraining) -> None:
    check_pipeline(config.pipeline)
    check_device(config.device)

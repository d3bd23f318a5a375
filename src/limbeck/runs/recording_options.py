"""What a run writes into its folder, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field

from limbeck.config.checks import check_options


@dataclass(frozen=True)
class RecordingOptions:
    """What a run writes into its folder, how often, and when it gives up.

    Attributes:
        image_every: steps between recorded images; 0 for about ten per run.
        checkpoint_every: steps between checkpoints; 0 for one every 30 seconds.
        stop_on_collapse: abort a 3D run once its renders are empty or uniform fog.
        films: write turntables and stills of 3D particles, and their meshes also before the end.
    """

    image_every: int = field(default=0, metadata={"minimum": 0})
    checkpoint_every: int = field(default=0, metadata={"minimum": 0})
    stop_on_collapse: bool = True
    films: bool = True

    def __post_init__(self) -> None:
        check_options(self)


DEFAULT_RECORDING = RecordingOptions()

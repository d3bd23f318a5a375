"""Which stage of a preset a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StagePosition:
    """Place of a run among the stages of a preset.

    Attributes:
        number: number of the stage, from 1.
        total: number of stages.
        name: name of the stage.
        later_steps: steps of all later stages.
    """

    number: int = 1
    total: int = 1
    name: str = ""
    later_steps: int = 0

    def __str__(self) -> str:
        return f"stage {self.number}/{self.total} ({self.name})" if self.total > 1 else ""

    def seconds_left(self, remaining: int, speed: float) -> float:
        """Time left over this stage and the later ones, as if their steps were as fast.

        Args:
            remaining: steps left in this stage.
            speed: steps per second.
        """
        return (remaining + self.later_steps) / speed


ONLY_STAGE = StagePosition()  #: of a run without a preset of several stages

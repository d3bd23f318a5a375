"""What is measured of a row besides the images of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limbeck.leaderboard.execution.text_to_image import SAMPLING, TunedSetting
from limbeck.leaderboard.images.gradient_noise import GradientNoise, snr_values
from limbeck.leaderboard.images.measurement import Measurement
from limbeck.leaderboard.images.peak_memory import PeakMemory
from limbeck.leaderboard.images.protocol import Leaderboard
from limbeck.leaderboard.images.quality_curve import QualityCurve, curve_points
from limbeck.leaderboard.report.judged_row import CurvePoint
from limbeck.metrics.estimate import Estimate

_NOISE_PROMPTS = 8


@dataclass(frozen=True)
class RowMeasurements:
    """The results of a row.

    Attributes:
        values: signal-to-noise ratio of the gradient by time, and peak memory in MiB.
        curve: quality against network passes.
    """

    values: Mapping[str, Estimate] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()


def row_measurements(
    board: Leaderboard, name: str, setting: TunedSetting, steps: int, code: str
) -> tuple[Measurement, ...]:
    """What to measure of a row.

    Sampling has no gradients. Nothing is measured of the rows of a quick leaderboard.

    Args:
        board: the leaderboard.
        name: name of the row.
        setting: guidance scale and learning rate.
        steps: optimization or sampling steps of an image.
        code: SHA-256 of the file of a method of the user's own; empty for others.
    """
    if board.quick:
        return ()
    prompts = board.measured_prompts()
    common = setting, prompts, steps, board.seed, board.precision, code
    found: list[Measurement] = [PeakMemory(name, *common)]
    if name != SAMPLING:
        found.append(GradientNoise(name, setting, prompts[:_NOISE_PROMPTS], *common[2:]))
    return (*found, QualityCurve(name, *common))


def load_row(measurements: Sequence[Measurement], out: Path) -> RowMeasurements:
    """The results that are there.

    Args:
        measurements: what is measured of the row.
        out: folder of the leaderboard.
    """
    values: dict[str, Estimate] = {}
    curve: tuple[CurvePoint, ...] = ()
    for measurement in measurements:
        path = out / measurement.path
        if not path.exists():
            continue
        result = measurement.load(path)
        if isinstance(measurement, GradientNoise):
            values |= snr_values(result)
        elif isinstance(measurement, QualityCurve):
            curve = curve_points(result)
        elif result["mib"] is not None:
            values["memory_mib"] = Estimate(result["mib"], None)
    return RowMeasurements(values, curve)

"""What a leaderboard of 3D recipes compares: its rows, objects and seeds, and their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck.config.checks import check_options
from limbeck.config.discovery import choices, unknown_name
from limbeck.config.yaml import parse_yaml
from limbeck.leaderboard.execution.quick_options import limit_with_quick
from limbeck.sweeps.expansion import flatten, nest
from limbeck.sweeps.planned_runs import PlannedRun, build_stages, planned_run
from limbeck.system.files import read_text
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset
from limbeck.world.scene import OBJECTS

#: prompt of each object of the world
OBJECT_PROMPTS = {
    "sphere": "a red sphere",
    "cube": "a green cube",
    "cone": "a blue cone",
    "cylinder": "a yellow cylinder",
    "torus": "an orange torus",
    "pyramid": "a purple pyramid",
    "mug": "a pink mug",
    "mushroom": "a cyan mushroom",
    "snowman": "a white snowman",
    "table": "a green table",
    "chair": "a red chair",
    "duck": "a yellow duck",
    "car": "a blue car",
    "house": "an orange house",
}
_PRESETS = (
    "dreamfusion",
    "mvdream",
    "sjc",
    "latent-nerf",
    "magic3d",
    "prolificdreamer",
    "lucid-splats",
)
_QUICK_OBJECTS, _QUICK_SCALE = ("cube", "duck"), 0.1
_OF_THE_BOARD = ("prompts", "seed")  #: options that a row leaves to the leaderboard

RowOptions = dict[str, dict[str, Any]]
"""Options of ``limbeck run`` by row, dotted, as in a sweep."""


@dataclass(frozen=True)
class AssetLeaderboard:
    """A comparison of 3D recipes on the embedded model: one run per row, object and seed.

    Attributes:
        presets: presets to compare, each a row. Empty: those of --rows, or without these all that
            make an object from a text on the embedded model.
        rows: YAML file of further rows: it maps a name to options of limbeck run, such as
            {preset: dreamfusion, method.guidance: 30}.
        baseline: row that the others are compared with. Empty: the first one.
        objects: objects of the world. Empty: all 14.
        seeds: runs of every object, with seeds 0, 1, ...
        steps_scale: factor of the number of steps of every stage.
        quick: cube and duck, one seed, a tenth of the steps: to try the command, no result.
    """

    presets: tuple[str, ...] = ()
    rows: Path | None = None
    baseline: str = ""
    objects: tuple[str, ...] = ()
    seeds: int = field(default=2, metadata={"minimum": 1, "maximum": 1000})
    steps_scale: float = field(default=1.0, metadata={"minimum": 1e-4, "maximum": 1000})
    quick: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        for name in self.presets:
            if name not in choices(Preset):
                raise unknown_name("preset", name, choices(Preset))
        for name in self.objects:
            if name not in OBJECTS:
                raise unknown_name("object", name, OBJECTS)
        if self.quick:
            object.__setattr__(self, "objects", self.objects or _QUICK_OBJECTS)
            limit_with_quick(self, seeds=1, steps_scale=_QUICK_SCALE)

    @property
    def compared_objects(self) -> tuple[str, ...]:
        """Objects in the order of the table."""
        return tuple(name for name in OBJECTS if name in (self.objects or OBJECTS))

    def row_options(self) -> RowOptions:
        """Options of each row, presets first.

        Raises:
            ValueError: if the file of rows cannot be read; the message names it.
        """
        presets = self.presets or (() if self.rows is not None else _PRESETS)
        found: RowOptions = {name: {"preset": name} for name in presets}
        if self.rows is None:
            return found
        try:
            for name, options in read_rows(self.rows).items():
                if name in found:
                    raise ValueError(f"row {name!r} is a row of --presets: give it another name")
                found[name] = options
        except ValueError as error:
            raise ValueError(f"{self.rows}: {error}") from error
        return found


def read_rows(file: Path) -> RowOptions:
    """Rows of a YAML file: options of ``limbeck run`` by name.

    Raises:
        ValueError: if it is no such mapping.
    """
    if not file.is_file():
        raise ValueError("no such file: give a YAML file that maps names of rows to options")
    plain = parse_yaml(read_text(file))
    if not isinstance(plain, dict) or not plain:
        raise ValueError(f"rows map a name to options of limbeck run, not {plain!r:.60}")
    return {str(name): _options_of(str(name), options) for name, options in plain.items()}


def _options_of(name: str, options: Any) -> dict[str, Any]:
    if not isinstance(options, dict):
        raise ValueError(
            f"row {name!r} maps options to values, such as {{preset: dreamfusion}}, not "
            f"{options!r:.60}"
        )
    if not name.strip():
        raise ValueError("a row has an empty name")
    flat = flatten(options)
    for key in _OF_THE_BOARD:
        if key in flat:
            raise ValueError(f"row {name!r}: {key} is that of the leaderboard: leave it out")
    return flat


@dataclass(frozen=True)
class AssetRun:
    """A run of a leaderboard.

    Attributes:
        row: name of its row.
        object: object of the world.
        seed: seed.
        planned: its experiments; rows that are the same experiment share it.
    """

    row: str
    object: str
    seed: int
    planned: PlannedRun


def plan_asset_runs(board: AssetLeaderboard, rows: RowOptions) -> list[AssetRun]:
    """The runs, all rows of an object together, and all objects with the first seed first.

    A leaderboard that is stopped early has compared the same objects in all rows.

    Args:
        board: the leaderboard.
        rows: options of each row.

    Raises:
        ValueError: if an option of a row is refused, or its result is 2D.
    """
    stages = {row: _stages(row, options, board.steps_scale) for row, options in rows.items()}
    runs = []
    for seed in range(board.seeds):
        for name in board.compared_objects:
            for row, own in stages.items():
                prompts = (OBJECT_PROMPTS[name],)
                made = {key: replace(e, prompts=prompts, seed=seed) for key, e in own.items()}
                planned = planned_run({"row": row, "object": name, "seed": seed}, made)
                runs.append(AssetRun(row, name, seed, planned))
    return runs


def _stages(row: str, options: Mapping[str, Any], scale: float) -> dict[str, Experiment]:
    """Stages of a row, of any prompt."""
    try:
        stages = build_stages(nest({**options, "prompts": [OBJECT_PROMPTS[OBJECTS[0]]]}))
        if any(e.camera_sampler.eval_cameras(1) is None for e in stages.values()):
            raise ValueError(
                "its result is 2D, and this leaderboard looks at 3D assets from all sides: give a "
                "preset, or a 3D representation such as nerf"
            )
        return {
            name: replace(stage, steps=max(1, round(stage.steps * scale)))
            for name, stage in stages.items()
        }
    except ValueError as error:
        raise ValueError(f"row {row!r}: {error}") from error

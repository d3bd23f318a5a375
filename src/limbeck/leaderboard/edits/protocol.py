"""What a leaderboard of edits compares: methods, pairs, and the settings tried for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from limbeck.config.checks import check_options
from limbeck.config.discovery import choices, find
from limbeck.diffusion.model_options import Precision
from limbeck.distillation.timesteps.deterministic import FixedTimesteps, TrailingTimesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.leaderboard.edits.pairs import EditPairs, draw_pairs
from limbeck.leaderboard.execution.quick_options import limit_with_quick, refuse_with_quick
from limbeck.leaderboard.execution.tuning import check_candidates
from limbeck.methods.base import EditMethod
from limbeck.methods.bridge import Bridge
from limbeck.methods.irfds import IRFDS
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.runs.edit_options import EditOptions, default_options
from limbeck.world.evaluator import Evaluator

CONSISTENT = "pds-consistent"  #: name of the row of PDS with consistent coefficients
BRIDGE = "bridge"  #: row of a method that is no editing method by itself
INVERSION = "irfds"  #: row of the method whose guidance scale is that of its samples
NO_EDIT = "no edit"
_COMPARISON_SEED, _TUNING_SEED = 20_021, 20_022
_LARGEST_SEED = 2**32 - 1
_INVERSION_LR = 0.05
SAMPLING_STEPS = 30  #: of irfds, which samples from the noise that it found
_LEAST_PASSES = 64  #: with irfds, whose 30 sampling steps take 60
_STARTS = (0.8, 1.1)  #: first and last factor of the time from which FlowEdit and others start
_STRENGTHS = (0.55, 0.75)  #: first and last diffusion time that SDEdit is tried to start from


@dataclass(frozen=True)
class EditLeaderboard:
    """A comparison of editing methods on rendered pairs of the embedded world.

    Every method gets the same pairs, seeds and network passes. Its guidance scale and strength are
    those that are best on other pairs among equally many candidates.

    Attributes:
        methods: methods to compare, also your own as FILE.py:Class. Empty: all.
        num_pairs: pairs of a source image and a target that methods are compared on.
        seeds: edits of each pair.
        tuning_pairs: other pairs, edited once each, for the choice of guidance scale and strength.
            0: the defaults of each method.
        passes: network passes per edit: a row through the network is one pass, a row whose
            gradient is computed three.
        guidance_candidates: guidance scales that are tried.
        lr_factors: factors of the default learning rate that are tried with each of them; SDEdit,
            FlowEdit and FlowAlign have as many starting times in their place.
        quick: a comparison in a few minutes: 16 pairs, one edit of each, defaults.
        precision: dtype of the model, as in a run.
        seed: seed of every run.
    """

    options_file: ClassVar[str] = "edit-leaderboard.yaml"

    methods: tuple[str, ...] = ()
    num_pairs: int = field(default=64, metadata={"minimum": 1, "maximum": 1000})
    seeds: int = field(default=2, metadata={"minimum": 1, "maximum": 1000})
    tuning_pairs: int = field(default=12, metadata={"minimum": 0, "maximum": 1000})
    passes: int = field(default=160, metadata={"minimum": 1})
    guidance_candidates: tuple[float, ...] = (2.0, 4.0, 8.0)
    lr_factors: tuple[float, ...] = (0.6, 1.2)
    quick: bool = False
    precision: Precision = "auto"
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": _LARGEST_SEED})

    def __post_init__(self) -> None:
        check_options(self)
        for name in self.methods:
            edit_options(name)
        check_candidates(self, ("guidance_candidates", "lr_factors"))
        if INVERSION in self.rows and self.passes < _LEAST_PASSES:
            raise ValueError(
                f"passes must be at least {_LEAST_PASSES} with {INVERSION}, most of them for its "
                f"samples, not {self.passes}"
            )
        if self.quick:
            refuse_with_quick(self, ("tuning_pairs",))
            limit_with_quick(self, num_pairs=16, seeds=1)
            object.__setattr__(self, "tuning_pairs", 0)
        if self.seed + self.seeds - 1 > _LARGEST_SEED:
            raise ValueError(
                f"seed {self.seed} is too large for {self.seeds} edits of each pair, whose seeds "
                f"follow it: give at most {_LARGEST_SEED - self.seeds + 1}"
            )

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the methods of the table."""
        return tuple(dict.fromkeys(self.methods)) or (*choices(EditMethod), CONSISTENT, BRIDGE)

    def pairs(self, evaluator: Evaluator) -> tuple[EditPairs, EditPairs]:
        """The pairs of the comparison and those of the tuning.

        Args:
            evaluator: the world's evaluator, which must recognize them.
        """
        compared = draw_pairs(self.num_pairs, _COMPARISON_SEED, evaluator)
        return compared, draw_pairs(max(self.tuning_pairs, 1), _TUNING_SEED, evaluator)


@dataclass(frozen=True)
class EditSetting:
    """What is tuned.

    Attributes:
        guidance: guidance scale.
        strength: learning rate; of SDEdit, FlowEdit and FlowAlign the diffusion time they start
            from.
    """

    guidance: float
    strength: float


def edit_options(name: str) -> EditOptions | None:
    """Default options of a row; None for the rows of bridge and irfds.

    Args:
        name: name of an editing method, ``pds-consistent``, or FILE.py:Class.

    Raises:
        ValueError: if there is no such method.
    """
    if name in (BRIDGE, INVERSION):
        return None
    if name == CONSISTENT:
        options = default_options(PDS)
        return replace(options, method=PDS(options.method.guidance, coefficients="consistent"))
    try:
        return default_options(find(EditMethod, name))
    except ValueError as error:
        raise ValueError(f"{error}; also {CONSISTENT} and {BRIDGE}") from None


def default_setting(name: str) -> EditSetting:
    """The setting of a row that is not tuned."""
    options = edit_options(name)
    if options is None:
        return EditSetting(5.0, _INVERSION_LR) if name == INVERSION else EditSetting(3.0, 0.2)
    if isinstance(options.timesteps, FixedTimesteps):
        return EditSetting(options.method.guidance, options.timesteps.t)
    if isinstance(options.timesteps, TrailingTimesteps):
        return EditSetting(options.method.guidance, options.timesteps.t_start)
    return EditSetting(options.method.guidance, options.lr)


def edit_candidates(board: EditLeaderboard, name: str) -> tuple[EditSetting, ...]:
    """The settings tried for a row, equally many for each.

    The direction of bridge is proportional to its guidance scale, so that a learning rate would
    be the same option once more: it gets as many guidance scales.

    Args:
        board: the leaderboard.
        name: name of the row.
    """
    default = default_setting(name)
    if not board.tuning_pairs:
        return (default,)
    scales, factors = board.guidance_candidates, board.lr_factors
    if name == BRIDGE:
        ends = min(scales) / 8, max(scales)
        between = np.geomspace(*ends, len(scales) * len(factors))
        return tuple(EditSetting(float(round(s, 2)), default.strength) for s in between)
    strengths = tuple(round(default.strength * factor, 6) for factor in factors)
    options = edit_options(name)
    if options is not None and isinstance(options.timesteps, TrailingTimesteps):
        between = np.linspace(*_STARTS, len(factors)) * default.strength
        strengths = tuple(between.clip(max=1).round(3).tolist())
    if options is not None and isinstance(options.method, SDEdit):
        strengths = tuple(
            np.linspace(_STRENGTHS[0], _STRENGTHS[-1], len(factors)).round(3).tolist()
        )
    return tuple(EditSetting(scale, strength) for scale in scales for strength in strengths)


def row_options(name: str, setting: EditSetting) -> EditOptions:
    """Options of a row with a setting.

    Args:
        name: name of the row, but not irfds, which samples besides.
        setting: guidance scale and strength.
    """
    options = edit_options(name)
    assert options is not None
    method = replace(options.method, guidance=setting.guidance)
    if isinstance(options.timesteps, FixedTimesteps):
        return replace(options, method=method, timesteps=FixedTimesteps(setting.strength))
    if isinstance(options.timesteps, TrailingTimesteps):
        return replace(options, method=method, timesteps=TrailingTimesteps(setting.strength))
    return replace(options, method=method, lr=setting.strength)


def other_method(name: str, setting: EditSetting) -> Bridge | IRFDS:
    """The method of the rows bridge and irfds."""
    if name == BRIDGE:
        return Bridge(setting.guidance, stage_two_start=0.0)
    return IRFDS(sampling_steps=SAMPLING_STEPS, sampling_guidance=setting.guidance)


#: diffusion times of the rows bridge and irfds: those of DDS, and those of the authors' code
OTHER_TIMESTEPS: Mapping[str, UniformTimesteps] = {
    BRIDGE: UniformTimesteps(0.05, 0.95),
    INVERSION: UniformTimesteps(0.2, 0.9),
}

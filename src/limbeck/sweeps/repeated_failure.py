"""Notices that no run of a sweep can work: all fail alike before their first step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.expansion import SEED
from limbeck.sweeps.planned_runs import PlannedRun, format_option

_ENOUGH = 3  #: equal failures
_MAX_VALUES = 12  #: of an option of more values, such as a random draw, not all need to have failed


class RepeatedFailure:
    """Watches the runs of a session until one takes a step or fails with another error.

    An error may be due to one value of an option, such as a method of one's own among others. So
    runs with values that have not failed yet are to come next, and only when every value of every
    option has failed alike is the sweep hopeless.

    Args:
        runs: the runs of this session.
    """

    def __init__(self, runs: Sequence[PlannedRun]):
        values: dict[str, set[str]] = {}
        for run in runs:
            for option, value in _values(run):
                values.setdefault(option, set()).add(value)
        self._untried = {
            (option, value)
            for option, own in values.items()
            if len(own) <= _MAX_VALUES
            for value in own
        }
        self._message: str | None = None
        self._count = 0
        self._is_over = False

    def add(self, run: PlannedRun, outcome: RunOutcome, steps: int) -> None:
        """Note how a run ended.

        Args:
            run: the run.
            outcome: how it ended.
            steps: steps that it has taken.
        """
        message = outcome.message.replace(run.name, "")
        is_same = self._message is None or message == self._message
        may_repeat = outcome.is_input or outcome.kind == "error"
        self._is_over |= not may_repeat or steps > 0 or not is_same
        self._message, self._count = message, self._count + 1
        self._untried.difference_update(_values(run))

    @property
    def is_suspected(self) -> bool:
        """Whether enough runs have failed alike, and none in another way."""
        return self._count >= _ENOUGH and not self._is_over

    @property
    def is_hopeless(self) -> bool:
        """Whether runs with every value of every option have failed alike."""
        return self.is_suspected and not self._untried

    def num_untried(self, run: PlannedRun) -> int:
        """Number of options of a run whose value has not failed yet."""
        return sum(value in self._untried for value in _values(run))


def _values(run: PlannedRun) -> Iterable[tuple[str, str]]:
    return [(key, format_option(value)) for key, value in run.options.items() if key != SEED]

"""The steps of a session, of which one is counted and one is timed for the plan."""

from __future__ import annotations

from collections.abc import Callable

from limbeck.system.timing import synchronized_time
from limbeck.training.resources import ResourcePlan
from limbeck.training.step import Step
from limbeck.training.trainer import Run


class MeasuredSteps:
    """Takes steps; counts operations in the second one and times the third of a session.

    Args:
        run: the run, before the first step of the session.
        plan: its estimated resources, which the timing completes.
        tell: prints a message.

    Attributes:
        first_step: number of steps that were done before the session.
    """

    def __init__(self, run: Run, plan: ResourcePlan, tell: Callable[[str], None]):
        self.run, self.plan, self.tell, self.first_step = run, plan, tell, run.step

    def advance(self) -> Step:
        """Take the next step."""
        run = self.run
        if run.step == 1:
            # Counting runs the step without compiled graphs. It is always the second step of the
            # run, not of the session, so that a continued run stays bit-identical.
            with run.profile.count_ops():
                return run.advance()
        if run.step - self.first_step != 2:
            return run.advance()
        start, counter = synchronized_time(run.prior.device), run.prior.call_counter
        if counter.compiled_graphs:
            self.tell(
                f"compilation: compiled {counter.compiled_graphs} graphs in "
                f"{counter.compile_seconds:.1f} s"
            )
        step = run.advance()
        seconds = synchronized_time(run.prior.device) - start
        self.tell(str(self.plan.with_timing(seconds, run.profile)))
        return step

"""Step inputs on a Gaussian mixture, in float64, with and without Perp-Neg."""

from dataclasses import replace

from tiny_pipeline import class_conditions, f64, make_inputs, normal
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.schedule import (
    CosineSchedule,
    NoiseSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.inputs import StepInputs
from limbeck.priors.exact import GaussianMixture

SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
#: class weights of the null prompt and of the prompt
NULL_AND_POS = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))
#: negative prompts of Perp-Neg: class weights and the Perp-Neg weight of each row
GREEN, BLUE = (0.05, 0.9, 0.05), (0.7, 0.2, 0.1)
NEGATIVES = ((GREEN, [0.5, 1.0, 2.0, 0.0, -1.0]), (BLUE, [3.0, 0.1, 0.0, 1.0, 0.7]))


def mixture(schedule: NoiseSchedule = SD) -> GaussianMixture:
    """Three Gaussians in four dimensions."""
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)


def perp_neg_conditions(rows: int, *negatives: tuple[tuple[float, ...], list[float]]) -> Conditions:
    """Conditions with negative prompts, each given by its class weights and its weight per row."""
    texts = tuple(
        (Condition(f64(list(classes)).log().expand(rows, -1)), f64(weights))
        for classes, weights in negatives
    )
    return replace(class_conditions(rows, *NULL_AND_POS), perp_neg=texts)


def five_rows(
    schedule: NoiseSchedule = SD, t: Tensor | float = 0.5, conditions: Conditions | None = None
) -> StepInputs:
    """Inputs of a step of five rows."""
    conditions = conditions or class_conditions(5, *NULL_AND_POS)
    return make_inputs(schedule, normal(5, 4, seed=2), t, normal(5, 4, seed=3), conditions)

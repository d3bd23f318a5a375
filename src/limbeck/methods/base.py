"""Base classes of score distillation methods.

Notation of all methods: x is the clean sample, a latent or an image, x_t = alpha_t x + sigma_t eps
and lambda_t = sigma_t / alpha_t. eps(x_t, t, y) is the noise predicted by the prior under the
prompt y and eps(x_t, t) the unconditional prediction; the guided prediction is
eps_hat_s = eps(x_t, t) + s (eps(x_t, t, y) - eps(x_t, t)), and x0_hat = (x_t - sigma_t eps_hat) /
alpha_t. A method returns the direction to descend in x, without the weight w(t).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.scheduled_numbers import Schedulable
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction, required_conditions
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.flow import coupled_noise
from limbeck.distillation.inputs import EditSource, SetupContext, StepInputs
from limbeck.distillation.noise import Noise
from limbeck.distillation.state import State, Stateless

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class LatentAndImageGradient:
    """A direction in x0 space together with one in the space of the rendered image.

    Attributes:
        x0: direction in x0 space.
        image: direction in image space. It reaches the image without passing the encoder.
    """

    x0: Float[Tensor, "b ..."]
    image: Float[Tensor, "b 3 h w"]


@dataclass(frozen=True)
class Method(Schedulable, abc.ABC, Generic[S]):
    """A score distillation method. A subclass is a frozen dataclass, and its fields are options.

    An option of type float may be a schedule over the run. ``__call__`` and ``fit`` see its number
    at the step, ``init`` its first number.

    Attributes:
        bibtex: citation of the paper, for the report.
        optimizes: what the direction is meant to move, ``images`` or ``noise``.
        passes: network passes per particle and step, for the table of methods.
        backward: what is differentiated besides the representation and a critic; empty for nothing.
    """

    bibtex = ""
    optimizes = "images"
    passes = ""
    backward = ""

    @property
    def guidance_scales(self) -> tuple[float, ...] | None:
        """Scales of the guided predictions in the direction; None: not known.

        Scale 1 does not read the null prompt, and scale 0 reads nothing else; an experiment whose
        negative prompt, Perp-Neg or denoising steps are read by none of them is refused. By default
        it is the option ``guidance``, if there is one.
        """
        return tuple(getattr(self, f.name) for f in fields(self) if f.name == "guidance") or None

    def unused_options(self) -> dict[str, str]:
        """Options of the experiment that the direction does not read, each with what to do."""
        return {}

    @property
    def needs_shared_times(self) -> bool:
        """Whether all rows of a step must have one time, as their x_t are compared."""
        return False

    def check_steps(self, steps: int) -> None:
        """Check that a run may have so many steps; by default it may have any number.

        Args:
            steps: number of steps of the run.

        Raises:
            ValueError: if an option of the method does not fit this number.
        """

    def noise_of_run(self, noise: Noise, is_3d: bool) -> Noise:
        """Return the noise of a run; by default the one that was chosen.

        Args:
            noise: the noise of the experiment; independent noise if none was chosen.
            is_3d: whether the representation is seen by cameras.
        """
        return noise

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """Return options of the experiment that belong to the paper, as in run.yaml.

        Limbeck's own defaults for the embedded model go before them.

        Args:
            is_3d: whether the representation is seen by cameras.
        """
        return {}

    def step_schedule(self, step: int, steps: int) -> float:
        """What of the direction depends on the number of steps, as a number; 0 if nothing does.

        A run is extended only if this is the same in all steps that it has taken.

        Args:
            step: current step, from 0.
            steps: number of steps of the run.
        """
        return 0.0

    @abc.abstractmethod
    def init(self, prior: Prior, setup: SetupContext) -> S:
        """Return the state before the first step.

        Args:
            prior: the frozen prior.
            setup: particles, prompts and seed of the run.

        Raises:
            ValueError: if the method cannot run with this prior or setup.
        """

    @abc.abstractmethod
    def __call__(
        self, prior: Prior, inputs: StepInputs, state: S
    ) -> Float[Tensor, "b ..."] | LatentAndImageGradient:
        """Return the unweighted direction to descend in x0 space.

        It is called without gradients.

        Args:
            prior: the frozen prior.
            inputs: what was drawn for the step.
            state: the state of the method, which may be changed in place.
        """

    def fit(self, prior: Prior, inputs: StepInputs, state: S) -> dict[str, Tensor]:
        """Train what the method learns, after the step of the particles.

        Args:
            prior: the frozen prior.
            inputs: the inputs that the direction was computed from.
            state: the state of the method, changed in place.

        Returns:
            Metrics to record.
        """
        return {}

    def critic_prior(self, prior: Prior, state: S) -> Prior | None:
        """Return the critic as a prior, to show its x0 and to sample from it; None without one."""
        return None

    def save_critic(self, prior: Prior, state: S, folder: Path) -> None:
        """Write the weights of the critic, if there is one, for use elsewhere."""

    def x0_of_noise(
        self, prior: Prior, noise: Float[Tensor, "b ..."], conditions: Conditions
    ) -> Float[Tensor, "b ..."]:
        """Return what is shown of particles that are noise; by default the noise itself.

        Args:
            prior: the frozen prior.
            noise: the particles.
            conditions: conditions of their prompts.
        """
        return noise


@dataclass(frozen=True)
class StatelessMethod(Method[Stateless]):
    """A method that keeps nothing between steps."""

    def init(self, prior: Prior, setup: SetupContext) -> Stateless:
        return Stateless()


_NO_SOURCE = (
    "this method edits images: use limbeck edit IMAGE, or describe them with --source-prompt "
    "and start from them with --representation.images"
)


def edit_source(inputs: StepInputs) -> EditSource:
    """Return the source of an edit; ValueError if the step is not part of one."""
    if inputs.source is None:
        raise ValueError(_NO_SOURCE)
    return inputs.source


#: Models as the defaults of edits tell them apart: exact or of few words, diffusion models, flows,
#: flows whose network has guidance, and those that follow instructions.
EditedModel = Literal["small", "diffusion", "flow", "flux", "instructions"]
#: Whose options a model has where a method has none for it.
_SIMILAR_MODELS: Mapping[EditedModel, tuple[EditedModel, ...]] = {
    "small": ("small", "diffusion"),
    "diffusion": ("diffusion",),
    "flow": ("flow", "diffusion"),
    "flux": ("flux", "flow", "diffusion"),
    "instructions": ("instructions", "diffusion"),
}
#: Velocities are compared, w = 1 / (1 - u), and the pace is that of DVRF with eta = 0.
_IN_VELOCITIES = {
    "steps": 50,
    "lr": 0.044,
    "weight": {"name": "alpha-sigma", "alpha_power": -1.0, "sigma_power": 0.0},
}


@dataclass(frozen=True)
class EditMethod(StatelessMethod):
    """A method that edits images from what their source prompt says to what their prompt says.

    Attributes:
        guidance: guidance scale s of the predictions for the edited image and for its source.
        needs_source: whether it needs a source prompt.
        edit_recipes: options of ``limbeck edit`` by kind of model, as in run.yaml, with those of
            the method under ``method``. A kind that is left out has those of a similar one, and
            what has none has these, those of DDS.
    """

    guidance: float = 7.5

    needs_source = True
    edit_recipes: ClassVar[Mapping[EditedModel, Mapping[str, Any]]] = {
        "small": {"method": {"guidance": 3.0}},
        "diffusion": {"method": {"guidance": 7.5}, "steps": 200, "lr": 0.05},
        "flow": {"method": {"guidance": 7.5}, **_IN_VELOCITIES},
        "flux": {"method": {"guidance": 1.0}, **_IN_VELOCITIES},  # on top of its own
    }

    @classmethod
    def edit_recipe(cls, model: EditedModel) -> Mapping[str, Any]:
        """Return the options of an edit that suit a kind of model, from ``edit_recipes``.

        Args:
            model: kind of model.
        """
        for recipes in (cls.edit_recipes, EditMethod.edit_recipes):
            for kind in _SIMILAR_MODELS[model]:
                if kind in recipes:
                    return recipes[kind]
        raise AssertionError(f"EditMethod.edit_recipes has no options of {model} models")

    def init(self, prior: Prior, setup: SetupContext) -> Stateless:
        self.check_source(setup.source_prompts)
        return Stateless()

    def check_source(self, source_prompts: tuple[str, ...]) -> None:
        """Check that there are the source prompts that the method needs.

        Args:
            source_prompts: source prompts of the run; empty without any.

        Raises:
            ValueError: if there are none.
        """
        if self.needs_source and not source_prompts:
            raise ValueError(_NO_SOURCE)

    def predict_target_and_source(
        self, prior: Prior, inputs: StepInputs, eta: float = 0.0
    ) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
        """Predict eps_hat_s of the edited image and of its source, at one eps and t, in one call.

        Args:
            prior: the frozen prior.
            inputs: the current step.
            eta: the noise of the edited image is eps + eta (x - x_source).

        Returns:
            eps_hat_s of the edited image under its prompt, and of the source under its own.
        """
        source = edit_source(inputs)
        source_xt = inputs.schedule.add_noise(source.x0, inputs.eps, inputs.t)
        target_xt = inputs.xt
        if eta != 0:
            eps = coupled_noise(inputs, source.x0, eta)
            target_xt = inputs.schedule.add_noise(inputs.x0.detach(), eps, inputs.t)
        prediction = guided_prediction(
            prior,
            torch.cat([target_xt, source_xt]),
            inputs.t.repeat(2),
            inputs.conditions.concat(source.conditions),
            self.guidance,
        )
        eps_target, eps_source = prediction.eps.chunk(2)
        return eps_target, eps_source

    def source_rows(self, inputs: StepInputs) -> slice:
        """Rows of the sources under their prompts in the call of ``predict_target_and_source``.

        The call has 2 B rows per condition, edited images first.
        """
        count, pos = len(inputs.x0), inputs.conditions.pos
        required = required_conditions(inputs.conditions, self.guidance)
        prompt_index = next((i for i, condition in enumerate(required) if condition is pos), 0)
        start = prompt_index * 2 * count + count
        return slice(start, start + count)


class CriticMethod(Method[Critic]):
    """A method whose only state is its critic. Subclasses have the option ``critic``."""

    critic: CriticConfig

    def init(self, prior: Prior, setup: SetupContext) -> Critic:
        return self.critic.build(prior, setup)

    def fit(self, prior: Prior, inputs: StepInputs, state: Critic) -> dict[str, Tensor]:
        return state.fit(inputs)

    def critic_prior(self, prior: Prior, state: Critic) -> Prior:
        return state.prior()

    def save_critic(self, prior: Prior, state: Critic, folder: Path) -> None:
        state.save(folder)

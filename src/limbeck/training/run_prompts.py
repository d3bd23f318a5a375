"""The encoded prompts of a run: one row per prompt and view, and the conditions of each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions, same_rows
from limbeck.diffusion.prior import MultiViewPrior, NovelViewPrior, Prior
from limbeck.diffusion.prompts import extend_prompt
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.row_views import RowViews
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.samplers import CameraSampler, NoCamera
from limbeck.training.experiment import Experiment
from limbeck.training.reference_view import ReferenceView


def texts_by_view(cameras: CameraSampler, text: str) -> tuple[str, ...]:
    """Return a text with the words of every view.

    Words at the end of it survive where a text encoder cuts it.
    """
    return tuple(
        extend_prompt(text, view.removeprefix(text)) if view.startswith(text) else view
        for view in cameras.prompts_by_view(text)
    )


def view_texts_of(experiment: Experiment, prior: Prior) -> Callable[[str], tuple[str, ...]]:
    """Return the function that gives a text with the words of every view.

    A prior conditioned on cameras gets none of them: its function returns the text alone.

    Args:
        experiment: the options of the run.
        prior: its model.
    """
    cameras = experiment.camera_sampler
    if isinstance(prior, MultiViewPrior) and not isinstance(cameras, NoCamera):
        return lambda text: (text,)
    return partial(texts_by_view, cameras)


def prompts_by_view(experiment: Experiment, prior: Prior) -> tuple[str, ...]:
    """Return every prompt with the words of every view, those of a prompt next to each other.

    Args:
        experiment: the options of the run.
        prior: its model.
    """
    by_view = view_texts_of(experiment, prior)
    return tuple(text for prompt in experiment.prompts for text in by_view(prompt))


class RunPrompts:
    """The encoded prompts of an experiment.

    Args:
        experiment: the options of the run.
        prior: its model.
        reference: the image that a ``NovelViewPrior`` is conditioned on in place of the prompts.

    Attributes:
        view_prompts: every prompt with the words of every view.
        texts_by_view: gives a text with the words of every view.
        num_views: number of view prompts per prompt; 1 if prompts do not depend on the view.
        conditions: one row per view prompt, those of a prompt next to each other.
    """

    def __init__(
        self, experiment: Experiment, prior: Prior, reference: ReferenceView | None = None
    ):
        self.experiment, self.prior = experiment, prior
        self._image_condition = _encode_reference(experiment, prior, reference)
        self.cameras = experiment.camera_sampler
        self.texts_by_view = view_texts_of(experiment, prior)
        self.num_views = len(self.texts_by_view(""))
        self.view_prompts = prompts_by_view(experiment, prior)
        self.conditions = self._encode_view_prompts(self.view_prompts)

    def _encode_view_prompts(self, view_prompts: tuple[str, ...]) -> Conditions:
        """Conditions of every view prompt, with the plain prompt as ``pos.view_free``."""
        prompts = self.experiment.prompts
        if set(view_prompts) == set(prompts):
            return self.encode(view_prompts)
        # in one call, because the text encoders are loaded for it
        plain = self.prior.condition((*view_prompts, *prompts))[len(view_prompts) :]
        conditions = self.encode(view_prompts)
        prompt_index = torch.arange(len(prompts)).repeat_interleave(self.num_views)
        view_free = plain[prompt_index.to(self.prior.device)]
        return replace(conditions, pos=replace(conditions.pos, view_free=view_free))

    def encode(self, texts: tuple[str, ...]) -> Conditions:
        """Return conditions with the negative prompt of the experiment.

        Args:
            texts: texts of one row each.
        """
        e, count = self.experiment, len(texts)
        pos, empty = self.prior.condition(texts), self.prior.condition([""] * count)
        if self._image_condition is not None:
            pos = self._image_condition[torch.zeros(count, dtype=torch.long)]
        if not e.negative_prompt:
            return Conditions(pos, empty, denoise_steps=e.denoise_steps)
        negative = self.prior.condition([e.negative_prompt] * count).with_image_prompt_of(empty)
        if not e.perp_neg:
            return Conditions(pos, negative, denoise_steps=e.denoise_steps, empty=empty)
        weight = torch.full((count,), e.perp_neg, device=self.prior.device)
        return Conditions(pos, empty, ((negative, weight),), e.denoise_steps)

    def encode_sources(self, source_prompts: tuple[str, ...]) -> Conditions:
        """Return the conditions of the sources of an edit, which have no image prompt.

        Args:
            source_prompts: what they show, one text per prompt.
        """
        conditions = self.encode(source_prompts)
        pos = conditions.pos.with_image_prompt_of(conditions.unconditional)
        return replace(conditions, pos=pos)

    def check_distinct(self) -> None:
        """Refuse source or negative prompts that differ from the prompt only as texts.

        Raises:
            ValueError: if two are the same to the model, so that guidance or edit would do nothing.
        """
        e = self.experiment
        others = [(i, "source", text) for i, text in enumerate(e.source_prompts)]
        if e.negative_prompt:
            others += [(i, "negative", e.negative_prompt) for i in range(len(e.prompts))]
        for i, kind, other in others:
            prompt = e.prompts[i]
            if other != prompt and same_rows(*map(self.prior.condition, ([prompt], [other]))):
                raise ValueError(
                    f"prompt {prompt!r} and {kind} prompt {other!r} are the same to this model: "
                    "use words that it tells apart, the most important ones first"
                )

    def prompt_of(self, particle: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """Return the number of the prompt of each particle, on the prior's device.

        Args:
            particle: particle indices.
        """
        return to_device(particle // self.experiment.particles, self.prior.device)

    def conditions_for(
        self, particle: Int[Tensor, "b"], camera: Camera | None = None
    ) -> Conditions:
        """Return the conditions of particles, with the view prompt of what each camera sees.

        A model conditioned on cameras gets them instead.

        Args:
            particle: particle indices.
            camera: camera of each row; needed if the prompts differ by view.
        """
        conditions = self._texts_for(particle, camera)
        if camera is None or not isinstance(self.prior, MultiViewPrior):
            return conditions
        return conditions.with_camera(to_device(camera.pose.float(), self.prior.device))

    def _texts_for(self, particle: Int[Tensor, "b"], camera: Camera | None) -> Conditions:
        prompt, views = self.prompt_of(particle), self.views_for(len(particle), camera)
        if views is None:
            return self.conditions[prompt]
        first = prompt * self.num_views
        conditions = self.conditions[first + views.nearest]
        conditions = replace(conditions, pos=views.select(self.conditions.pos, prompt))
        negatives = []
        for other_view, negative_weight in self.cameras.perp_neg_weights(camera):
            other = self.conditions.pos[first + to_device(other_view, first.device)]
            negatives.append((other, to_device(negative_weight, first.device)))
        return replace(conditions, perp_neg=(*conditions.perp_neg, *negatives))

    def views_for(self, count: int, camera: Camera | None) -> RowViews | None:
        """Return the view of each row, on the prior's device.

        Args:
            count: number of rows.
            camera: camera of each row; None for 2D representations.

        Returns:
            The views; None if the prompts do not depend on them.
        """
        if self.num_views == 1:
            return None
        view_weights = to_device(self.cameras.view_weights(camera, count), self.prior.device)
        weight, view = view_weights.topk(2, dim=1)
        if not self.cameras.interpolates_prompts:
            return RowViews(self.num_views, view[:, 0])
        return RowViews(self.num_views, view[:, 0], view[:, 1], weight[:, 1])


def _encode_reference(
    experiment: Experiment, prior: Prior, reference: ReferenceView | None
) -> Condition | None:
    """The condition of the reference image; None if the model reads the prompts instead.

    Raises:
        ValueError: if the model needs an image and there is none, or it has no use for a text.
    """
    e = experiment
    if not isinstance(prior, NovelViewPrior):
        if not all(prompt.strip() for prompt in e.prompts):
            raise ValueError(
                "a prompt is missing: this model reads the prompt, not the image; say what the "
                "image shows"
            )
        return None
    if reference is None:
        raise ValueError(
            "this model makes new views of the object of an image: give one with --image FILE, and "
            "a 3D representation such as --representation nerf"
        )
    for name in ("negative_prompt", "perp_neg", "source_prompt"):
        if value := getattr(e, name):
            raise ValueError(f"{name} {value!r} has no effect, as this model reads no text")
    image = reference.images.at(*prior.image_size).on_white[None]
    with torch.no_grad():
        return prior.condition_on_view(image, to_device(reference.camera.pose, prior.device))

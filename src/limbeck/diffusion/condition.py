"""Conditions of a prior, one entry per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What a prior is conditioned on, one entry per row.

    Attributes:
        data: token features ``[B, L, D]`` for a text model, log-weights ``[B, K]`` of the classes
            for a mixture.
        adapters: LoRA adapters through which these rows pass. None: the frozen network alone.
        pooled: pooled text embedding ``[B, P]`` of models that take one besides the token features.
        pose: camera-to-world matrices ``[B, 4, 4]``, read by camera-conditioned critics only.
        camera: camera-to-world matrices ``[B, 4, 4]``, read by a ``MultiViewPrior`` only. None: its
            rows are images without a camera.
        view_free: the same rows encoded without view words ("front view"). None: the prompts have
            no view words.
        mask: whether an entry of ``data`` is a token of the text rather than padding. Networks that
            take it attend to no padding. None: the network attends to all entries.
        image: latents ``[B, c, y, x]`` of an image, which networks with inputs for it take as
            further channels of x_t. None: no image, for which such networks take zeros.
        known: rows whose view is known, for a ``KnownViewPrior``: it is given ``image`` in place of
            x_t, at the first time step. None: no view is known.
        control: images in [0, 1] for the ControlNet of a ``ControlledPrior``, made of the renders
            of the rows. None: there is none, or it has an image of its own.
        image_prompt: features of an image that the network attends to beside the text; those of no
            image beside the empty prompt. None: the network takes no image prompts, or no image.
    """

    data: Float[Tensor, "b ..."]
    adapters: object | None = None
    pooled: Float[Tensor, "b p"] | None = None
    pose: Float[Tensor, "b 4 4"] | None = None
    view_free: Condition | None = None
    camera: Float[Tensor, "b 4 4"] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    image: Float[Tensor, "b c y x"] | None = None
    known: Bool[Tensor, "b"] | None = None
    control: Float[Tensor, "b 3 h w"] | None = None
    image_prompt: Float[Tensor, "b ..."] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        return replace(
            self,
            data=self.data[rows],
            pooled=None if self.pooled is None else self.pooled[rows],
            pose=None if self.pose is None else self.pose[rows],
            view_free=None if self.view_free is None else self.view_free[rows],
            camera=None if self.camera is None else self.camera[rows],
            mask=None if self.mask is None else self.mask[rows],
            image=None if self.image is None else self.image[rows],
            known=None if self.known is None else self.known[rows],
            control=None if self.control is None else self.control[rows],
            image_prompt=None if self.image_prompt is None else self.image_prompt[rows],
        )

    @property
    def without_view(self) -> Condition:
        """The same rows without view words, for critics that are conditioned on the camera."""
        if self.view_free is None:
            return self
        return replace(self.view_free.of_renders(self), adapters=self.adapters, pose=self.pose)

    def of_renders(self, other: Condition) -> Condition:
        """The same texts for the renders of ``other``: with its cameras and its images."""
        return replace(
            self,
            camera=other.camera,
            image=other.image,
            known=other.known,
            control=other.control,
        )

    def with_image_prompt_of(self, other: Condition) -> Condition:
        """The same texts beside the image prompt of ``other``, such as that of the empty prompt."""
        return replace(self, image_prompt=other.image_prompt)

    def with_adapters(self, adapters: object) -> Condition:
        """The same rows through ``adapters``, for a critic that shares the prior's network."""
        return replace(self, adapters=adapters)

    def concat(self, other: Condition) -> Condition:
        """Append the rows of ``other``, so that two x_t can share one network call.

        Raises:
            ValueError: if the rows use different adapters.
        """
        if self.adapters is not other.adapters:
            raise ValueError(
                "cannot concatenate conditions with different adapters: "
                "pass them to the prior as separate conditions"
            )
        return self._combine(other, lambda a, b: torch.cat([a, b]))

    def where(self, mask: Bool[Tensor, "b"], other: Condition) -> Condition:
        """Rows of ``self`` where ``mask`` is true, of ``other`` elsewhere."""
        return self._combine(
            other, lambda a, b: torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b)
        )

    def lerp(self, other: Condition, weight: Float[Tensor, "b"]) -> Condition:
        """Interpolate linearly from ``self`` (weight 0) to ``other`` (weight 1), row by row.

        Between the two, the tokens of a row are those of both.
        """

        def interpolate(a: Tensor, b: Tensor) -> Tensor:
            if a.dtype == torch.bool:
                return interpolate(a.to(weight), b.to(weight)) > 0
            mixed = torch.lerp(a, b, weight.to(a).view(-1, *[1] * (a.ndim - 1)))
            # log-weights may be -inf in both, which lerp would turn into NaN
            return torch.where(a == b, a, mixed)

        return self._combine(other, interpolate)

    def _combine(self, other: Condition, op: Callable[[Tensor, Tensor], Tensor]) -> Condition:
        """Apply ``op`` to every tensor that both conditions have; no image stands for zeros."""

        def combine(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else op(a, b)

        image, other_image = self.image, other.image
        if image is None and other_image is not None:
            image = other_image.new_zeros(len(self), *other_image.shape[1:])
        elif other_image is None and image is not None:
            other_image = image.new_zeros(len(other), *image.shape[1:])
        view_free = None
        if self.view_free is not None or other.view_free is not None:
            view_free = self.without_view._combine(other.without_view, op)
        return replace(
            self,
            data=op(self.data, other.data),
            pooled=combine(self.pooled, other.pooled),
            pose=combine(self.pose, other.pose),
            view_free=view_free,
            camera=combine(self.camera, other.camera),
            mask=combine(self.mask, other.mask),
            image=combine(image, other_image),
            known=combine(self.known, other.known),
            control=combine(self.control, other.control),
            image_prompt=combine(self.image_prompt, other.image_prompt),
        )


def masked_condition(tokens: Float[Tensor, "b l d"], mask: Tensor) -> Condition:
    """Return the condition of tokens of which some are padding.

    Padding is set to zero, so that conditions of the same text are equal and can be interpolated.

    Args:
        tokens: features of the text encoder.
        mask: 1 for tokens of the text, 0 for padding.
    """
    mask = mask.bool()
    return Condition(tokens.float() * mask[:, :, None], mask=mask)


def same_rows(a: Condition, b: Condition) -> bool:
    """Whether two conditions hold the same encoded texts."""
    if not torch.equal(a.data, b.data):
        return False
    return a.pooled is None or b.pooled is None or torch.equal(a.pooled, b.pooled)


@dataclass(frozen=True)
class Conditions:
    """The conditions of a guided prediction.

    Attributes:
        pos: the prompt.
        null: the empty or negative prompt, which classifier-free guidance moves away from.
        perp_neg: negative prompts of Perp-Neg, each with its weight per row.
        denoise_steps: DDIM steps per guided prediction, see ``guided_prediction``.
        empty: the empty prompt, where ``null`` is a negative one. None: ``null`` is empty.
        no_image: ``null`` without the image that all others have, which guidance by the image moves
            away from. None: there is no such guidance.
        image_guidance: scale of that guidance.
    """

    pos: Condition
    null: Condition
    perp_neg: tuple[tuple[Condition, Float[Tensor, "b"]], ...] = ()
    denoise_steps: int = 1
    empty: Condition | None = None
    no_image: Condition | None = None
    image_guidance: float = 1.0

    def __getitem__(self, rows: Tensor | slice) -> Conditions:
        return Conditions(
            self.pos[rows],
            self.null[rows],
            tuple((c[rows], w[rows]) for c, w in self.perp_neg),
            self.denoise_steps,
            None if self.empty is None else self.empty[rows],
            None if self.no_image is None else self.no_image[rows],
            self.image_guidance,
        )

    def concat(self, other: Conditions) -> Conditions:
        """Append the rows of ``other``.

        Raises:
            ValueError: if the two differ in ``denoise_steps``, in the number of Perp-Neg prompts,
                or in the guidance by an image.
        """
        if (self.no_image is None, self.image_guidance) != (
            other.no_image is None,
            other.image_guidance,
        ):
            raise ValueError("cannot concatenate conditions with and without guidance by an image")
        if (self.denoise_steps, len(self.perp_neg)) != (other.denoise_steps, len(other.perp_neg)):
            raise ValueError(
                "cannot concatenate conditions: "
                f"denoise_steps are {self.denoise_steps} and {other.denoise_steps}, "
                f"Perp-Neg prompts {len(self.perp_neg)} and {len(other.perp_neg)}"
            )
        perp_neg = tuple(
            (a.concat(b), torch.cat([v, w]))
            for (a, v), (b, w) in zip(self.perp_neg, other.perp_neg, strict=True)
        )
        empty = None
        if self.empty is not None or other.empty is not None:
            empty = self.unconditional.concat(other.unconditional)
        no_image = None
        if self.no_image is not None and other.no_image is not None:
            no_image = self.no_image.concat(other.no_image)
        return Conditions(
            self.pos.concat(other.pos),
            self.null.concat(other.null),
            perp_neg,
            self.denoise_steps,
            empty,
            no_image,
            self.image_guidance,
        )

    @property
    def unconditional(self) -> Condition:
        """The empty prompt, for predictions that no guidance belongs to."""
        return self.null if self.empty is None else self.empty

    def with_camera(self, camera: Float[Tensor, "b 4 4"]) -> Conditions:
        """The conditions with the camera of each row, for a ``MultiViewPrior``."""
        return self._map(lambda condition: replace(condition, camera=camera))

    def with_control(self, control: Float[Tensor, "b 3 h w"]) -> Conditions:
        """The conditions with the control image of each row, for a ``ControlledPrior``."""
        return self._map(lambda condition: replace(condition, control=control))

    def with_known_views(
        self, image: Float[Tensor, "b c y x"], known: Bool[Tensor, "b"]
    ) -> Conditions:
        """The conditions with the views that a ``KnownViewPrior`` is given.

        Args:
            image: latents of the views, of any value in rows that are not known.
            known: rows whose view is known.
        """
        return self._map(lambda condition: replace(condition, image=image, known=known))

    def with_image(self, image: Float[Tensor, "b c y x"], image_guidance: float) -> Conditions:
        """The conditions with the source image of each row, for an ``InstructionPrior``.

        Args:
            image: latents of the images.
            image_guidance: guidance scale of the image.
        """
        changed = self._map(lambda condition: replace(condition, image=image))
        return replace(changed, no_image=self.null, image_guidance=image_guidance)

    def _map(self, change: Callable[[Condition], Condition]) -> Conditions:
        """Change the condition of every text."""
        return replace(
            self,
            pos=change(self.pos),
            null=change(self.null),
            perp_neg=tuple((change(c), w) for c, w in self.perp_neg),
            empty=None if self.empty is None else change(self.empty),
            no_image=None if self.no_image is None else change(self.no_image),
        )

    def with_text(self, text: Condition) -> Conditions:
        """Conditions of a prediction under one other text, with the same denoising steps."""
        return Conditions(text, text, denoise_steps=self.denoise_steps)

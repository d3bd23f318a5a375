"""The interface of every frozen diffusion model, exact or learned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.diffusion.attention_maps import AttentionMaps
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.vocabulary import Vocabulary

ControlKind = Literal["depth", "normal"]  #: what of a render a ControlNet is given


@dataclass
class NetworkCallCounter:
    """Counts of network calls so far.

    Attributes:
        calls: calls of the network.
        rows: rows passed through it.
        grad_rows: rows passed through it with gradients enabled.
        compiled_graphs: graphs compiled, if the network is compiled.
        compile_seconds: seconds of compilation, to be separated from those of the run itself.
    """

    calls: int = 0
    rows: int = 0
    grad_rows: int = 0
    compiled_graphs: int = 0
    compile_seconds: float = 0.0

    def add(self, rows: int) -> None:
        """Count one call with ``rows`` rows."""
        self.calls += 1
        self.rows += rows
        self.grad_rows += rows * torch.is_grad_enabled()


@runtime_checkable
class Prior(Protocol):
    """A frozen diffusion model.

    Images are float32 NCHW in [0, 1] outside; casts happen only inside.
    """

    @property
    def schedule(self) -> NoiseSchedule:
        """Its noise schedule."""
        ...

    @property
    def prediction_type(self) -> PredictionType:
        """Parametrization in which its network was trained; its critics are trained in the same."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one x0: (channels, height, width), or (dimension,) for a mixture of vectors."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Default height and width of the images that ``encode`` takes."""
        ...

    @property
    def size_multiple(self) -> int:
        """Divisor of all other image heights and widths. 0: no other size is possible."""
        ...

    @property
    def device(self) -> str:
        """Device of its tensors."""
        ...

    @property
    def call_counter(self) -> NetworkCallCounter:
        """Network calls so far."""
        ...

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """Predict x0 and eps under each condition, all conditions in one network call.

        Args:
            xt: x_t of each row.
            t: time of each row.
            conditions: conditions with one entry per row.

        Returns:
            One prediction per condition, in float32; exact priors answer float64 in float64.
        """
        ...

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """Encode images in [0, 1] as x0, differentiably."""
        ...

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        """Decode x0 to images in [0, 1]."""
        ...

    def condition(self, prompts: Sequence[str]) -> Condition:
        """Encode prompts, one row each; the empty prompt is the unconditional row. Cached."""
        ...


@runtime_checkable
class AttentionPrior(Prior, Protocol):
    """A prior whose self-attention outputs can be captured."""

    def capture_attention(self) -> AbstractContextManager[list[Float[Tensor, "r c h w"]]]:
        """Context manager that captures the self-attention of the decoder.

        While it is open, every network call appends the output of each self-attention layer of the
        decoder to the list, all rows, in the order of the layers. Gradients flow through them. On
        exit the network is restored.
        """
        ...


@runtime_checkable
class AttentionMapPrior(Prior, Protocol):
    """A prior whose attention probabilities can be captured, and which reads texts as tokens."""

    def capture_attention_maps(self) -> AbstractContextManager[list[AttentionMaps]]:
        """Context manager that captures attention probabilities.

        While it is open, every network call appends the maps of its rows to the list:
        self-attention of the layers of half the height of x0 and cross-attention of those of a
        quarter of it. Where there are none, those of the largest lesser height are taken, and
        without any, those of the least height. Predictions are what they are without it.
        """
        ...

    def changed_tokens(self, prompts: Sequence[str], sources: Sequence[str]) -> Bool[Tensor, "n l"]:
        """Which tokens of each prompt are not in its source prompt, in the order of the texts.

        Args:
            prompts: prompts.
            sources: another text for each.
        """
        ...


@runtime_checkable
class FoldablePrior(Prior, Protocol):
    """A prior whose self-attention can see several rows at once, though it is not trained to."""

    def fold_views(self, size: int) -> AbstractContextManager[None]:
        """Context manager in which each ``size`` rows that follow each other see each other.

        Args:
            size: rows of a group, of which every call must have whole ones.
        """
        ...


@runtime_checkable
class MultiViewPrior(Prior, Protocol):
    """A prior conditioned on the camera of each row, which sees several views of an object at once.

    In a call with ``Condition.camera`` rows come in whole groups: each ``group_size`` rows that
    follow each other are views of one object, with one time. Its prompts get no view words. In a
    call without cameras every row is an image of its own.
    """

    @property
    def group_size(self) -> int:
        """Views in a group."""
        ...


@runtime_checkable
class KnownViewPrior(MultiViewPrior, Protocol):
    """A multi-view prior that may be given some views of a group as they are.

    In rows of ``Condition.known`` the network sees ``Condition.image`` at the first time step in
    place of x_t, and the prediction of x0 is that image.
    """

    @property
    def takes_known_views(self) -> bool:
        """Whether it was trained so."""
        ...


@runtime_checkable
class ImagePromptPrior(MultiViewPrior, Protocol):
    """A multi-view prior that is shown an image of the object beside the prompt.

    The image shows the object from the front. ``condition`` shows none.
    """

    def encode_image_prompt(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """Encode images in [0, 1] of ``image_size`` as ``Condition.image_prompt``."""
        ...


@runtime_checkable
class ControlledPrior(Prior, Protocol):
    """A prior that can be controlled by an image of each row, ``Condition.control``."""

    @property
    def control_kind(self) -> ControlKind | None:
        """What of a render its rows are controlled by; None if they need no render."""
        ...


@runtime_checkable
class NovelViewPrior(MultiViewPrior, Protocol):
    """A prior conditioned on one image of an object, and on where each row's camera is beside it.

    It reads no text: ``condition`` gives every prompt the unconditional row. The camera of a row is
    ``Condition.camera``; without cameras its rows are seen from the camera of the image.
    """

    def condition_on_view(
        self, image: Float[Tensor, "b 3 h w"], camera: Float[Tensor, "b 4 4"]
    ) -> Condition:
        """Encode images of objects, one row each.

        Args:
            image: images in [0, 1] of ``image_size``, the object on white.
            camera: camera-to-world matrix of each image.
        """
        ...


@runtime_checkable
class InstructionPrior(Prior, Protocol):
    """A prior that edits an image as its prompt instructs, conditioned on ``Condition.image``."""

    @property
    def image_guidance(self) -> float:
        """Guidance scale of the image."""
        ...

    def source_latents(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Return the latents of images, as ``Condition.image`` holds them, from their x0."""
        ...


@runtime_checkable
class VocabularyPrior(Prior, Protocol):
    """A prior that can tell which words it knows."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words of its captions; None if it knows any word."""
        ...


class PriorWrapper:
    """A prior derived from another one: same space, predictions of its own.

    Subclasses implement ``__call__``.

    Args:
        prior: the prior whose schedule, shapes, encoder, decoder and conditions are shared.
    """

    def __init__(self, prior: Prior):
        self.schedule: NoiseSchedule = prior.schedule
        self.prediction_type: PredictionType = prior.prediction_type
        self.shape, self.image_size = prior.shape, prior.image_size
        self.size_multiple = prior.size_multiple
        self.device, self.call_counter = prior.device, NetworkCallCounter()
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition

"""Execution of a network and its autoencoder: attention, memory format, CPU offload."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from limbeck.diffusion.model_options import RuntimeOptions

#: Attention scores of one head (queries times keys) up to which plain attention is faster in 16
#: bits on a CPU.
_MAX_PLAIN_SCORES = 2**21
#: Height of a U-Net's input from which the channels-last memory format is faster.
_CHANNELS_LAST_MIN_SIZE = 32


class CPUAttention:
    """Attention processor of a U-Net on a CPU.

    PyTorch's fused kernel, but plain softmax attention in 16 bits up to ``_MAX_PLAIN_SCORES``
    scores. On a CPU without a matrix unit the fused kernel multiplies in float32, plain attention
    in 16 bits; with very many scores their memory decides. Measured in docs/speed.md.
    """

    def __init__(self) -> None:
        self.fused, self.plain = AttnProcessor2_0(), AttnProcessor()

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Apply attention; see ``diffusers.models.attention_processor.AttnProcessor``."""
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        num_scores = hidden_states.shape[1] * keys.shape[1]
        use_plain = hidden_states.dtype != torch.float32 and num_scores <= _MAX_PLAIN_SCORES
        processor = self.plain if use_plain else self.fused
        return processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


# diffusers asks for the signature of its processor in every call of every attention layer, which
# took 4 % of a step of the embedded model; with this attribute Python need not derive it
CPUAttention.__call__.__signature__ = inspect.signature(  # type: ignore[attr-defined]
    CPUAttention.__call__
)


def place_module(module: nn.Module, runtime: RuntimeOptions, device: str) -> Any:
    """Move a network or an autoencoder to its device, memory format and attention processor.

    Args:
        module: the module, changed in place.
        runtime: options; memory_format auto is channels-last for U-Nets of large inputs.
        device: where it goes.

    Returns:
        The module.
    """
    large = False
    if isinstance(module, UNet2DConditionModel):
        size = module.config.sample_size  # a file may hold a pair, or nothing
        size = size[0] if isinstance(size, list | tuple) and size else size
        large = isinstance(size, int) and size >= _CHANNELS_LAST_MIN_SIZE
        # a network with another kind of attention (IF) keeps it
        processors = module.attn_processors.values()
        if device == "cpu" and all(type(p) is AttnProcessor2_0 for p in processors):
            module.set_attn_processor(CPUAttention())
    module = module.to(device)
    if runtime.memory_format == "channels-last" or (runtime.memory_format == "auto" and large):
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


class OffloadedFunction(torch.autograd.Function):
    """``function(x)`` of modules that are on the device only inside a context.

    The backward pass opens the context again and recomputes the function.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        function: Callable[[Tensor], Tensor],
        on_device: Callable[[], AbstractContextManager],
    ) -> Tensor:
        """See ``torch.autograd.Function``: ``function(x)``, computed inside ``on_device()``."""
        ctx.save_for_backward(x)
        ctx.function, ctx.on_device = function, on_device
        with on_device():
            return function(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient for ``x``."""
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with ctx.on_device(), torch.enable_grad():
            return torch.autograd.grad(ctx.function(x), x, grad)[0], None, None


@contextmanager
def swap_devices(
    offloaded: Sequence[nn.Module], loaded: Sequence[nn.Module], device: str
) -> Iterator[None]:
    """Swap modules between the device and host memory; at the end, swap them back.

    Args:
        offloaded: modules in host memory inside the context, on the device outside.
        loaded: modules on the device inside the context, in host memory outside.
        device: the device.
    """
    for module in offloaded:
        module.to("cpu")
    for module in loaded:
        module.to(device)
    try:
        yield
    finally:
        for module in loaded:
            module.to("cpu")
        for module in offloaded:
            module.to(device)

"""How a network and its autoencoder are run: attention, layout in memory, and who is on the device when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from limbeck.diffusion.model_options import RuntimeOptions

_MAX_PLAIN_SCORES = (
    2**21
)  #: scores of one head, queries times keys, up to which plain attention is faster in 16 bits on a CPU
_CHANNELS_LAST_MIN_SIZE = 32  #: side of what a U-Net sees from which channels-last pays


class CPUAttention:
    """Attention of a U-Net on a CPU: PyTorch's fused kernel, but plain softmax attention in 16 bits up to ``FEW`` scores.

    The fused kernel computes its products in float32 where the CPU has no matrix unit, the plain one as 16-bit matrix products;
    with very many scores the memory they take decides. Measured, see docs/speed.md.
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
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        few = hidden_states.dtype != torch.float32 and hidden_states.shape[1] * keys.shape[1] <= _MAX_PLAIN_SCORES
        return (self.plain if few else self.fused)(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb
        )


def place_module(network: nn.Module, runtime: RuntimeOptions, device: str) -> Any:
    """A network or an autoencoder on its device, in its layout, with the attention that is fast there."""
    wide = False
    if isinstance(network, UNet2DConditionModel):
        wide = network.config.sample_size >= _CHANNELS_LAST_MIN_SIZE
        # where a network has another kind of attention (IF), it keeps it
        if device == "cpu" and all(
            type(p) is AttnProcessor2_0 for p in network.attn_processors.values()
        ):
            network.set_attn_processor(CPUAttention())
    last = runtime.memory_format == "channels-last" or (runtime.memory_format == "auto" and wide)
    return network.to(device).to(memory_format=torch.channels_last) if last else network.to(device)  # type: ignore[call-overload]


class OffloadedFunction(torch.autograd.Function):
    """``work(x)`` with modules that are near only inside ``near()``: its gradient fetches them again and does the work again."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        work: Callable[[Tensor], Tensor],
        near: Callable[[], AbstractContextManager],
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.work, ctx.near = work, near
        with near():
            return work(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with ctx.near(), torch.enable_grad():
            return torch.autograd.grad(ctx.work(x), x, grad)[0], None, None


@contextmanager
def swap_devices(away: Sequence[nn.Module], near: Sequence[nn.Module], device: str) -> Iterator[None]:
    """While it is open, some modules wait in the host's memory and others are on the device; then it is the other way round."""
    for module in away:
        module.to("cpu")
    for module in near:
        module.to(device)
    try:
        yield
    finally:
        for module in near:
            module.to("cpu")
        for module in away:
            module.to(device)

"""Low-rank adapters on a frozen network, with rows: in one call some rows pass through them and the others do not.

Hooks add B A x to the output of the layers that are adapted, and what a camera says to the embedding of time, so the frozen network
itself is never touched: without adapted rows its output is the pretrained one bit for bit. Saved in the layout that diffusers'
``load_lora_weights`` reads.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.diffusion.prior import Prior
from limbeck.priors.camera_conditioning import POSE_DIM, PoseEmbedding, find_time_embedding
from limbeck.priors.lora_files import LoRAPair, POSE_FILE

DEFAULT_TARGET_MODULES = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
)  #: Hu et al. 2021 on attention; what the diffusers scripts adapt


class AdapterRows:
    """Which rows of the call under way pass through which adapters: an index tensor and its owner, or None for none."""

    def __init__(self) -> None:
        self.clear()

    def activate(
        self,
        owner: object,
        index: Tensor,
        everyone: bool,
        pose: Float[Tensor, "r 16"] | None = None,
    ) -> None:
        """Let the rows at ``index``, seen by ``pose``, pass through ``owner``; where they are all the rows, saying so saves the
        gather."""
        self.owner: object | None = owner
        self.index: Tensor | None = index
        self.all_rows, self.pose = everyone, pose

    def clear(self) -> None:
        """No rows pass through any adapters."""
        self.owner, self.index, self.all_rows, self.pose = None, None, False, None


@runtime_checkable
class NetworkPrior(Prior, Protocol):
    """A prior with a network whose rows can pass through adapters."""

    network: nn.Module
    adapter_rows: AdapterRows

    @property
    def network_name(self) -> str:
        """What the network is called in a file of adapters: unet or transformer."""
        ...


class LoRAAdapters(nn.Module):
    """One pair (A ``[rank, in]``, B ``[out, rank]``) per adapted layer; of a convolution A is one too and B is 1 x 1. B starts at
    zero: at first they change nothing.

    targets: ends of the names of the linear layers and convolutions to adapt. camera: also tell these rows their camera, see
    ``Pose``; a row that has none is told a pose of zeros.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: AdapterRows,
        rank: int,
        rng: torch.Generator,
        part: str = "unet",
        targets: tuple[str, ...] = DEFAULT_TARGET_MODULES,
        camera: bool = False,
    ):
        super().__init__()
        layers = find_target_layers(network, targets)
        self.names, self.rank, self.network_name, self.target_modules = list(layers), rank, part, targets
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        hooks = []
        for i, layer in enumerate(layers.values()):
            wide, out = layer.weight[0].numel(), len(layer.weight)
            bound = 1 / math.sqrt(wide)  # as kaiming_uniform with a = sqrt 5, the habit of LoRA
            start = (torch.rand(rank, *layer.weight.shape[1:], generator=rng) * 2 - 1) * bound
            self.down.append(nn.Parameter(start.to(layer.weight.device, torch.float32)))
            self.up.append(
                nn.Parameter(
                    torch.zeros(out, rank, *[1] * (start.ndim - 2), device=layer.weight.device)
                )
            )
            hooks.append(layer.register_forward_hook(_make_lora_hook(weakref.ref(self), i, rows)))
        self.pose: PoseEmbedding | None = None
        if camera:
            time = find_time_embedding(network)
            self.pose = PoseEmbedding(time.linear_2.out_features, rng, time.linear_2.weight.device)
            hooks.append(time.register_forward_hook(_make_pose_hook(weakref.ref(self), rows)))
        # the network outlives its critics: their hooks go when they go
        weakref.finalize(self, _remove_hooks, hooks)

    @torch.no_grad()
    def load_pairs(self, pairs: dict[str, LoRAPair], where: Path) -> None:
        """Begin with the pairs of a file; where they are of a lower rank, the rest stays as it starts and changes nothing.

        Raises ValueError where the file adapts other layers, or needs a higher rank.
        """
        strange = sorted(set(pairs) - set(self.names))
        if strange:
            known = f"none of the layers {', '.join(self.target_modules)}: name theirs too with --method.critic.targets"
            raise ValueError(
                f"{where} adapts {strange[0]} and {len(strange) - 1} more that are {known}"
            )
        most = max(len(a) for a, _ in pairs.values())
        if most > self.rank:
            raise ValueError(
                f"{where} is of rank {most}, and the adapters of {self.rank}: give --method.critic.rank {most}"
            )
        for i, name in enumerate(self.names):
            if name not in pairs:
                continue
            a, b = pairs[name]
            if (
                a.shape[1:] != self.down[i].shape[1:]
                or b.shape[:1] != self.up[i].shape[:1]
                or b.ndim != self.up[i].ndim
            ):
                raise ValueError(
                    f"{where}: {name} is of {list(b.shape[:1] + a.shape[1:])}, not of this network's size"
                )
            self.down[i][: len(a)] = a.to(self.down[i])
            self.up[i][:, : len(a)] = b.to(self.up[i])

    def load_pose(self, tensors: dict[str, Tensor] | None, where: Path) -> None:
        """Begin with what was saved of the camera, where that was; ValueError where it does not belong to these adapters."""
        if tensors is None:
            return
        if self.pose is None:
            raise ValueError(
                f"{where} was told the camera: give --method.critic.camera, or take {POSE_FILE} away"
            )
        own = {name: value.shape for name, value in self.pose.state_dict().items()}
        if {name: value.shape for name, value in tensors.items()} != own:
            raise ValueError(f"{where}: its {POSE_FILE} is not of this network's size")
        self.pose.load_state_dict(tensors)

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors``, whose scaling is alpha / rank = 1, and beside it what a camera says."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, a, b in zip(self.names, self.down, self.up, strict=True):
            tensors[f"{self.network_name}.{name}.lora_A.weight"] = a.detach().cpu().contiguous()
            tensors[f"{self.network_name}.{name}.lora_B.weight"] = b.detach().cpu().contiguous()
        save_file(tensors, folder / "pytorch_lora_weights.safetensors", {"format": "pt"})
        if self.pose is not None:
            pose = {
                name: value.detach().cpu().contiguous()
                for name, value in self.pose.state_dict().items()
            }
            save_file(pose, folder / POSE_FILE, {"format": "pt"})


def find_target_layers(network: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and convolutions whose name is one of ``targets`` or ends with it, by name.

    Raises ValueError that lists the ends there are, where one of them is in no name.
    """
    plain = {
        n: m
        for n, m in network.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)
    }
    ends = {
        target: [name for name in plain if f".{name}".endswith(f".{target}")] for target in targets
    }
    lacking = [target for target, names in ends.items() if not names]
    if lacking or not targets:
        there = ", ".join(sorted({_layer_suffix(name) for name in plain})) or "none"
        raise ValueError(
            f"{type(network).__name__} has no layer named {', '.join(lacking) or 'nothing'} to adapt; those there are: {there}"
        )
    chosen = {name for names in ends.values() for name in names}
    return {name: layer for name, layer in plain.items() if name in chosen}


def _layer_suffix(name: str) -> str:
    """The last part of a layer's name that is a word, with the numbers behind it."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[last:])


def _remove_hooks(hooks: list[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


ForwardHook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


def _make_lora_hook(owner: weakref.ref[LoRAAdapters], i: int, rows: AdapterRows) -> ForwardHook:
    """Add the i-th change to the rows that are the owner's."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        mine = owner()
        if mine is None or rows.index is None or rows.owner is not mine:
            return out
        x = inputs[0] if rows.all_rows else inputs[0][rows.index]
        a, b = mine.down[i].to(x.dtype), mine.up[i].to(x.dtype)
        if isinstance(layer, nn.Conv2d):
            change = nn.functional.conv2d(
                nn.functional.conv2d(x, a, None, layer.stride, layer.padding, layer.dilation), b
            )
        else:
            change = (x @ a.T) @ b.T
        return out + change if rows.all_rows else out.index_add(0, rows.index, change)

    return hook


def _make_pose_hook(owner: weakref.ref[LoRAAdapters], rows: AdapterRows) -> ForwardHook:
    """Add what their cameras say to the rows that are the owner's."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
        mine = owner()
        if mine is None or mine.pose is None or rows.index is None or rows.owner is not mine:
            return out
        pose = out.new_zeros(len(rows.index), POSE_DIM) if rows.pose is None else rows.pose
        change = mine.pose(pose.float()).to(out.dtype)
        return out + change if rows.all_rows else out.index_add(0, rows.index, change)

    return hook

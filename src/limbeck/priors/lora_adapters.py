"""LoRA adapters on a frozen network, for some rows of a call.

Forward hooks add B A x to the output of the adapted layers, and a pose embedding to the time
embedding. The frozen network itself is not changed: without adapted rows its output is the
pretrained one bit for bit. Adapters are saved in the layout that diffusers' ``load_lora_weights``
reads.

References:
    LoRA (Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.diffusion.camera_input import POSE_DIM
from limbeck.diffusion.prior import Prior
from limbeck.priors.camera_conditioning import PoseEmbedding, find_time_embedding
from limbeck.priors.lora_files import POSE_FILE, LoRAPair

#: The projections of attention, as in the paper; the training scripts of diffusers adapt the same.
DEFAULT_TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0")


class AdapterRows:
    """Which rows of the current call of a network pass through which adapters.

    Attributes:
        owner: the adapters; None if no rows are adapted.
        pairs: A and B of their layers, in the dtype of the network.
        first: the adapted rows are those from this one on.
        total: rows of the call.
        pose: flattened poses of the adapted rows; None if they have none.
    """

    owner: object | None
    pairs: Sequence[LoRAPair]
    first: int
    total: int
    pose: Tensor | None

    def __init__(self) -> None:
        self.clear()

    def activate(
        self,
        owner: LoRAAdapters,
        first: int,
        total: int,
        dtype: torch.dtype,
        pose: Float[Tensor, "r 16"] | None = None,
    ) -> None:
        """Let the last rows of the next call pass through adapters.

        Args:
            owner: the adapters.
            first: index of the first adapted row.
            total: rows of the call.
            dtype: dtype of the network.
            pose: flattened poses of the adapted rows.
        """
        self.owner, self.first, self.total, self.pose = owner, first, total, pose
        self.pairs = owner.split(owner.weights.to(dtype))

    def clear(self) -> None:
        """Let no rows pass through adapters."""
        self.owner, self.pairs, self.first, self.total, self.pose = None, (), 0, 0, None

    def first_of(self, count: int) -> int:
        """The first adapted row of a layer.

        Args:
            count: rows that the layer sees; fewer than those of the call if it sees groups of them
                as one sequence, more if the model adds some to each group.
        """
        return self.first * count // self.total


@runtime_checkable
class NetworkPrior(Prior, Protocol):
    """A prior with a network whose rows can pass through adapters."""

    network: nn.Module
    adapter_rows: AdapterRows

    @property
    def network_name(self) -> str:
        """Prefix of the network in LoRA files: ``unet`` or ``transformer``."""
        ...


class LoRAAdapters(nn.Module):
    """Trainable LoRA adapters on a frozen network.

    Each adapted layer has A ``[rank, in]`` and B ``[out, rank]``; those of a convolution are a
    convolution A and a 1 x 1 convolution B. B is initialized with zero, so at first the network
    does not change. The adapters are float32 in any precision of the network. All of them are one
    tensor: it takes one kernel to update or convert it, not two for each layer.

    Args:
        network: the frozen network.
        adapter_rows: which rows of its current call are adapted; shared with the prior.
        rank: rank of the adapters.
        rng: generator of A and of the pose embedding.
        network_name: prefix in LoRA files.
        target_modules: ends of the names of the linear layers and convolutions to adapt.
        camera: also condition adapted rows on their camera, see ``PoseEmbedding``. A row without a
            pose has a pose of zeros.

    Attributes:
        names: names of the adapted layers.
        weights: A and B of each of them in turn, flattened.
        pose: the pose embedding; None without ``camera``.

    Raises:
        ValueError: if no layer has one of the names, or there is no time embedding for ``camera``.
    """

    def __init__(
        self,
        network: nn.Module,
        adapter_rows: AdapterRows,
        rank: int,
        rng: torch.Generator,
        network_name: str = "unet",
        target_modules: tuple[str, ...] = DEFAULT_TARGET_MODULES,
        camera: bool = False,
    ):
        super().__init__()
        layers = find_target_layers(network, target_modules)
        self.names, self.rank = list(layers), rank
        self.network_name, self.target_modules = network_name, target_modules
        owner = weakref.ref(self)
        hooks, initial = [], []
        self._shapes: list[torch.Size] = []
        for i, layer in enumerate(layers.values()):
            out_features, *in_shape = layer.weight.shape
            # kaiming_uniform with a = sqrt(5), as usual for LoRA
            bound = 1 / math.sqrt(layer.weight[0].numel())
            a = (torch.rand(rank, *in_shape, generator=rng) * 2 - 1) * bound
            b = torch.zeros(out_features, rank, *[1] * (a.ndim - 2))
            self._shapes += [a.shape, b.shape]
            initial += [a.flatten(), b.flatten()]
            hooks.append(layer.register_forward_hook(_make_lora_hook(owner, i, adapter_rows)))
        device = next(iter(layers.values())).weight.device
        self.weights = nn.Parameter(torch.cat(initial).to(device))
        self.pose: PoseEmbedding | None = None
        if camera:
            time_embedding = find_time_embedding(network)
            last = time_embedding.linear_2
            self.pose = PoseEmbedding(last.out_features, rng, last.weight.device)
            hooks.append(time_embedding.register_forward_hook(_make_pose_hook(owner, adapter_rows)))
        # the network outlives its adapters, whose hooks are removed with them
        weakref.finalize(self, _remove_hooks, hooks)

    def split(self, weights: Float[Tensor, "n"]) -> list[LoRAPair]:
        """Return A and B of each layer as views of flat weights."""
        parts = weights.split([shape.numel() for shape in self._shapes])
        views = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True))

    @property
    def pairs(self) -> list[LoRAPair]:
        """A and B of each layer, without gradients; a change of them changes the weights."""
        return self.split(self.weights.detach())

    @torch.no_grad()
    def load_pairs(self, pairs: dict[str, LoRAPair], path: Path) -> None:
        """Initialize from a LoRA. If its rank is lower, the remaining rows of A keep B = 0.

        Args:
            pairs: A and B by layer.
            path: the file, for error messages.

        Raises:
            ValueError: if it adapts other layers, or has a higher rank or other sizes.
        """
        unknown = sorted(set(pairs) - set(self.names))
        if unknown:
            raise ValueError(
                f"{path} adapts {unknown[0]} and {len(unknown) - 1} more layers that are not among "
                f"{', '.join(self.target_modules)}: add them to --method.critic.target-modules"
            )
        rank = max(len(a) for a, _ in pairs.values())
        if rank > self.rank:
            raise ValueError(
                f"{path} has rank {rank}, the adapters have rank {self.rank}: "
                f"use --method.critic.rank {rank}"
            )
        for name, (down, up) in zip(self.names, self.pairs, strict=True):
            if name not in pairs:
                continue
            a, b = pairs[name]
            if a.shape[1:] != down.shape[1:] or b.shape[:1] != up.shape[:1] or b.ndim != up.ndim:
                raise ValueError(
                    f"{path}: {name} has size {list(b.shape[:1] + a.shape[1:])}, which is not that "
                    "of this network"
                )
            down[: len(a)] = a.to(down)
            up[:, : len(a)] = b.to(up)

    def load_pose(self, tensors: dict[str, Tensor] | None, path: Path) -> None:
        """Initialize the pose embedding.

        Args:
            tensors: tensors of the pose embedding by name; None: keep the initial ones.
            path: file that the tensors were read from, for error messages.

        Raises:
            ValueError: if these adapters have no pose embedding, or one of other sizes.
        """
        if tensors is None:
            return
        if self.pose is None:
            raise ValueError(
                f"{path} is conditioned on the camera: use --method.critic.camera, or remove "
                f"{POSE_FILE}"
            )
        shapes = {name: value.shape for name, value in self.pose.state_dict().items()}
        if {name: value.shape for name, value in tensors.items()} != shapes:
            raise ValueError(f"{path}: its {POSE_FILE} does not have the sizes of this network")
        self.pose.load_state_dict(tensors)

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors`` and the pose embedding.

        The scale of the LoRA, alpha / rank, is 1.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (a, b) in zip(self.names, self.pairs, strict=True):
            # a copy: tensors of a file may not share memory
            tensors[f"{self.network_name}.{name}.lora_A.weight"] = a.cpu().clone()
            tensors[f"{self.network_name}.{name}.lora_B.weight"] = b.cpu().clone()
        save_file(tensors, folder / "pytorch_lora_weights.safetensors", {"format": "pt"})
        if self.pose is not None:
            state = self.pose.state_dict()
            pose = {name: value.detach().cpu().contiguous() for name, value in state.items()}
            save_file(pose, folder / POSE_FILE, {"format": "pt"})


def find_target_layers(
    network: nn.Module, target_modules: tuple[str, ...]
) -> dict[str, nn.Linear | nn.Conv2d]:
    """Find the linear layers and ungrouped convolutions to adapt.

    Args:
        network: where they are.
        target_modules: their names, or ends of these from a dot on.

    Returns:
        The layers by name, in the order of the network.

    Raises:
        ValueError: if no layer has one of the names; the message lists the possible ones.
    """
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    matches = {
        target: {name for name in layers if f".{name}".endswith(f".{target}")}
        for target in target_modules
    }
    missing = [target for target, names in matches.items() if not names]
    if missing or not target_modules:
        suffixes = ", ".join(sorted({_layer_suffix(name) for name in layers})) or "none"
        raise ValueError(
            f"{type(network).__name__} has no layer named {', '.join(missing) or 'nothing'} to "
            f"adapt; its layers are named {suffixes}"
        )
    chosen = set().union(*matches.values())
    return {name: layer for name, layer in layers.items() if name in chosen}


def _layer_suffix(name: str) -> str:
    """The last part of a layer's name that is no number, with the numbers after it."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[last:])


def _remove_hooks(hooks: list[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


ForwardHook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


def _make_lora_hook(
    adapters_ref: weakref.ref[LoRAAdapters], i: int, adapter_rows: AdapterRows
) -> ForwardHook:
    """A hook that adds the change of the i-th layer to the rows of these adapters."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        adapters = adapters_ref()
        if adapters is None or adapter_rows.owner is not adapters:
            return out
        a, b = adapter_rows.pairs[i]
        first = adapter_rows.first_of(len(out))
        x, rows = inputs[0][first:], out[first:]
        if isinstance(layer, nn.Conv2d):
            hidden = nn.functional.conv2d(x, a, None, layer.stride, layer.padding, layer.dilation)
            rows = rows + nn.functional.conv2d(hidden, b)
        else:  # one kernel multiplies and adds
            hidden = nn.functional.linear(x, a).flatten(0, -2)
            rows = torch.addmm(rows.flatten(0, -2), hidden, b.T).view(rows.shape)
        return torch.cat([out[:first], rows]) if first else rows

    return hook


def _make_pose_hook(
    adapters_ref: weakref.ref[LoRAAdapters], adapter_rows: AdapterRows
) -> ForwardHook:
    """A hook that adds the pose embedding to the time embedding of the rows of these adapters."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
        adapters = adapters_ref()
        if adapters is None or adapters.pose is None or adapter_rows.owner is not adapters:
            return out
        first, pose = adapter_rows.first_of(len(out)), adapter_rows.pose
        if pose is None:
            pose = out.new_zeros(len(out) - first, POSE_DIM)
        rows = out[first:] + adapters.pose(pose.float()).to(out.dtype)
        return torch.cat([out[:first], rows]) if first else rows

    return hook

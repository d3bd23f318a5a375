"""Networks of the same inputs as a prior whose weights are trained: a copy, adapters, or an MLP."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.lora_adapters import AdapterRows, LoRAAdapters, NetworkPrior

_TIME_FREQUENCIES = 4  #: pairs of sine and cosine that the MLP reads t as


class TrainableNetwork(PriorWrapper):
    """A prior with weights of its own, in float32.

    Args:
        prior: the prior whose space, schedule and conditions it shares.
        module: the weights that are trained.
    """

    def __init__(self, prior: Prior, module: nn.Module):
        super().__init__(prior)
        self.module = module

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``."""
        raise NotImplementedError

    def merged_module(self) -> nn.Module:
        """Return one module with the weights of this network, for files of other programs."""
        return self.module

    def save(self, folder: Path) -> None:
        """Write the weights, in a layout that diffusers reads if the network is one of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in self.module.state_dict().items()}
        save_file(tensors, folder / "network.safetensors")


class NetworkCopy(TrainableNetwork):
    """A copy of the prior's whole network.

    The weights are float32. If those of the prior have 16 bits, matrix products and convolutions
    are computed in bfloat16 (autocast).

    Args:
        prior: the prior.
    """

    def __init__(self, prior: NetworkPrior):
        copies: dict[int, Any] = {}
        super().__init__(prior, copy.deepcopy(prior.network, copies).float().requires_grad_(True))
        inner: Any = copy.copy(prior)
        # a family may call its network by two names, and what layers refer to is copied with them
        for name, value in vars(prior).items():
            if id(value) in copies:
                setattr(inner, name, copies[id(value)])
        inner.dtype, inner.compiled_network = torch.float32, None
        inner.adapter_rows = AdapterRows()
        # a pass costs as much as one of the prior, and is counted with them
        self.call_counter = prior.call_counter
        self._inner, self._name = inner, prior.network_name
        self._autocast = getattr(prior, "dtype", torch.float32) != torch.float32

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``."""
        kind = str(self.device).partition(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=self._autocast):
            predictions: list[Prediction] = self._inner(xt, t, *conditions)
        return predictions

    def save(self, folder: Path) -> None:
        """Write a model of diffusers to ``unet`` or ``transformer``."""
        module: Any = self.module
        module.save_pretrained(folder / self._name)


class AdaptedNetwork(TrainableNetwork):
    """The prior's own network through LoRA adapters.

    Args:
        prior: the prior.
        rank: rank of the adapters.
        seed: seed of their initial values; at first they change nothing.
        target_modules: ends of the names of the layers to adapt.
    """

    def __init__(self, prior: NetworkPrior, rank: int, seed: int, target_modules: tuple[str, ...]):
        adapters = LoRAAdapters(
            prior.network,
            prior.adapter_rows,
            rank,
            torch.Generator().manual_seed(int(seed)),
            prior.network_name,
            target_modules,
        )
        super().__init__(prior, adapters)
        self.adapters, self._prior, self.call_counter = adapters, prior, prior.call_counter

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``."""
        return self._prior(xt, t, *(c.with_adapters(self.adapters) for c in conditions))

    @torch.no_grad()
    def merged_module(self) -> nn.Module:
        """Return a float32 copy of the prior's network with B A added to the adapted layers."""
        merged = copy.deepcopy(self._prior.network).float()
        for name, (a, b) in zip(self.adapters.names, self.adapters.pairs, strict=True):
            weight: Any = merged.get_submodule(name).weight
            weight += (b.flatten(1) @ a.flatten(1)).view_as(weight)
        return merged

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors``, as diffusers does."""
        self.adapters.save(folder)


class MLPDenoiser(TrainableNetwork):
    """A multilayer perceptron with random initial weights, for priors without a network.

    It reads x_t, sines of t and the mean condition of a row, and predicts v, or flow on straight
    paths: both are bounded at both ends of the schedule.

    Args:
        prior: the prior.
        width: width of the hidden layers.
        depth: number of hidden layers. 0: an affine map.
        seed: seed of the initial weights.
    """

    def __init__(self, prior: Prior, width: int, depth: int, seed: int):
        size = math.prod(prior.shape)
        inputs = size + 2 * _TIME_FREQUENCIES + condition_features(prior.condition([""])).shape[1]
        widths = [inputs, *[width] * depth, size]
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
            torch.manual_seed(int(seed))
            layers: list[nn.Module] = []
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
                layers += [nn.SiLU()] * (i > 0) + [nn.Linear(fan_in, fan_out)]
        super().__init__(prior, nn.Sequential(*layers).to(prior.device))
        is_flow = isinstance(prior.schedule, RectifiedFlowSchedule)
        self.prediction_type: PredictionType = "flow" if is_flow else "v"

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``."""
        self.call_counter.add(len(xt) * len(conditions))
        frequencies = math.pi * torch.arange(1, _TIME_FREQUENCIES + 1, device=t.device)
        angles = t.float()[:, None] * frequencies
        common = [xt.float().flatten(1), angles.sin(), angles.cos()]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return [
            Prediction.from_output(
                self.prediction_type,
                self.module(torch.cat([*common, condition_features(condition)], 1)).view_as(xt),
                xt.float(),
                alpha,
                sigma,
            )
            for condition in conditions
        ]


def condition_features(condition: Condition) -> Float[Tensor, "b d"]:
    """Weights of a mixture's components from their logarithms, or the mean of a text's tokens."""
    data = condition.data.float()
    return data.exp() if data.ndim == 2 else data.mean(1)


def copy_network(prior: Prior, width: int, depth: int, seed: int) -> TrainableNetwork:
    """Return a whole network to train: a copy of the prior's, or an MLP if it has none.

    Args:
        prior: the prior.
        width: width of the MLP.
        depth: hidden layers of the MLP.
        seed: seed of the MLP's weights.
    """
    if isinstance(prior, NetworkPrior):
        return NetworkCopy(prior)
    return MLPDenoiser(prior, width, depth, seed)

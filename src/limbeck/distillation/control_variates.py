"""Control variates from Stein's identity, E[eps phi(x_t) - sigma grad phi(x_t)] = 0."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.config.discovery import component_name
from limbeck.config.ranges import check_minimums
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import AntitheticNoise, IndependentNoise, Noise
from limbeck.system.optimizer_state import can_fuse, load_optimizer, optimizer_tensors
from limbeck.system.processes import average_gradients


@dataclass(frozen=True)
class Baseline(abc.ABC):
    """Scalar function phi of each row of x_t, differentiable by autograd."""

    @abc.abstractmethod
    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """phi(x_t, t) of each row.

        Args:
            xt: x_t of each row.
            t: time of each row.
        """

    def build(self, setup: SetupContext) -> BaselineModel:
        """phi as a part of a run, with what it learns.

        Args:
            setup: particles and seed of the run.
        """
        return BaselineModel(self)


class BaselineModel:
    """phi during a run. This one is a fixed function; a subclass learns.

    Args:
        phi: the function.
    """

    def __init__(self, phi: Baseline):
        self.phi = phi

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return self.phi(xt, t)

    def fit(self, variate: ControlVariate, d: Float[Tensor, "b ..."], mu: Tensor) -> Tensor | None:
        """Learn from a step after it.

        Args:
            variate: what the control variate of the step was made of.
            d: direction of each row.
            mu: its coefficient of each row.

        Returns:
            The mean square of d + mu zeta; None if nothing is learned.
        """
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what ``tensors`` returned."""


@dataclass(frozen=True)
class ConstantBaseline(Baseline):
    """phi = 1: the control variate is a multiple of the added noise."""

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        # a function of xt, so that autograd finds its gradient, which is 0
        return xt.flatten(1).sum(1) * 0 + 1


@dataclass(frozen=True)
class QuadraticBaseline(Baseline):
    """phi = half the mean square of x_t."""

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 0.5 * xt.flatten(1).square().mean(1)


@dataclass(frozen=True)
class LearnedBaseline(ConstantBaseline):
    """phi = 1 + net(x_t, t), a small network that learns the phi of least second moment.

    The network starts at 0. It is trained after each step on mean (d + mu zeta)^2 of that step, so
    that phi is independent of the noise of the next one and zeta keeps its mean of zero.

    Attributes:
        width: channels, or units where x0 is a vector.
        lr: learning rate of Adam.
    """

    width: int = 16
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_minimums(self, width=1, lr=0)

    def build(self, setup: SetupContext) -> BaselineModel:
        return _LearnedBaselineModel(self, setup)


class _BaselineNet(nn.Module):
    """A scalar of x_t and t, 0 at first; twice differentiable."""

    def __init__(self, shape: torch.Size, width: int):
        super().__init__()
        self.is_image, features = len(shape) == 3, shape[0] if len(shape) == 3 else shape.numel()
        if self.is_image:
            first, second = (nn.Conv2d(n, width, 3, padding=1) for n in (features + 1, width))
            self.body = nn.Sequential(first, nn.SiLU(), second, nn.SiLU())
        else:
            sizes = (nn.Linear(n, width) for n in (features + 1, width))
            self.body = nn.Sequential(*(layer for linear in sizes for layer in (linear, nn.SiLU())))
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        x = xt.float() if self.is_image else xt.flatten(1).float()
        time = expand(t.float(), x).expand(-1, 1, *x.shape[2:])
        hidden = self.body(torch.cat([x, time], 1))
        if self.is_image:
            hidden = hidden.mean((2, 3))
        return self.head(hidden)[:, 0].to(xt)


class _LearnedBaselineModel(BaselineModel):
    def __init__(self, phi: LearnedBaseline, setup: SetupContext):
        super().__init__(phi)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed)
            self.net = _BaselineNet(setup.x0.shape[1:], phi.width).to(setup.x0.device)
        self._parameters = list(self.net.parameters())
        self._optimizer = torch.optim.Adam(
            self._parameters, lr=phi.lr, fused=can_fuse(self._parameters)
        )

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return super().__call__(xt, t) + self.net(xt, t)

    def fit(self, variate: ControlVariate, d: Float[Tensor, "b ..."], mu: Tensor) -> Tensor | None:
        with torch.enable_grad():
            zeta = variate(self, for_training=True)
            loss = (d + expand(mu, d) * zeta).square().mean()
            loss.backward()
        average_gradients(self._parameters)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def tensors(self) -> dict[str, Tensor]:
        optimizer = optimizer_tensors(self._optimizer)
        return self.net.state_dict() | {f"optimizer.{k}": v for k, v in optimizer.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        head = "optimizer."
        self.net.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(head)})
        states = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
        load_optimizer(self._optimizer, states)


@dataclass(frozen=True)
class ControlVariate:
    """What the control variate of a step is made of.

    Attributes:
        xt: x_t = alpha x + sigma eps of each row.
        eps: noise of each row.
        t: time of each row.
        sigma: sigma(t) of each row.
    """

    xt: Float[Tensor, "b ..."]
    eps: Float[Tensor, "b ..."]
    t: Float[Tensor, "b"]
    sigma: Float[Tensor, "b"]

    def __call__(
        self, phi: Baseline | BaselineModel, for_training: bool = False
    ) -> Float[Tensor, "b ..."]:
        """zeta = eps phi(x_t) - sigma grad phi(x_t), of mean zero over eps.

        Args:
            phi: the baseline.
            for_training: keep the graph of what phi learns.
        """
        with torch.enable_grad():
            x = self.xt.detach().requires_grad_()
            value = phi(x, self.t)
            gradient = torch.autograd.grad(value.sum(), x, create_graph=for_training)[0]
        value = value if for_training else value.detach()
        return expand(value, self.eps) * self.eps - expand(self.sigma, self.eps) * gradient


def require_fresh_noise(noise: Noise) -> Noise:
    """The noise of a run with control variates, which have mean zero over a fresh normal eps.

    Raises:
        ValueError: if it lasts over steps, or depends on x0 or on the prior.
    """
    is_paired = isinstance(noise, AntitheticNoise) and noise.pairing == "rows"
    if not (is_paired or isinstance(noise, IndependentNoise)):
        raise ValueError(
            f"noise {component_name(type(noise))}: this method needs fresh noise in every step, "
            "over which its control variate has mean 0: leave --noise out"
        )
    return noise


class ControlVariateMoments:
    """Running moments <d, zeta> and <zeta, zeta> of each particle in bins of t.

    The variance of d + mu zeta is least at mu = -<d, zeta> / <zeta, zeta>.

    Attributes:
        sums: discounted sums of the two moments ``[2, particles, bins]``, float64.

    Args:
        particles: number of particles.
        bins: number of equal bins into which [0, 1] is divided.
        device: device of the sums.
    """

    def __init__(self, particles: int, bins: int, device: torch.device):
        self.sums = torch.zeros(2, particles, bins, dtype=torch.float64, device=device)
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None

    def mu(
        self,
        particle: Int[Tensor, "b"],
        t: Float[Tensor, "b"],
        d: Float[Tensor, "b ..."],
        zeta: Float[Tensor, "b ..."],
    ) -> Float[Tensor, "b"]:
        """Coefficient mu of each row from earlier steps.

        If mu depended on the current d, mu zeta would not have mean zero; the current moments
        count only after ``commit``.

        Args:
            particle: particle index of each row.
            t: time of each row.
            d: direction of each row.
            zeta: control variate of each row.
        """
        last = self.sums.shape[-1] - 1
        rows = to_device(particle, self.sums.device)
        bins = (t * (last + 1)).long().clamp(0, last).to(self.sums.device)
        cross, square = self.sums[:, rows, bins]
        moments = torch.stack([(d * zeta).flatten(1).sum(1), zeta.square().flatten(1).sum(1)])
        self._pending = (rows, bins, moments.to(self.sums))
        return torch.where(square > 0, -cross / square, 0.0)

    def commit(self, decay: float) -> None:
        """Add the moments of the last call of ``mu``; earlier ones of these bins are discounted.

        Args:
            decay: factor of the earlier sums, in [0, 1].
        """
        if self._pending is None:
            return
        particle, bins, moments = self._pending
        self.sums[:, particle, bins] = decay * self.sums[:, particle, bins]
        for total, part in zip(self.sums, moments, strict=True):
            # accumulate: several views of one particle add up
            total.index_put_((particle, bins), part, accumulate=True)
        self._pending = None

    def tensors(self) -> dict[str, Tensor]:
        return {"sums": self.sums}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.sums = tensors["sums"].to(self.sums)

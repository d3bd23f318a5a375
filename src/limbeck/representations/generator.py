"""A one-step generator x0 = G(z, prompt): a network in place of particles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.config.ranges import refuse_given
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.priors.lora_adapters import DEFAULT_TARGET_MODULES, NetworkPrior
from limbeck.priors.small_unet import SmallUNet
from limbeck.priors.trainable_network import AdaptedNetwork, TrainableNetwork, copy_network
from limbeck.representations.base import Render, Representation, RepresentationConfig, latent_shape
from limbeck.system.random import GENERATOR_NOISE, RowRandom
from limbeck.system.text_lines import read_text_lines
from limbeck.world.caption_lists import combination_captions

_EVAL_BATCH = 32  #: samples drawn at a time where no gradient is needed


class OneStepGenerator(Representation):
    """The network G of all prompts and the exponential moving average (EMA) of its weights.

    A render with random numbers, as in training, draws a new z and, if there are captions, a new
    caption for each row. Others, as for showing results, have one z for each particle, its own
    prompt, and the EMA weights.

    Args:
        config: options.
        network: G before training.
        average: the same network, for the EMA of its weights.
        prior: the model of the run.
        particles: number of particles.
        seed: seed of the z of evaluation renders.
        shape: shape of one z and x0.

    Attributes:
        average_network: the network with the EMA weights.
        shape: as above.
    """

    def __init__(
        self,
        config: Generator,
        network: TrainableNetwork,
        average: TrainableNetwork,
        prior: Prior,
        particles: int,
        seed: int,
        shape: tuple[int, ...],
    ):
        super().__init__()
        self.config, self.network, self.average_network = config, network, average
        self.trained, self.average = network.module, average.module.requires_grad_(False)
        self._device, self._schedule, self.shape = prior.device, prior.schedule, shape
        self._particles, self._seed = particles, seed
        self._prompts: Condition | None = None
        self._captions: Condition | None = None
        self._per_prompt = particles

    def set_prompts(self, prior: Prior, prompts: Sequence[str]) -> None:
        self._prompts = prior.condition(prompts)
        self._per_prompt = self._particles // len(prompts)
        captions = self.config.training_captions()
        self._captions = prior.condition(captions) if captions else None

    def render(self, request: RenderRequest) -> Render:
        rng = request.rng
        if rng is None:
            z = RowRandom.initial(self._seed, self._particles)[request.particle]
            x0 = self.sample(z.normal(GENERATOR_NOISE, *self.shape), self._condition(request))
            return Render(x0, "latent")
        condition = self._condition(request)
        x0 = self._generate(self.network, rng.normal(GENERATOR_NOISE, *self.shape), condition)
        return Render(x0, "latent", condition=condition if self._captions is not None else None)

    def _condition(self, request: RenderRequest) -> Condition:
        """The prompt of each row: that of its particle, or in training a caption, if there are."""
        assert self._prompts is not None, "set_prompts comes before the first render"
        if request.rng is None or self._captions is None:
            return self._prompts[to_device(request.particle // self._per_prompt, self._device)]
        count = len(self._captions)
        rows = (request.rng.uniform("caption") * count).long().clamp_max(count - 1)
        return self._captions[to_device(rows, self._device)]

    def sample(self, z: Float[Tensor, "b ..."], condition: Condition) -> Float[Tensor, "b ..."]:
        """Return samples of the EMA weights, in one pass each.

        Args:
            z: standard normal noise of each row.
            condition: prompt of each row.
        """
        rows = torch.arange(len(z)).split(_EVAL_BATCH)
        parts = [
            self._generate(self.average_network, z[part], condition[part.to(self._device)])
            for part in rows
        ]
        return torch.cat(parts)

    def _generate(
        self, network: TrainableNetwork, z: Float[Tensor, "b ..."], condition: Condition
    ) -> Float[Tensor, "b ..."]:
        """x0 that a network predicts of noise alone at the last time."""
        t = to_device(self._schedule.snap(torch.ones(len(z))), self._device)
        return network(to_device(z, self._device), t, condition)[0].x0

    def critic_only_steps(self, step: int) -> int:
        warmup = self.config.critic_warmup if step == 0 else 0
        return warmup + self.config.critic_steps - 1

    def param_groups(self) -> list[dict]:
        return [{"params": list(self.trained.parameters()), "lr": self.config.lr}]

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        # the decay is smaller at first, so that the average forgets the initial weights
        decay = min(self.config.ema, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.average.parameters())
        trained: list[Tensor] = list(self.trained.parameters())
        torch._foreach_lerp_(averages, trained, 1 - decay)

    def initialize_from(
        self, other: Representation, particles: int, source: Path, seed: int
    ) -> None:
        if not isinstance(other, OneStepGenerator):
            raise ValueError(f"a generator can start from a generator only, and {source} has none")
        try:
            for module in (self.trained, self.average):
                module.load_state_dict(other.average.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the generator of {source} is another network") from error


@dataclass(frozen=True)
class Generator(RepresentationConfig):
    """A network that turns noise into a sample of a prompt in one pass, in place of particles.

    It starts as the prior's own network, which reads pure noise at the last time and predicts x0;
    on exact priors it is an MLP, and with ``network`` small-unet a small U-Net. Every step draws
    new noise for each row. The particles are what is shown: each has a noise of its own that no
    step draws.

    Attributes:
        lr: peak learning rate; keep it below that of the critic.
        network: own: the prior's network, or an MLP on exact priors. small-unet: a small U-Net with
            random weights, for any prior of images.
        channels: channels of the small U-Net at full resolution, a multiple of 8; for network
            small-unet alone.
        lora_rank: rank of LoRA adapters that are trained in place of the whole network. 0: the
            whole network.
        target_modules: layers that LoRA adapts, by the ends of their names.
        ema: decay of the exponential moving average (EMA) of the weights, which is what is shown,
            sampled and exported.
        captions: text file with a prompt on each line, of which every step draws one for each row.
            None: the prompts of the run.
        world_captions: draw from the captions of all combinations that the embedded model was
            trained on, on every background.
        critic_steps: training steps of the critic per step of the generator, each on new samples
            (two time scales); those of its own options come on top.
        critic_warmup: training steps of the critic before the first step of the generator.
        width: width of the MLP; for exact priors alone.
        depth: hidden layers of the MLP; for exact priors alone. 0: an affine map.
        init_from: run folder or checkpoint of a generator to start from.
    """

    lr: float = 1e-4
    network: Literal["own", "small-unet"] = "own"
    channels: int = field(default=32, metadata={"minimum": 8, "maximum": 2048})
    lora_rank: int = field(default=0, metadata={"minimum": 0, "maximum": 16_384})
    target_modules: tuple[str, ...] = DEFAULT_TARGET_MODULES
    ema: float = 0.99
    captions: Path | None = None
    world_captions: bool = False
    critic_steps: int = field(default=1, metadata={"minimum": 1})
    critic_warmup: int = field(default=40, metadata={"minimum": 0})
    width: int = field(default=128, metadata={"minimum": 1})
    depth: int = field(default=3, metadata={"minimum": 0})
    init_from: Path | None = None

    fresh_samples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), not {self.ema}")
        if self.images:
            name = component_name(type(self))
            raise ValueError(f"a {name} starts from noise: leave out images")
        if self.captions is not None and self.world_captions:
            raise ValueError("give captions or world_captions, not both")
        if self.channels % 8:
            raise ValueError(f"channels must be a multiple of 8, not {self.channels}")
        if self.network == "own":
            cause = "with network own: give network small-unet, or leave it out"
            refuse_given(self, cause, "channels")
        else:
            cause = f"with network {self.network}: leave it out"
            refuse_given(self, cause, "lora_rank", "width", "depth")

    @property
    def draws_prompts(self) -> bool:
        return self.captions is not None or self.world_captions

    @property
    def uninitialized(self) -> RepresentationConfig:
        return replace(self, init_from=None)

    @property
    def input_files(self) -> tuple[Path, ...]:
        return () if self.captions is None else (self.captions,)

    @property
    def for_display(self) -> RepresentationConfig:
        return replace(self, init_from=None, captions=None, world_captions=False)

    def check_files(self) -> None:
        self.training_captions()

    def training_captions(self) -> list[str]:
        """Return the captions that training draws from; none if these are the run's prompts.

        Raises:
            ValueError: if the file cannot be read or has none.
        """
        if self.world_captions:
            return combination_captions()
        return [] if self.captions is None else read_text_lines(self.captions)

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        if self.network == "own":
            _check_last_time(prior)
        network, average = (self._network(prior, seed) for _ in range(2))
        shape = latent_shape(prior, self.canvas_size(prior))
        return OneStepGenerator(self, network, average, prior, particles, seed, shape)

    def _network(self, prior: Prior, seed: int) -> TrainableNetwork:
        if self.network == "small-unet":
            return SmallUNet(prior, self.channels, seed)
        if isinstance(prior, NetworkPrior):
            refuse_given(self, "on a model that is a network: leave it out", "width", "depth")
        if not self.lora_rank:
            return copy_network(prior, self.width, self.depth, seed)
        if not isinstance(prior, NetworkPrior):
            raise ValueError(
                f"lora_rank {self.lora_rank}: this model has no network to adapt; use 0"
            )
        return AdaptedNetwork(prior, self.lora_rank, seed, self.target_modules)


def _check_last_time(prior: Prior) -> None:
    """Raise ValueError if the prior's network cannot predict x0 of pure noise."""
    is_network = isinstance(prior, NetworkPrior)
    if is_network and prior.prediction_type == "eps" and not prior.schedule.alpha(torch.ones(1)):
        raise ValueError(
            "the network of this model predicts eps, and its schedule ends in pure noise: it "
            "cannot start a generator"
        )

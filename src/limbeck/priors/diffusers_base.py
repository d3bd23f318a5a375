"""What priors over a diffusers network share: frozen weights, texts encoded once, one call for all conditions, adapters' rows."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.model_options import Model, RuntimeOptions
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.priors.camera_conditioning import stack_poses
from limbeck.priors.checkpoint_files import CheckpointFiles
from limbeck.priors.lora_adapters import AdapterRows
from limbeck.priors.lora_merge import LoRAMerger
from limbeck.priors.runtime import place_module, swap_devices

if TYPE_CHECKING:
    from limbeck.priors.compilation import CompiledNetwork


class DiffusersPrior(abc.ABC):
    """A frozen network of a pipeline folder and its prompts. Subclasses are final, one family a file.

    Text encoders are loaded to encode prompts that are not cached yet, and freed again.
    """

    pipeline_name: ClassVar[str]  #: ``_class_name`` in the model_index.json of such a folder
    network_name: ClassVar[str]  #: the network's folder, and what its adapters are called in a file
    extra_parts: ClassVar[
        tuple[str, ...]
    ] = ()  #: folders it needs besides the network's, text's and scheduler's

    network: nn.Module
    prediction_type: PredictionType
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    image_size: tuple[int, int]
    size_multiple: int

    def __init__(
        self,
        source: str | CheckpointFiles,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        model: Model = Model(),  # noqa: B008
        runtime: RuntimeOptions = RuntimeOptions(),  # noqa: B008
    ):
        self.files = (
            source if isinstance(source, CheckpointFiles) else CheckpointFiles(Path(source))
        )
        self.device, self.dtype, self.model, self.runtime = device, dtype, model, runtime
        self._check_runtime()
        self.index = self.files.read_config("", "model_index.json")
        self.call_counter = NetworkCallCounter()
        self.adapter_rows = AdapterRows()
        self._condition_cache: dict[str, Condition] = {}
        self._lora: LoRAMerger | None = None
        self._load()
        self.compiled_network: CompiledNetwork | None = None  #: what calls the network where it is compiled
        if runtime.compile != "off":
            from limbeck.priors.compilation import CompiledNetwork

            self.compiled_network = CompiledNetwork(self.network, self.adapter_rows, runtime.compile, self.call_counter)
        if model.guidance_embedding is not None and not self.takes_guidance:
            raise ValueError(
                f"guidance_embedding {model.guidance_embedding}: the network of {self.files.name} takes no guidance as an input"
            )

    def _check_runtime(self) -> None:
        how = self.runtime
        if how.cpu_offload and self.device == "cpu":
            raise ValueError(
                "cpu_offload moves weights between a GPU and host memory: leave it out on device cpu"
            )
        if how.compile == "graphs" and not self.device.startswith("cuda"):
            raise ValueError(
                f"compile graphs needs device cuda, not {self.device}: use --runtime.compile on"
            )
        wanted = [name for name in ("vae_slicing", "vae_tiling", "gradient_checkpointing") if getattr(how, name)]
        if wanted and "vae" not in self.extra_parts:
            raise ValueError(f"{self.files.name} has no autoencoder for {wanted[0]}: leave it out")

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance is an input of the network."""
        return False

    @abc.abstractmethod
    def _load(self) -> None:
        """Set network, prediction_type, schedule, shape, image_size and size_multiple."""

    @abc.abstractmethod
    def _encode(self, prompts: list[str]) -> Condition:
        """What the network is told of each prompt."""

    @abc.abstractmethod
    def _forward(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b ..."]:
        """The network's output, of the shape of xt. Numbers come in its own dtype."""

    @abc.abstractmethod
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]: ...

    @abc.abstractmethod
    def decode(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]: ...

    def _load_frozen_network(self, cls: type) -> Any:
        """The frozen network on its device, with the LoRA it is to have."""
        network = self.files.load_module(cls, self.network_name, self.dtype)
        if self.model.lora is not None:
            self._lora = LoRAMerger(self.model.lora, self.model.lora_scale, self.pipeline_name, network.config)
            self._lora.merge_into_network(network, self.network_name)
        return place_module(network, self.runtime, self.device)

    def _run_network(self, *inputs: Any, **more: Any) -> Tensor:
        """The network's own answer, by a graph where it is compiled."""
        if self.compiled_network is not None:
            return self.compiled_network(*inputs, return_dict=False, **more)
        out: Tensor = self.network(*inputs, return_dict=False, **more)[0]
        return out

    def _uncompiled(self) -> AbstractContextManager[None]:
        """While it is open no graph is used, so that hooks see every call."""
        return nullcontext() if self.compiled_network is None else self.compiled_network.bypassed()

    def _load_text_pipeline(self, **options: Any) -> Any:
        """Tokenizers and text encoders of the pipeline, ready to ``encode_prompt``."""
        pipe = self.files.load_text_pipeline(self.pipeline_name, self.network_name, self.dtype, **options)
        for name, encoder in pipe.components.items():
            if self._lora is not None and name.startswith("text_encoder") and encoder is not None:
                self._lora.merge_into_text_encoder(encoder, name)
        return pipe.to(self.device)

    def _set_shapes(self, own: int, factor: int, unit: int, channels: int) -> None:
        """Shapes from the side ``own`` of x0 that the files say, unless the user says another."""
        side = self.model.resolution or own * factor
        if side % unit:
            raise ValueError(f"size must be a multiple of {unit} for this model, not {side}")
        self.shape, self.image_size, self.size_multiple = (
            (channels, side // factor, side // factor),
            (side, side),
            unit,
        )

    def _require_config(self, config: dict[str, Any], **accepted: Any) -> None:
        """ValueError where an option of the network is not the one this family is written for."""
        for name, value in accepted.items():
            if config[name] != value:
                raise ValueError(
                    f"{self.files.name}: its {self.network_name} has {name} {config[name]!r}, and {type(self).__name__} reads {value!r}"
                )

    def condition(self, prompts: Sequence[str]) -> Condition:
        missing = sorted(set(prompts) - set(self._condition_cache))
        if missing:
            away = [self.network] if self.runtime.cpu_offload else []
            with torch.no_grad(), swap_devices(away, [], self.device):
                told = self._encode(missing)
            self._condition_cache |= {prompt: told[i : i + 1] for i, prompt in enumerate(missing)}
        adapter_rows = [self._condition_cache[p] for p in prompts]
        pooled = [row.pooled for row in adapter_rows if row.pooled is not None]
        return Condition(
            torch.cat([row.data for row in adapter_rows]), None, torch.cat(pooled) if pooled else None
        )

    def __call__(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        n, b = len(conditions), len(xt)
        self.call_counter.add(n * b)
        adapted = [i for i, told in enumerate(conditions) if told.adapters is not None]
        if adapted:
            owners = {id(conditions[i].adapters) for i in adapted}
            if len(owners) > 1:
                raise ValueError(
                    f"one call can pass through one set of adapters, not {len(owners)}"
                )
            spans = [torch.arange(i * b, (i + 1) * b, device=xt.device) for i in adapted]
            cameras = stack_poses([conditions[i] for i in adapted], b)
            self.adapter_rows.activate(
                conditions[adapted[0]].adapters, torch.cat(spans), len(adapted) == n, cameras
            )
        try:
            out = self._forward(
                xt.to(self.dtype).repeat(n, 1, 1, 1), t.repeat(n), self._stack_conditions(conditions, b)
            )
        finally:
            self.adapter_rows.clear()
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return [
            Prediction.from_output(self.prediction_type, part, xt.float(), alpha, sigma)
            for part in out.float().chunk(n)
        ]

    def _stack_conditions(self, conditions: Sequence[Condition], b: int) -> Condition:
        """All conditions below each other; one row may speak for all."""
        data = torch.cat([told.data.expand(b, -1, -1) for told in conditions]).to(self.dtype)
        pooled = [told.pooled.expand(b, -1) for told in conditions if told.pooled is not None]
        return Condition(data, None, torch.cat(pooled).to(self.dtype) if pooled else None)

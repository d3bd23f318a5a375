"""Base class of priors on a diffusers pipeline.

It holds the frozen weights, encodes each prompt once, and predicts for all conditions in one
network call, some rows through adapters.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition, same_rows
from limbeck.diffusion.model_options import Model, RuntimeOptions
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.diffusion.prompts import ExtendedPrompt, prompt_parts
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.vocabulary import Vocabulary, read_vocabulary
from limbeck.priors.camera_conditioning import stack_poses
from limbeck.priors.checkpoint_files import CheckpointFiles, loading, silence_library_logs
from limbeck.priors.lora_adapters import AdapterRows, LoRAAdapters
from limbeck.priors.lora_merge import LoRAMerger
from limbeck.priors.option_checks import check_model_options, check_runtime_options
from limbeck.priors.prompt_limits import TokenLimit, describe_cut, fit_prompt
from limbeck.priors.runtime import place_module, swap_devices
from limbeck.priors.stacked_conditions import stack_conditions
from limbeck.system.notices import notify

if TYPE_CHECKING:
    from limbeck.priors.compilation import CompiledNetwork


_MAX_SIZE = 4096  #: largest accepted height of x0 in the files of a model


class DiffusersPrior(abc.ABC):
    """A frozen network of a pipeline folder and the embeddings of its prompts.

    One model family per file. Text encoders are loaded to encode new prompts
    and freed again.

    Args:
        source: pipeline folder, or the files of a pipeline.
        device: device of the weights.
        dtype: precision of the frozen weights.
        model: what is changed of the model.
        runtime: how the model is executed.

    Attributes:
        pipeline_name: ``_class_name`` in the ``model_index.json`` of such a folder.
        network_name: component that is the denoiser, ``unet`` or ``transformer``; also its prefix
            in LoRA files.
        takes_adapters: whether a ControlNet or an IP-Adapter can be added to the denoiser.
        extra_parts: required components besides denoiser, texts and scheduler.
        text_parts: required components that encode texts.
        takes_pose_input: whether the option ``pose_input`` has an effect.
        takes_image_guidance: whether the option ``image_guidance`` has an effect.
        condition_dtype: precision of the conditions in a call; None: that of the network.
        network: the denoiser.
        vocabulary: the words that the model knows; None if it knows any.
        adapter_rows: which rows of the current call pass through which adapters.
        compiled_network: the compiled denoiser; None if it is called eagerly.
    """

    pipeline_name: ClassVar[str]
    network_name: ClassVar[str]
    extra_parts: ClassVar[tuple[str, ...]] = ()
    takes_adapters: ClassVar[bool] = False
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    takes_pose_input: ClassVar[bool] = False
    takes_image_guidance: ClassVar[bool] = False
    condition_dtype: ClassVar[torch.dtype | None] = None

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
        if not isinstance(source, CheckpointFiles):
            source = CheckpointFiles(Path(source))
        self.files, self.model, self.runtime = source, model, runtime
        self.device, self.dtype = device, dtype
        check_model_options(self)
        self._check_runtime()
        self.index = self.files.read_config("", "model_index.json")
        self.call_counter = NetworkCallCounter()
        self.adapter_rows = AdapterRows()
        self.vocabulary: Vocabulary | None = read_vocabulary(self.files.folder)
        self._embeddings: dict[tuple[str, str], Condition] = {}
        self._cuts: dict[str, str] = {}
        self._lora: LoRAMerger | None = None
        self._load()
        self.compiled_network: CompiledNetwork | None = None
        if runtime.compile != "off":
            from limbeck.priors.compilation import CompiledNetwork

            self.compiled_network = CompiledNetwork(
                self.network, self.adapter_rows, runtime.compile, self.call_counter
            )
        if model.guidance_embedding is not None and not self.takes_guidance:
            raise ValueError(
                f"guidance_embedding {model.guidance_embedding}: the network of {self.files.name} "
                "has no guidance input; leave it out"
            )

    def _check_runtime(self) -> None:
        """Refuse ways of execution that the device or the family does not have."""
        check_runtime_options(self)

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the network."""
        return False

    @property
    def denoising_modules(self) -> list[nn.Module]:
        """The modules that a prediction needs, which CPU offload moves together."""
        return [self.network]

    @abc.abstractmethod
    def _load(self) -> None:
        """Set network, prediction_type, schedule, shape, image_size and size_multiple."""

    @abc.abstractmethod
    def _encode(self, prompts: list[str]) -> Condition:
        """Return the conditions of prompts, one row each."""

    @abc.abstractmethod
    def _forward(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b ..."]:
        """Return the output of the network, in the shape of xt. Inputs are in its precision."""

    @abc.abstractmethod
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        """See ``Prior.encode``."""

    @abc.abstractmethod
    def decode(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        """See ``Prior.decode``."""

    def _load_frozen_network(self, cls: type) -> Any:
        """Load the network, merge the LoRA of the options and move it to its device."""
        return self._place_network(self.files.load_module(cls, self.network_name, self.dtype))

    def _place_network(self, network: Any) -> Any:
        """Merge the LoRA of the options into the network and move it to its device."""
        if self.model.lora is not None:
            self._lora = LoRAMerger(
                self.model.lora,
                self.model.lora_scale,
                self.pipeline_name,
                self.network_name,
                network.config,
                self.files.text_encoders(),
            )
            self._lora.merge(network, self.network_name)
        return place_module(network, self.runtime, self.device)

    def _run_network(self, *inputs: Any, **options: Any) -> Tensor:
        """Return the first output of the network, compiled if the options say so."""
        if self.compiled_network is not None:
            return self.compiled_network(*inputs, return_dict=False, **options)
        output: Tensor = self.network(*inputs, return_dict=False, **options)[0]
        return output

    def _eager(self) -> AbstractContextManager[None]:
        """Context in which the network is called eagerly, so that hooks of its layers run."""
        return nullcontext() if self.compiled_network is None else self.compiled_network.bypassed()

    def _load_text_pipeline(self, **options: Any) -> Any:
        """Load tokenizers and text encoders, in the pipeline whose ``encode_prompt`` uses them."""
        pipe = self.files.load_text_pipeline(
            self.pipeline_name, self.network_name, self.dtype, **options
        )
        for name, encoder in pipe.components.items():
            if self._lora is not None and name.startswith("text_encoder") and encoder is not None:
                self._lora.merge(encoder, name)
        return pipe.to(self.device)

    def _set_shapes(self, sample_size: Any, factor: int, multiple: int, channels: int) -> None:
        """Set shape, image_size and size_multiple.

        Args:
            sample_size: height and width of x0 in the model's files, a number or two equal ones,
                which the option ``resolution`` overrides.
            factor: pixels per latent, in each direction.
            multiple: image sizes are multiples of it.
            channels: channels of x0.

        Raises:
            ValueError: if the files have no size and no option gives one, or it does not fit.
        """
        is_pair = isinstance(sample_size, list | tuple) and len(sample_size) == 2
        size = sample_size[0] if is_pair and sample_size[0] == sample_size[1] else sample_size
        if not self.model.resolution and not (isinstance(size, int) and 0 < size <= _MAX_SIZE):
            raise ValueError(
                f"{self.files.place(self.network_name)}: sample_size must be an integer from 1 to "
                f"{_MAX_SIZE}, not {sample_size!r:.60}: give --model.resolution"
            )
        resolution = self.model.resolution or size * factor
        if resolution % multiple:
            raise ValueError(
                f"resolution must be a multiple of {multiple} for this model, not {resolution}"
            )
        self.shape = (channels, resolution // factor, resolution // factor)
        self.image_size, self.size_multiple = (resolution, resolution), multiple

    def _require_config(self, config: dict[str, Any], **required: Any) -> None:
        """Raise ValueError if an option of the network is not the one this class is written for."""
        for name, value in required.items():
            if config[name] != value:
                raise ValueError(
                    f"{self.files.name}: its {self.network_name} has {name} {config[name]!r}; "
                    f"{type(self).__name__} needs {value!r}"
                )

    def condition(self, prompts: Sequence[str]) -> Condition:
        """See ``Prior.condition``. Gives notice of unknown words and of prompts that are cut.

        Raises:
            ValueError: if words added to a prompt make no difference, or leave it no room.
        """
        by_key = {prompt_parts(prompt): prompt for prompt in prompts}
        new = set(by_key) - set(self._embeddings)
        # longest additions first: they cut most of the prompt, which the notice says
        missing = [by_key[key] for key in sorted(new, key=lambda key: (-len(key[1]), *key))]
        if missing:
            offloaded = self.denoising_modules if self.runtime.cpu_offload else []
            what = f"the text encoder of {self.files.name}"
            reading = loading(what, passed_on=(ValueError,))
            with (
                torch.no_grad(),
                silence_library_logs(),
                swap_devices(offloaded, [], self.device),
                reading,
            ):
                encoded = self._encode(missing)
            self._check_width(encoded)
            for i, prompt in enumerate(missing):
                self._embeddings[prompt_parts(prompt)] = encoded[i : i + 1]
        self._give_notices(prompts)
        self._check_added_words(prompts)
        rows = [self._embeddings[prompt_parts(prompt)] for prompt in prompts]
        pooled = [row.pooled for row in rows if row.pooled is not None]
        masks = [row.mask for row in rows if row.mask is not None]
        return Condition(
            torch.cat([row.data for row in rows]),
            pooled=torch.cat(pooled) if pooled else None,
            mask=torch.cat(masks) if masks else None,
        )

    def _text_width(self) -> int | None:
        """Numbers per token that the network takes; None if its file does not say."""
        config: Any = self.network.config
        keys = ["caption_channels", "cap_feat_dim", "joint_attention_dim", "encoder_hid_dim"]
        keys.append("cross_attention_dim")  # the first one that a network has counts
        width = next((config[key] for key in keys if config.get(key) is not None), None)
        return width if isinstance(width, int) else None

    def _check_width(self, encoded: Condition) -> None:
        """Raise ValueError if the text encoders are not those of the network."""
        width = self._text_width()
        if width is not None and encoded.data.shape[-1] != width:
            raise ValueError(
                f"{self.files.name}: its text encoder gives {encoded.data.shape[-1]} numbers per "
                f"token, its {self.network_name} takes {width}: they are of different models"
            )

    def check_runs(self) -> None:
        """Run network and autoencoder once on a small image of zeros.

        Their files may hold options with which they can be built and cannot run, which would else
        be found after the run folder has been made. This call is not counted.

        Raises:
            ValueError: if one cannot run, or gives another size than it is given.
        """
        width, config = self._text_width(), cast(Any, self.network).config
        if width is None:
            return
        # XL's pooled text is what its other embeddings leave of this width
        pooled = config.get("pooled_projection_dim") or (
            config.get("projection_class_embeddings_input_dim") or 0
        ) - 6 * (config.get("addition_time_embed_dim") or 0)
        size = 2 * self.size_multiple
        side = size * self.shape[1] // self.image_size[0]
        zeros = partial(torch.zeros, device=self.device)
        xt = zeros(1, self.shape[0], side, side, dtype=self.dtype)
        condition = Condition(
            zeros(1, 4, width, dtype=self.dtype),
            pooled=zeros(1, pooled, dtype=self.dtype) if pooled > 0 else None,
            mask=zeros(1, 4) == 0,
            control=zeros(1, 3, size, size) if self.model.control else None,
        )
        place = self.files.place(self.network_name)
        with torch.no_grad(), silence_library_logs():
            with self._eager(), loading(f"{place}: the {self.network_name}"):
                output = self._forward(xt, zeros(1) + 0.5, condition)
            with loading(f"{self.files.name}: its autoencoder"):
                image = self.decode(self.encode(zeros(1, 3, size, size)))
        if output.shape != xt.shape or image.shape[2:] != (size, size):
            raise ValueError(
                f"{self.files.name} turns {list(xt.shape)} into {list(output.shape)} and images of "
                f"{size} pixels into {list(image.shape[2:])}: its configuration does not fit"
            )

    def _fit_prompts(self, prompts: Sequence[str], *limits: TokenLimit) -> list[list[str]]:
        """Return the texts that each text encoder is given, cut where they are too long."""
        texts = []
        for prompt in prompts:
            fitted = [fit_prompt(prompt, limit) for limit in limits]
            cut = describe_cut(prompt, limits, fitted)
            if cut:
                self._cuts.setdefault(prompt_parts(prompt)[0], cut)
            texts.append([fit.text for fit in fitted])
        return [list(column) for column in zip(*texts, strict=True)]

    def _give_notices(self, prompts: Sequence[str]) -> None:
        """Say which words the model does not know, and which its text encoders do not read."""
        for text in self.vocabulary.notices(prompts) if self.vocabulary else ():
            notify(text)
        for text in dict.fromkeys(prompt_parts(prompt)[0] for prompt in prompts):
            if text in self._cuts:
                notify(self._cuts[text])

    def _check_added_words(self, prompts: Sequence[str]) -> None:
        """Raise ValueError if a prompt encodes the same with different words added."""
        endings: dict[str, dict[str, Condition]] = {}
        for text in prompts:
            if isinstance(text, ExtendedPrompt):
                endings.setdefault(text.prompt, {})[text.added] = self._embeddings[text.key]
        for rows in endings.values():
            for (added, row), (other_added, other) in combinations(rows.items(), 2):
                if same_rows(row, other):
                    raise ValueError(
                        f"{added!r} and {other_added!r} after a prompt are the same to the text "
                        f"encoders of {self.files.name}: use words that they tell apart"
                    )

    def __call__(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``."""
        n, b = len(conditions), len(xt)
        self.call_counter.add(n * b)
        # adapted rows come last, so that they are a slice of every layer's output
        order = sorted(range(n), key=lambda i: conditions[i].adapters is not None)
        conditions = tuple(conditions[i] for i in order)
        self._activate_adapters(conditions, b)
        try:
            output = self._forward(
                xt.to(self.dtype).repeat(n, 1, 1, 1),
                t.repeat(n),
                stack_conditions(conditions, b, self.condition_dtype or self.dtype),
            )
        finally:
            self.adapter_rows.clear()
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        predictions = [
            Prediction.from_output(self.prediction_type, part, xt.float(), alpha, sigma)
            for part in output.float().chunk(n)
        ]
        return [predictions[order.index(i)] for i in range(n)]

    def _activate_adapters(self, conditions: Sequence[Condition], b: int) -> None:
        """Let the rows of conditions with adapters, the last ones, pass through them."""
        adapted = [c for c in conditions if c.adapters is not None]
        if not adapted:
            return
        owners = {id(c.adapters): c.adapters for c in adapted}
        if len(owners) > 1:
            raise ValueError(f"one call can use one set of adapters, not {len(owners)}")
        first = (len(conditions) - len(adapted)) * b
        (owner,) = owners.values()
        assert isinstance(owner, LoRAAdapters)
        total = len(conditions) * b
        self.adapter_rows.activate(owner, first, total, self.dtype, stack_poses(adapted, b))

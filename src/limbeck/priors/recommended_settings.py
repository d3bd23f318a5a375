"""Settings of methods on the published models of ``catalog``, each with its source."""

from __future__ import annotations

_CFD_OPTIONS = "--noise fixed-per-particle --timesteps linear --weight lambda"
_CLIP_OPTIONS = (
    "--grad-transform clip --grad-transform.start-value 0.5 --grad-transform.end-value 2"
)
_SAMPLER_GUIDANCE = "the sampler's guidance; none is published"
_FEW_STEPS = "distilled to few steps: its predictions are samples, not scores"


def _novel_views(variant: str) -> tuple[tuple[str, str, str], ...]:
    options = f"--preset zero123 --preset.variant {variant} --image FILE"
    recipe = f"threestudio; its whole recipe is {options}"
    return (("sds", "--method.guidance 3 --representation nerf", recipe),)


def _at_guidance(guidance: float) -> tuple[tuple[str, str, str], ...]:
    """SDS at the guidance of the model's own sampler."""
    return (("sds", f"--method.guidance {guidance:g} {_CFD_OPTIONS}", _SAMPLER_GUIDANCE),)


#: Per family: method, its options, and their source, or that none is published.
RECOMMENDED_SETTINGS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "sd": (
        (
            "sds",
            "--method.guidance 101 --representation latents",
            "DreamFusion's guidance for Stable Diffusion in threestudio, whose 100 is 101 here",
        ),
        (
            "sds",
            f"--method.guidance 7.5 {_CFD_OPTIONS}",
            "CFD: many-step behavior at common guidance",
        ),
        ("csd", "--timesteps uniform", "CSD has no guidance"),
        (
            "vsd",
            "--method.guidance 7.5 --method.critic.training.lr 1e-4 --particles 4",
            "ProlificDreamer",
        ),
        ("ism", "--method.guidance 7.5 --timesteps ism --weight lambda", "LucidDreamer"),
    ),
    "mvdream": (
        (
            "sds",
            "--method.guidance 50 --method.rescale 0.5 --weight lambda --representation nerf "
            "--cameras around",
            "MVDream; its whole recipe is --preset mvdream",
        ),
        (
            "vsd",
            "--method.guidance 7.5 --representation nerf --cameras around",
            "the guidance of ProlificDreamer; none is published",
        ),
    ),
    "imagedream": (
        (
            "sds",
            "--method.guidance 5 --method.rescale 0.2 --weight lambda --representation nerf "
            "--cameras around",
            "ImageDream, with --image FILE; its whole recipe is --preset imagedream",
        ),
    ),
    "zero123": _novel_views("zero123"),
    "stable-zero123": _novel_views("stable-zero123"),
    "instruct-pix2pix": (
        (
            "sdedit",
            "--method.guidance 7.5 --timesteps fixed --timesteps.t 1 --model.image-guidance 1.5",
            "the sampler of its pipeline; the defaults of limbeck edit",
        ),
        (
            "sds",
            "--method.guidance 7.5 --model.image-guidance 1.5 --representation latents",
            "with --representation.images FILE; the scales are those of its sampler",
        ),
    ),
    "xl": (
        (
            "vsd",
            "--method.guidance 7.5 --method.critic.training.lr 1e-4",
            "the settings for Stable Diffusion; none is published",
        ),
    ),
    "if": (
        (
            "sds",
            f"--method.guidance 20 {_CLIP_OPTIONS} --representation latents",
            "threestudio's DreamFusion with IF; clipping of Debiased SDS. Latents are pixels here",
        ),
        ("csd", "--weight uniform", "CSD's first stage"),
    ),
    "sd3": _at_guidance(7),
    "sana": _at_guidance(4.5),
    "pixart": _at_guidance(4.5),
    "lumina2": _at_guidance(4),
    "klein-base": _at_guidance(4),
    "qwen": _at_guidance(4),
    "flux": (
        (
            "sds",
            f"--method.guidance 1 --model.guidance-embedding 3.5 {_CFD_OPTIONS}",
            "guidance is an input of the network; none is published",
        ),
    ),
    "flux2": (
        (
            "sds",
            f"--method.guidance 1 --model.guidance-embedding 4 {_CFD_OPTIONS}",
            "guidance is an input of the network; none is published",
        ),
    ),
    "schnell": (("sds", "--method.guidance 1", _FEW_STEPS),),
    "klein": (("sds", "--method.guidance 1", _FEW_STEPS),),
}

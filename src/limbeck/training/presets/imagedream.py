"""The preset of ImageDream (arXiv 2312.02201)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from limbeck.diffusion.prior import ImagePromptPrior, Prior
from limbeck.graphics.cameras.samplers import Around
from limbeck.methods.sds import SDS
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset
from limbeck.training.presets.mvdream import MVDreamPreset
from limbeck.training.reference import ImageReference

IMAGEDREAM = "ashawkey/imagedream-ipmv-diffusers"


@dataclass(frozen=True)
class ImageDreamPreset(Preset):
    """ImageDream (Wang & Shi 2023): a radiance field by SDS with a model of views and an image.

    Give the image, which shows the front, with --image, and a prompt that says what it is.

    Attributes:
        size: full: the numbers of the code, on a GPU. world is refused: no embedded model has an
            image encoder.
        stage: name of a single stage to run; there is one, field.

    References:
        Wang & Shi, ImageDream: Image-Prompt Multi-view Diffusion for 3D Generation, arXiv
        2312.02201. The numbers and their sources are in docs/presets/imagedream.md.
    """

    name = "imagedream"
    model_families = ("imagedream",)

    size: Literal["world", "full"] = "full"

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        raise ValueError(
            "preset imagedream needs a model that reads an image beside the prompt, which the "
            "embedded models do not: use --preset.size full, or --preset mvdream --image FILE"
        )

    def check_prior(self, prior: Prior) -> None:
        if not isinstance(prior, ImagePromptPrior):
            raise ValueError(
                "preset imagedream needs a model that reads an image beside the prompt, which this "
                "one does not: leave out --model, or use another preset with --image"
            )

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        like_mvdream = MVDreamPreset().full(prompts)["field"]
        assert isinstance(like_mvdream.representation, NeRF)
        field = replace(like_mvdream.representation, opacity_weight=1.0, orientation_weight=10.0)
        cameras = Around(
            per_particle=4,
            camera_distance_range=(0.6, 0.75),
            fovy_range=(45.0, 50.0),
            elevation_range=(0.0, 5.0),
            uniform_sphere_prob=0.0,
            relative_distance=True,
        )
        experiment = replace(
            like_mvdream,
            model=IMAGEDREAM,
            method=SDS(guidance=5.0, rescale=0.2),
            representation=field,
            cameras=cameras,
            reference=ImageReference(color_weight=0.0, mask_weight=0.0),
            steps=12_500,
        )
        return {"field": experiment}

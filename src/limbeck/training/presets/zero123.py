"""The preset of Zero123 (arXiv 2303.11328): one image to 3D, as threestudio does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from limbeck.diffusion.prior import NovelViewPrior, Prior
from limbeck.distillation.timesteps.random import RandomDecayTimesteps
from limbeck.distillation.weights import DreamFusionWeight
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import Magic3DDensityInit
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.rendering.shading import Shading
from limbeck.methods.sds import SDS
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import Preset
from limbeck.training.reference import ImageReference

ZERO123_XL = "ashawkey/zero123-xl-diffusers"
STABLE_ZERO123 = "ashawkey/stable-zero123-diffusers"
STEPS = 600
#: Weights of the code are relative to a weight of 0.1 of SDS, which is 1 here.
_SDS_WEIGHT = 0.1


@dataclass(frozen=True)
class Zero123Preset(Preset):
    """Zero123 (Liu et al. 2023): the object of one image as a radiance field, by SDS.

    Give the image with --image; a prompt is only a name.

    Attributes:
        size: full: the numbers of the code, on a GPU. world is refused: the embedded model reads
            prompts.
        stage: name of a single stage to run; there is one, field.
        variant: zero123: Zero123-XL. stable-zero123: Stable-Zero123, with its times and weights.

    References:
        Liu et al., Zero-1-to-3: Zero-shot One Image to 3D Object, arXiv 2303.11328. The numbers
        and their sources are in docs/presets/zero123.md.
    """

    name = "zero123"
    model_families = ("zero123", "stable-zero123")

    size: Literal["world", "full"] = "full"
    variant: Literal["zero123", "stable-zero123"] = "zero123"

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        raise ValueError(
            "preset zero123 needs a model that makes new views of an image, which the embedded "
            "model does not: use --preset.size full, or --preset dreamfusion --image FILE with a "
            "prompt"
        )

    def check_prior(self, prior: Prior) -> None:
        if not isinstance(prior, NovelViewPrior):
            raise ValueError(
                "preset zero123 needs a model of the family of Zero123, which this one is not: "
                "leave out --model, or use another preset with --image"
            )

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        stable = self.variant == "stable-zero123"
        field = NeRF(
            encoding=HashGridEncoding(max_resolution=4096, smoothstep=False),
            decoder=MLPDecoder(64),
            density_init=Magic3DDensityInit(10.0, 0.5),
            background=SolidBackground(),
            shading=Shading(
                ambient_only_fraction=0.0,
                diffuse_prob=1.0,
                textureless_prob=0.0,
                ambient_ratio=0.75,
            ),
            bound=2.0,
            samples=512,
            resolution=64,
            resolution_late=128,
            resolution_switch=1 / 3,
            lr=1e-2,
            opacity_weight=(0.5 if stable else 0.1) / _SDS_WEIGHT,
            orientation_weight=1.0 / _SDS_WEIGHT,
            entropy_weight=(0.5 if stable else 0.1) / _SDS_WEIGHT,
            normal_smooth_weight=(7.0 if stable else 8.0) / _SDS_WEIGHT,
            occupancy_resolution=64,
        )
        first, last = ((0.7, 0.98), (0.3, 0.8)) if stable else ((0.4, 0.85), (0.2, 0.5))
        experiment = Experiment(
            prompts,
            model=STABLE_ZERO123 if stable else ZERO123_XL,
            method=SDS(guidance=3.0),
            representation=field,
            cameras=Orbit(
                per_particle=4,
                camera_distance_range=(3.8, 3.8),
                fovy_range=(20.0, 20.0),
                elevation_range=(-10.0, 80.0),
                eval_camera=(5.0, 0.0, 0.0),
            ),
            timesteps=RandomDecayTimesteps(
                t_min=first[0],
                t_max=first[1],
                late_t_min=last[0],
                late_t_max=last[1],
                decay_end=200 / STEPS,
            ),
            weight=DreamFusionWeight(),
            optimizer=Adam(decay_start=1.0),
            reference=ImageReference(
                camera=(0.0, 5.0, 3.8, 20.0),
                resolution_scale=2,
                color_weight=500.0 / _SDS_WEIGHT,
                mask_weight=50.0 / _SDS_WEIGHT,
            ),
            steps=STEPS,
        )
        return {"field": experiment}

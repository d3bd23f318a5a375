"""The preset of MVDream (arXiv 2308.16512)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import MultiViewPrior, Prior
from limbeck.distillation.timesteps.random import RandomDecayTimesteps, TwoStageTimesteps
from limbeck.distillation.weights import LambdaWeight
from limbeck.graphics.cameras.samplers import Around
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import Magic3DDensityInit
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.methods.sds import SDS
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import Preset
from limbeck.training.presets.dreamfusion import WORLD_ENCODING, WORLD_NERF
from limbeck.world.background import WorldBackground

#: groups of cameras like those the embedded model was trained on; see ``WORLD_CAMERAS``
WORLD_GROUPS = Around(per_particle=4, elevation_range=(-2.0, 35.0), uniform_sphere_prob=0.0)
MVDREAM = "ashawkey/mvdream-sd2.1-diffusers"  #: the published weights, in a folder of diffusers
#: What the images must not be, in the words of its configuration.
NEGATIVE_PROMPT = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and "
    "unclear, cropped, lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn "
    "face, deformed, dehydrated, bad proportions"
)


@dataclass(frozen=True)
class MVDreamPreset(Preset):
    """MVDream (Shi et al. 2023): a radiance field by SDS with a model that sees four views at once.

    Attributes:
        size: world: the embedded model of four views at 64 x 64, which a CPU runs in minutes. full:
            the numbers of the code, on a GPU.
        stage: name of a single stage to run; there is one, field.

    References:
        Shi et al., MVDream: Multi-view Diffusion for 3D Generation, arXiv 2308.16512. The numbers
        and their sources are in docs/presets/mvdream.md.
    """

    name = "mvdream"
    model_families = ("mvdream",)

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        experiment = Experiment(
            prompts,
            model=Model("world-mv"),
            method=SDS(guidance=7.5),
            representation=replace(
                WORLD_NERF,
                # the light of the embedded world moves with its camera: without it edges between
                # faces have no contrast, and the evaluator rejects half the views of a pyramid
                view_dependence="brightness",
                encoding=replace(WORLD_ENCODING, features_per_level=6),
                background=WorldBackground(shared=True),
            ),
            cameras=WORLD_GROUPS,
            timesteps=TwoStageTimesteps(per_row=False),
            optimizer=Adam(decay_start=0.5),
            steps=600,
        )
        return {"field": experiment}

    def check_prior(self, prior: Prior) -> None:
        if not isinstance(prior, MultiViewPrior) or prior.group_size == 1:
            raise ValueError(
                "preset mvdream needs a model that sees several views at once, which this one does "
                "not: leave out --model, or use --preset dreamfusion"
            )

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = NeRF(
            encoding=HashGridEncoding(max_resolution=4096, smoothstep=False),
            decoder=MLPDecoder(64, lr_scale=0.1),
            density_init=Magic3DDensityInit(10.0, 0.5),
            background=EnvironmentBackground(
                lr_scale=0.1, random_aug_prob=0.5, random_aug_start=0.0, random_aug_shared=True
            ),
            bound=1.0,
            samples=512,
            resolution=64,
            resolution_late=256,
            resolution_switch=0.5,
            lr=1e-2,
            occupancy_resolution=64,
        )
        cameras = Around(
            per_particle=4,
            camera_distance_range=(0.8, 1.0),
            fovy_range=(15.0, 60.0),
            elevation_range=(0.0, 30.0),
            uniform_sphere_prob=0.0,
            relative_distance=True,
        )
        experiment = Experiment(
            prompts,
            negative_prompt=NEGATIVE_PROMPT,
            model=MVDREAM,
            method=SDS(guidance=50.0, rescale=0.5),
            representation=field,
            cameras=cameras,
            timesteps=RandomDecayTimesteps(
                t_min=0.98,
                t_max=0.98,
                late_t_min=0.02,
                late_t_max=0.5,
                decay_end=0.8,
                per_row=False,
            ),
            weight=LambdaWeight(),
            optimizer=Adam(decay_start=1.0),
            steps=10_000,
        )
        return {"field": experiment}

"""The preset of LucidDreamer (arXiv 2311.11284)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.timesteps.random import ISMTimesteps, UniformTimesteps
from limbeck.distillation.weights import LambdaWeight
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.background import RandomBackground
from limbeck.methods.ism import ISM
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import STABLE_DIFFUSION, Preset
from limbeck.training.presets.dreamfusion import WORLD_NERF
from limbeck.training.presets.mvdream import MVDreamPreset
from limbeck.world.background import WorldBackground


@dataclass(frozen=True)
class LucidSplatsPreset(Preset):
    """LucidDreamer (Liang et al. 2023): Gaussian splats by interval score matching.

    On the embedded model of four views in two stages. field: a radiance field by SDS. splats: its
    surface as Gaussian splats.

    References:
        Liang et al., LucidDreamer: Towards High-Fidelity Text-to-3D Generation via Interval Score
        Matching, arXiv 2311.11284. The numbers and their sources are in
        docs/presets/lucid-splats.md.
    """

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        # a field takes the place of Point-E's points: splats that start as a ball become a bush
        # whose colors do not depend on the view, as those of splats
        shared = WorldBackground(shared=True)
        field = replace(
            MVDreamPreset().world(prompts)["field"],
            representation=replace(WORLD_NERF, background=shared),
        )
        representation = GaussianSplats(
            background=shared,
            max_scale=0.06,
            means_lr=5e-4,
            scales_lr=5e-3,
            quats_lr=5e-3,
            opacities_lr=0.02,
            colors_lr=0.01,
        )
        splats = replace(
            field,
            method=ISM(guidance=7.5),
            representation=representation,
            timesteps=UniformTimesteps(0.02, 0.5, per_row=False),
            optimizer=Adam(decay_start=0.0),
            steps=100,
        )
        return {"field": field, "splats": splats}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        splats = GaussianSplats(
            num_gaussians=100_000,
            init_radius=0.5,
            init_opacity=0.1,
            background=RandomBackground(random_prob=0.66),
            refine_every=100,
            refine_stop=0.6,
            min_opacity=0.005,
            scale_reg=10.0,
            means_lr=5.6e-4,
            scales_lr=5e-3,
            quats_lr=1e-3,
            opacities_lr=0.05,
            colors_lr=5e-3,
        )
        cameras = Orbit(
            per_particle=4,
            camera_distance_range=(4.0, 5.0),
            fovy_range=(9.2, 34.4),
            elevation_range=(-15.0, 45.0),
            uniform_sphere_prob=0.0,
            camera_perturb=0.025,
            center_perturb=0.05,
            up_perturb=0.01,
            blend_prompts=True,
        )
        experiment = Experiment(
            prompts,
            model=STABLE_DIFFUSION,
            method=ISM(guidance=7.5),
            weight=LambdaWeight(),
            representation=splats,
            cameras=cameras,
            timesteps=ISMTimesteps(per_row=False),
            optimizer=Adam(decay_start=0.0),
            steps=5_000,
        )
        return {"splats": experiment}

"""Former names of options and components: an error answers them with the names valid now."""

from __future__ import annotations

#: what the component is -> former name, lower case and without hyphens -> name
COMPONENTS: dict[str, dict[str, str]] = {
    "representation": {
        "field": "nerf",
        "gaussians": "gaussians-2d",
        "masked": "inpainting",
        "noises": "noise-map",
        "splats": "gaussian-splats",
    },
    "camera sampler": {"flat": "none"},
    "critic": {"lowrank": "lora"},
    "decoder": {"plain": "identity", "small": "mlp"},
    "density init": {"nothing": "none"},
    "encoding": {
        "frequencies": "frequency",
        "grid": "dense-grid",
        "hashed": "hash-grid",
        "planes": "triplane",
    },
    "features": {"itself": "identity", "seen": "evaluator"},
    "gradient transform": {"clipped": "clip", "normalised": "normalize", "plain": "none"},
    "noise": {"fresh": "independent"},
    "timesteps": {"piecewise": "piecewise-linear", "stepping": "piecewise-constant"},
}

#: names by which methods are searched for -> what to use
SEARCH_NAMES = {
    "rsd": "--method repulsive",
    "collaborative": "--method svgd",
    "fsd": "--method cfd",
    "debiasedsds": "--method sds --grad-transform clip",
}

#: class -> its former options and their names
OPTIONS = {
    "AlphaSigmaWeight": "a=alpha_power s=sigma_power",
    "AntitheticNoise": "over=pairing",
    "AutoCritic": "learning=training",
    "Background": "rate=lr_scale",
    "Bridge": "switch=stage_two_start source=source_suffix target=target_suffix",
    "CDS": "cut=w_cut patches=num_patches sizes=patch_sizes",
    "CSD": "negative=negative_prompt first=negative_start last=negative_end over=anneal_end",
    "CameraSampler": "each=per_particle",
    "Clip": "first=start_value last=end_value over=end_at",
    "CriticTraining": (
        "rate=lr batch=batch_size times=timesteps unconditional=unconditional_prob kind=loss_target"
    ),
    "DMTet": (
        "cells=grid_resolution half=bound radii=init_radii start=init_from level=iso_level "
        "fit=init_steps smooth=sdf_blur laplacian=laplacian_weight "
        "bending=normal_consistency_weight rate=lr rate_sdf=sdf_lr rate_deform=deform_lr"
    ),
    "DSD": "own=later_guidance strides=ddim_steps share=plus_ratio",
    "Decoder": "rate=lr_scale",
    "DenseGridEncoding": (
        "levels=resolutions features=features_per_level levels_are=level_reduce spread=init_std"
    ),
    "DreamTimeTimesteps": "diffusion=diffusion_weight",
    "ESD": "entropy=entropy_weight",
    "EditInputs": "pictures=images source=source_prompt target=target_prompt",
    "EditOptions": "negative=negative_prompt running=runtime gradient=grad_transform rate=lr",
    "EditsStudy": "source=source_prompt targets=target_prompts",
    "Encoding": "rate=lr_scale",
    "EnvironmentBackground": (
        "frequencies=num_frequencies hidden=hidden_dim layers=num_hidden_layers "
        "chance=random_aug_prob after=random_aug_start"
    ),
    "Experiment": (
        "negative=negative_prompt perpendicular=perp_neg source=source_prompt parts=model "
        "running=runtime views=cameras gradient=grad_transform batch=batch_size "
        "multistep=denoise_steps"
    ),
    "FixedTimesteps": "at=t",
    "Fourier": "fit=init_steps features=num_frequencies rate=lr",
    "FrequencyEncoding": (
        "octaves=num_frequencies first=initial_variance last=final_variance until=anneal_fraction"
    ),
    "GaussianDensityInit": "height=scale width=std",
    "GaussianSplats": (
        "count=num_gaussians radius=init_radius spacing=init_scale opacity=init_opacity "
        "spread=init_color_std largest=max_scale sharp=antialiased start=init_from "
        "every=refine_every until=refine_stop dead=min_opacity towards=relocation_weight "
        "kick=relocation_noise sparse=opacity_reg small=scale_reg rate_mean=means_lr "
        "rate_scale=scales_lr rate_turn=quats_lr rate_opacity=opacities_lr "
        "rate_colour=colors_lr"
    ),
    "Gaussians2D": (
        "count=num_gaussians spacing=init_scale opacity=init_opacity spread=init_color_std "
        "largest=max_scale fit=init_steps rate_position=means_lr rate_scale=scales_lr "
        "rate_rotation=rotations_lr rate_colour=colors_lr rate_opacity=opacities_lr"
    ),
    "GradientsStudy": "critic_rate=critic_lr",
    "GuidanceStudy": "scales=guidance_scales",
    "HashGridEncoding": (
        "levels=num_levels features=features_per_level log2_rows=log2_hashmap_size "
        "coarsest=base_resolution finest=max_resolution smooth=smoothstep spread=init_scale "
        "begin=initial_levels opening=level_schedule"
    ),
    "HiFA": "k=denoise_steps image=lambda_rgb",
    "HiFATimesteps": "low=t_min",
    "HiFAWeight": "kind=strategy",
    "IRFDS": "normal=noise_reg",
    "ISM": (
        "delta_t_first=delta_t_start anneal=warmup inversions=inversion_steps noisy=noisy_start"
    ),
    "ISMTimesteps": "late=late_t_max warm=warmup",
    "InvertedNoise": "strides=inversion_steps",
    "LMC": "b=projection",
    "Latents": "rate=lr spread=init_std",
    "LearnedProjection": (
        "pictures=num_images strides=ddim_steps before=pretrain_steps batch=batch_size rate=lr"
    ),
    "LoRACritic": "learning=training start=init_from targets=target_modules",
    "LogitNormalTimesteps": "mean=logit_mean spread=logit_std",
    "MLPDecoder": "hidden=hidden_dim",
    "Magic3DDensityInit": "height=scale",
    "MeshExportOptions": (
        "texture=texture_size vertex_colours=vertex_colors faces=max_faces "
        "crumbs=min_component_fraction"
    ),
    "MinSNRWeight": "of=prediction_type",
    "MixedDensityInit": "height=object_scale radius=object_radius scene_height=scene_scale",
    "Model": "scale=lora_scale size=resolution distilled=guidance_embedding",
    "NFSD": "threshold=t_threshold negative=negative_prompt",
    "NStageTimesteps": "stages=num_stages",
    "NeRF": (
        "blob=density_init half=bound importance=importance_samples density=density_activation "
        "sharp=density_scale noise=density_noise late=resolution_late switch=resolution_switch "
        "rate=lr opacity=opacity_weight orientation=orientation_weight entropy=entropy_weight "
        "variation=tv_weight rise=entropy_warmup cells=occupancy_resolution "
        "grace=occupancy_warmup"
    ),
    "NoiseMap": "rate=lr",
    "Normalize": "size=rms",
    "NullTextCritic": "start=init_from learning=training",
    "Optimizer": "fall=decay_start",
    "Orbit": (
        "distance=camera_distance_range fov=fovy_range elevation=elevation_range "
        "over_area=uniform_sphere_prob stratified=batch_uniform_azimuth jitter=camera_perturb "
        "aim=center_perturb roll=up_perturb shown=eval_camera words=view_prompts "
        "front=front_threshold overhead=overhead_threshold blend=blend_prompts "
        "perpendicular=perp_neg"
    ),
    "OverfitStudy": "critic_rate=critic_lr",
    "PiecewiseConstantTimesteps": "at=milestones",
    "PiecewiseLinearTimesteps": "at=milestones",
    "Pixels": "rate=lr levels=num_levels spread=init_std smooth=smoothness_weight",
    "PooledFeatures": "side=grid_size",
    "PredictedNoise": "rounds=iterations",
    "Preset": "only=stage",
    "ProlificDreamerPreset": "place=scene_type",
    "RFDSRev": "rounds=iterations",
    "RandomBackground": "chance=random_prob colour=color",
    "RandomDecayTimesteps": "low=t_min late_low=late_t_min late=late_t_max",
    "RangeTimesteps": "low=t_min high=t_max",
    "ResidualDecoder": "blocks=num_blocks hidden=hidden_dim",
    "RewardSDS": (
        "noises=num_noises scheme=weighting_scheme steps=reward_steps look=reward_guidance "
        "scorer=reward_model"
    ),
    "RunOptions": (
        "dry=dry_run mirror=logger diagnose=stop_on_collapse every=image_every view=viewer "
        "no_diagnose=no_stop_on_collapse"
    ),
    "RuntimeOptions": (
        "layout=memory_format slicing=vae_slicing tiling=vae_tiling "
        "checkpointing=gradient_checkpointing offload=cpu_offload"
    ),
    "SDEdit": "k=denoise_steps",
    "SDI": (
        "inversion=inversion_guidance strides=inversion_steps eta=inversion_eta every=refresh_every"
    ),
    "SVGD": "space=kernel_space",
    "SampledProjection": "pairs=num_pairs",
    "Sampling": "negative=negative_prompt parts=model running=runtime count=num_images",
    "SamplingStudy": "scales=guidance_scales critic_rate=critic_lr",
    "SceneDensityInit": "height=scale",
    "SchedulePlotOptions": "under=schedule",
    "Shading": (
        "after=ambient_only_fraction lit=diffuse_prob textureless=textureless_prob "
        "ambient=ambient_ratio spread=light_position_perturb"
    ),
    "Siren": "fit=init_steps rate=lr",
    "SmallUNetCritic": "learning=training",
    "SolidBackground": "colour=color",
    "StableSD": "seeking=t_seeking",
    "Stein": "bins=num_bins keep=ema_decay",
    "Strokes": (
        "count=num_strokes length=init_length width=init_width widest=max_width "
        "opacity=init_opacity spread=init_color_std pieces=num_segments fit=init_steps "
        "rate_points=points_lr rate_width=widths_lr rate_colour=colors_lr "
        "rate_opacity=opacities_lr"
    ),
    "Study": "rate=lr",
    "TriplaneEncoding": (
        "levels=resolutions features=features_per_level planes_are=plane_reduce "
        "levels_are=level_reduce spread=init_std"
    ),
    "TwoStageTimesteps": "late=late_t_max switch=switch_at late_low=late_t_min",
    "WorldBackground": "which=index",
    "WorldTraining": (
        "pictures=num_images prediction=prediction_type floor=snr_floor batch=batch_size "
        "start=init_from"
    ),
}


def renamed_component(noun: str, name: str) -> ValueError | None:
    """The error for a former name of a component, or a search name of a method; None for others.

    Args:
        noun: what the component is, such as ``representation``.
        name: name of the component.
    """
    squashed = name.lower().replace("-", "").replace("_", "")
    if squashed in COMPONENTS.get(noun, {}):
        return ValueError(f"{noun} {name!r} is now {COMPONENTS[noun][squashed]!r}")
    if noun == "method" and squashed in SEARCH_NAMES:
        return ValueError(f"method {name!r}: use {SEARCH_NAMES[squashed]}")
    return None


def current_option(cls: type, name: str) -> str:
    """The name of an option of ``cls`` that was called ``name``; ``name`` itself if not renamed."""
    for part in cls.__mro__:
        names = dict(pair.split("=") for pair in OPTIONS.get(part.__name__, "").split())
        if name in names:
            return names[name]
    return name

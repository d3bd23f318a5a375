"""Tiny pipelines of random weights, one of every family, in the layout of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny_components import amplify_text_layers, make_autoencoder, make_clip, make_t5
from tiny_dit_families import DIT_WRITERS
from tiny_pipeline import WIDTH, make_scheduler, write_pipeline


def write_xl(folder: Path) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    encoder, tokenizer = make_clip(folder, "a", False)
    encoder_2, tokenizer_2 = make_clip(folder, "b", True, 48)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH + 48,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 48,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    pipe = StableDiffusionXLPipeline(
        make_autoencoder(4, scaling_factor=0.13025),
        encoder,
        encoder_2,
        tokenizer,
        tokenizer_2,
        amplify_text_layers(unet),
        scheduler,
        add_watermarker=False,
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def write_pixel(folder: Path) -> Path:
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel

    encoder, tokenizer = make_t5()
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        cross_attention_dim=64,
        act_fn="gelu",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        resnet_time_scale_shift="scale_shift",
        time_embedding_act_fn="gelu",
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        sample_max_value=1.5,
        clip_sample=True,
    )
    pipe = IFPipeline(
        tokenizer,
        encoder,
        amplify_text_layers(unet),
        scheduler,
        None,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def write_sd3(folder: Path, with_t5: bool = True) -> Path:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    encoder, tokenizer = make_clip(folder, "a", True)
    encoder_2, tokenizer_2 = make_clip(folder, "b", True)
    encoder_3, tokenizer_3 = make_t5() if with_t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        pos_embed_max_size=16,
        joint_attention_dim=96 if with_t5 else 2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        out_channels=16,
        # of SD3.5, and neither of SD3
        dual_attention_layers=(0,) if with_t5 else (),
        qk_norm="rms_norm" if with_t5 else None,
    )
    if with_t5:  # T5 has the width of the network's text input, to which CLIP's tokens are padded
        from transformers import T5EncoderModel

        config = encoder_3.config
        config.d_model = 96
        encoder_3 = T5EncoderModel(config).eval()
    vae = make_autoencoder(
        16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(
        amplify_text_layers(transformer),
        scheduler,
        vae,
        encoder,
        tokenizer,
        encoder_2,
        tokenizer_2,
        encoder_3,
        tokenizer_3,
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def write_flux(folder: Path, dev: bool = True) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    encoder, tokenizer = make_clip(folder, "a", False)
    encoder_2, tokenizer_2 = make_t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=dev,
        axes_dims_rope=(4, 4, 8),
    )
    vae = make_autoencoder(
        16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    # schnell's file has a fixed shift of 1
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0 if dev else 1.0,
        use_dynamic_shifting=dev,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=16,
        max_image_seq_len=256,
    )
    pipe = FluxPipeline(
        scheduler,
        vae,
        encoder,
        tokenizer,
        encoder_2,
        tokenizer_2,
        amplify_text_layers(transformer),
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def write_v(folder: Path) -> Path:
    return write_pipeline(folder, "v_prediction")


def write_eps(folder: Path) -> Path:
    return write_pipeline(folder, "epsilon")


WRITERS: dict[str, Callable[[Path], Path]] = {
    "eps": write_eps,
    "v": write_v,
    "xl": write_xl,
    "pixel": write_pixel,
    "sd3": write_sd3,
    "sd3-no-t5": partial(write_sd3, with_t5=False),
    "flux": write_flux,
    "schnell": partial(write_flux, dev=False),
    **DIT_WRITERS,
}


def write_tiny_pipeline(family: str, folder: Path) -> Path:
    """Write a pipeline of random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return WRITERS[family](folder)


def to_ddim(scheduler: Any) -> Any:
    """DDIM on the betas of a pipeline, with the spacing of ``sample`` and without clipping."""
    from diffusers import DDIMScheduler

    reference = make_scheduler("epsilon").config
    names = ("clip_sample", "timestep_spacing", "steps_offset", "set_alpha_to_one")
    options = {name: reference[name] for name in names}
    ddim = DDIMScheduler.from_config(scheduler.config, thresholding=False, **options)
    # IF's pipeline reads from the scheduler whether to use the learned variance
    ddim.register_to_config(variance_type="fixed_small")
    return ddim


def write_tiny_autoencoder(folder: Path, channels: int = 4) -> Path:
    """Write an autoencoder in the layout of TAESD, with two pixels per latent as the others."""
    from diffusers import AutoencoderTiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=channels,
        )
    vae.save_pretrained(folder)
    return folder


# Names in the original layout of Stable Diffusion, by those of diffusers.
ORIGINAL_UNET_NAMES = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ORIGINAL_MID_BLOCK_NAMES = {
    "resnets.0": "middle_block.0",
    "attentions.0": "middle_block.1",
    "resnets.1": "middle_block.2",
}
ORIGINAL_RESNET_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ORIGINAL_VAE_NAMES = {  # replaced in this order
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "resnets": "block",
    "down_blocks": "down",
    "up_blocks.0": "up.1",
    "up_blocks.1": "up.0",
}


def original_unet_key(key: str) -> str:
    """The original name of a weight of the tiny U-Net, which has two levels of one layer."""
    first, _, rest = key.partition(".")
    if first in ORIGINAL_UNET_NAMES:
        return f"{ORIGINAL_UNET_NAMES[first]}.{rest}"
    parts = rest.split(".")
    if first == "time_embedding":
        return f"time_embed.{0 if parts[0] == 'linear_1' else 2}.{parts[1]}"
    if first == "mid_block":
        block = ORIGINAL_MID_BLOCK_NAMES[".".join(parts[:2])]
        parts = parts[2:]
    elif parts[1] == "downsamplers":
        return f"input_blocks.2.0.op.{parts[-1]}"
    elif parts[1] == "upsamplers":
        return f"output_blocks.1.1.conv.{parts[-1]}"
    else:
        level, layer, index = int(parts[0]), int(parts[2]), 0 if parts[1] == "resnets" else 1
        if first == "down_blocks":
            block = f"input_blocks.{1 + 2 * level}.{index}"
        else:
            block = f"output_blocks.{2 * level + layer}.{index}"
        parts = parts[3:]
    return ".".join([block, ORIGINAL_RESNET_NAMES.get(parts[0], parts[0]), *parts[1:]])


def _original_vae_key(key: str) -> str:
    """The original name of a weight of the tiny autoencoder."""
    for name, original in ORIGINAL_VAE_NAMES.items():
        key = key.replace(name, original)
    return key


def write_single(folder: Path, target: Path) -> Path:
    """Write the weights of a tiny Stable Diffusion folder to one file in the original layout."""
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    tensors = {}
    for key, weight in pipe.unet.state_dict().items():
        tensors[f"model.diffusion_model.{original_unet_key(key)}"] = weight
    for key, weight in pipe.vae.state_dict().items():
        if ".attentions." in key and weight.ndim == 2:  # originally a 1 x 1 convolution
            weight = weight[:, :, None, None]
        tensors[f"first_stage_model.{_original_vae_key(key)}"] = weight
    for key, weight in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{key}"] = weight
    save_file({key: weight.contiguous() for key, weight in tensors.items()}, target)
    return target

"""Tiny pipelines of transformers with one text encoder, most of which mask the padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tiny_components import amplify_text_layers, make_autoencoder, make_gemma, make_t5
from tiny_pipeline import WIDTH


def write_sana(folder: Path) -> Path:
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    encoder, tokenizer = make_gemma()
    transformer = SanaTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=WIDTH,
        timestep_scale=0.5,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.41407,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = SanaPipeline(tokenizer, encoder, vae.eval(), amplify_text_layers(transformer), scheduler)
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def write_pixart(folder: Path, alpha: bool = True) -> Path:
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    encoder, tokenizer = make_t5()
    transformer = PixArtTransformer2DModel(
        sample_size=128 if alpha else 8,  # at 128 the network also takes the size of the image
        interpolation_scale=2 if alpha else None,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=24,
        cross_attention_dim=48,
        caption_channels=WIDTH,
        use_additional_conditions=alpha,
    )
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    scale = 0.18215 if alpha else 0.13025
    cls = PixArtAlphaPipeline if alpha else PixArtSigmaPipeline
    pipe = cls(
        tokenizer,
        encoder,
        make_autoencoder(4, scaling_factor=scale),
        amplify_text_layers(transformer),
        scheduler,
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


DIT_WRITERS: dict[str, Callable[[Path], Path]] = {
    "sana": write_sana,
    "pixart-alpha": write_pixart,
    "pixart-sigma": partial(write_pixart, alpha=False),
}

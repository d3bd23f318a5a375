"""Tiny pipelines of transformers with one text encoder, most of which mask the padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tiny_components import (
    amplify_text_layers,
    make_autoencoder,
    make_gemma,
    make_mistral,
    make_qwen3,
    make_qwen_vl,
    make_t5,
)
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


def write_lumina2(folder: Path) -> Path:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    encoder, tokenizer = make_gemma()
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=16,
        hidden_size=48,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(8, 8, 8),
        axes_lens=(300, 64, 64),
        cap_feat_dim=WIDTH,
    )
    vae = make_autoencoder(16, scaling_factor=0.3611, shift_factor=0.1159)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
    pipe = Lumina2Pipeline(amplify_text_layers(transformer), scheduler, vae, encoder, tokenizer)
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def make_flux2_autoencoder():
    """One whose latents are normalized by statistics of other means and variances than 0 and 1."""
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=8,
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=8,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae.eval()


def write_flux2(folder: Path, dev: bool = True) -> Path:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Pipeline,
        Flux2Transformer2DModel,
    )

    encoder, tokenizer = make_mistral() if dev else make_qwen3()
    transformer = Flux2Transformer2DModel(
        in_channels=32,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,  # three layers of the text encoder
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=dev,
    )
    for name, weight in transformer.named_parameters():
        if "stream_modulation" in name:  # gates of attention: in tests it must matter
            weight.data *= 4
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipe = (Flux2Pipeline if dev else Flux2KleinPipeline)(
        scheduler,
        make_flux2_autoencoder(),
        encoder,
        tokenizer,
        amplify_text_layers(transformer),
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def write_qwen(folder: Path) -> Path:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    encoder, tokenizer = make_qwen_vl()
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=4,
        max_image_seq_len=64,
        shift_terminal=0.02,
    )
    pipe = QwenImagePipeline(
        scheduler, vae.eval(), encoder, tokenizer, amplify_text_layers(transformer)
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


DIT_WRITERS: dict[str, Callable[[Path], Path]] = {
    "sana": write_sana,
    "pixart-alpha": write_pixart,
    "pixart-sigma": partial(write_pixart, alpha=False),
    "lumina2": write_lumina2,
    "flux2": write_flux2,
    "klein": partial(write_flux2, dev=False),
    "qwen": write_qwen,
}

"""The list of published models: its command, its settings and its parameter counts."""

from functools import partial

import diffusers
import pytest
import torch
import transformers

from limbeck.cli.commands.models import show
from limbeck.cli.main import main
from limbeck.cli.run_folder import OutputOptions
from limbeck.config.command_line import parse
from limbeck.priors.catalog import (
    _CLIP_L,
    _CLIP_L_IMAGE,
    _GEMMA2,
    _MISTRAL3,
    _OPENCLIP_G,
    _OPENCLIP_H,
    _QWEN3,
    _QWEN_VL,
    _T5_XXL,
    KNOWN_MODELS,
    find_model,
)
from limbeck.priors.recommended_settings import RECOMMENDED_SETTINGS
from limbeck.training.experiment import Experiment


def test_models_are_listed(cache, capsys, folders):
    assert main(["models"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "GB" in line]
    assert len(rows) == len(KNOWN_MODELS) and not any(row.endswith("yes") for row in rows)
    cache.add("Manojb/stable-diffusion-2-1-base", folders("eps"))
    assert main(["models", "2.1", "base"]) == 0
    description = capsys.readouterr().out
    for words in ("--model Manojb/stable-diffusion-2-1-base", "has left the hub", "5.2 GB"):
        assert words in description
    assert main(["models", "sd15"]) == 0
    assert capsys.readouterr().out.startswith("Stable Diffusion 1.5: --model stable-diffusion-v1-5")
    assert main(["models", "imagen"]) == 2 and "no known model" in capsys.readouterr().err


def test_models_are_found_by_mirrors_and_old_ids():
    base = find_model("stabilityai/stable-diffusion-2-1-base")
    assert base is not None and find_model("Manojb/stable-diffusion-2-1-base") is base
    assert find_model("runwayml/stable-diffusion-v1-5") is KNOWN_MODELS[0]


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda m: m.name)
def test_recommended_settings_are_valid_options(model):
    assert model.repo_id in show([model.repo_id.split("/")[1]]) or model.removed
    for method, options, _ in RECOMMENDED_SETTINGS[model.family]:
        argv = ["a", "--method", method, *options.split()]
        experiment = parse([(Experiment, None), (OutputOptions, None)], argv, "", "", "prompts")[0]
        assert experiment.prompts == ("a",)


# Parameter counts, from the published configurations.


def count_parameters(make_module):
    """Millions of parameters of a module, without allocating it."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_module().parameters()) / 1e6


def make_sdxl_unet():
    return diffusers.UNet2DConditionModel(
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
    )


def make_if_unet(*widths):
    return diffusers.UNet2DConditionModel(
        in_channels=3,
        out_channels=6,
        layers_per_block=3,
        block_out_channels=widths,
        cross_attention_dim=widths[-1],
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        attention_head_dim=64,
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        act_fn="gelu",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        addition_embed_type="text",
        addition_embed_type_num_heads=64,
        encoder_hid_dim=4096,
        encoder_hid_dim_type="text_proj",
        resnet_time_scale_shift="scale_shift",
        time_embedding_act_fn="gelu",
    )


def make_sd3_transformer(layers, heads, pos_embed_max_size, **options):
    return diffusers.SD3Transformer2DModel(
        num_layers=layers,
        num_attention_heads=heads,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=64 * heads,
        pooled_projection_dim=2048,
        pos_embed_max_size=pos_embed_max_size,
        **options,
    )


def make_klein_transformer():
    return diffusers.Flux2Transformer2DModel(
        num_layers=5,
        num_single_layers=20,
        num_attention_heads=24,
        joint_attention_dim=7680,
        guidance_embeds=False,
    )


NETWORKS = {
    "Zero123-XL (one image to 3D)": partial(
        diffusers.UNet2DConditionModel, in_channels=8, cross_attention_dim=768, attention_head_dim=8
    ),
    "Stable Diffusion 1.5": partial(
        diffusers.UNet2DConditionModel, cross_attention_dim=768, attention_head_dim=8
    ),
    "Stable Diffusion 2.1": partial(
        diffusers.UNet2DConditionModel,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    ),
    "InstructPix2Pix (edits images by instructions)": partial(
        diffusers.UNet2DConditionModel,
        in_channels=8,
        cross_attention_dim=768,
        attention_head_dim=8,
    ),
    "Stable Diffusion XL": make_sdxl_unet,
    "MVDream (four views at once, 3D)": partial(
        diffusers.UNet2DConditionModel,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    ),
    "DeepFloyd IF I M": partial(make_if_unet, 192, 384, 576, 768),
    "DeepFloyd IF I L": partial(make_if_unet, 320, 640, 960, 1280),
    "DeepFloyd IF I XL": partial(make_if_unet, 704, 1408, 2112, 2816),
    "Stable Diffusion 3 medium": partial(make_sd3_transformer, 24, 24, 192),
    "Stable Diffusion 3.5 medium": partial(
        make_sd3_transformer,
        24,
        24,
        384,
        qk_norm="rms_norm",
        dual_attention_layers=tuple(range(13)),
    ),
    "Stable Diffusion 3.5 large": partial(make_sd3_transformer, 38, 38, 192, qk_norm="rms_norm"),
    "Flux.1 dev (distilled guidance)": partial(
        diffusers.FluxTransformer2DModel, guidance_embeds=True
    ),
    "Flux.1 schnell (few steps)": diffusers.FluxTransformer2DModel,
    "SANA 1.6B": diffusers.SanaTransformer2DModel,
    "PixArt alpha": partial(diffusers.PixArtTransformer2DModel, caption_channels=4096),
    "PixArt sigma": partial(
        diffusers.PixArtTransformer2DModel, caption_channels=4096, use_additional_conditions=False
    ),
    "Lumina Image 2.0": partial(diffusers.Lumina2Transformer2DModel, cap_feat_dim=2304),
    "Flux.2 dev (distilled guidance)": diffusers.Flux2Transformer2DModel,
    "Flux.2 klein base 4B": make_klein_transformer,
    "Flux.2 klein 4B (few steps)": make_klein_transformer,
    "Qwen-Image": diffusers.QwenImageTransformer2DModel,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_of_networks_are_those_of_the_configurations(name):
    (model,) = (model for model in KNOWN_MODELS if model.name == name)
    assert abs(count_parameters(NETWORKS[name]) - model.network_params) < 0.06


def make_clip(cls, width, layers, heads):
    return cls(
        transformers.CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            projection_dim=width,
        )
    )


def make_clip_image_encoder():
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
            projection_dim=768,
        )
    )


def make_t5_xxl():
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )


def make_vae(latent_channels, **options):
    return diffusers.AutoencoderKL(
        latent_channels=latent_channels,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        **options,
    )


def make_deep_compression_vae():
    block_types = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    return diffusers.AutoencoderDC(
        encoder_block_types=block_types,
        decoder_block_types=block_types,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
    )


def make_gemma2():
    return transformers.Gemma2Model(transformers.Gemma2Config())


def make_qwen3():
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            tie_word_embeddings=True,
        )
    )


def make_qwen_vl():
    text = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    vision = {"intermediate_size": 3420, "hidden_size": 1280, "out_hidden_size": 3584}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def make_mistral3():
    text = {
        "model_type": "mistral",
        "vocab_size": 131072,
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    config = transformers.Mistral3Config(text_config=text, tie_word_embeddings=False)
    return transformers.Mistral3ForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make_module", "millions"),
    [
        (partial(make_vae, 4), 83.7),
        (partial(make_vae, 16, use_quant_conv=False, use_post_quant_conv=False), 83.8),
        (partial(make_clip, transformers.CLIPTextModel, 768, 12, 12), _CLIP_L),
        (partial(make_clip, transformers.CLIPTextModel, 1024, 23, 16), _OPENCLIP_H),
        (partial(make_clip, transformers.CLIPTextModelWithProjection, 1280, 32, 20), _OPENCLIP_G),
        (make_clip_image_encoder, _CLIP_L_IMAGE),
        (make_t5_xxl, _T5_XXL),
        (make_deep_compression_vae, 312.3),
        (diffusers.AutoencoderKLFlux2, 84.0),
        (diffusers.AutoencoderKLQwenImage, 126.9),
        (make_gemma2, _GEMMA2),
        (make_qwen3, _QWEN3),
        (make_qwen_vl, _QWEN_VL),
        (make_mistral3, _MISTRAL3),
    ],
    ids=[
        *("vae-4", "vae-16", "clip-l", "openclip-h", "openclip-g", "clip-l-image", "t5-xxl"),
        *("vae-sana", "vae-flux2", "vae-qwen", "gemma2", "qwen3", "qwen-vl", "mistral3"),
    ],
)
def test_parameters_of_other_components_are_those_of_the_configurations(make_module, millions):
    assert abs(count_parameters(make_module) - millions) < 0.06


def test_autoencoders_are_those_of_the_families():
    params = {"if": 0.0, "sd": 83.7, "xl": 83.7, "sd3": 83.8, "flux": 83.8, "schnell": 83.8}
    params |= {"sana": 312.3, "pixart": 83.7, "lumina2": 83.8, "qwen": 126.9, "mvdream": 83.7}
    params |= {"zero123": 83.7, "stable-zero123": 83.7}
    params |= {"instruct-pix2pix": 83.7, "imagedream": 83.7}
    params |= dict.fromkeys(("flux2", "klein", "klein-base"), 84.0)
    assert all(model.vae_params == params[model.family] for model in KNOWN_MODELS)

"""Tiny components of random weights, of which the pipelines of the tests are made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tiny_pipeline import LENGTH, WIDTH, WORDS


def make_clip(folder: Path, name: str, with_projection: bool, width: int = WIDTH):
    """A CLIP text encoder and its tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from limbeck.world.denoiser import build_tokenizer

    tokenizer = build_tokenizer(WORDS, folder / name)
    tokenizer.model_max_length = LENGTH
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    cls = CLIPTextModelWithProjection if with_projection else CLIPTextModel
    return cls(config).eval(), tokenizer


def make_t5():
    """A T5 encoder and a tokenizer whose tokens are letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters += [(c, -3.0 - i / 10) for i, c in enumerate("abcdefghijklmnopqrstuvwxyz,!.")]
    tokenizer = T5Tokenizer(vocab=letters, extra_ids=0, model_max_length=77)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        is_encoder_decoder=False,
        feed_forward_proj="gated-gelu",
        initializer_factor=1.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config).eval(), tokenizer


def make_autoencoder(channels: int, **options: Any):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=8,
        **options,
    ).eval()


def amplify_text_layers(network):
    """Scale up attention, which has little effect untrained: in tests the text must matter."""
    layers = ("to_v.weight", "to_out.0.weight", "add_v_proj.weight", "to_add_out.weight")
    for name, weight in network.named_parameters():
        if name.endswith(layers):
            weight.data *= 4
    return network.eval()


#: Chats in the manner of Mistral and of Qwen.
_MISTRAL_CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{% for part in m['content'] %}{{ part['text'] }}"
    "{% endfor %}[end]{% endfor %}"
)
_QWEN_CHAT = (
    "{% for m in messages %}start {{ m['role'] }} {{ m['content'] }} end {% endfor %}"
    "{% if add_generation_prompt %}start assistant{% endif %}"
)


def make_word_tokenizer(chat_template: str | None = None):
    """A tokenizer whose tokens are words, after one for the start."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in WORDS for word in re.findall(r"\w+|,", text)})
    vocab = {word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=chat_template,
    )


def make_gemma():
    """A Gemma 2 and its tokenizer."""
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = make_word_tokenizer()
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        initializer_range=0.5,
    )
    return Gemma2Model(config).eval(), tokenizer


def _small_decoder(num_layers: int, vocab_size: int) -> dict[str, Any]:
    """Options of a small language model."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "initializer_range": 0.3,
    }


def make_mistral():
    """A Mistral 3, of whose layers Flux.2 reads the 10th, 20th and 30th, and its tokenizer."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    tokenizer = make_word_tokenizer(_MISTRAL_CHAT)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = Mistral3Config(
        text_config={"model_type": "mistral"} | _small_decoder(30, len(tokenizer)),
        vision_config={"model_type": "pixtral", "num_attention_heads": 2, "head_dim": 8} | vision,
    )
    return Mistral3ForConditionalGeneration(config).eval(), tokenizer


def make_qwen3():
    """A Qwen 3, of whose layers Flux.2 klein reads the 9th, 18th and 27th, and its tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_word_tokenizer(_QWEN_CHAT)
    return Qwen3ForCausalLM(Qwen3Config(**_small_decoder(27, len(tokenizer)))).eval(), tokenizer


def make_qwen_vl():
    """A Qwen 2.5 VL and its tokenizer."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = make_word_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = Qwen2_5_VLConfig(
        text_config=_small_decoder(2, len(tokenizer)) | {"rope_parameters": rope},
        vision_config=vision | {"out_hidden_size": WIDTH, "fullatt_block_indexes": [0]},
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer

"""Captured attention probabilities of U-Nets, and the tokens that differ between two prompts."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from family_pipelines import load_family
from tiny_pipeline import WORDS, max_difference, normal

from limbeck.diffusion.prior import AttentionMapPrior
from limbeck.priors.attention_maps import capture_maps, changed_positions
from limbeck.priors.exact import colored_shapes


class ExplicitAttention(AttnProcessor):
    """Softmax attention that computes its probabilities and keeps the mean over heads."""

    def __init__(self):
        self.kept = {True: [], False: []}  # of cross- and of self-attention: positions and map

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *rest, **named):
        is_cross = encoder_hidden_states is not None
        keys = encoder_hidden_states if is_cross else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).permute(0, 2, 1, 3) for x in (q, k, v))
        probabilities = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(-1)
        self.kept[is_cross].append(probabilities.mean(1))
        return attn.to_out[0]((probabilities @ v).permute(0, 2, 1, 3).flatten(2))


def own_maps(unet, *inputs):
    """Output and probabilities, with a processor that computes them in place of the fused one."""
    before, explicit = dict(unet.attn_processors), ExplicitAttention()
    unet.set_attn_processor(explicit)
    out = unet(*inputs).sample
    unet.set_attn_processor(before)
    return out, explicit.kept


def four_levels() -> UNet2DConditionModel:
    """Attention at the whole, half and a quarter of the height, as Stable Diffusion has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return UNet2DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(16, 32, 32, 32),
            norm_num_groups=8,
            cross_attention_dim=24,
            attention_head_dim=4,
        ).eval()


@pytest.fixture(scope="module")
def unet():
    return four_levels()


def capture(unet, *inputs):
    with torch.no_grad(), capture_maps(unet, nullcontext()) as maps:
        out = unet(*inputs).sample
    return out, maps


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_maps_are_the_softmax_of_queries_and_keys_at_half_and_a_quarter(unet, size):
    height, width = size
    inputs = normal(3, 4, *size, seed=1).float(), torch.tensor([7, 200, 900]), normal(3, 5, 24)
    inputs = (inputs[0], inputs[1], inputs[2].float())
    with torch.no_grad():
        expected_out, kept = own_maps(unet, *inputs)
    out, (maps,) = capture(unet, *inputs)
    assert max_difference(out, expected_out) < 1e-5
    half, quarter = height * width // 4, height * width // 16
    own = [p for p in kept[False] if p.shape[1] == half]
    cross = [p for p in kept[True] if p.shape[1] == quarter]
    # down and up: one block of one and of two layers; blocks of other heights are not in the mean
    assert (len(own), len(cross)) == (3, 3)
    assert (len(kept[False]), len(kept[True])) == (10, 10)
    assert max_difference(maps.self_attention, sum(own) / 3) < 1e-6
    by_token = (sum(cross) / 3).mT.unflatten(2, (height // 4, width // 4))
    assert max_difference(maps.cross_attention, by_token) < 1e-6
    assert maps.self_size == (height // 2, width // 2)
    assert max_difference(maps.self_attention.sum(2), torch.ones(3, half)) < 1e-5
    assert (
        max_difference(maps.cross_attention.sum(1), torch.ones(3, height // 4, width // 4)) < 1e-5
    )
    part = maps[1:2]
    assert torch.equal(part.self_attention, maps.self_attention[1:2])
    assert torch.equal(part.cross_attention, maps.cross_attention[1:2])


def test_predictions_with_a_capture_are_those_without(prior):
    xt, t, condition = (
        normal(2, 4, 8, 8).float(),
        torch.tensor([0.3, 0.8]),
        prior.condition(WORDS[:2]),
    )
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prior.unet.modules())
    with torch.no_grad():
        plain = prior(xt, t, condition)[0].eps
        with prior.capture_attention_maps() as maps:
            for _ in range(2):
                assert torch.equal(prior(xt, t, condition)[0].eps, plain)
        assert torch.equal(prior(xt, t, condition)[0].eps, plain)
    assert len(maps) == 2 and torch.equal(maps[0].self_attention, maps[1].self_attention)
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prior.unet.modules())
    assert after == hooks


def test_the_least_height_stands_for_a_quarter_that_has_no_attention(prior):
    """The tiny network attends at 8 and 4 positions, its latents have 8."""
    with torch.no_grad(), prior.capture_attention_maps() as maps:
        prior(normal(1, 4, 8, 8).float(), torch.tensor([0.5]), prior.condition(WORDS[:1]))
    assert maps[0].self_size == (4, 4) and maps[0].cross_attention.shape[2:] == (4, 4)


def test_a_failed_call_leaves_no_hooks(prior):
    before = sum(len(m._forward_hooks) for m in prior.unet.modules())
    with pytest.raises(RuntimeError), prior.capture_attention_maps():
        prior(torch.zeros(1, 3, 8, 8), torch.tensor([0.5]), prior.condition(WORDS[:1]))
    assert sum(len(m._forward_hooks) for m in prior.unet.modules()) == before


@pytest.mark.parametrize(
    ("source", "target", "changed"),
    [
        ("a red mug", "a blue mug", "blue"),
        ("a mug", "a small blue mug", "small blue"),
        ("a small blue mug", "a mug", ""),
        ("a mug", "a mug", ""),
        ("a red cat and a blue dog", "a blue cat and a red dog", "blue red"),
        ("a red mug", "a red mug on a red table", "on a red table"),
        ("", "a mug", "a mug"),
    ],
)
def test_changed_words_are_those_of_the_aligned_texts(source, target, changed):
    words = sorted({*source.split(), *target.split()})
    ids = [[0, *(1 + words.index(w) for w in text.split()), 99] for text in (source, target)]
    found = changed_positions(*ids)
    assert [target.split()[i - 1] for i in found] == changed.split()


def test_changed_tokens_are_positions_of_the_condition(prior):
    prompts, sources = ["a red chair", "two striped cats"], ["a blue chair", "two striped cats"]
    changed = prior.changed_tokens(prompts, sources)
    assert changed.shape == prior.condition(prompts).data.shape[:2]
    assert changed[0].nonzero().flatten().tolist() == [2]  # start, a, red
    assert not bool(changed[1].any())


def test_xl_has_maps_of_the_tokens_of_both_encoders(folders):
    prior = load_family("xl", folders("xl"))
    condition = prior.condition(["a red mug"])
    with torch.no_grad(), prior.capture_attention_maps() as maps:
        prior(normal(1, *prior.shape).float(), torch.tensor([0.5]), condition)
    changed = prior.changed_tokens(["a red mug"], ["a blue mug"])
    assert changed.shape == condition.data.shape[:2] == maps[0].cross_attention.shape[:2]
    assert changed[0].nonzero().flatten().tolist() == [2]
    sums = maps[0].cross_attention.sum(1)
    assert max_difference(sums, torch.ones_like(sums)) < 1e-5


def test_models_without_a_network_have_no_maps(prior):
    assert isinstance(prior, AttentionMapPrior)
    assert not isinstance(colored_shapes(16), AttentionMapPrior)

"""Conditions: selecting rows, concatenation, and the conditions of a critic."""

from dataclasses import replace

import pytest
import torch
from mixture_inputs import NEGATIVES, NULL_AND_POS, five_rows, mixture, perp_neg_conditions
from tiny_pipeline import class_conditions, count_calls, max_difference

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.guidance import guided_prediction


def test_indexing_selects_rows_of_every_part():
    conditions = replace(perp_neg_conditions(5, *NEGATIVES), denoise_steps=3)
    rows = torch.tensor([3, 0, 3])
    for index in (rows, slice(1, 3)):
        selected = conditions[index]
        assert torch.equal(selected.pos.data, conditions.pos.data[index])
        assert torch.equal(selected.null.data, conditions.null.data[index])
        assert all(
            torch.equal(w, v[index])
            for (_, w), (_, v) in zip(selected.perp_neg, conditions.perp_neg, strict=True)
        )
        assert selected.denoise_steps == 3 and len(selected.perp_neg) == 2
    adapted = Condition(conditions.pos.data, "adapters")
    assert adapted[rows].adapters == "adapters" and len(adapted[rows]) == 3


def test_concatenated_conditions_share_one_call():
    prior = mixture()
    a = five_rows(t=0.3, conditions=perp_neg_conditions(5, *NEGATIVES))
    b = five_rows(t=0.7, conditions=perp_neg_conditions(5, *NEGATIVES[::-1]))
    b = replace(b, x0=b.x0 + 1)
    both = a.conditions.concat(b.conditions)
    assert both.pos.data.shape[0] == 10
    xt, t = torch.cat([a.xt, b.xt]), torch.cat([a.t, b.t])
    together, cost = count_calls(prior, lambda: guided_prediction(prior, xt, t, both, 7.5).eps)
    apart = [guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).eps for s in (a, b)]
    assert max_difference(together, torch.cat(apart)) < 1e-12 and cost == (1, 40)
    adapted = Condition(a.conditions.pos.data, "lora").concat(
        Condition(b.conditions.pos.data, "lora")
    )
    assert adapted.adapters == "lora" and len(adapted) == 10


def test_conditions_of_different_structure_are_not_concatenated():
    conditions = class_conditions(5, *NULL_AND_POS)
    message = "denoise_steps are 1 and 1, Perp-Neg prompts 2 and 0"
    with pytest.raises(ValueError, match=message):
        perp_neg_conditions(5, *NEGATIVES).concat(conditions)
    with pytest.raises(ValueError, match="denoise_steps are 1 and 3"):
        conditions.concat(replace(conditions, denoise_steps=3))
    with pytest.raises(ValueError, match="conditions with different adapters"):
        conditions.pos.with_adapters("lora").concat(conditions.pos)


def test_with_text_drops_perp_neg_and_keeps_denoise_steps():
    conditions = replace(perp_neg_conditions(5, *NEGATIVES), denoise_steps=3)
    other = conditions.with_text(conditions.null)
    assert other.perp_neg == () and other.denoise_steps == 3
    assert other.pos is conditions.null and other.null is conditions.null


def test_the_unconditional_prompt_is_the_empty_one_where_null_is_negative():
    conditions = perp_neg_conditions(5)
    assert conditions.unconditional is conditions.null
    negative = replace(conditions, null=conditions.pos, empty=conditions.null)
    assert negative.unconditional is conditions.null
    rows = torch.tensor([3, 1])
    assert torch.equal(negative[rows].unconditional.data, conditions.null.data[rows])
    joined = negative.concat(conditions)
    assert torch.equal(joined.unconditional.data, conditions.null.data.repeat(2, 1))


def test_no_image_stands_for_zeros_beside_an_image():
    image, weight = torch.randn(3, 4, 2, 2), torch.tensor([0.0, 0.25, 1.0])
    pos, null = Condition(torch.randn(3, 6), image=image), Condition(torch.zeros(3, 6))
    assert torch.equal(pos[torch.tensor([2, 0])].image, image[[2, 0]])
    assert torch.equal(null.concat(pos).image, torch.cat([torch.zeros_like(image), image]))
    assert torch.equal(pos.concat(null).image, torch.cat([image, torch.zeros_like(image)]))
    kept = torch.tensor([True, False, True])
    assert torch.equal(pos.where(kept, null).image, image * kept[:, None, None, None])
    interpolated = null.lerp(pos, weight).image
    assert max_difference(interpolated, image * weight[:, None, None, None]) < 1e-6
    assert null.concat(null).image is None


def test_other_texts_of_the_same_renders_keep_cameras_and_images():
    image, camera = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 4)
    pos = Condition(torch.ones(2, 6), camera=camera, image=image)
    pos = replace(pos, view_free=Condition(torch.zeros(2, 6)))
    plain = pos.without_view
    assert torch.equal(plain.data, torch.zeros(2, 6))
    assert torch.equal(plain.camera, camera) and torch.equal(plain.image, image)

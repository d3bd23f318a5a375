"""Conditions of one network call, stacked."""

import torch

from limbeck.diffusion.condition import Condition
from limbeck.priors.stacked_conditions import stack_conditions


def test_a_condition_without_an_image_has_zeros_in_a_call_with_images():
    image = torch.randn(3, 4, 2, 2)
    texts = torch.randn(3, 5, 6), torch.randn(1, 5, 6)
    pos, null = Condition(texts[0], image=image), Condition(texts[1])
    stacked = stack_conditions([null, pos], 3, torch.float32)
    assert torch.equal(stacked.data, torch.cat([texts[1].expand(3, -1, -1), texts[0]]))
    assert torch.equal(stacked.image, torch.cat([torch.zeros_like(image), image]))


def test_one_image_stands_for_all_rows():
    image = torch.randn(1, 4, 2, 2)
    stacked = stack_conditions([Condition(torch.randn(1, 5, 6), image=image)], 3, torch.bfloat16)
    assert torch.equal(stacked.image, image.bfloat16().expand(3, -1, -1, -1))


def test_no_images_are_none():
    assert stack_conditions([Condition(torch.randn(2, 5, 6))], 2, torch.float32).image is None

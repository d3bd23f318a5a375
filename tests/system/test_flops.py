"""Counted operations and bytes against counts by hand."""

import torch
from torch import nn

from limbeck.system.flops import OpCounter, format_si


def test_counts_of_a_network_are_those_by_hand():
    conv, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16, 10)
    x, q = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 7, 6, requires_grad=True)
    with OpCounter() as counter:
        with counter.part("forward"):
            y = linear(conv(x).flatten(1))
        with counter.part("backward"):
            y.sum().backward()
        with counter.part("attention"):
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
        with counter.part("elementwise"):
            x + 1
    conv_flops, linear_flops = 2 * 2 * 8 * 16 * 3 * 9, 2 * 2 * 128 * 10
    assert counter.flops["forward"] == conv_flops + linear_flops
    assert counter.flops["backward"] == conv_flops + 2 * linear_flops  # x takes no gradient
    assert counter.flops["attention"] == 2 * 2 * 2 * 5 * 7 * 7 * 6
    assert "elementwise" not in counter.flops
    # the outputs of both layers: 2 x 8 x 16 and 2 x 10 numbers
    assert counter.bytes["forward"] == 4 * (256 + 20)


def test_bytes_are_a_peak_and_views_take_none():
    x = torch.zeros(1000)
    with OpCounter() as counter:
        with counter.part("sequential"):
            for _ in range(5):
                x + 1
        with counter.part("together"):
            kept = [x + 1 for _ in range(5)]
        with counter.part("views"):
            x.view(10, 100).t()[3:]
        del kept
        with counter.part("in place"):
            x.mul_(2)
    expected = {"sequential": 4000, "together": 20000, "views": 20000, "in place": 0}
    assert {part: counter.bytes[part] for part in expected} == expected


def test_counts_are_formatted_with_si_prefixes():
    values = (7, 999, 13_579_648, 3.32e9, 5e18)
    expected = ["7 B", "999 B", "13.6 MB", "3.32 GB", "5,000 PB"]
    assert [format_si(value, "B") for value in values] == expected

"""Saved optimizer states."""

import torch
from torch import nn

from limbeck.system.optimizer_state import load_optimizer, optimizer_tensors


def test_a_fused_optimizer_resumes_bit_by_bit():
    def train(steps, saved=None):
        parameter = nn.Parameter(torch.arange(4.0))
        adam = torch.optim.Adam([parameter], lr=0.1, fused=True)
        if saved is not None:
            parameter.data.copy_(saved[0])
            load_optimizer(adam, saved[1])
        for _ in range(steps):
            parameter.grad = parameter.detach().cos()
            adam.step()
        state = {name: value.clone() for name, value in optimizer_tensors(adam).items()}
        return parameter.detach().clone(), state

    assert torch.equal(train(2, train(3))[0], train(5)[0])

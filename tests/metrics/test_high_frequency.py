import pytest
import torch

from limbeck.metrics.high_frequency import high_frequency


def test_white_noise_constant_and_single_waves():
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 1, 64, 64, generator=rng).expand(-1, 3, -1, -1)
    frequency = torch.fft.fftfreq(64)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    share = (radius > 0.25).sum() / (64 * 64 - 1)
    assert high_frequency(noise) == pytest.approx(float(share), abs=0.01)
    assert high_frequency(torch.full((1, 3, 16, 16), 0.5)) == 0
    x = torch.arange(64) / 64
    for cycles, expected in ((8, 0.0), (24, 1.0)):
        wave = 0.5 + 0.3 * torch.sin(2 * torch.pi * cycles * x)
        assert high_frequency(wave.expand(1, 3, 64, 64)) == pytest.approx(expected, abs=1e-9)

"""Coordinate networks: coordinates, SIREN's initialization, Fourier features, batching."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_pipeline import max_difference

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.priors.exact import colored_shapes
from limbeck.representations.coordinate_network import Fourier, Siren, pixel_coordinates


def test_coordinates_are_the_centers_of_square_pixels():
    coordinates = pixel_coordinates(4, 8)
    assert coordinates[0].tolist() == [-1.75, -0.75] and coordinates[-1].tolist() == [1.75, 0.75]
    assert float(coordinates.reshape(4, 8, 2).diff(dim=1)[..., 0].std()) < 1e-6


def test_siren_is_initialized_as_in_the_paper():
    """Inputs of the sines of hidden layers are about normal with deviation 1, and outputs arcsine
    with variance 1/2 (theorem 1.8)."""
    params = Siren(width=256, depth=4, omega=30.0).build(colored_shapes(64), 1, 0).params
    bound = math.sqrt(6 / 256) / 30
    weight = params["weight1"][0].detach()
    assert float(params["weight0"][0].detach().abs().max()) <= 0.5
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    h = pixel_coordinates(64, 64)
    with torch.no_grad():
        for layer in range(4):
            sine_input = 30 * h @ params[f"weight{layer}"][0].T
            if layer:
                assert float(sine_input.std()) == pytest.approx(1, abs=0.1)
            h = (sine_input + 30 * params[f"bias{layer}"][0]).sin()
            assert float(h.var()) == pytest.approx(0.5, abs=0.05)


def test_batched_networks_agree_with_one_network_alone():
    networks = Siren(width=8, depth=2).build(colored_shapes(12), 3, 0)
    weights = [networks.params[f"weight{i}"][2] for i in range(3)]
    biases = [networks.params[f"bias{i}"][2] for i in range(3)]
    h = pixel_coordinates(12, 12)
    for weight, bias in zip(weights[:2], biases[:2], strict=True):
        h = (10 * (h @ weight.T + bias)).sin()
    alone = (h @ weights[2].T + biases[2]).sigmoid().T.reshape(3, 12, 12)
    together = networks.render(RenderRequest(torch.tensor([2, 0]))).image[0]
    assert max_difference(together, alone) < 1e-6


def test_fourier_features_are_the_cosines_and_sines_of_the_paper():
    network = Fourier(width=8, num_frequencies=5, scale=2.0).build(colored_shapes(12), 1, 0)
    phase = 2 * math.pi * (pixel_coordinates(12, 12) / 2) @ network.frequencies.T
    assert max_difference(network.inputs, torch.cat([phase.cos(), phase.sin()], -1)) < 1e-6
    frequencies = Fourier(num_frequencies=4000, scale=2.0)._frequencies(0)
    assert float(frequencies.std()) == pytest.approx(2, rel=0.03)
    assert not {"inputs", "frequencies"} & set(network.state_dict())  # they are recomputed


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (Siren, {"omega": 0.0}, "omega must be positive, not 0"),
        (Siren, {"depth": 0}, "depth must be at least 1, not 0"),
        (Fourier, {"num_frequencies": 0}, "num_frequencies must be at least 1, not 0"),
    ],
)
def test_invalid_options_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)

"""Shading of training renders: the formula, and how often a light is sampled."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_pipeline import row_rng

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.rendering.shading import PointLight, Shading
from limbeck.graphics.rendering.volume import RaySamples


def test_a_point_light_shades_by_lamberts_law():
    ray, column = torch.arange(3), torch.zeros(3, dtype=torch.long)
    samples = RaySamples(ray, column, torch.zeros(3), torch.zeros(3, 3), 1.0, 3, 1)
    albedo = torch.full((3, 3), 0.5)
    normals = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.6, 0.8]])
    visible = torch.tensor([True, False, True])
    light = PointLight(torch.tensor([[0.0, 0.0, 2.0]]), 0.1, False)
    lit = light.shade(albedo, samples, normals, visible, 3)
    assert torch.allclose(lit[:, 0], torch.tensor([0.5, 0.5, 0.5 * (0.1 + 0.9 * 0.8)]))
    white = replace(light, textureless=True).shade(albedo, samples, normals, visible, 3)
    assert torch.allclose(white[:, 0], torch.tensor([1.0, 1.0, 0.1 + 0.9 * 0.8]))


def test_lights_are_sampled_with_their_probabilities():
    camera = turntable_cameras(2, 0.0, 3.0, 40.0)
    shading = Shading(ambient_only_fraction=0.1, diffuse_prob=0.75, textureless_prob=0.5)

    def sample(generator, progress):
        request = RenderRequest(torch.zeros(2), camera, generator, progress)
        return shading.sample_light(camera, request)

    lights = [sample(row_rng(2, 1, i), 0.5) for i in range(400)]
    lights = [light for light in lights if light is not None]
    assert abs(len(lights) / 400 - 0.75) < 0.07
    assert abs(sum(light.textureless for light in lights) / len(lights) - 0.5) < 0.09
    distance = torch.cat([light.position for light in lights]).norm(dim=1)
    assert float(distance.min()) >= 0.8 and float(distance.max()) <= 1.5
    assert sample(row_rng(2), 0.05) is None and sample(None, 0.5) is None

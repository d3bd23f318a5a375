"""View labels and view metrics."""

import math

import pytest
import torch

from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.metrics.view_consistency import (
    BACK,
    FRONT,
    SIDE,
    mirror_metrics,
    view_labels,
    view_metrics,
)
from limbeck.world.evaluator import REJECT
from limbeck.world.scene import Scenes


def test_view_labels_are_those_of_the_world():
    rng = torch.Generator().manual_seed(0)
    azimuth = (torch.rand(500, generator=rng) * 2 - 1) * math.pi
    elevation = torch.rand(500, generator=rng) * math.radians(80)
    zero = torch.zeros(500, dtype=torch.int64).numpy()
    angles = azimuth.double().numpy(), elevation.double().numpy()
    scenes = Scenes(zero, zero, zero, zero, *angles, zero + 3.6, zero + 1.0)
    labels = view_labels(orbit_cameras(azimuth, elevation, 3.6, 40.0))
    assert labels.tolist() == scenes.view.tolist()


def test_view_metrics_by_hand():
    views = torch.tensor([FRONT, SIDE, SIDE, BACK, BACK, BACK, BACK])
    named = [FRONT, SIDE, FRONT, FRONT, BACK, FRONT, SIDE]
    verdicts = torch.tensor([[11, 3, 0, 0, view] for view in named])
    verdicts[5, 0] = REJECT  # no object, no face
    assert view_metrics(verdicts, views) == pytest.approx(
        {"view_accuracy": 3 / 7, "janus": 1 / 4, "janus_side": 1 / 2}
    )
    assert "janus" not in view_metrics(verdicts[:3], views[:3])


def test_mirror_metrics_by_hand():
    azimuth = torch.tensor([0.0, 90.0, 90.0, -90.0, -90.0, 180.0]).deg2rad()
    camera = orbit_cameras(azimuth, torch.zeros(6), 3.6, 40.0)
    verdicts = torch.tensor([[11, 3, 0, 0, SIDE]] * 6)
    facings = torch.tensor([1, 0, 1, 1, 0, 1])  # the third and the fifth are wrong
    assert mirror_metrics(verdicts, facings, camera) == {"mirrored": 0.5}
    verdicts[2, 0] = REJECT
    assert mirror_metrics(verdicts, facings, camera) == {"mirrored": 0.25}
    assert mirror_metrics(verdicts[:1], facings[:1], camera[:1]) == {}

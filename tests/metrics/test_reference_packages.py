"""Metrics against the packages that their users know: `pip install 'limbeck[parity]'`.

Those of CLIP, PickScore, HPSv2, ImageReward and CMMD have no package that imports without
torchvision; their own tests compare with a second implementation on random weights.
"""

import contextlib
import io
import math

import pytest
import torch

from limbeck.metrics.density_coverage import coverage, density
from limbeck.metrics.frechet import frechet_distance
from limbeck.metrics.kid import kid
from limbeck.metrics.precision_recall import precision, recall
from limbeck.metrics.vendi import vendi_score

SHAPES = [(40, 40, 6), (90, 70, 24)]


def draw(count, dim, seed, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=rng) + shift


@pytest.mark.parametrize(("n", "m", "dim"), SHAPES)
def test_precision_recall_density_coverage_are_those_of_prdc(n, m, dim):
    prdc = pytest.importorskip("prdc")
    images, reference = draw(n, dim, 0, 0.6), draw(m, dim, 1)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its sizes
        expected = prdc.compute_prdc(reference.numpy(), images.numpy(), nearest_k=5)
    found = {f.__name__: f(images, reference) for f in (precision, recall, density, coverage)}
    assert found == pytest.approx(expected)
    assert found["precision"] > 0 and 0 < found["coverage"] < 1


@pytest.mark.parametrize("n", [6, 50])
def test_the_vendi_score_is_that_of_vendi_score(n):
    package = pytest.importorskip("vendi_score.vendi")
    features = draw(n, 20, 2)
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    assert vendi_score(features) == pytest.approx(package.score_K(unit @ unit.T), rel=1e-6)
    for order, named in ((0.5, 0.5), (2.0, 2.0), (math.inf, "inf")):
        expected = package.score_K(unit @ unit.T, q=named)
        assert vendi_score(features, order) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "dim"), SHAPES)
def test_kid_and_the_frechet_distance_are_those_of_torchmetrics(n, m, dim):
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    a, b = draw(n, dim, 3), draw(m, dim, 4, 0.3)
    moments = [part for x in (a, b) for part in (x.mean(0), torch.cov(x.T))]
    assert frechet_distance(a, b) == pytest.approx(_compute_fid(*moments).item(), rel=1e-6)
    a = a[:m]  # sets of one size
    assert kid(a, b[: len(a)]) == pytest.approx(poly_mmd(a, b[: len(a)]).item(), rel=1e-6)

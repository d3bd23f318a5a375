"""Where rays are sampled: occupancy grids and importance sampling."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from limbeck.graphics.rendering.occupancy_grid import (
    OccupancyGrid,
    refine_samples,
    sample_pdf,
    stratified_uniform,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# occupancy grids


def test_a_cell_denser_than_the_threshold_is_never_dropped() -> None:
    """For any density that is constant within cells, dense cells are occupied after an update."""
    rng = seeded(1)
    grid = OccupancyGrid(8, 1.5, threshold=0.5)
    assert grid.occupied.all()
    for _ in range(20):
        table = torch.rand(8, 8, 8, generator=rng).pow(8)

        def density(points, table=table):
            return table.flatten()[grid.cell_indices(points)]

        grid.update(density, rng)
        assert grid.occupied[table > 0.5].all()
        assert (grid.densities >= table).all()


def test_a_sphere_is_kept_and_the_rest_is_dropped() -> None:
    """A cell that the sphere only grazes may be sampled outside of it; its neighbor keeps it."""
    grid, rng = OccupancyGrid(24, 1.0), seeded(2)
    for _ in range(5):
        grid.update(lambda points: 10.0 * (points.norm(dim=1) < 0.5), rng)
        points = torch.rand(20_000, 3, generator=rng) * 2 - 1
        assert grid.contains(points[points.norm(dim=1) < 0.5]).all()
    far = points.norm(dim=1) > 0.5 + 2 * math.sqrt(3) / 12
    assert not grid.contains(points[far]).any()


def test_stored_densities_decay() -> None:
    grid, rng = OccupancyGrid(4, 1.0, threshold=0.1, decay=0.5), seeded(3)
    grid.update(lambda points: torch.ones(len(points)), rng)
    for step in range(1, 5):
        grid.update(lambda points: torch.zeros(len(points)), rng)
        occupied = 0.5**step > 0.1
        assert torch.allclose(grid.densities, torch.full((4, 4, 4), 0.5**step))
        assert bool(grid.occupied.all()) is occupied and grid.occupied_fraction == occupied


def test_cells_are_indexed_z_y_x_and_sampled_within_themselves() -> None:
    grid = OccupancyGrid(5, 2.0)
    points = torch.tensor([[-1.9, 0.0, 1.9], [9.0, -9.0, 0.1]])
    assert grid.cell_indices(points).tolist() == [4 * 25 + 2 * 5 + 0, 2 * 25 + 0 * 5 + 4]
    chunks = []

    def density(chunk):
        chunks.append(chunk)
        return chunk[:, 0].abs()

    grid.update(density, seeded(), chunk_size=50)
    assert [len(chunk) for chunk in chunks] == [50, 50, 25]
    sampled = torch.cat(chunks)
    assert grid.cell_indices(sampled).tolist() == list(range(125))
    assert torch.equal(grid.densities.flatten(), sampled[:, 0].abs())


def test_an_occupancy_grid_resumes_bit_for_bit() -> None:
    def update(grid, step):
        grid.update(lambda points: (points.sum(1) - 1).clamp_min(0), seeded(step))

    whole, first, second = (OccupancyGrid(6, 1.0, threshold=0.2) for _ in range(3))
    for step in range(6):
        update(whole, step)
        if step < 3:
            update(first, step)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        update(second, step)
    assert torch.equal(whole.densities, second.densities)
    assert torch.equal(whole.occupied, second.occupied)
    assert 0 < whole.occupied_fraction < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 1, "bound": 1.0}, "resolution of at least 2.* not 1, "),
        ({"resolution": 8, "bound": 0.0}, "bound above 0.* 0.0"),
        ({"resolution": 8, "bound": 1.0, "threshold": -1.0}, "threshold .*-1.0"),
        ({"resolution": 8, "bound": 1.0, "decay": 1.0}, r"decay in \[0, 1\).*1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OccupancyGrid(**arguments)


# importance sampling


def test_the_distribution_function_is_inverted_exactly() -> None:
    """Weights 1, 0, 3 on bins of size 1, 1, 2: F is x/4 to 1, flat to 2, then 1/4 + 3(x-2)/8."""
    edges, weights = torch.tensor([[0.0, 1, 2, 4]]), torch.tensor([[1.0, 0, 3]])
    u = torch.tensor([[0.0, 0.125, 0.24, 0.25, 0.5, 0.75, 0.999]])
    expected = torch.where(u < 0.25, 4 * u, 2 + (u - 0.25) * 8 / 3)
    assert torch.allclose(sample_pdf(edges, weights, u), expected, atol=1e-5)


def test_any_distribution_function_is_inverted() -> None:
    rng = seeded(1)
    edges = torch.rand(50, 13, generator=rng).double().sort(1).values
    weights = torch.rand(50, 12, generator=rng).double() * (torch.rand(50, 12, generator=rng) < 0.7)
    u = torch.rand(50, 40, generator=rng).double()
    samples = sample_pdf(edges, weights, u)
    pdf = weights / weights.sum(1, keepdim=True)
    below = ((samples[..., None] - edges[:, None, :-1]) / edges.diff(dim=1)[:, None]).clamp(0, 1)
    assert torch.allclose((below * pdf[:, None]).sum(-1), u, atol=1e-9)


def test_rays_without_weight_are_sampled_evenly() -> None:
    u = stratified_uniform(1, 8, None)
    samples = sample_pdf(torch.tensor([[2.0, 3, 7]]), torch.zeros(1, 2), u)
    assert torch.allclose(samples, 2 + 5 * u, atol=1e-5)


def test_bins_without_weight_get_no_samples_not_even_at_the_ends() -> None:
    edges = torch.arange(6.0).expand(1000, 6)
    weights = torch.tensor([0.0, 0.3, 0, 0.1, 0]).expand(1000, 5)
    ends = torch.tensor([[0.0, 1 - 2**-24]]).expand(1000, 2)
    u = torch.cat([stratified_uniform(1000, 64, seeded(2)), ends], 1)
    samples = sample_pdf(edges, weights, u)
    in_first, in_second = (samples >= 1) & (samples <= 2), (samples >= 3) & (samples <= 4)
    assert (in_first | in_second).all()


def test_stratified_numbers_are_one_per_part_and_uniform_over_rays() -> None:
    u = stratified_uniform(5000, 8, seeded(3))
    assert torch.equal((u * 8).long(), torch.arange(8).expand(5000, 8))
    assert torch.allclose((u * 8 % 1).mean(0), torch.tensor(0.5), atol=4 / math.sqrt(12 * 5000))
    middles = torch.tensor([0.125, 0.375, 0.625, 0.875])
    assert torch.equal(stratified_uniform(2, 4, None), middles.expand(2, 4))


def test_samples_have_the_statistics_of_the_density() -> None:
    """Mean and share per bin of 200,000 samples; the bounds are those of independent samples."""
    bounds, weights = (0.0, 0.5, 2, 3), (0.2, 0.5, 0.3)
    edges = torch.tensor(bounds).expand(2000, 4)
    u = stratified_uniform(2000, 100, seeded(4))
    samples = sample_pdf(edges, torch.tensor(weights).expand(2000, 3), u).flatten()
    shares = [((samples >= a) & (samples < b)).float().mean() for a, b in pairwise(bounds)]
    bound = 4 * 0.5 / math.sqrt(200_000)
    assert torch.allclose(torch.stack(shares), torch.tensor(weights), atol=bound)
    mean = 0.2 * 0.25 + 0.5 * 1.25 + 0.3 * 2.5
    assert samples.mean().item() == pytest.approx(mean, abs=4 / math.sqrt(200_000))


def test_refined_samples_keep_the_coarse_ones_and_gather_at_the_surface() -> None:
    coarse = torch.linspace(0, 1, 33).expand(7, 33)
    weights = torch.zeros(7, 33)
    weights[:, 20] = 1.0
    samples = refine_samples(coarse, weights.requires_grad_(), 32, seeded(5))
    assert samples.shape == (7, 65) and not samples.requires_grad
    assert (samples.diff(dim=1) >= 0).all()
    assert all(set(coarse[0].tolist()) <= set(row.tolist()) for row in samples)
    near = (samples - 20 / 32).abs() <= 1 / 64
    assert (near.sum(1) == 33).all()  # all 32 new samples, and the coarse one among them

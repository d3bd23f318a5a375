"""Random numbers of rows: what they depend on, and their statistics."""

from __future__ import annotations

import torch

from limbeck.system.random import RowRandom, occurrences

N = 200_000


def ks(values: torch.Tensor, cdf) -> float:
    """Kolmogorov distance times the root of the count; above 2 with probability 7e-4."""
    x = values.double().flatten().sort().values
    empirical = (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)
    return float((cdf(x) - empirical).abs().max()) * len(x) ** 0.5


def rows(seed: int, step: int, *particle: int) -> RowRandom:
    return RowRandom.of_step(seed, step, torch.tensor(particle))


def test_occurrences_count_earlier_equals() -> None:
    assert occurrences(torch.tensor([3, 1, 3, 3, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]


def test_a_row_depends_on_its_particle_and_view_only() -> None:
    everyone = RowRandom.of_step(5, 7, torch.arange(64))
    for draw in (RowRandom.uniform, RowRandom.normal):
        whole = draw(everyone, "eps", 3, 5)
        assert torch.equal(draw(rows(5, 7, 0), "eps", 3, 5)[0], whole[0])
        assert torch.equal(draw(rows(5, 7, 40, 2), "eps", 3, 5), whole[[40, 2]])
        assert torch.equal(draw(everyone[torch.tensor([9])], "eps", 3, 5)[0], whole[9])
    views = rows(5, 7, 2, 2, 3, 2).normal("eps", 8)
    assert torch.equal(views[0], everyone.normal("eps", 8)[2])
    assert len({tuple(view.tolist()) for view in views}) == 4
    assert torch.equal(views[[0, 1]], rows(5, 7, 2, 2).normal("eps", 8))


def test_laws_by_step_by_particle_and_by_row() -> None:
    for law, cdf in (
        ("uniform", lambda x: x),
        ("normal", torch.special.ndtr),
    ):
        by_step = [getattr(rows(1, step, 0), law)("a")[0] for step in range(800)]
        by_seed = [getattr(rows(seed, 0, 0), law)("a")[0] for seed in range(800)]
        by_particle = getattr(RowRandom.initial(1, N), law)("a")
        by_view = getattr(RowRandom.of_step(1, 0, torch.zeros(N).long()), law)("a")
        in_row = getattr(rows(1, 0, 0), law)("a", N)
        for values in (torch.stack(by_step), torch.stack(by_seed), by_particle, by_view, in_row):
            assert ks(values, cdf) < 2


def test_moments_of_the_normal_law() -> None:
    x = rows(3, 0, 0, 1).normal("eps", N).double().flatten()
    n = len(x)
    assert abs(float(x.mean())) < 4 / n**0.5
    assert abs(float(x.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((x**3).mean())) < 4 * (15 / n) ** 0.5
    assert abs(float((x**4).mean()) - 3) < 4 * (96 / n) ** 0.5
    assert 4.2 < float(x.abs().max()) < 6.8


def test_seeds_steps_particles_views_and_purposes_are_independent() -> None:
    streams = [
        rows(0, 0, 0).normal("a", N)[0],
        rows(1, 0, 0).normal("a", N)[0],
        rows(0, 1, 0).normal("a", N)[0],
        rows(0, 0, 1).normal("a", N)[0],
        rows(0, 0, 0, 0).normal("a", N)[1],
        rows(0, 0, 0).normal("b", N)[0],
        rows(0, 0, 0).fold("a").normal("a", N)[0],
        rows(0, 0, 0).per_particle.normal("a", N)[0],
        rows(0, 0, 0).per_step.normal("a", N)[0],
    ]
    x = torch.stack(streams).double()
    for moment in (x, x**2 - 1):
        centered = moment - moment.mean(1, keepdim=True)
        correlation = centered @ centered.T / N / moment.var(1).sqrt().outer(moment.var(1).sqrt())
        others = correlation - torch.eye(len(x))
        assert float(others.fill_diagonal_(0).abs().max()) < 4.5 / N**0.5
    # neither are neighbors within a row, nor the two numbers of one word of Box-Muller
    for shift in (1, 2, N // 2):
        assert abs(float((x[0, :-shift] * x[0, shift:]).mean())) < 4.5 / (N - shift) ** 0.5
    # two seeds share not one word
    words = [set(rows(seed, 0, 0, 1, 2).bits("a", 20_000).ravel().tolist()) for seed in (0, 1)]
    assert len(words[0]) == 60_000 and not words[0] & words[1]


def test_repeated_rows_differ() -> None:
    drawn = rows(0, 0, 4, 5).repeat(torch.tensor([1, 1, 0])).normal("eps", 9)
    assert len({tuple(row.tolist()) for row in drawn}) == 3
    again = rows(0, 0, 4, 5).repeat(torch.tensor([0, 1])).normal("eps", 9)
    assert torch.equal(again[1], drawn[0]) and torch.equal(again[0], drawn[2])

"""Timesteps, weights and noises: each against its closed form or its law, on any schedule, and readable from a configuration."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import drawn, normal, rng, worst, zero_terminal

from limbeck.config.command_line import described, parse
from limbeck.config.discovery import choices
from limbeck.config.yaml import fingerprint, from_yaml, to_yaml
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.schedule import Cosine, RectifiedFlow, stable_diffusion_schedule
from limbeck.distillation import noise as noises
from limbeck.distillation.gradient_transforms import GradientTransform
from limbeck.distillation.noise import (
    AntitheticNoise,
    DriftingNoise,
    FixedPerParticleNoise,
    IndependentNoise,
    Noise,
)
from limbeck.distillation.state import Stateless
from limbeck.distillation.timesteps.base import RandomTimesteps, ScheduledTimesteps, Timesteps
from limbeck.distillation.timesteps.deterministic import (
    FixedTimesteps,
    HiFATimesteps,
    LinearTimesteps,
    PiecewiseTimesteps,
    PolynomialTimesteps,
    QuadraticTimesteps,
    SteppingTimesteps,
)
from limbeck.distillation.timesteps.dreamtime import DreamTimeTimesteps, spent
from limbeck.distillation.timesteps.random import (
    ISMTimesteps,
    LogitNormalTimesteps,
    NStageTimesteps,
    RandomDecayTimesteps,
    RandomDownTimesteps,
    ShiftedTimesteps,
    TwoStageTimesteps,
    UniformTimesteps,
)
from limbeck.distillation.weights import (
    AlphaSigmaWeight,
    BAOABWeight,
    DreamFusionWeight,
    Fantasia3DWeight,
    LambdaWeight,
    LogLambdaWeight,
    MinSNRWeight,
    UnifiedGuidanceWeight,
    Weight,
)
from limbeck.distillation.weights import DreamTimeWeight as DreamTimeWeight
from limbeck.distillation.weights import HiFAWeight as HiFAWeight
from limbeck.distillation.weights import UniformWeight as UniformWeight
from limbeck.methods.sds import SDS
from limbeck.priors.exact import GaussianMixture, coloured_shapes
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

SD = stable_diffusion_schedule()
SCHEDULES = {"stable": SD, "cosine": Cosine(), "flow": RectifiedFlow()}
T = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
share = st.floats(0, 1)
ordered = st.tuples(share, share).map(sorted)
some = settings(max_examples=40, deadline=None)


def times(how: Timesteps, steps: int, rows: int = 1, schedule=SD) -> torch.Tensor:
    """``[steps, rows]``, a whole run."""
    source = rng(0)
    return torch.stack([how(step, steps, rows, schedule, source) for step in range(steps)])


def all_of(base: type) -> list[type]:
    return list(choices(base).values())


# every component


@pytest.mark.parametrize(
    ("place", "base"), [("timesteps", Timesteps), ("weight", Weight), ("noise", Noise)]
)
def test_every_one_reads_back_from_a_configuration_and_tells_its_options(
    place: str, base: type
) -> None:
    prints = set()
    for name, cls in choices(base).items():
        experiment = Experiment(("a",), **{place: cls()})
        assert from_yaml(Experiment, to_yaml(experiment)) == experiment
        assert from_yaml(Experiment, f"{{prompts: [a], {place}: {name}}}") == experiment
        assert parse([(Experiment, None)], ["a", f"--{place}", name], "run", "", "prompts") == [
            experiment
        ]
        prints.add(fingerprint(experiment))
        summary, conditions = described(cls)
        assert len(summary) > 3
        assert {f.name for f in fields(cls)} <= conditions.keys(), (
            f"{name} has options that no docstring tells"
        )
    assert len(prints) == len(choices(base))


def test_help_of_run_names_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([(Experiment, None)], ["--help"], "limbeck run", "", "prompts")
    conditions = "".join(capsys.readouterr().out.replace("│", "").split())
    for base in (Timesteps, Weight, Noise):
        assert "{" + ",".join(choices(base)) + "}" in conditions


@pytest.mark.parametrize(("page", "base"), [
    ("timesteps.md", Timesteps), ("weights.md", Weight), ("weights.md", Noise), ("weights.md", GradientTransform),
])  # fmt: skip
def test_the_page_has_a_row_with_every_option_of_every_one(page: str, base: type) -> None:
    lines = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8").splitlines()
    for name, cls in choices(base).items():
        rows = [line for line in lines if line.startswith(f"| `{name}` |")]
        own = {f.name for f in fields(cls)} - {"per_row"}
        assert any(all(option in row for option in own) for row in rows), name


@pytest.mark.parametrize("how", [
    PiecewiseTimesteps((0.0, 0.5), (0.9, 0.1)), PolynomialTimesteps((0.5,)), SteppingTimesteps((0.0,), (0.3,)), TwoStageTimesteps(late_low=0.1), UniformTimesteps(per_row=False),
    DreamTimeTimesteps(diffusion=False), RandomDecayTimesteps(exponential=True),
])  # fmt: skip
def test_options_of_every_type_read_back(how: Timesteps) -> None:
    experiment = Experiment(
        ("a",), timesteps=how, weight=MinSNRWeight(of="v"), noise=AntitheticNoise("rows")
    )
    assert from_yaml(Experiment, to_yaml(experiment)) == experiment


def test_options_of_every_type_on_the_command_line() -> None:
    line = "a --timesteps piecewise --timesteps.at 0 .5 --timesteps.times .9 .1 --noise antithetic --noise.over rows"
    (experiment,) = parse([(Experiment, None)], line.split(), "run", "", "prompts")
    assert experiment.timesteps == PiecewiseTimesteps(
        (0.0, 0.5), (0.9, 0.1)
    ) and experiment.noise == AntitheticNoise("rows")
    line = "a --timesteps.no-per-row --weight min-snr --weight.of x0"
    (experiment,) = parse([(Experiment, None)], line.split(), "run", "", "prompts")
    assert experiment.timesteps == UniformTimesteps(
        per_row=False
    ) and experiment.weight == MinSNRWeight(of="x0")


# times


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("cls", all_of(Timesteps))
@pytest.mark.parametrize("steps", [1, 2, 37])
def test_times_lie_in_the_unit_interval_for_every_row(cls: type, steps: int, schedule) -> None:
    t = times(cls(), steps, 5, schedule)
    assert t.shape == (steps, 5) and t.dtype == torch.float32
    assert bool(((t >= 0) & (t <= 1)).all())


@pytest.mark.parametrize("cls", [c for c in all_of(Timesteps) if issubclass(c, RandomTimesteps)])
def test_draws_keep_their_bounds_and_one_per_batch_is_one(cls: type) -> None:
    own, one = times(cls(), 50, 40), times(cls(per_row=False), 50, 40)
    for drawn_times in (own, one):
        for step, row in enumerate(drawn_times):
            low, high = cls().bounds(step, 50)
            assert low - 1e-7 <= float(row.min()) <= float(row.max()) <= high + 1e-7
    assert bool((own.std(1) > 0).all()) and bool((one == one[:, :1]).all())
    assert float(one[:, 0].std()) > 0


@pytest.mark.parametrize("how", [LinearTimesteps(), QuadraticTimesteps(), HiFATimesteps(), HiFATimesteps(power=3.0), DreamTimeTimesteps(), DreamTimeTimesteps(diffusion=False),
                                 PiecewiseTimesteps(), SteppingTimesteps(), PolynomialTimesteps()])  # fmt: skip
@pytest.mark.parametrize("steps", [2, 99, 1500])
def test_identity_28_plans_fall(how: ScheduledTimesteps, steps: int) -> None:
    t = times(how, steps, 3)
    assert bool((t[1:] <= t[:-1]).all()) and bool((t == t[:, :1]).all())
    assert float(t[0, 0]) > float(t[-1, 0])


@given(ordered, st.integers(2, 300), st.data())
@some
def test_plans_are_their_formulas(bounds, steps, data) -> None:
    low, high = bounds
    k = data.draw(st.integers(0, steps - 1))
    p = k / (steps - 1)
    at = lambda how: how.time(k, steps, SD)  # noqa: E731
    assert math.isclose(at(LinearTimesteps(low, high)), (1 - p) * high + p * low, abs_tol=1e-12)
    assert math.isclose(
        at(QuadraticTimesteps(low, high)),
        ((1 - p) * math.sqrt(high) + p * math.sqrt(low)) ** 2,
        abs_tol=1e-12,
    )
    assert math.isclose(
        at(HiFATimesteps(low, high)), high - (high - low) * math.sqrt(p), abs_tol=1e-12
    )
    assert math.isclose(
        at(HiFATimesteps(low, high, 1.0)), at(LinearTimesteps(low, high)), abs_tol=1e-12
    )
    assert math.isclose(
        at(PiecewiseTimesteps((0.0, 1.0), (high, low))),
        at(LinearTimesteps(low, high)),
        abs_tol=1e-12,
    )
    assert math.isclose(
        at(PolynomialTimesteps((high, low - high))), at(LinearTimesteps(low, high)), abs_tol=1e-12
    )
    assert at(SteppingTimesteps((0.0, 0.5), (high, low))) == (high if k < steps / 2 else low)


def test_piecewise_meets_its_knots_and_is_level_after_the_last() -> None:
    how = PiecewiseTimesteps((0.0, 0.25, 0.5), (0.9, 0.3, 0.7))
    assert [round(how.time(k, 101, SD), 6) for k in (0, 25, 50, 75, 100)] == [
        0.9,
        0.3,
        0.7,
        0.7,
        0.7,
    ]
    assert math.isclose(how.time(12, 97, SD), 0.6)  # halfway to the second knot


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("diffusion", [True, False])
@pytest.mark.parametrize("steps", [10, 700, 3000])
def test_identity_28_dreamtime_spends_an_equal_share_per_step(
    schedule, diffusion: bool, steps: int
) -> None:
    how = DreamTimeTimesteps(diffusion=diffusion)
    grid = torch.arange(20, 981, dtype=torch.float64) / 1000
    above, below = (
        (lambda t: math.exp(-((t - 0.8) ** 2) / 0.18)),
        (lambda t: math.exp(-((t - 0.5) ** 2) / 0.02)),
    )
    w_p = [above(t) if t > 0.8 else below(t) if t < 0.5 else 1.0 for t in grid.tolist()]
    p = torch.tensor(w_p, dtype=torch.float64) * (
        schedule.sigma(grid) / schedule.alpha(grid) if diffusion else 1
    )
    p = p / p.sum()
    for k in range(0, steps, max(1, steps // 50)):
        t = how.time(k, steps, schedule)
        mass = float(p[grid >= t - 1e-9].sum())
        assert abs(mass - k / steps) <= float(p.max())
        best = min(abs(float(p[i:].sum()) - k / steps) for i in range(len(p)))
        assert abs(mass - k / steps) <= best + 1e-12


def test_dreamtime_is_summed_once_per_schedule() -> None:
    spent.cache_clear()
    times(DreamTimeTimesteps(), 30)
    assert spent.cache_info().misses == 1


@pytest.mark.parametrize(
    "schedule", [zero_terminal(), RectifiedFlow()], ids=["zero terminal", "flow"]
)
def test_dreamtime_refuses_a_weight_without_end(schedule) -> None:
    with pytest.raises(ValueError, match="take a smaller high"):
        DreamTimeTimesteps(high=1.0).time(0, 10, schedule)
    assert DreamTimeTimesteps(high=1.0, diffusion=False).time(0, 10, schedule) == 1.0


def kolmogorov(sample: torch.Tensor, law) -> float:
    """Greatest distance of the empirical distribution from ``law``, in units of 1 / sqrt(n); above 2 with probability 7e-4."""
    x = sample.double().sort().values
    n = len(x)
    return float((law(x) - (torch.arange(n, dtype=torch.float64) + 0.5) / n).abs().max()) * n**0.5


def between(low: float, high: float):
    return lambda x: (x - low) / (high - low)


@pytest.mark.parametrize(("how", "step", "law"), [
    (UniformTimesteps(), 3, between(0.02, 0.98)),
    (TwoStageTimesteps(), 49, between(0.02, 0.98)), (TwoStageTimesteps(), 50, between(0.02, 0.5)), (TwoStageTimesteps(late_low=0.3), 50, between(0.3, 0.5)),
    (NStageTimesteps(stages=2), 49, between(0.02, 0.98)), (NStageTimesteps(stages=2), 50, between(0.02, 0.5)),
    (NStageTimesteps(), 99, between(0.02, 0.26)),
    (RandomDownTimesteps(), 0, between(0.5, 0.98)), (RandomDownTimesteps(), 99, between(0.02, 0.5)),
    (RandomDecayTimesteps(), 99, between(0.02, 0.2)), (ISMTimesteps(), 0, between(0.02, 0.98)), (ISMTimesteps(), 15, between(0.02, 0.74)),
    (ISMTimesteps(), 60, between(0.02, 0.5)),
    (LogitNormalTimesteps(0.0, 1.0, 0.5, 2.0), 7, lambda x: torch.special.ndtr((torch.logit(x) - 0.5) / 2)),
    (ShiftedTimesteps(0.0, 1.0, 3.0), 7, lambda x: x / (3 - 2 * x)),
])  # fmt: skip
def test_identity_28_histograms(how: RandomTimesteps, step: int, law) -> None:
    assert kolmogorov(how(step, 100, 20_000, SD, rng(1)), law) < 2


@given(st.integers(1, 400), share)
@some
def test_identity_28_the_switch_is_at_the_step(steps: int, switch: float) -> None:
    how = TwoStageTimesteps(0.0, 1.0, 0.25, switch)
    tops = [how.bounds(step, steps)[1] for step in range(steps)]
    assert tops == [1.0 if step < switch * steps else 0.25 for step in range(steps)]


@given(st.integers(1, 400), st.integers(1, 9))
@some
def test_stages_are_equally_long(steps: int, stages: int) -> None:
    tops = [NStageTimesteps(stages=stages).bounds(step, steps)[1] for step in range(steps)]
    lengths = [tops.count(top) for top in set(tops)]
    assert max(lengths) - min(lengths) <= 1 and tops == sorted(tops, reverse=True)
    assert len(lengths) == min(stages, steps)


def test_an_exponential_decay_falls_by_a_constant_factor() -> None:
    how = RandomDecayTimesteps(0.4, 0.8, 0.04, 0.08, exponential=True)
    tops = torch.tensor([how.bounds(k, 21)[1] for k in range(21)], dtype=torch.float64)
    assert (
        worst(tops[1:] / tops[:-1], torch.full((20,), 0.1 ** (1 / 20), dtype=torch.float64)) < 1e-12
    )


@pytest.mark.parametrize(("make", "message"), [
    (lambda: UniformTimesteps(0.5, 0.2), "low 0.5, high 0.2"), (lambda: LinearTimesteps(-0.1, 0.2), "low -0.1"), (lambda: FixedTimesteps(1.5), "1.5"),
    (lambda: QuadraticTimesteps(0.0, float("nan")), "nan"), (lambda: HiFATimesteps(power=0.0), "power must be above 0, not 0.0"),
    (lambda: TwoStageTimesteps(switch=2.0), "switch is a share of the run in"), (lambda: TwoStageTimesteps(late_low=0.9), "low 0.9, high 0.5"),
    (lambda: NStageTimesteps(stages=0), "stages must be at least 1, not 0"), (lambda: RandomDownTimesteps(radius=-1.0), "radius is a share"),
    (lambda: RandomDecayTimesteps(late_low=0.0, exponential=True), "needs times above 0"), (lambda: ISMTimesteps(warm=-0.5), "warm is a share"),
    (lambda: LogitNormalTimesteps(spread=-1.0), "spread at least 0"), (lambda: ShiftedTimesteps(shift=0.0), "shift must be above 0, not 0.0"),
    (lambda: PiecewiseTimesteps((0.0, 1.0), (0.5,)), "one value each per knot, at least one, not 2 and 1"),
    (lambda: PiecewiseTimesteps((), ()), "at least one, not 0 and 0"), (lambda: SteppingTimesteps((0.1,), (0.5,)), "at must grow from 0"),
    (lambda: SteppingTimesteps((0.0, 0.5, 0.5), (0.5, 0.4, 0.3)), "at must grow from 0"), (lambda: PiecewiseTimesteps((0.0,), (2.0,)), "not 2.0"),
    (lambda: PolynomialTimesteps((0.5, 1.0)), r"stay within \[0, 1\]"), (lambda: PolynomialTimesteps((float("nan"),)), "is nan"),
    (lambda: DreamTimeTimesteps(m1=0.3), "low 0.5, high 0.3"), (lambda: DreamTimeTimesteps(s2=0.0), "s1 and s2 must be above 0"),
    (lambda: MinSNRWeight(gamma=0.0), "gamma must be above 0"), (lambda: DreamTimeWeight(s1=-1.0), "s1 and s2"),
    (lambda: DreamTimeWeight(m2=0.9), "m2 0.9, m1 0.8"), (lambda: DriftingNoise(1.5), "gamma must lie in"),
])  # fmt: skip
def test_options_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# weights


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_weights_are_their_formulas(schedule) -> None:
    a, s = schedule.alpha(T), schedule.sigma(T)
    snr, ratio, five = a**2 / s**2, s / a, torch.tensor(5.0, dtype=torch.float64)
    for how, wanted in (
        (DreamFusionWeight(), s**2), (UniformWeight(), torch.ones_like(a)), (LambdaWeight(), ratio), (LambdaWeight(0.5), ratio.sqrt()),
        (LambdaWeight(2.0), ratio**2), (LogLambdaWeight(), torch.log(1 + ratio)), (Fantasia3DWeight(), a * s**2), (UnifiedGuidanceWeight(), 1 - a),
        (BAOABWeight(), 2 * s**2 / a**2), (AlphaSigmaWeight(), a), (AlphaSigmaWeight(2.0), a**2), (AlphaSigmaWeight(1.0, 1.0), a * s),
        (AlphaSigmaWeight(0.0, 2.0), s**2), (MinSNRWeight(), torch.minimum(snr, five) / snr), (MinSNRWeight(of="x0"), torch.minimum(snr, five)),
        (MinSNRWeight(of="v"), torch.minimum(snr, five) / (snr + 1)), (HiFAWeight("constant"), 0.05 * ratio),
        (HiFAWeight("noisematch"), 0.05 * a / s * ratio), (HiFAWeight("sdslike"), 0.05 * a * s * ratio),
        (HiFAWeight("strongerlower"), 0.05 * a**2 / s * ratio),
    ):  # fmt: skip
        got = how(schedule, T)
        assert got.dtype == torch.float64
        assert worst(got / wanted, torch.ones_like(wanted)) < 1e-12, how


@given(share, st.floats(0.1, 100))
@some
def test_the_three_min_snr_weights_are_one_loss(t: float, gamma: float) -> None:
    """Each weight times the squared error of its parametrisation, for errors that belong to one another."""
    at = torch.tensor([0.001 + 0.998 * t], dtype=torch.float64)
    a, s = Cosine().alpha(at), Cosine().sigma(at)
    errors = {
        "eps": 1.0,
        "x0": s / a,
        "v": 1 / a,
    }  # of x0_hat = (x_t - sigma eps_hat) / alpha, v = alpha eps - sigma x0
    losses = [
        float(MinSNRWeight(gamma, of)(Cosine(), at) * errors[of] ** 2) for of in ("eps", "x0", "v")
    ]
    assert max(losses) - min(losses) < 1e-9 * max(losses)


def test_min_snr_is_finite_at_both_ends() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert MinSNRWeight()(RectifiedFlow(), ends).tolist() == [0.0, 1.0]
    assert MinSNRWeight(of="x0")(RectifiedFlow(), ends).tolist() == [5.0, 0.0]
    assert MinSNRWeight(of="v")(RectifiedFlow(), ends).tolist() == [0.0, 0.0]


def test_dreamtime_weight_is_flat_between_two_gaussians() -> None:
    t = torch.tensor([0.3, 0.5, 0.65, 0.8, 0.95], dtype=torch.float64)
    wanted = torch.tensor([math.exp(-2), 1, 1, 1, math.exp(-0.125)], dtype=torch.float64)
    assert worst(DreamTimeWeight()(SD, t), wanted) < 1e-15


@pytest.mark.parametrize("cls", all_of(Weight))
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_weights_are_finite_and_not_negative_where_times_are_drawn(cls: type, schedule) -> None:
    w = cls()(schedule, T.float())
    assert w.shape == T.shape and bool(w.isfinite().all()) and bool((w >= 0).all())


# noise


@given(st.integers(0, 5000), st.integers(0, 9))
@some
def test_a_drift_of_nothing_is_fixed_noise(step: int, seed: int) -> None:
    view = torch.tensor([0, 5, 2])
    fixed = FixedPerParticleNoise()(view, (3, 2), step, seed, rng(1))
    assert worst(DriftingNoise(0.0)(view, (3, 2), step, seed, rng(1)), fixed) < 1e-6


@given(st.integers(0, 3000), st.integers(0, 3000), st.floats(0, 1))
@some
def test_a_drift_forgets_at_the_rate_of_the_recursion(
    first: int, second: int, gamma: float
) -> None:
    n, view = 20_000, torch.tensor([1])
    a, b = (
        DriftingNoise(gamma)(view, (n,), step, 0, rng(0))[0].double() for step in (first, second)
    )
    assert abs(float(b.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    assert (
        abs(float((a * b).mean()) - (1 - gamma) ** (abs(first - second) / 2)) < 5 * (2 / n) ** 0.5
    )


def test_a_drift_is_the_recursion_with_independent_normals() -> None:
    """What is new at each step, solved for from the recursion, is white: over steps, and against the start."""
    gamma, n, view = 0.05, 20_000, torch.tensor([3])
    path = torch.stack(
        [DriftingNoise(gamma)(view, (n,), step, 4, rng(0))[0].double() for step in range(20)]
    )
    new = (path[1:] - (1 - gamma) ** 0.5 * path[:-1]) / gamma**0.5
    rows = torch.cat([path[:1], new])
    assert worst(rows @ rows.T / n, torch.eye(20, dtype=torch.float64)) < 5 * (2 / n) ** 0.5


def test_a_drift_costs_a_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = noises._at
    monkeypatch.setattr(noises, "_at", lambda *args: calls.append(args) or real(*args))
    for step in (0, 1, 2, 3, 64, 999, 1000, 24_999):
        calls.clear()
        DriftingNoise()(torch.tensor([0]), (1,), step, 0, rng(0))
        assert len(calls) <= 2 * math.log2(max(step, 1)) + 2
        assert len(set(calls)) == len(calls)


@pytest.mark.parametrize(
    "how",
    [FixedPerParticleNoise(), DriftingNoise(0.2), AntitheticNoise()],
    ids=["fixed", "drifting", "antithetic"],
)
def test_a_particle_keeps_its_noise_whoever_is_drawn_with_it(how: Noise) -> None:
    everyone = how(torch.arange(6), (4,), 11, 2, rng(0))
    assert torch.equal(how(torch.tensor([5, 1]), (4,), 11, 2, rng(7)), everyone[[5, 1]])
    assert len(set(everyone[:, 0].tolist())) == 6


def test_antithetic_steps_come_in_pairs() -> None:
    view = torch.arange(3)
    eps = [AntitheticNoise()(view, (50,), step, 1, rng(step)) for step in range(4)]
    assert torch.equal(eps[1], -eps[0]) and torch.equal(eps[3], -eps[2])
    assert abs(float((eps[0] * eps[2]).mean())) < 0.4 and worst(eps[0], eps[2]) > 1


def test_antithetic_rows_come_in_pairs_and_the_last_may_be_alone() -> None:
    for rows in (1, 4, 5):
        eps = AntitheticNoise("rows")(torch.arange(rows), (3, 2), 0, 1, rng(0))
        assert eps.shape == (rows, 3, 2)
        assert all(torch.equal(eps[i], -eps[i + 1]) for i in range(0, rows - 1, 2))


def test_identity_22_a_pair_has_no_variance_under_a_linear_denoiser() -> None:
    prior = GaussianMixture(normal(1, 4, seed=1), torch.tensor([0.7]), schedule=SD)
    conditions = Conditions(
        Condition(torch.zeros(2, 1, dtype=torch.float64)),
        Condition(torch.zeros(2, 1, dtype=torch.float64)),
    )
    x0, means = normal(1, 4, seed=2).repeat(2, 1), []
    for seed in range(3):
        eps = AntitheticNoise("rows")(torch.arange(2), (4,), 0, 0, rng(seed)).double()
        means.append(SDS(1.0)(prior, drawn(SD, x0, 0.4, eps, conditions), Stateless()).mean(0))
    assert worst(means[0], means[1]) < 1e-12 and worst(means[0], means[2]) < 1e-12


# in the loop


@pytest.mark.parametrize(
    "how",
    [IndependentNoise(), DriftingNoise(0.1), AntitheticNoise(), AntitheticNoise("rows")],
    ids=lambda n: type(n).__name__,
)
@pytest.mark.parametrize(
    "when",
    [DreamTimeTimesteps(), RandomDownTimesteps(per_row=False)],
    ids=["dreamtime", "randomdown"],
)
def test_a_resumed_run_is_the_uninterrupted_one(how: Noise, when: Timesteps) -> None:
    experiment = Experiment(
        ("red disc",),
        method=SDS(5.0),
        timesteps=when,
        noise=how,
        particles=3,
        batch_size=2,
        steps=8,
    )
    whole, first, second = (Run(experiment, coloured_shapes(8)) for _ in range(3))
    for _ in range(8):
        whole.advance()
    for _ in range(3):
        first.advance()
    second.load({k: v.clone() for k, v in first.tensors().items()}, 3)
    for _ in range(5):
        second.advance()
    assert all(torch.equal(v, second.tensors()[k]) for k, v in whole.tensors().items())

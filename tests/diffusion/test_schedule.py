"""Schedules: parity with diffusers, inverses, times and ticks."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipeline import normal, scheduler_of, worst, zero_terminal

from limbeck.diffusion.schedule import Cosine, Discrete, RectifiedFlow, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand

CONTINUOUS = [Cosine(), RectifiedFlow()]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
inside = st.floats(0.001, 0.999)


def exactly(scheduler):
    """The scheduler with its table in float64, and the same table here."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return scheduler, Discrete(tuple(scheduler.alphas_cumprod.tolist()))


def test_stable_diffusion_table_is_that_of_diffusers():
    table = torch.tensor(stable_diffusion_schedule().alphas_cumprod, dtype=torch.float64)
    theirs = DDIMScheduler(**SD).alphas_cumprod.double()
    assert (
        (table - theirs) / table
    ).abs().max() < 2e-5  # theirs is a product of 1000 float32 factors
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert worst(table, (1 - betas).cumprod(0)) < 1e-15


@pytest.mark.parametrize("family", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noised_and_velocity_are_those_of_diffusers(family, betas):
    theirs, ours = exactly(family(beta_schedule=betas))
    ticks = torch.tensor([0, 1, 20, 499, 980, 999])
    x0, eps, t = normal(6, 3, 4, 4, seed=1), normal(6, 3, 4, 4, seed=2), ticks.double() / 1000
    assert torch.equal(ours.tick(t), ticks)
    assert worst(ours.add_noise(x0, eps, t), theirs.add_noise(x0, eps, ticks)) < 1e-13
    velocity = expand(ours.alpha(t), x0) * eps - expand(ours.sigma(t), x0) * x0
    assert worst(velocity, theirs.get_velocity(x0, eps, ticks)) < 1e-13


def test_rectified_flow_noises_as_flow_matching_in_diffusers():
    theirs = FlowMatchEulerDiscreteScheduler()
    ticks = theirs.timesteps[[0, 10, 500, 990, 999]]
    x0, eps = normal(5, 4, 2, 2, seed=1), normal(5, 4, 2, 2, seed=2)
    assert (
        worst(RectifiedFlow().add_noise(x0, eps, ticks / 1000), theirs.scale_noise(x0, ticks, eps))
        < 1e-6
    )  # float32 ticks there


def test_zero_terminal_schedule_ends_in_pure_noise():
    theirs, ours = exactly(scheduler_of("v_prediction"))
    t = torch.ones(2, dtype=torch.float64)
    x0, eps = normal(2, 3), normal(2, 3, seed=1)
    assert theirs.alphas_cumprod[-1] == 0
    assert torch.equal(ours.add_noise(x0, eps, t), eps)
    assert bool((ours.log_snr(t) == -torch.inf).all())
    assert torch.equal(
        ours.inverse_log_snr(torch.tensor([-torch.inf])), torch.tensor([0.999], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "schedule",
    [stable_diffusion_schedule(), zero_terminal(), *CONTINUOUS],
    ids=lambda s: type(s).__name__,
)
def test_signal_falls_and_noise_grows(schedule):
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    assert bool((schedule.alpha(t).diff() <= 0).all()) and bool(
        (schedule.sigma(t).diff() >= 0).all()
    )
    if not isinstance(schedule, RectifiedFlow):
        assert worst(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t)) < 1e-14


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=lambda s: type(s).__name__)
@given(at=inside)
def test_time_inverts_log_snr_of_continuous_schedules(schedule, at):
    t = torch.tensor([at], dtype=torch.float64)
    assert worst(schedule.inverse_log_snr(schedule.log_snr(t)), t) < 1e-12


@given(tick=st.integers(0, 999))
def test_time_inverts_log_snr_at_every_tick(tick):
    schedule = stable_diffusion_schedule()
    t = torch.tensor([tick / 1000], dtype=torch.float64)
    assert torch.equal(schedule.inverse_log_snr(schedule.log_snr(t)), t)
    assert int(schedule.tick(t)) == tick
    assert int(schedule.tick(t.float())) == tick


@given(at=st.floats(0, 1))
def test_snapping_goes_to_the_nearest_tick_and_stays(at):
    schedule = stable_diffusion_schedule()
    t = torch.tensor([at], dtype=torch.float64)
    near = schedule.snap(t)
    assert torch.equal(schedule.snap(near), near)
    assert torch.equal(schedule.alpha(t), schedule.alpha(near))
    assert abs(float(near) - at) <= 0.0005 + 1e-12 or float(near) == 0.999


@given(steps=st.integers(1, 1000))
def test_ladder_is_the_trailing_spacing_of_diffusers(steps):
    theirs = scheduler_of("epsilon")
    theirs.set_timesteps(steps)
    schedule = stable_diffusion_schedule()
    ours = schedule.tick(schedule.sampling_times(steps)).tolist()
    assert len(ours) == steps
    for i, (a, b) in enumerate(zip(ours, theirs.timesteps.tolist(), strict=False)):
        tie = (
            2 * i * 1000 % (2 * steps) == steps
        )  # exactly between two ticks, where their float sum decides by its error
        assert a == b or (tie and abs(a - b) == 1)
        assert i == 0 or a < ours[i - 1]


@pytest.mark.parametrize("steps", [0, 51])
def test_ladder_refuses_more_steps_than_ticks(steps):
    with pytest.raises(ValueError, match=r"1 \.\. 50"):
        zero_terminal().sampling_times(steps)


@pytest.mark.parametrize(
    "table", [(0.5,), (0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (float("nan"), 0.5)]
)
def test_tables_that_are_no_schedule_are_refused(table):
    with pytest.raises(ValueError, match="alphas_cumprod"):
        Discrete(table)

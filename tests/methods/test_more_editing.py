"""IDS, SSD-edit, LUSD and CSD-Edit: their formulas, and what they are equal to."""

from dataclasses import replace

import pytest
import torch
from tiny_pipeline import (
    class_conditions,
    f64,
    make_inputs,
    max_difference,
    normal,
    prompt_conditions,
)

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.schedule import RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.attention_masks import Unmasked
from limbeck.distillation.inputs import EditSource, SetupContext
from limbeck.distillation.state import Stateless
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.methods.bridge import Bridge
from limbeck.methods.csd import CSD
from limbeck.methods.csd_edit import CSDEdit, TargetGroups
from limbeck.methods.dds import DDS
from limbeck.methods.ids import IDS
from limbeck.methods.lusd import LUSD
from limbeck.methods.sds import SDS
from limbeck.methods.ssd_edit import SSDEdit
from limbeck.methods.svgd import SVGD
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.training.experiment import Experiment
from limbeck.training.model_defaults import default_experiment

SD, FLOW = stable_diffusion_schedule(), RectifiedFlowSchedule()
NULL, TARGET, SOURCE = (1.0, 1.0, 1.0), (0.1, 0.2, 0.7), (0.8, 0.1, 0.1)
NO_STATE, ZERO = Stateless(), torch.zeros(5, 4)
every_schedule = pytest.mark.parametrize("schedule", [SD, FLOW], ids=["sd", "flow"])


def mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)


def edit_step(schedule=SD, t=0.5, rows=5, **changes):
    inputs = make_inputs(
        schedule,
        normal(rows, 4, seed=2),
        t,
        normal(rows, 4, seed=3),
        class_conditions(rows, NULL, TARGET),
    )
    source = EditSource(normal(rows, 4, seed=4), class_conditions(rows, NULL, SOURCE))
    return replace(inputs, source=source, **changes)


def eps_hat(prior, s, x0, conditions, guidance, eps=None):
    xt = s.schedule.add_noise(x0, s.eps if eps is None else eps, s.t)
    return guided_prediction(prior, xt, s.t, conditions, guidance).eps


def prompts_step(schedule):
    """A prior that reads prompts, its context, and a step of an edit from one prompt to another."""
    prior = colored_shapes(4, schedule=schedule)
    target, source = (prompt_conditions(prior, [y] * 5) for y in ("red disc", "blue ring"))
    x0, eps, source_x0 = (normal(5, 3, 4, 4, seed=seed) for seed in (2, 3, 4))
    s = make_inputs(schedule, x0, 0.5, eps, target)
    s = replace(s, source=EditSource(source_x0, source), step=70, steps=200)
    setup = SetupContext(5, 1, 0, x0, ("red disc",), ("blue ring",))
    return prior, setup, s


# IDS


def test_ids_without_regularization_is_dds():
    s, prior = edit_step(), mixture()
    assert torch.equal(IDS(5.0, 0)(prior, s, NO_STATE), DDS(5.0)(prior, s, NO_STATE))


@every_schedule
def test_ids_descends_the_distance_to_the_source_in_x_t(schedule):
    """By central differences of |x_source - x0_hat(z)| of each row."""
    s, prior, h = edit_step(schedule), mixture(schedule), 1e-5
    alpha, sigma = expand(schedule.alpha(s.t), s.x0), expand(schedule.sigma(s.t), s.x0)

    def distance(z):
        x0_hat = guided_prediction(prior, z, s.t, s.source.conditions, 5.0).x0
        return (s.source.x0 - x0_hat).square().sum(1).sqrt()

    z = schedule.add_noise(s.source.x0, s.eps, s.t)
    for _ in range(2):
        steps = [h * unit.expand(5, -1) for unit in torch.eye(4).double()]
        z = z - 0.3 * torch.stack([(distance(z + d) - distance(z - d)) / (2 * h) for d in steps], 1)
    noise = (z - alpha * s.source.x0) / sigma
    found = IDS(5.0, 2, 0.3).source_noise(prior, s)
    assert max_difference(found, noise) < 1e-7
    expected = eps_hat(prior, s, s.x0, s.conditions, 5.0, noise)
    expected = expected - eps_hat(prior, s, s.source.x0, s.source.conditions, 5.0, noise)
    assert max_difference(IDS(5.0, 2, 0.3)(prior, s, NO_STATE), expected) < 1e-6


def test_identity_39_converged_ids_is_sds_with_the_noise_of_the_source():
    """On Gaussians eps* = sigma / alpha (x_source - m) / C is known, and the network agrees."""
    m0, m_source, m_target = normal(3, 4, seed=8)
    prior = GaussianMixture(torch.stack([m0, m_source, m_target]), f64([0.7] * 3), schedule=SD)
    s = edit_step(t=0.6)
    source = EditSource(s.source.x0, class_conditions(5, (1, 0, 0), (0, 1, 0)))
    s = replace(s, source=source, conditions=class_conditions(5, (1, 0, 0), (0, 0, 1)))
    alpha, sigma = float(SD.alpha(s.t)[0]), float(SD.sigma(s.t)[0])
    mean = m0 + 3.0 * (m_source - m0)
    s = replace(s, eps=sigma / alpha * (source.x0 - mean) / 0.49)
    # the gradient of a norm has length 1 wherever rounding leaves any
    method = IDS(3.0, regularization_lr=1e-14)
    assert max_difference(method.source_noise(prior, s), s.eps) < 1e-12
    sds = SDS(3.0)(prior, s, NO_STATE)
    assert max_difference(method(prior, s, NO_STATE), sds) < 1e-12
    moved = replace(s, eps=s.eps + 0.1)
    assert max_difference(method(prior, moved, NO_STATE), SDS(3.0)(prior, moved, NO_STATE)) > 1e-3


def test_regularization_brings_the_noise_of_ids_to_that_of_the_source():
    m0, m_source, _ = normal(3, 4, seed=8)
    prior = GaussianMixture(torch.stack([m0, m_source, m0]), f64([0.7] * 3), schedule=SD)
    s = edit_step(t=0.6)
    s = replace(s, source=EditSource(s.source.x0, class_conditions(5, (1, 0, 0), (0, 1, 0))))
    alpha, sigma = float(SD.alpha(s.t)[0]), float(SD.sigma(s.t)[0])
    goal = sigma / alpha * (s.source.x0 - (m0 + 3.0 * (m_source - m0))) / 0.49
    misses = [(IDS(3.0, k, 0.02).source_noise(prior, s) - goal).norm() for k in (0, 3, 30)]
    assert misses[0] > misses[1] > misses[2]


# SSD-edit


@every_schedule
def test_ssd_edit_is_the_sum_of_its_terms(schedule):
    s, prior, t = edit_step(schedule), mixture(schedule), 0.5
    null = replace(s.conditions, pos=s.conditions.null)
    target = eps_hat(prior, s, s.x0, s.conditions, 1.0)
    of_source = eps_hat(prior, s, s.x0, s.source.conditions, 1.0)
    without = eps_hat(prior, s, s.x0, null, 1.0)
    source_null = eps_hat(prior, s, s.source.x0, null, 1.0)
    pull = 0.075 * torch.tensor(t).double().exp() * float(schedule.alpha(s.t)[0])
    expected = 1.0 * (of_source - source_null) + 3.75 * (target - of_source)
    expected = expected + 5.5 * (target - without) + pull * (s.x0 - s.source.x0)
    assert max_difference(SSDEdit()(prior, s, NO_STATE), expected) < 1e-12


def test_identity_40_terms_of_ssd_edit_alone():
    s, prior = edit_step(), mixture()
    csd = CSD(negative_prompt="")(prior, s, NO_STATE)
    third = SSDEdit(5.5, 0.0, 0.0, 0.0)(prior, s, NO_STATE)
    # s (eps(x_t, y) - eps(x_t)), and CSD is this difference itself: the factor is s
    assert max_difference(third, 5.5 * csd) < 1e-12
    assert float(csd.abs().max()) > 0.1
    second = SSDEdit(0.0, 3.75, 0.0, 0.0)(prior, s, NO_STATE)
    difference = eps_hat(prior, s, s.x0, s.conditions, 1.0)
    difference = difference - eps_hat(prior, s, s.x0, s.source.conditions, 1.0)
    assert max_difference(second, 3.75 * difference) < 1e-12
    nothing = class_conditions(5, NULL, NULL)
    still = replace(s, x0=s.source.x0, conditions=nothing)
    still = replace(still, source=EditSource(s.source.x0, nothing))
    assert max_difference(SSDEdit()(prior, still, NO_STATE), ZERO) == 0


@every_schedule
def test_identity_40_the_second_term_of_ssd_edit_is_stage_two_of_bridge(schedule):
    prior, setup, s = prompts_step(schedule)
    bridge = Bridge(3.75, 0.0)
    expected = bridge(prior, s, bridge.init(prior, setup))
    assert float(expected.abs().max()) > 0.1
    assert max_difference(SSDEdit(0.0, 3.75, 0.0, 0.0)(prior, s, NO_STATE), expected) < 1e-12


# LUSD


@every_schedule
def test_identity_51_lusd_is_standardized_bridge_between_its_prompts(schedule):
    """With M = 1 and no pull; whatever the factor of e is, the standard deviation takes it out."""
    prior, setup, s = prompts_step(schedule)
    bridge = Bridge(2.5, 0.0)
    expected = bridge(prior, s, bridge.init(prior, setup))
    gain = 0.01 + 0.14 * (1 - float(torch.sigmoid(f64([10 * 70 / 199 - 5]))))
    expected = gain * expected / expand(expected.flatten(1).std(1), expected)
    for factor in (1.0, 4.0):
        lusd = LUSD(factor, pull=0.0, tau=0.0, attention_mask=False)
        found = lusd(prior, s, lusd.init(prior, setup))
        assert max_difference(found, expected) < 1e-12
    pulled = LUSD(pull=0.02, tau=0.0, attention_mask=False)
    assert max_difference(pulled(prior, s, pulled.init(prior, setup)), expected) > 1e-4


def lusd_step(step=0, steps=300, **changes):
    return replace(edit_step(), step=step, steps=steps, **changes)


def test_lusd_is_standardized_and_its_gain_falls():
    prior, state = mixture(), Unmasked(5, 0.0, torch.device("cpu"))
    s = lusd_step(0)
    difference = eps_hat(prior, s, s.x0, s.conditions, 1.0)
    difference = difference - eps_hat(prior, s, s.x0, s.source.conditions, 1.0)
    d = 0.98 * difference + 0.02 * (s.x0 - s.source.x0)
    for step, gain in ((0, 0.01 + 0.14 * (1 - 1 / (1 + 2.718281828459045**5))), (299, 0.0109370)):
        result = LUSD(tau=0.0)(prior, lusd_step(step), state)
        assert max_difference(result / gain, d / d.std(1, keepdim=True)) < 1e-5
        assert max_difference(result.std(1), torch.full((5,), gain)) < 1e-7


def test_lusd_refuses_weak_draws_until_its_threshold_has_fallen():
    prior, method = mixture(), LUSD(tau=1.0)
    setup = SetupContext(5, 5, 0, torch.zeros(5, 4), source_prompts=("a",) * 5)
    state = method.init(prior, setup)
    s = lusd_step(10)
    difference = eps_hat(prior, s, s.x0, s.conditions, 1.0)
    size = (difference - eps_hat(prior, s, s.x0, s.source.conditions, 1.0)).std(1)
    assert bool((size < 1).any())
    waited = torch.zeros(5)
    for _ in range(400):
        moved = method(prior, s, state).abs().sum(1) > 0
        waited = waited + (~moved).float()
    # a draw of this size is accepted once .99^k has fallen below it, and then always
    expected = (size.clamp_max(1).log() / f64([0.99]).log()).ceil()
    assert max_difference(waited, expected) == 0 and float(waited.max()) > 1
    assert max_difference(state.tau, 0.99 ** waited.double()) < 1e-12
    again = method.init(prior, setup)
    again.load(state.tensors())
    assert torch.equal(again.tau, state.tau)


def test_lusd_of_prompts_with_one_meaning_stands_still():
    s = lusd_step(3)
    s = replace(s, x0=s.source.x0, source=EditSource(s.source.x0, s.conditions))
    state = Unmasked(5, 0.01, torch.device("cpu"))
    assert max_difference(LUSD()(mixture(), s, state), ZERO) == 0
    assert max_difference(LUSD(tau=0.0)(mixture(), s, state), ZERO) == 0


# CSD-Edit


def groups(*prompts: str) -> TargetGroups:
    setup = SetupContext(len(prompts), len(prompts), 0, torch.zeros(len(prompts), 4), prompts)
    return TargetGroups(setup)


def test_identity_54_csd_edit_of_one_image_per_prompt_is_dds():
    s, prior = edit_step(), mixture()
    state = groups("a", "b", "c", "d", "e")
    expected = DDS(5.0)(prior, s, NO_STATE)
    assert max_difference(CSDEdit(5.0)(prior, s, state), expected) < 1e-12


@pytest.mark.parametrize("space", ["x0", "xt"])
def test_identity_54_csd_edit_is_svgd_of_dds_among_images_of_one_target(space):
    s, prior = edit_step(), mixture()
    result = CSDEdit(5.0, space)(prior, s, groups("a", "b", "a", "a", "b"))
    dds = DDS(5.0)(prior, s, NO_STATE)
    for rows in ([0, 2, 3], [1, 4]):
        x = (s.x0 if space == "x0" else s.xt)[rows]
        n = len(rows)
        squares = (x[:, None] - x[None]).square().sum(-1)
        h = squares[squares > 0].quantile(0.5) / torch.tensor(n).double().log()
        k = (-squares / h).exp()
        repulsion = (-2 / h * k[..., None] * (x[:, None] - x[None])).sum(1)
        assert max_difference(result[rows], (k @ dds[rows] + repulsion) / n) < 1e-12
        assert max_difference(repulsion.sum(0), torch.zeros(4)) < 1e-12


@pytest.mark.parametrize("method", [CSDEdit(), SVGD(kernel_space="xt")])
def test_a_kernel_of_noised_images_needs_one_time_for_all(method):
    options = {"method": method, "source_prompt": ("a mug",)}
    with pytest.raises(ValueError, match=r"one time for all of them: use --timesteps\.no-per-row"):
        Experiment(("a red mug",), particles=2, **options)
    shared = {"timesteps": UniformTimesteps(per_row=False)}
    Experiment(("a red mug",), particles=2, **options | shared)
    Experiment(("a red mug",), **options)  # one row
    Experiment(
        ("a red mug",), particles=2, **options | {"method": replace(method, kernel_space="x0")}
    )


def test_a_run_of_csd_edit_has_one_time_for_all():
    e = default_experiment(["a red mug"], {"method": "csd-edit"})
    assert e.timesteps == UniformTimesteps(t_min=0.05, t_max=0.95, per_row=False)


def test_identity_54_the_mean_of_two_images_of_csd_edit_is_not_repelled():
    s, prior = edit_step(rows=2), mixture()
    x0 = torch.stack([s.x0[0], s.x0[0] + 0.1])
    pair = replace(s, x0=x0)
    dds = DDS(5.0)(prior, pair, NO_STATE)
    repelled = CSDEdit(5.0, "x0")(prior, pair, groups("a", "a"))
    # the kernel of two images is 1/2 at any distance
    assert max_difference(repelled.mean(0), 0.75 * dds.mean(0)) < 1e-12

"""DDS, PDS, CDS and SDEdit: identities, captured attention, passes, bad options."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_pipeline import (
    class_conditions,
    count_calls,
    f64,
    make_inputs,
    max_difference,
    normal,
    prompt_conditions,
    row_rng,
)
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction, required_conditions
from limbeck.diffusion.schedule import (
    CosineSchedule,
    DiscreteSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import EditSource, SetupContext
from limbeck.distillation.state import Stateless
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.cds import CDS
from limbeck.methods.dds import DDS
from limbeck.methods.hifa import HiFA
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.system import processes
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
NO_STATE = Stateless()
TIMES = [0.05, 0.2, 0.5, 0.8, 0.95]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", TIMES)


def mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(normal(4, 4, seed=1), f64([0.3, 0.6, 1.0, 0.5]), schedule=schedule)


def conditions(rows: int, *shares: float) -> Conditions:
    return class_conditions(rows, (1, 1, 1, 1), shares)


def edit_inputs(schedule, t, x0=None, source=None):
    """Five rows and their source, which has another prompt."""
    x0 = normal(5, 4, seed=2) if x0 is None else x0
    source = normal(5, 4, seed=4) if source is None else source
    s = make_inputs(schedule, x0, t, normal(5, 4, seed=3), conditions(5, 0.1, 0.1, 0.7, 0.1))
    return replace(s, source=EditSource(source, conditions(5, 0.8, 0.1, 0.05, 0.05)))


def gaussians(m0, m_source, m_target, std: float, schedule=SD) -> GaussianMixture:
    return GaussianMixture(torch.stack([m0, m_source, m_target]), f64([std] * 3), schedule=schedule)


def one_of_three_classes(rows: int, k: int) -> Conditions:
    return class_conditions(rows, (1, 0, 0), tuple(float(i == k) for i in range(3)))


# DDS


@every_schedule
@every_time
def test_dds_is_the_difference_of_two_guided_predictions(schedule, t):
    prior, s = mixture(schedule), edit_inputs(schedule, t)

    def eps_hat(x0, conditions):
        xt = schedule.add_noise(x0, s.eps, s.t)
        return guided_prediction(prior, xt, s.t, conditions, 7.5).eps

    expected = eps_hat(s.x0, s.conditions) - eps_hat(s.source.x0, s.source.conditions)
    assert max_difference(DDS(7.5)(prior, s, NO_STATE), expected) < 1e-12


@pytest.mark.parametrize(
    "method", [DDS(7.5), PDS(100.0), PDS(7.5, coefficients="consistent")], ids=lambda m: repr(m)[:3]
)
@every_time
def test_identities_16_and_17_zero_if_image_and_prompt_are_the_source(method, t):
    prior, s = mixture(), edit_inputs(SD, t)
    s = replace(s, source=EditSource(s.x0, s.conditions))
    assert max_difference(method(prior, s, NO_STATE), torch.zeros(5, 4).double()) == 0.0


@every_schedule
@every_time
def test_identity_16_dds_has_zero_variance_for_equal_covariances(schedule, t):
    m0, m_s, m_t = normal(3, 4, seed=8)
    prior, std, n = gaussians(m0, m_s, m_t, 0.7, schedule), 0.7, 200
    x, x_source = normal(1, 4, seed=5).expand(n, -1), normal(1, 4, seed=6).expand(n, -1)
    s = make_inputs(schedule, x, t, normal(n, 4, seed=7), one_of_three_classes(n, 2))
    s = replace(s, source=EditSource(x_source, one_of_three_classes(n, 1)))
    alpha, sigma = schedule.alpha(s.t[:1]), schedule.sigma(s.t[:1])
    gain = alpha * sigma / (alpha**2 * std**2 + sigma**2)
    expected = (gain * (x[0] - x_source[0] - 7.5 * (m_t - m_s))).expand(n, -1)
    assert max_difference(DDS(7.5)(prior, s, NO_STATE), expected) < 1e-10


def test_identity_16_stationary_point_of_dds():
    m0, m_s, m_t = normal(3, 4, seed=8)
    prior, x_source = gaussians(m0, m_s, m_t, 0.7), normal(2, 4, seed=5)
    stationary = x_source + 3.0 * (m_t - m_s)
    s = make_inputs(SD, stationary, f64([0.2, 0.7]), normal(2, 4), one_of_three_classes(2, 2))
    s = replace(s, source=EditSource(x_source, one_of_three_classes(2, 1)))
    assert max_difference(DDS(3.0)(prior, s, NO_STATE), torch.zeros(2, 4).double()) < 1e-12
    assert max_difference(DDS(3.1)(prior, s, NO_STATE), torch.zeros(2, 4).double()) > 1e-3


# PDS


def stochastic_latents(prior, x0, eps, prev_eps, t, prev, conditions, coefficients) -> Tensor:
    """z_t = (x_t' - mu) / sigma_t as in the paper, with both noises, for Stable Diffusion.

    ``prev`` is t', two ticks before t; the published beta_t is that of one tick.
    """
    alpha_bar, prev_alpha_bar = SD.alpha(t) ** 2, SD.alpha(prev) ** 2
    tick_alpha_bar = SD.alpha(SD.snap(t - 0.001)) ** 2
    beta = 1 - alpha_bar / (prev_alpha_bar if coefficients == "consistent" else tick_alpha_bar)
    xt = SD.add_noise(x0, eps, t)
    x0_hat = guided_prediction(prior, xt, t, conditions, 20.0).x0
    gamma = prev_alpha_bar.sqrt() * beta / (1 - alpha_bar)
    delta = (1 - beta).sqrt() * (1 - prev_alpha_bar) / (1 - alpha_bar)
    sigma = ((1 - prev_alpha_bar) / (1 - alpha_bar) * beta).sqrt()
    mu = expand(gamma, x0) * x0_hat + expand(delta, x0) * xt
    return (SD.add_noise(x0, prev_eps, prev) - mu) / expand(sigma, x0)


@pytest.mark.parametrize("coefficients", ["published", "consistent"])
@every_time
def test_identity_17_pds_is_the_difference_of_stochastic_latents(coefficients, t):
    """Whatever eps_t' is."""
    prior, s = mixture(), edit_inputs(SD, t)
    prev, prev_eps = SD.snap(s.t - 0.002), normal(5, 4, seed=11)
    assert max_difference(prev, s.t - 0.002) < 1e-12
    target, source = (
        stochastic_latents(prior, x0, s.eps, prev_eps, s.t, prev, y, coefficients)
        for x0, y in ((s.x0, s.conditions), (s.source.x0, s.source.conditions))
    )
    direction = PDS(20.0, coefficients=coefficients)(prior, s, NO_STATE)
    assert max_difference(direction, target - source) < 1e-9


@every_schedule
@pytest.mark.parametrize("stride", [0.002, 0.02])
@every_time
def test_identity_17_pds_with_consistent_coefficients_is_chi_times_dds(schedule, stride, t):
    prior, s = mixture(schedule), edit_inputs(schedule, t)
    method = PDS(20.0, stride, "consistent")
    chi, psi = method.chi_and_psi(schedule, s.t)
    assert float(psi.abs().max()) < 1e-11
    result = method(prior, s, NO_STATE)
    expected = expand(chi, s.x0) * DDS(20.0)(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-9


def test_identity_17_psi_over_chi_of_the_published_coefficients():
    chi, psi = PDS().chi_and_psi(SD, f64([0.05, 0.2, 0.5, 0.8, 0.95]))
    known = f64([4.30, 1.53, 0.393, 0.101, 0.046])
    rounding = f64([0.005, 0.005, 0.0005, 0.0005, 0.0005])  # half of the last digit
    assert bool(((psi / chi - known).abs() <= rounding).all())


def test_pds_coefficients_of_a_rectified_flow():
    """q(x_t' | x_t, x0) by Bayes' rule of the joint Gaussian, for alpha = 1 - t."""
    schedule, t, prev = RectifiedFlowSchedule(), f64([0.6]), f64([0.5])
    a = 0.4 / 0.5
    # covariance of x_t' and x_t given x0
    cov = torch.tensor([[0.25, a * 0.25], [a * 0.25, 0.36]], dtype=torch.float64)
    gain = cov[0, 1] / cov[1, 1]
    std = (cov[0, 0] - gain * cov[0, 1]).sqrt()
    chi, _ = PDS(stride=0.1, coefficients="consistent").chi_and_psi(schedule, t)
    # mu = alpha' x0_hat + gain (x_t - alpha x0_hat), and x0_hat changes by -lambda per eps_hat
    gamma = schedule.alpha(prev) - gain * schedule.alpha(t)
    assert max_difference(chi, gamma * 0.6 / 0.4 / std) < 1e-12


@pytest.mark.parametrize("coefficients", ["published", "consistent"])
def test_pds_is_finite_at_times_below_the_stride(coefficients):
    """t - stride would be 0, where a rectified flow has no noise, and the posterior no width."""
    method, t = PDS(stride=0.05, coefficients=coefficients), f64([0.02, 0.05, 0.06])
    chi, psi = method.chi_and_psi(RectifiedFlowSchedule(), t)
    assert bool(chi.isfinite().all()) and bool(psi.isfinite().all()) and bool((chi > 0).all())
    half, _ = PDS(stride=0.01, coefficients=coefficients).chi_and_psi(
        RectifiedFlowSchedule(), t[:1]
    )
    assert max_difference(chi[:1], half) < 1e-12  # t' is half of t


@pytest.mark.parametrize("stride", [0.003, 0.0015, 0.0025])
def test_pds_takes_the_same_step_at_neighboring_times(stride):
    """Half of an odd number of ticks is always rounded to the same side."""
    chi, psi = PDS(stride=stride).chi_and_psi(SD, f64([0.499, 0.5, 0.501, 0.502]))
    ratio = psi / chi
    assert bool((ratio.diff().abs() < 0.02 * ratio[0]).all()) and bool((ratio > 0).all())


def test_pds_rejects_a_stride_within_one_tick():
    prior = colored_shapes(8)
    prior.schedule = DiscreteSchedule(tuple(torch.linspace(0.99, 0.01, 50).tolist()))
    start = SetupContext(1, 1, 0, torch.zeros(1, 3, 8, 8), ("a red disc",), ("a blue ring",))
    with pytest.raises(ValueError, match=r"stride 0\.002 is less than two ticks"):
        PDS().init(prior, start)
    PDS(stride=0.05).init(prior, start)
    with pytest.raises(ValueError, match=r"stride 0\.02 is less than two ticks"):
        PDS(stride=0.02).init(prior, start)
    PDS(stride=0.02, coefficients="consistent").init(prior, start)
    with pytest.raises(ValueError, match="stride must be between 0 and 1, not 0"):
        PDS(stride=0)


# SDEdit


@every_schedule
def test_sdedit_is_lambda_times_hifa(schedule):
    prior, s = mixture(schedule), edit_inputs(schedule, 0.6)
    lam = expand(schedule.sigma(s.t) / schedule.alpha(s.t), s.x0)
    result = SDEdit(5.0, denoise_steps=6)(prior, s, NO_STATE)
    expected = lam * HiFA(5.0, denoise_steps=6, lambda_rgb=0.0)(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-11


def test_sdedit_step_of_lr_one_is_ddim_from_the_noised_image():
    prior, schedule, k = mixture(CosineSchedule()), CosineSchedule(), 12
    experiment = Experiment(
        ("x",),
        method=SDEdit(1.0, k),
        representation=Latents(lr=1.0),
        timesteps=FixedTimesteps(0.6),
        weight=UniformWeight(),
        optimizer=SGD(),
        steps=1,
        particles=3,
    )
    run, particles = Run(experiment, prior), torch.arange(3)
    before = run.representation.render(RenderRequest(particles)).image.detach().clone()
    eps = run.advance().inputs.eps
    xt = schedule.add_noise(before, eps, torch.full((3,), 0.6))
    for i in range(k, 0, -1):  # DDIM, eq. 12
        t, end = (torch.full((3,), 0.6 * j / k, dtype=torch.float64) for j in (i, i - 1))
        prediction = prior(xt, t, run.prompts.conditions_for(particles).pos)[0]
        xt = schedule.add_noise(prediction.x0, prediction.eps, end)
    after = run.representation.render(RenderRequest(particles)).image
    assert max_difference(after, xt) < 1e-5


# CDS


def network_edit(prior: StableDiffusion, rows: int = 2):
    x0, eps, source = (normal(rows, 4, 8, 8, seed=k, dtype=torch.float32) for k in (2, 3, 4))
    conditions = prompt_conditions(prior, ["a red mug"] * rows)
    source_conditions = prompt_conditions(prior, ["two striped cats"] * rows)
    s = make_inputs(prior.schedule, x0, 0.5, eps, conditions)
    return replace(s, source=EditSource(source, source_conditions))


def hook_attention(prior: StableDiffusion, act) -> list[Tensor]:
    """Outputs of the self-attention layers of the up blocks while ``act`` runs, by own hooks."""
    outputs = []
    layers = [m for n, m in prior.unet.up_blocks.named_modules() if n.endswith("attn1")]
    assert layers

    def record(module, inputs, output):
        outputs.append(output.detach())

    hooks = [layer.register_forward_hook(record) for layer in layers]
    act()
    for hook in hooks:
        hook.remove()
    return outputs


def count_hooks(prior: StableDiffusion) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prior.unet.modules())


def test_captured_attention_is_what_forward_hooks_see(prior):
    s = network_edit(prior)

    def act():
        prior(s.xt, s.t, s.conditions.null, s.conditions.pos)

    with torch.no_grad(), prior.capture_attention() as captured:
        act()
    with torch.no_grad():
        hooked = hook_attention(prior, act)
    assert len(captured) == len(hooked) > 0
    for a, b in zip(captured, hooked, strict=True):
        assert a.shape[0] == 4 and a.shape[2] * a.shape[3] == b.shape[1]
        assert torch.equal(a.flatten(2).mT, b)


def test_captured_attention_keeps_the_aspect_ratio(prior):
    x, conditions = torch.zeros(1, 4, 8, 16), prior.condition(["a red mug"])
    with torch.no_grad(), prior.capture_attention() as features:
        prior(x, torch.tensor([0.5]), conditions)
    assert all(2 * f.shape[2] == f.shape[3] for f in features)


@pytest.mark.parametrize("fails", [False, True])
def test_capture_attention_restores_the_network(prior, fails):
    s, before = network_edit(prior), count_hooks(prior)
    out = prior(s.xt, s.t, s.conditions.pos)[0].eps.detach()
    if fails:
        with pytest.raises(RuntimeError), prior.capture_attention():
            prior(s.xt[:, :3], s.t, s.conditions.pos)
    else:
        CDS()(prior, s, NO_STATE)
    assert count_hooks(prior) == before
    assert torch.equal(prior(s.xt, s.t, s.conditions.pos)[0].eps.detach(), out)
    assert all(p.grad is None for p in prior.unet.parameters())


def patch_nce(prior: StableDiffusion, s, x0: Tensor, sizes, tau) -> Tensor:
    """PatchNCE over all patches of all layers, row by row: a source patch among edited ones."""
    with torch.no_grad(), prior.capture_attention() as queries:
        prior(s.schedule.add_noise(s.source.x0, s.eps, s.t), s.t, s.source.conditions.pos)
    with prior.capture_attention() as keys:
        prior(s.schedule.add_noise(x0, s.eps, s.t), s.t, s.conditions.pos)
    loss = x0.new_zeros(())
    for query, key in zip(queries, keys, strict=True):
        for size in sizes:
            for row in range(len(x0)):
                q = F.avg_pool2d(query[row], size).flatten(1).T
                k = F.avg_pool2d(key[row], size).flatten(1).T
                cosine = (q @ k.T) / q.norm(dim=1)[:, None] / k.norm(dim=1)[None]
                loss = loss + F.cross_entropy(cosine / tau, torch.arange(len(q)))
    return loss


def float64_edit(prior: StableDiffusion, rows: int = 2):
    """``network_edit`` in float64, which resolves a small gradient of a large loss."""
    prior.unet.double()
    prior.dtype = torch.float64
    s = network_edit(prior, rows)
    source = replace(s.source, x0=s.source.x0.double())
    return replace(s, x0=s.x0.double(), eps=s.eps.double(), source=source)


#: w_cut h w / 2000 of the default w_cut on 8 x 8 latents.
NCE_WEIGHT = 3.0 * 64 / 2000


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_cds_is_dds_and_the_gradient_of_patch_nce(prior, guidance):
    s, method = float64_edit(prior), CDS(guidance, w_cut=3.0, num_patches=1000, tau=0.3)
    x = s.x0.clone().requires_grad_()
    (grad,) = torch.autograd.grad(patch_nce(prior, s, x, (1, 2), 0.3), x)
    with torch.no_grad():
        cds, dds = method(prior, s, NO_STATE), DDS(guidance)(prior, s, NO_STATE)
    size = float(grad.abs().max())
    assert size > 1e-6
    assert max_difference((cds - dds) / NCE_WEIGHT, grad) < 1e-9 * size


def test_patch_nce_asks_each_source_patch_for_itself_among_the_edited_ones():
    """Features (1, 0), (0, 1) of the source; (1, 0), (1, 0) of the edit: exchanged, it is another.

    The logits are ((1, 1), (0, 0)): every source patch finds both edited patches equally like
    itself, log 2 each; an edited patch is sure of its source, log(1 + e) - 1 and log(1 + e).
    """
    method = CDS(patch_sizes=(1,), tau=1.0)
    source, edit = f64([[1, 0], [0, 1]]), f64([[1, 1], [0, 0]])  # channels by places
    source, edit = (f.reshape(1, 2, 1, 2) for f in (source, edit))
    assert float(method.patch_nce(source, edit, row_rng(1))) == pytest.approx(math.log(2))
    exchanged = float(method.patch_nce(edit, source, row_rng(1)))
    assert exchanged == pytest.approx(math.log(1 + math.e) - 0.5)


def test_gradient_of_patch_nce_equals_finite_differences(prior):
    s = float64_edit(prior, rows=1)
    with torch.no_grad():
        cds = CDS(1.0, num_patches=1000, tau=0.3)(prior, s, NO_STATE)
        grad = (cds - DDS(1.0)(prior, s, NO_STATE)) / NCE_WEIGHT
        v = normal(1, 4, 8, 8, seed=21)
        upper, lower = (patch_nce(prior, s, s.x0 + h * v, (1, 2), 0.3) for h in (1e-4, -1e-4))
    assert grad.dtype == torch.float64
    assert float((grad * v).sum()) == pytest.approx(float(upper - lower) / 2e-4, rel=1e-5)


def test_cds_needs_a_patch_that_fits_a_layer(prior):
    s = network_edit(prior)
    with pytest.raises(ValueError, match=r"patch_sizes \(64, 128\) fit no layer of this model"):
        CDS(7.5, patch_sizes=(64, 128))(prior, s, NO_STATE)
    own, fitting = (CDS(7.5, patch_sizes=p)(prior, s, NO_STATE) for p in ((1, 64), (1,)))
    assert max_difference(own, fitting) == 0  # sizes that fit no layer change nothing


def test_cds_patches_are_drawn_with_the_generator_of_the_step(prior):
    s, method = network_edit(prior), CDS(7.5, num_patches=4)
    with torch.no_grad():
        a, b, c = (
            method(prior, replace(s, rng=row_rng(len(s.x0), k)), NO_STATE) for k in (1, 1, 2)
        )
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, [8, 2]), (1.0, [4, 2])])
def test_cds_passes(prior, guidance, rows):
    s, calls = network_edit(prior), []
    hook = prior.unet.register_forward_hook(
        lambda m, inputs, out: calls.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    with torch.no_grad():
        _, passes = count_calls(prior, lambda: CDS(guidance)(prior, s, NO_STATE))
    hook.remove()
    assert calls == [(rows[0], False), (rows[1], True)]
    assert passes == (2, sum(rows))


@pytest.mark.parametrize("method", [DDS, PDS])
@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 4), (1.0, 2), (0.0, 2)])
def test_dds_and_pds_passes(method, guidance, rows):
    prior, s = mixture(), edit_inputs(SD, 0.5)
    method(guidance)(prior, s, NO_STATE)
    assert (prior.call_counter.calls, prior.call_counter.rows) == (1, rows * 5)


def test_sdedit_passes():
    prior, s = mixture(), edit_inputs(SD, 0.5)
    SDEdit(7.5, denoise_steps=5)(prior, s, NO_STATE)
    assert (prior.call_counter.calls, prior.call_counter.rows) == (5, 2 * 5 * 5)


def test_edits_support_perp_neg_and_denoise_steps(prior):
    perp_neg = ((prior.condition(["low quality"] * 2), torch.ones(2)),)
    s = network_edit(prior)
    source = replace(
        s.source, conditions=replace(s.source.conditions, perp_neg=perp_neg, denoise_steps=2)
    )
    conditions = replace(s.conditions, perp_neg=perp_neg, denoise_steps=2)
    s = replace(s, conditions=conditions, source=source)
    assert len(required_conditions(s.conditions, 7.5)) == 3
    x = s.x0.clone().requires_grad_()
    (expected,) = torch.autograd.grad(patch_nce(prior, s, x, (1, 2), 0.3), x)
    with torch.no_grad():
        dds, without_nce = DDS(7.5)(prior, s, NO_STATE), CDS(7.5, w_cut=0.0)(prior, s, NO_STATE)
        cds = CDS(7.5, num_patches=1000, tau=0.3)(prior, s, NO_STATE)
    assert max_difference(without_nce, dds) < 1e-5
    bound = 1e-4 * float(expected.abs().max()) + 1e-5
    assert max_difference((cds - dds) / NCE_WEIGHT, expected) < bound


# All methods


@pytest.mark.parametrize("method", [DDS(), PDS()], ids=["dds", "pds"])
def test_edits_need_a_source(method):
    message = (
        "this method edits images: use limbeck edit IMAGE, or describe them with --source-prompt"
    )
    with pytest.raises(ValueError, match=message):
        Run(Experiment(("a red disc",), method=method), colored_shapes(8))
    s = replace(edit_inputs(SD, 0.5), source=None)
    with pytest.raises(ValueError, match=message):
        method(mixture(), s, NO_STATE)


def test_cds_needs_a_source_and_attention(prior):
    with pytest.raises(ValueError, match="this method edits images"):
        Run(Experiment(("a red mug",), method=CDS()), prior)
    experiment = Experiment(("a red disc",), source_prompt=("a blue ring",), method=CDS())
    message = "CDS reads attention features, and GaussianMixture has none: use --method dds"
    with pytest.raises(ValueError, match=message):
        Run(experiment, colored_shapes(8))


def test_cds_needs_one_process(prior, monkeypatch):
    monkeypatch.setattr(processes, "num_processes", lambda: 2)
    with pytest.raises(ValueError, match="features of all rows, which 2 processes divide: use one"):
        CDS().init(prior, SetupContext(1, 1, 0, torch.zeros(1, 4, 8, 8), ("a",), ("b",)))


@pytest.mark.parametrize(
    "options",
    [
        {"guidance": 0.0},
        {"w_cut": -1.0},
        {"num_patches": 1},
        {"patch_sizes": ()},
        {"patch_sizes": (0,)},
        {"tau": 0.0},
    ],
)
def test_cds_rejects_bad_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* "):
        CDS(**options)


@pytest.mark.parametrize(
    "method", [DDS(7.5), PDS(7.5), SDEdit(7.5, denoise_steps=3)], ids=["dds", "pds", "sdedit"]
)
def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch(method):
    prior, s = mixture(), edit_inputs(SD, f64([0.05, 0.3, 0.5, 0.75, 0.95]))
    whole = method(prior, s, NO_STATE)
    for i in range(5):
        rows = torch.tensor([i])
        assert max_difference(method(prior, s.select(rows), NO_STATE), whole[rows]) < 1e-12


def test_identity_30_cds_direction_of_a_row_does_not_depend_on_its_batch(prior):
    s, method = network_edit(prior, rows=3), CDS(7.5, num_patches=1000)
    with torch.no_grad():
        whole = method(prior, s, NO_STATE)
        rows = torch.tensor([1])
        assert max_difference(method(prior, s.select(rows), NO_STATE), whole[rows]) < 1e-4


@pytest.mark.parametrize(
    "method", [DDS(7.5), PDS(7.5), CDS(7.5, num_patches=8)], ids=["dds", "pds", "cds"]
)
def test_resumed_edit_equals_uninterrupted_one(prior, method):
    experiment = Experiment(
        ("a red mug",),
        source_prompt=("two striped cats",),
        method=method,
        particles=3,
        batch_size=2,
        steps=4,
    )
    whole, first, second = (Run(experiment, prior) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second.load(first.tensors(), 2)
    for _ in range(2):
        second.advance()
    pairs = zip(whole.tensors().values(), second.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)

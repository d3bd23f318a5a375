"""Editing methods: identities 16 and 17 on exact priors, the attention CDS compares, what a step costs, what is refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_pipeline import (
    class_conditions,
    f64,
    make_inputs,
    max_difference,
    normal,
    prompt_conditions,
    rng,
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
    """A sample of five rows with its source, which says something else."""
    x0 = normal(5, 4, seed=2) if x0 is None else x0
    s = make_inputs(schedule, x0, t, normal(5, 4, seed=3), conditions(5, 0.1, 0.1, 0.7, 0.1))
    return replace(
        s,
        source=EditSource(
            normal(5, 4, seed=4) if source is None else source, conditions(5, 0.8, 0.1, 0.05, 0.05)
        ),
    )


def gaussians(m0, m_source, m_target, std: float, schedule=SD) -> GaussianMixture:
    return GaussianMixture(torch.stack([m0, m_source, m_target]), f64([std] * 3), schedule=schedule)


def one_of_three_classes(rows: int, k: int) -> Conditions:
    return class_conditions(rows, (1, 0, 0), tuple(float(i == k) for i in range(3)))


# DDS


@every_schedule
@every_time
def test_dds_is_the_difference_of_two_guided_predictions(schedule, t):
    prior, s = mixture(schedule), edit_inputs(schedule, t)
    target = guided_prediction(
        prior, schedule.add_noise(s.x0, s.eps, s.t), s.t, s.conditions, 7.5
    ).eps
    source = guided_prediction(
        prior, schedule.add_noise(s.source.x0, s.eps, s.t), s.t, s.source.conditions, 7.5
    ).eps
    assert max_difference(DDS(7.5)(prior, s, NO_STATE), target - source) < 1e-12


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
    g = DDS(7.5)(
        prior, replace(s, source=EditSource(x_source, one_of_three_classes(n, 1))), NO_STATE
    )
    alpha, sigma = schedule.alpha(s.t[:1]), schedule.sigma(s.t[:1])
    gain = alpha * sigma / (alpha**2 * std**2 + sigma**2)
    assert (
        max_difference(g, (gain * (x[0] - x_source[0] - 7.5 * (m_t - m_s))).expand(n, -1)) < 1e-10
    )


def test_identity_16_stationary_point_of_dds():
    m0, m_s, m_t = normal(3, 4, seed=8)
    prior, start = gaussians(m0, m_s, m_t, 0.7), normal(2, 4, seed=5)
    rest = start + 3.0 * (m_t - m_s)
    s = make_inputs(SD, rest, f64([0.2, 0.7]), normal(2, 4), one_of_three_classes(2, 2))
    s = replace(s, source=EditSource(start, one_of_three_classes(2, 1)))
    assert max_difference(DDS(3.0)(prior, s, NO_STATE), torch.zeros(2, 4).double()) < 1e-12
    assert max_difference(DDS(3.1)(prior, s, NO_STATE), torch.zeros(2, 4).double()) > 1e-3


# PDS


def stochastic_latents(
    prior, schedule, x0, eps, eps_near, t, near, prediction, coefficients
) -> Tensor:
    """(x_t' - mu) / sigma~ as the paper writes it, with both noises, for alpha^2 + sigma^2 = 1."""
    abar, abar_near = schedule.alpha(t) ** 2, schedule.alpha(near) ** 2
    tick = schedule.alpha(schedule.snap(t - 0.001)) ** 2
    beta = 1 - abar / (abar_near if coefficients == "consistent" else tick)
    xt = schedule.add_noise(x0, eps, t)
    x0_hat = guided_prediction(prior, xt, t, prediction, 20.0).x0
    c0 = abar_near.sqrt() * beta / (1 - abar)
    c1 = (1 - beta).sqrt() * (1 - abar_near) / (1 - abar)
    sigma = ((1 - abar_near) / (1 - abar) * beta).sqrt()
    mu = expand(c0, x0) * x0_hat + expand(c1, x0) * xt
    return (schedule.add_noise(x0, eps_near, near) - mu) / expand(sigma, x0)


@pytest.mark.parametrize("coefficients", ["published", "consistent"])
@every_time
def test_identity_17_pds_is_the_difference_of_stochastic_latents(coefficients, t):
    prior, s = mixture(), edit_inputs(SD, t)
    near = SD.snap(s.t - 0.002)
    assert max_difference(near, s.t - 0.002) < 1e-12
    eps_near = normal(5, 4, seed=11)
    ours = PDS(20.0, coefficients=coefficients)(prior, s, NO_STATE)
    both = [
        stochastic_latents(prior, SD, x0, s.eps, eps_near, s.t, near, prediction, coefficients)
        for x0, prediction in ((s.x0, s.conditions), (s.source.x0, s.source.conditions))
    ]
    assert max_difference(ours, both[0] - both[1]) < 1e-9


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
    assert max_difference(result, expected) < 1e-09


def test_identity_17_psi_over_chi_of_the_published_coefficients():
    chi, psi = PDS().chi_and_psi(SD, f64([0.05, 0.2, 0.5, 0.8, 0.95]))
    known = f64([4.30, 1.53, 0.393, 0.101, 0.046])
    printed = f64([0.005, 0.005, 0.0005, 0.0005, 0.0005])  # half of the last digit
    assert bool(((psi / chi - known).abs() <= printed).all())


def test_pds_coefficients_of_a_rectified_flow():
    """q(x_t' | x_t, x0) by Bayes' rule of the joint Gaussian, for alpha = 1 - t."""
    schedule, t, near = RectifiedFlowSchedule(), f64([0.6]), f64([0.5])
    a = 0.4 / 0.5
    cov = torch.tensor(
        [[0.25, a * 0.25], [a * 0.25, 0.36]], dtype=torch.float64
    )  # of x_t' and x_t around their means
    gain = cov[0, 1] / cov[1, 1]
    deviation = (cov[0, 0] - gain * cov[0, 1]).sqrt()
    chi, _ = PDS(stride=0.1, coefficients="consistent").chi_and_psi(schedule, t)
    # mu = alpha' x0 + gain (x_t - alpha x0); x0_hat falls by lambda eps_hat
    gamma = schedule.alpha(near) - gain * schedule.alpha(t)
    assert max_difference(chi, gamma * 0.6 / 0.4 / deviation) < 1e-12


def test_pds_rejects_a_stride_within_one_tick():
    prior = colored_shapes(8)
    prior.schedule = DiscreteSchedule(tuple(torch.linspace(0.99, 0.01, 50).tolist()))
    start = SetupContext(1, 1, 0, torch.zeros(1, 3, 8, 8), ("a red disc",), ("a blue ring",))
    with pytest.raises(ValueError, match=r"stride 0\.002 is too short"):
        PDS().init(prior, start)
    PDS(stride=0.05).init(prior, start)
    with pytest.raises(ValueError, match="stride lies between 0 and 1, not 0"):
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
    choices = {
        "timesteps": FixedTimesteps(0.6),
        "weight": UniformWeight(),
        "optimizer": SGD(),
        "steps": 1,
        "particles": 3,
    }
    run = Run(
        Experiment(("x",), method=SDEdit(1.0, k), representation=Latents(lr=1.0), **choices),
        prior,
    )
    before = run.representation.render(RenderRequest(torch.arange(3))).image.detach().clone()
    eps = run.advance().inputs.eps
    xt = schedule.add_noise(before, eps, torch.full((3,), 0.6))
    for i in range(k, 0, -1):  # eq. 12 of DDIM, written out
        t, later = (torch.full((3,), 0.6 * j / k, dtype=torch.float64) for j in (i, i - 1))
        prediction = prior(xt, t, run.conditions_for(torch.arange(3)).pos)[0]
        xt = schedule.add_noise(prediction.x0, prediction.eps, later)
    assert (
        max_difference(run.representation.render(RenderRequest(torch.arange(3))).image, xt) < 1e-5
    )


# CDS, on a network


def network_edit(prior: StableDiffusion, rows: int = 2, same: bool = False):
    x0, other = (
        normal(rows, 4, 8, 8, seed=2, dtype=torch.float32),
        normal(rows, 4, 8, 8, seed=4, dtype=torch.float32),
    )
    s = make_inputs(
        prior.schedule,
        x0,
        0.5,
        normal(rows, 4, 8, 8, seed=3, dtype=torch.float32),
        prompt_conditions(prior, ["a red mug"] * rows),
    )
    return replace(
        s,
        source=EditSource(
            x0 if same else other, prompt_conditions(prior, ["two striped cats"] * rows)
        ),
    )


def hook_attention(prior: StableDiffusion, act) -> list[Tensor]:
    """What the up blocks' self-attention answers while ``act`` runs, by hooks of our own."""
    seen, layers = [], [m for n, m in prior.unet.up_blocks.named_modules() if n.endswith("attn1")]
    assert layers
    hooks = [
        m.register_forward_hook(lambda m, inputs, out: seen.append(out.detach())) for m in layers
    ]
    act()
    for hook in hooks:
        hook.remove()
    return seen


def count_hooks(prior: StableDiffusion) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prior.unet.modules())


def test_captured_attention_is_what_forward_hooks_see(prior):
    s = network_edit(prior)
    with torch.no_grad(), prior.capture_attention() as seen:
        prior(s.xt, s.t, s.conditions.null, s.conditions.pos)
    with torch.no_grad():
        plain = hook_attention(prior, lambda: prior(s.xt, s.t, s.conditions.null, s.conditions.pos))
    assert len(seen) == len(plain) > 0
    for a, b in zip(seen, plain, strict=True):
        assert a.shape[0] == 4 and a.shape[2] * a.shape[3] == b.shape[1]
        assert torch.equal(a.flatten(2).mT, b)


def test_captured_attention_keeps_the_aspect_ratio(prior):
    x, conditions = torch.zeros(1, 4, 8, 16), prior.condition(["a red mug"])
    with torch.no_grad(), prior.capture_attention() as seen:
        prior(x, torch.tensor([0.5]), conditions)
    assert all(2 * f.shape[2] == f.shape[3] for f in seen)


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
    """Every place of every layer, with its logits written out one by one."""
    with prior.capture_attention() as own:
        prior(s.schedule.add_noise(x0, s.eps, s.t), s.t, s.conditions.pos)
    with torch.no_grad(), prior.capture_attention() as seen:
        prior(s.schedule.add_noise(s.source.x0, s.eps, s.t), s.t, s.source.conditions.pos)
    total = x0.new_zeros(())
    for a, b in zip(own, seen, strict=True):
        for size in sizes:
            for row in range(len(x0)):
                ours = F.avg_pool2d(a[row], size).flatten(1).T
                theirs = F.avg_pool2d(b[row], size).flatten(1).T
                cosine = (ours @ theirs.T) / ours.norm(dim=1)[:, None] / theirs.norm(dim=1)[None]
                total = total + F.cross_entropy(cosine / tau, torch.arange(len(ours)))
    return total


def float64_edit(prior: StableDiffusion, rows: int = 2):
    """In float64 throughout, where a small gradient of a large loss can be seen."""
    prior.unet.double()
    prior.dtype = torch.float64
    s = network_edit(prior, rows)
    return replace(
        s, x0=s.x0.double(), eps=s.eps.double(), source=replace(s.source, x0=s.source.x0.double())
    )


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_cds_is_dds_and_the_gradient_of_patch_nce(prior, guidance):
    s, method = float64_edit(prior), CDS(guidance, w_cut=3.0, num_patches=1000, tau=0.3)
    x = s.x0.clone().requires_grad_()
    (pull,) = torch.autograd.grad(patch_nce(prior, s, x, (1, 2), 0.3), x)
    with torch.no_grad():
        ours, dds = method(prior, s, NO_STATE), DDS(guidance)(prior, s, NO_STATE)
    assert float(pull.abs().max()) > 1e-6
    assert max_difference((ours - dds) / (3.0 * 64 / 2000), pull) < 1e-9 * float(pull.abs().max())


def test_gradient_of_patch_nce_equals_finite_differences(prior):
    s = float64_edit(prior, rows=1)
    with torch.no_grad():
        pull = (
            CDS(1.0, num_patches=1000, tau=0.3)(prior, s, NO_STATE) - DDS(1.0)(prior, s, NO_STATE)
        ) / (3.0 * 64 / 2000)
        way = normal(1, 4, 8, 8, seed=21)
        ends = [patch_nce(prior, s, s.x0 + h * way, (1, 2), 0.3) for h in (1e-4, -1e-4)]
    assert pull.dtype == torch.float64
    assert float((pull * way).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-5)


def test_cds_patches_are_drawn_with_the_generator_of_the_step(prior):
    s, method = network_edit(prior), CDS(7.5, num_patches=4)
    with torch.no_grad():
        a, b, c = (method(prior, replace(s, rng=rng(k)), NO_STATE) for k in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, [8, 2]), (1.0, [4, 2])])
def test_cds_passes(prior, guidance, rows):
    s, passed = network_edit(prior), []
    hook = prior.unet.register_forward_hook(
        lambda m, inputs, out: passed.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    before = prior.call_counter.calls, prior.call_counter.rows
    with torch.no_grad():
        CDS(guidance)(prior, s, NO_STATE)
    hook.remove()
    assert passed == [(rows[0], False), (rows[1], True)]
    assert (prior.call_counter.calls - before[0], prior.call_counter.rows - before[1]) == (
        2,
        sum(rows),
    )


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
    s = network_edit(prior)
    weight = torch.ones(2)
    far = lambda c: replace(c, perp_neg=((prior.condition(["low quality"] * 2), weight),), k=2)  # noqa: E731
    s = replace(
        s,
        conditions=far(s.conditions),
        source=replace(s.source, conditions=far(s.source.conditions)),
    )
    assert len(required_conditions(s.conditions, 7.5)) == 3
    with torch.no_grad():
        dds, cds = DDS(7.5)(prior, s, NO_STATE), CDS(7.5, w_cut=0.0)(prior, s, NO_STATE)
        x = s.x0.clone().requires_grad_()
        with torch.enable_grad():
            (pull,) = torch.autograd.grad(patch_nce(prior, s, x, (1, 2), 0.3), x)
        pulled = (CDS(7.5, num_patches=1000, tau=0.3)(prior, s, NO_STATE) - dds) / (3.0 * 64 / 2000)
    assert max_difference(cds, dds) < 1e-5
    assert max_difference(pulled, pull) < 1e-4 * float(pull.abs().max()) + 1e-5


# Refusals and what holds for all


@pytest.mark.parametrize("method", [DDS(), PDS()], ids=["dds", "pds"])
def test_edits_need_a_source(method):
    with pytest.raises(
        ValueError, match="this method edits: say what the pictures show with --source-prompt"
    ):
        Run(Experiment(("a red disc",), method=method), colored_shapes(8))
    s = replace(edit_inputs(SD, 0.5), source=None)
    with pytest.raises(ValueError, match="this method edits"):
        method(mixture(), s, NO_STATE)


def test_cds_needs_a_source_and_attention(prior):
    with pytest.raises(ValueError, match="this method edits"):
        Run(Experiment(("a red mug",), method=CDS()), prior)
    with pytest.raises(
        ValueError,
        match="CDS compares a network's attention, and GaussianMixture has none: take DDS or PDS",
    ):
        Run(
            Experiment(("a red disc",), source_prompt=("a blue ring",), method=CDS()),
            colored_shapes(8),
        )


@pytest.mark.parametrize(
    "options",
    [
        {"guidance": 0.0},
        {"cut": -1.0},
        {"patches": 1},
        {"sizes": ()},
        {"sizes": (0,)},
        {"tau": 0.0},
    ],
)
def test_cds_rejects_bad_options(options):
    with pytest.raises(ValueError, match="guidance must not be 0"):
        CDS(**options)


@pytest.mark.parametrize(
    "method", [DDS(7.5), PDS(7.5), SDEdit(7.5, denoise_steps=3)], ids=["dds", "pds", "sdedit"]
)
def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch(method):
    prior, s = mixture(), edit_inputs(SD, f64([0.05, 0.3, 0.5, 0.75, 0.95]))
    whole = method(prior, s, NO_STATE)
    for i in range(5):
        rows = torch.tensor([i])
        source = EditSource(s.source.x0[rows], s.source.conditions[rows])
        one = replace(
            s,
            x0=s.x0[rows],
            t=s.t[rows],
            eps=s.eps[rows],
            conditions=s.conditions[rows],
            particle=s.particle[rows],
            source=source,
        )
        assert max_difference(method(prior, one, NO_STATE), whole[rows]) < 1e-12


def test_identity_30_cds_direction_of_a_row_does_not_depend_on_its_batch(prior):
    s, method = network_edit(prior, rows=3), CDS(7.5, num_patches=1000)
    with torch.no_grad():
        whole = method(prior, s, NO_STATE)
        rows = torch.tensor([1])
        source = EditSource(s.source.x0[rows], s.source.conditions[rows])
        one = replace(
            s,
            x0=s.x0[rows],
            t=s.t[rows],
            eps=s.eps[rows],
            conditions=s.conditions[rows],
            particle=s.particle[rows],
            source=source,
        )
        assert max_difference(method(prior, one, NO_STATE), whole[rows]) < 1e-4


@pytest.mark.parametrize(
    "method", [DDS(7.5), PDS(7.5), CDS(7.5, num_patches=8)], ids=["dds", "pds", "cds"]
)
def test_resumed_edit_equals_uninterrupted_one(prior, method):
    e = Experiment(
        ("a red mug",),
        source_prompt=("two striped cats",),
        method=method,
        particles=3,
        batch_size=2,
        steps=4,
    )
    whole, first = Run(e, prior), Run(e, prior)
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second = Run(e, prior)
    second.load(first.tensors(), 2)
    for _ in range(2):
        second.advance()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.tensors().values(), second.tensors().values(), strict=True)
    )

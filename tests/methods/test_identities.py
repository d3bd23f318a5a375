"""The numbered identities of score distillation with exact scores, checked on the real methods.

``IDENTITIES`` is the index: number, statement, source and the files whose tests check it. A test
has the number in its name (``test_identity_17_...``). docs/methods/identities.md shows the index.

Notation: x_t = alpha x + sigma eps, lambda = sigma / alpha, eps_hat_s the prediction with guidance
scale s, x0_hat the predicted clean sample, k the particle. Gaussian priors are N(m, C), with
S_t = alpha^2 C + sigma^2 the variance at time t; m_0 and m_y are the means without and with prompt.
"""

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log, pi, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tiny_pipeline import (
    class_conditions,
    f64,
    make_inputs,
    max_difference,
    normal,
    prompt_conditions,
    rng,
)
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.schedule import (
    CosineSchedule,
    DiscreteSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import FixedPerParticleNoise
from limbeck.distillation.state import Stateless
from limbeck.distillation.surrogate import surrogate
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.distillation.weights import LambdaWeight, UniformWeight, Weight
from limbeck.methods.base import StatelessMethod
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD, Adam
from limbeck.training.trainer import Run, steps

TESTS = Path(__file__).parents[1]
HERE = "methods/test_identities.py"
METHODS = "methods/test_methods.py"
MORE = "methods/test_more_methods.py"
EDITING = "methods/test_editing_methods.py"
FLOW_EDITING = "methods/test_flow_editing.py"
MORE_EDITING = "methods/test_more_editing.py"
FLOW = "methods/test_flow_methods.py"
INVERSION = "methods/test_inversion_methods.py"
PARTICLE = "methods/test_particle_methods.py"
GUIDANCE = "diffusion/test_guidance.py"
TIMESTEPS = "distillation/test_timesteps.py"
NOISE = "distillation/test_noise.py"
ONE_STEP = "methods/test_one_step.py"
CONTROL_VARIATES = "distillation/test_control_variates.py"


class Identity(NamedTuple):
    """What an identity states, where it comes from and where it is tested."""

    statement: str
    source: str
    tests: tuple[str, ...]


IDENTITIES = {
    1: Identity(
        "SDS is the gradient of a weighted KL divergence: E_eps[eps_hat - eps] = "
        "d/dx (sigma / alpha) KL(N(alpha x, sigma^2), p_t).",
        "DreamFusion (arXiv 2209.14988), appendix",
        (HERE,),
    ),
    2: Identity(
        "SDS of a Gaussian, per sample: eps_hat - eps = sigma alpha / S_t (x - m) - "
        "alpha^2 C / S_t eps. Hence its mean and its variance (alpha^2 C / S_t)^2 over eps.",
        "derived here",
        (HERE,),
    ),
    3: Identity(
        "The variance of eps_hat - c eps is least at c = sigma^2 / S_t. SDS has c = 1.",
        "derived here; the control variates of SteinDreamer (arXiv 2401.00604) and Stable SD "
        "(arXiv 2312.09305)",
        (CONTROL_VARIATES, MORE),
    ),
    4: Identity(
        "Guided SDS is stationary at m_0 + s (m_y - m_0) at every t if the variances are equal, "
        "and at a point that depends on t if they are not.",
        "derived here",
        (HERE,),
    ),
    5: Identity(
        "CSD is the limit of SDS / s for large s. For equal variances it is the constant "
        "-sigma alpha / S_t (m_y - m_0): it has no variance and no stationary point.",
        "CSD (arXiv 2310.19415); the constant is derived here",
        (METHODS,),
    ),
    6: Identity(
        "VSD with one particle and the exact critic is SDS, per sample.",
        "ProlificDreamer (arXiv 2305.16213): SDS is VSD of a Dirac distribution",
        (HERE,),
    ),
    7: Identity(
        "VSD is 0 if the critic is the prior, and if the particles are the data. With an untrained "
        "LoRA critic it is (s - 1) CSD.",
        "ProlificDreamer (arXiv 2305.16213)",
        (HERE,),
    ),
    8: Identity(
        "The variance S of the particles changes by -2 sigma alpha S / S_t under SDS, which "
        "collapses, and by -2 sigma alpha S (1 / S_t - 1 / (alpha^2 S + sigma^2)) under VSD, which "
        "keeps C.",
        "derived here, from the gradient flow of ProlificDreamer (arXiv 2305.16213)",
        (HERE,),
    ),
    9: Identity(
        "The stationary variance of ESD is max(0, lambda C - (1 - lambda) sigma^2 / alpha^2), for "
        "its entropy weight lambda.",
        "ESD (arXiv 2401.00909); derived here",
        (METHODS,),
    ),
    10: Identity(
        "SJC with var_red is SDS of weight 1; without it differs by eps.",
        "SJC (arXiv 2212.00774)",
        (METHODS,),
    ),
    11: Identity(
        "A denoiser that predicts eps, x0, v or the flow gives the same direction: "
        "x - x0_hat = lambda (eps_hat - eps) and v_hat - v = (eps_hat - eps) / alpha.",
        "Salimans & Ho 2022 (arXiv 2202.00512)",
        (HERE,),
    ),
    12: Identity(
        "HiFA with one denoising step and without its image loss is SDS, and with more steps SDS "
        "of multistep predictions.",
        "HiFA (arXiv 2305.18766)",
        (METHODS, GUIDANCE),
    ),
    13: Identity(
        "RFDS is SDS / (1 - t). The reversed noise of RFDS-Rev is eps_hat(x_t, t, y). iRFDS is "
        "-RFDS with the particles as noise.",
        "RFDS (arXiv 2406.03293)",
        (FLOW,),
    ),
    14: Identity(
        "NFSD above its threshold with y_neg = null is s CSD. SDS-Bridge is antisymmetric in "
        "source and target, and s CSD from the null prompt. ASD without a shift is (s - 1) CSD.",
        "NFSD (arXiv 2310.17590), SDS-Bridge (arXiv 2406.09417), ScaleDreamer (arXiv 2407.02040)",
        (METHODS, MORE),
    ),
    15: Identity(
        "LMC with b(x, t) = x is SDS. With the exact b = m + alpha^2 C / S_t (x - m) it is s CSD "
        "plus a control variate.",
        "LMC-SDS (arXiv 2401.05293)",
        (MORE,),
    ),
    16: Identity(
        "DDS is 0 at the source under its own prompt. For equal variances it does not depend on "
        "eps, and is stationary at x_source + s (m_target - m_source).",
        "DDS (arXiv 2304.07090)",
        (EDITING,),
    ),
    17: Identity(
        "PDS is 0 at the source under its own prompt. With the beta_t of its own stride it is "
        "chi(t) DDS; with that of half the stride psi(t) (x - x_source) is added, where psi / chi "
        "= 4.30, 1.53, .393, .101, .046 at t = .05, .2, .5, .8, .95 on the schedule of Stable "
        "Diffusion.",
        "PDS (arXiv 2311.13831), eq. 4 and 11; psi = 0 is derived here",
        (EDITING,),
    ),
    18: Identity(
        "lambda_t ISM = x0_hat(x_s, s) - x0_hat_s(x_t, t, y). It vanishes linearly in the interval "
        "if the prompt equals null and s = 1. At the interval t it starts from the clean x.",
        "LucidDreamer (arXiv 2311.11284)",
        (METHODS,),
    ),
    19: Identity(
        "On a Gaussian the kappa of SDI is lambda (x - m) / C, where the direction is 0. The fixed "
        "point iteration contracts at the rate sigma^2 / S_t. Inversion of the ODE finds "
        "((S_t / C)^(1/2) - alpha) (x - m) / sigma instead.",
        "SDI (arXiv 2405.15891); the closed forms are derived here",
        (INVERSION, FLOW),
    ),
    20: Identity(
        "SDI with cached kappa and x <- x0_hat is DDIM. SDS of one fixed noise from x = 0, with "
        "steps lambda_i - lambda_{i+1}, is DDIM from sigma_T eps.",
        "SDI (arXiv 2405.15891), FSD (arXiv 2405.10988), CFD (arXiv 2501.05445)",
        (METHODS, INVERSION),
    ),
    21: Identity(
        "E_eps[eps phi(x_t) - sigma grad phi(x_t)] = 0; with the other sign it is not.",
        "SteinDreamer (arXiv 2401.00604)",
        (MORE,),
    ),
    22: Identity(
        "Antithetic noise (eps, -eps) leaves no variance if the denoiser is linear.",
        "derived here",
        (NOISE,),
    ),
    23: Identity(
        "For a finite data set x0_hat lies in the convex hull of the data: the nearest datum for "
        "t -> 0, their mean for alpha -> 0, which Stable Diffusion's schedule does not reach. SDS "
        "is stationary at the data for t -> 0.",
        "derived here",
        (HERE,),
    ),
    24: Identity(
        "DDIM on a Gaussian approaches the exact ODE solution alpha m + (S_t / S_s)^(1/2) "
        "(x_s - alpha_s m) at first order in the step.",
        "DDIM (arXiv 2010.02502)",
        (HERE,),
    ),
    25: Identity(
        "The surrogate losses in use have the gradient g. Only particles get gradients from their "
        "loss, and none from the critic's.",
        "DreamFusion (arXiv 2209.14988), and the code of threestudio",
        (HERE,),
    ),
    26: Identity(
        "A constant factor of the weight does not change a run with Adam, but one with SGD.",
        "Adam (arXiv 1412.6980)",
        (HERE,),
    ),
    27: Identity(
        "The guidance scale s is that of diffusers: eps_y + omega (eps_y - eps_null) has "
        "s = 1 + omega; s = 0 is null, s = 1 the prompt.",
        "classifier-free guidance (arXiv 2207.12598), DreamFusion (arXiv 2209.14988)",
        (HERE,),
    ),
    28: Identity(
        "Deterministic timesteps fall; DreamTime spends an equal share of its weight per step; "
        "random timesteps have the histogram of their range; two-stage ones switch at the step.",
        "DreamTime (arXiv 2306.12422), ProlificDreamer (arXiv 2305.16213)",
        (TIMESTEPS,),
    ),
    29: Identity(
        "Every method makes as many network passes as its formula needs.",
        "the formulas of the papers",
        (GUIDANCE,),
    ),
    30: Identity(
        "The direction of a row does not depend on the other rows of the batch, except through the "
        "critic of VSD and among interacting particles of one prompt.",
        "derived here",
        (HERE, METHODS, MORE, EDITING, FLOW, INVERSION, PARTICLE),
    ),
    31: Identity(
        "A run follows from its seed alone. float32 and bfloat16 stay within error bounds.",
        "derived here",
        (HERE, METHODS, PARTICLE),
    ),
    32: Identity(
        "eps of a mixture is -sigma grad log p_t, and p_t integrates to 1.",
        "Tweedie's formula",
        (HERE,),
    ),
    33: Identity(
        "Rotating and translating prior and particles rotates the direction.",
        "derived here",
        (HERE, METHODS, PARTICLE),
    ),
    34: Identity(
        "The mean of MSD is -h grad log (p * N(0, h^2)) at x, h = lambda: zero exactly at the"
        " extrema of the smoothed density. Drawn y have this mean. On a Gaussian it is the "
        "mean of SDS, on a mixture it is not.",
        "MSD (arXiv 2502.15989); Tweedie's formula",
        ("methods/test_trajectory_methods.py",),
    ),
    35: Identity(
        "JSD with k = 0 is SDI.",
        "JSD (arXiv 2503.10660), its code",
        ("methods/test_trajectory_methods.py",),
    ),
    36: Identity(
        "Consistent3D is 0 at t = t', is (x0_hat(x_t') - x0_hat(x_t)) / lambda', and on a "
        "Gaussian has the mean (x - m) C (lambda - lambda') / ((C + lambda^2) (C + "
        "lambda'^2)) over the noise.",
        "Consistent3D (arXiv 2401.09050); the mean is derived here",
        ("methods/test_trajectory_methods.py",),
    ),
    37: Identity(
        "SegmentDreamer with s' = e is s (x_e - x_e^cond). If the prompt equals null and s = "
        "1, it vanishes linearly in the length of the segments.",
        "SegmentDreamer (arXiv 2507.05256), its code",
        ("methods/test_trajectory_methods.py",),
    ),
    38: Identity(
        "DDS with eta, divided by 1 - u, is DVRF at eta_i = eta, where u = sigma / (alpha + sigma)."
        " At eta = 1 it is FlowEdit divided by u - u'.",
        "DVRF (arXiv 2509.05342); for schedules that are no flows derived here",
        (FLOW_EDITING,),
    ),
    39: Identity(
        "Converged IDS is SDS with the noise that the source has.",
        "IDS (arXiv 2502.19930); derived here",
        (MORE_EDITING,),
    ),
    40: Identity(
        "SSD-edit is s CSD with s alone, stage two of SDS-Bridge from the source prompt with b "
        "alone, and 0 at the source if both prompts are null.",
        "SSD-edit (arXiv 2507.09168); derived here",
        (MORE_EDITING,),
    ),
    41: Identity(
        "DMD2's direction is VSD of weight lambda divided by the mean of |x - x0_hat| over a "
        "sample, x0_hat that of the prior. It does not change if x and all x0_hat are "
        "scaled, and its mean absolute value is 1 if the critic returns x.",
        "DMD2 (arXiv 2405.14867), its code; the last two are derived here",
        (ONE_STEP,),
    ),
    42: Identity(
        "SiD with both networks detached is VSD of weight lambda over the same mean, for "
        "every a. For x = a_g z, a prior N(0, C) and the exact critic, k_c = alpha c / "
        "(alpha^2 c + sigma^2) and D = k_C - k_{a_g^2}, its gradient times w in a_g is 2 a_g "
        "alpha D (alpha k_C - 1 - a alpha D): for a = 1.2 its sign is reversed at low noise "
        "if a_g^2 > C, for a of 1 never. Its loss is (1 - a) E|f - psi|^2.",
        "SiD (arXiv 2404.04057); the Gaussian case is derived here",
        (ONE_STEP,),
    ),
    43: Identity(
        "SIM with both networks detached is VSD of weight lambda over r, r^2 = |y|^2 + c^2. "
        "Through networks of Gaussians, of slopes k_p and k_q in x_t, it is alpha (k_p - k_q) "
        "(1 - u u^T) (psi - x) / r + (alpha k_q - 1) u, u = y / r.",
        "SIM (arXiv 2410.16794) in the form of Dive3D (arXiv 2506.13594); the Gaussian case is "
        "derived here",
        (ONE_STEP,),
    ),
    44: Identity(
        "An affine generator A z + b under a Gaussian prior and the exact critic comes to "
        "rest at b = m, A A^T = C under VSD, DMD2, SiD with a = 1 and SIM; under SDS A "
        "shrinks to 0.",
        "derived here",
        (ONE_STEP,),
    ),
    45: Identity(
        "RewardVSD and RewardBridge with one noise are VSD and SDS-Bridge.",
        "RewardSDS (arXiv 2503.09601), its code",
        ("methods/test_reward_methods.py",),
    ),
    46: Identity(
        "The baseline 1 + net of SteinDreamer starts as phi = 1, keeps E_eps[zeta] = 0 while "
        "it learns, and lowers the second moment of d + mu zeta where phi = 1 cannot.",
        "SteinDreamer (arXiv 2401.00604); derived here",
        ("distillation/test_control_variates.py",),
    ),
    47: Identity(
        "f-distill with the reverse KL, or a ratio that is the same for all rows of a time, is "
        "DMD2. Its weight is h(r) = r^2 f''(r), and the mean of h(r) VSD over x_t of q_t is "
        "sigma times the gradient of D_f(p_t | q_t) in the mean of q_t.",
        "f-distill (arXiv 2502.15681), its code; the Gaussian cases are derived here",
        (ONE_STEP,),
    ),
    48: Identity(
        "The gradient of softplus(-logit) in x with the optimal discriminator is VSD with the "
        "exact critic, of weight alpha / sigma times the logistic function of -logit.",
        "derived here",
        ("distillation/test_discriminators.py",),
    ),
    49: Identity(
        "TraCe with a critic of 0 is std_fwd (x - x0_hat) / (std_fwd^2 + std_bwd^2) + std / "
        "std_fwd n, whose mean over the noise n of the bridge is SDS of weight lambda times a "
        "constant. With the critic E[b | x_tau] its mean is 0, at every x_tau.",
        "TraCe (arXiv 2511.05609), its code; derived here",
        ("methods/test_trace.py",),
    ),
    50: Identity(
        "The direction of the denoising student is 0 where the generator is the map of the "
        "sampler. On a Gaussian this map is affine: a step of DDIM from t to t' multiplies x - "
        "alpha m by (alpha alpha' C + sigma sigma') / S_t.",
        "Denoising student (arXiv 2101.02388); derived here",
        ("methods/test_one_step.py",),
    ),
    51: Identity(
        "LUSD without mask and pull is stage two of SDS-Bridge from the source prompt to the "
        "prompt, over its standard deviation and times the gain g_k, whatever its guidance.",
        "LUSD (arXiv 2503.11054), its code",
        (MORE_EDITING,),
    ),
    52: Identity(
        "Noise that views share is white in every view, W W^T = 1 for its linear map W from "
        "independent numbers. Transported noise of pixels that see the texels A and B has the "
        "correlation W_a W_b^T = |A and B| / sqrt(|A| |B|).",
        "FSD (arXiv 2405.10988), CFD (arXiv 2501.05445), its code",
        ("distillation/noise/test_views.py",),
    ),
    53: Identity(
        "FlowAlign with zeta = 0 is FlowEdit from the source prompt in place of the null prompt, "
        "with source guidance 1. It is 0 at the source under its own prompt.",
        "FlowAlign (arXiv 2505.23145), its code; derived here",
        (FLOW_EDITING,),
    ),
    54: Identity(
        "CSD-Edit is SVGD of DDS over the n images of a prompt: (sum_j K_ij DDS_j + sum_j "
        "grad_{x_i} K_ij) / n, whose repulsion sums to 0. With one image it is DDS.",
        "CSD-Edit (arXiv 2307.04787), its code",
        (MORE_EDITING,),
    ),
    55: Identity(
        "Pixel gradient clipping multiplies the gradient of each pixel by min(1, c / m), m its "
        "largest absolute value over channels.",
        "PGC (arXiv 2310.12474), its code",
        ("distillation/test_gradient_transforms.py",),
    ),
    56: Identity(
        "Perp-Neg adds w_i (d_i - <d_i, d> d / |d|^2) to d = eps_y - eps_null, so that the prompt "
        "itself as a negative prompt has no effect. The -w of front and side are (0, 2), (2, 0), "
        "(2, 1) at azimuths of 0, 90 and 180 degrees by the rule of stable-dreamfusion, which "
        "jumps by 2 e^-1.6 at 18 degrees, and (0, 1.574), (1.574, 0), (1.967, .394) by that of "
        "threestudio, which is continuous at 90.",
        "Perp-Neg (arXiv 2304.04968); the code of stable-dreamfusion and threestudio",
        (GUIDANCE, "graphics/test_perp_neg.py"),
    ),
    57: Identity(
        "Steps in parallel at threshold 0, and in windows of 1 at any threshold, are single "
        "steps, bit for bit.",
        "DreamPropeller (arXiv 2311.17082), its code",
        ("training/test_parallel_steps.py",),
    ),
}


def test_every_identity_is_tested_where_the_index_says():
    numbers: dict[int, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        pattern = r"^def test_identit(?:y|ies)_(\d+(?:_and_\d+)*)_"
        for name in re.findall(pattern, path.read_text("utf-8"), re.M):
            for number in name.split("_and_"):
                numbers.setdefault(int(number), set()).add(path.relative_to(TESTS).as_posix())
    assert list(IDENTITIES) == sorted(numbers) == list(range(1, 1 + len(IDENTITIES)))
    for number, identity in IDENTITIES.items():
        assert set(identity.tests) <= numbers[number], number


def test_the_docs_list_every_identity():
    page = (TESTS.parent / "docs/methods/identities.md").read_text("utf-8")
    for number, (statement, source, tests) in IDENTITIES.items():
        names = ", ".join(f"`{name}`" for name in tests)
        cells = (text.replace("|", r"\|") for text in (statement, source, names))
        row = f'| <a id="identity-{number}"></a>{number} | {" | ".join(cells)} |'
        assert row in page


TIMES = [0.03, 0.2, 0.5, 0.8, 0.97]
SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
NO_STATE = Stateless()
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", TIMES)


def alpha_and_sigma(schedule, t: float) -> tuple[float, float]:
    t = f64([t])
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def mixture(schedule=SD, **options) -> GaussianMixture:
    """Three Gaussians in four dimensions."""
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule, **options)


def mixture_conditions(rows: int) -> Conditions:
    """The prompt is mostly the third Gaussian of ``mixture``."""
    return class_conditions(rows, (1, 1, 1), (0.1, 0.1, 0.8))


def gaussian(mean: Tensor, std: float, schedule=SD) -> GaussianMixture:
    return GaussianMixture(mean[None], f64([std]), schedule=schedule)


def gaussian_conditions(rows: int) -> Conditions:
    return class_conditions(rows, (1.0,), (1.0,))


def pair(null: Tensor, pos: Tensor, null_std: float, pos_std: float) -> GaussianMixture:
    """Null is N(null, null_std^2), the prompt N(pos, pos_std^2)."""
    return GaussianMixture(torch.stack([null, pos]), f64([null_std, pos_std]))


def pair_conditions(rows: int) -> Conditions:
    return class_conditions(rows, (1.0, 0.0), (0.0, 1.0))


def full(rows: int, value: float) -> Tensor:
    return torch.full((rows,), value, dtype=torch.float64)


def network_latents(rows: int, seed: int = 0) -> Tensor:
    return normal(rows, 4, 8, 8, seed=seed, dtype=torch.float32)


def quadrature(nodes: int = 80) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the expectation over N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.tensor(points), torch.tensor(weights / weights.sum())


def particles_of(run: Run) -> Tensor:
    return torch.stack(list(run.representation.particles)).detach()


def mean_of_pairs(direction: Tensor) -> Tensor:
    """Mean over antithetic pairs, whose halves are stacked: exact for linear denoisers."""
    return direction.unflatten(0, (2, -1)).mean(0)


MIX = {
    "means": torch.tensor([[-1.3], [0.4], [1.9]], dtype=torch.float64),
    "stds": f64([0.5, 0.9, 0.4]),
    "weights": f64([0.5, 0.2, 0.3]),
}


def density(z: Tensor, alpha: float, sigma: float) -> Tensor:
    """p_t of ``MIX``, written out."""
    var = alpha**2 * MIX["stds"] ** 2 + sigma**2
    exponent = -((z[:, None] - alpha * MIX["means"][:, 0]) ** 2) / (2 * var)
    return (MIX["weights"] * exponent.exp() / (2 * pi * var).sqrt()).sum(1)


def kl_divergence(x: float, alpha: float, sigma: float) -> float:
    """KL(N(alpha x, sigma^2) || p_t) on a grid."""
    z = torch.linspace(alpha * x - 11 * sigma, alpha * x + 11 * sigma, 4001, dtype=torch.float64)
    q = (-((z - alpha * x) ** 2) / (2 * sigma**2)).exp() / sqrt(2 * pi * sigma**2)
    log_q = -((z - alpha * x) ** 2) / (2 * sigma**2) - 0.5 * log(2 * pi * sigma**2)
    return float(torch.trapezoid(q * (log_q - density(z, alpha, sigma).log()), z))


# Identity 1


@pytest.mark.parametrize("t", TIMES[1:])
@pytest.mark.parametrize("x", [-0.7, 0.0, 1.1])
def test_identity_01_sds_is_the_gradient_of_a_weighted_kl(x, t):
    """Identity 1, on a mixture: Gauss-Hermite quadrature against finite differences."""
    alpha, sigma = alpha_and_sigma(SD, float(SD.snap(f64([t]))))
    eps, weights = quadrature()
    rows = len(eps)
    conditions = class_conditions(rows, (1, 1, 1), (1, 1, 1))
    s = make_inputs(SD, full(rows, x)[:, None], t, eps[:, None], conditions)
    direction = SDS(1.0)(GaussianMixture(**MIX), s, NO_STATE)
    h = 2e-3  # five points: the error of the difference is of order h^4
    kl = [kl_divergence(x + k * h, alpha, sigma) for k in (-2, -1, 1, 2)]
    slope = (kl[0] - 8 * kl[1] + 8 * kl[2] - kl[3]) / (12 * h)
    assert abs(float((weights * direction[:, 0]).sum()) - sigma / alpha * slope) < 1e-8


# Identity 2


@every_schedule
@every_time
def test_identity_02_sds_of_a_gaussian_per_sample(schedule, t):
    """Identity 2, per sample."""
    mean, c = normal(3, seed=1), 0.7**2
    prior, x0, eps = gaussian(mean, 0.7, schedule), normal(6, 3, seed=2), normal(6, 3, seed=3)
    s = make_inputs(schedule, x0, t, eps, gaussian_conditions(6))
    alpha, sigma = alpha_and_sigma(schedule, float(s.t[0]))
    total = alpha**2 * c + sigma**2
    expected = sigma * alpha / total * (x0 - mean) - alpha**2 * c / total * eps
    assert max_difference(SDS(1.0)(prior, s, NO_STATE), expected) < 1e-12


@every_time
def test_identity_02_mean_and_variance_over_the_noise(t):
    """Identity 2, mean and variance."""
    mean, c = f64([0.3]), 0.7**2
    eps, weights = quadrature(20)
    s = make_inputs(SD, full(20, 1.2)[:, None], t, eps[:, None], gaussian_conditions(20))
    alpha, sigma = alpha_and_sigma(SD, float(s.t[0]))
    total = alpha**2 * c + sigma**2
    direction = SDS(1.0)(gaussian(mean, 0.7), s, NO_STATE)[:, 0]
    center = (weights * direction).sum()
    variance = (weights * (direction - center) ** 2).sum()
    assert abs(float(center) - sigma * alpha / total * 0.9) < 1e-12
    assert abs(float(variance) - (alpha**2 * c / total) ** 2) < 1e-12


# Identity 4


@every_time
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, 100.0])
def test_identity_04_stationary_point_is_the_extrapolated_mean(scale, t):
    """Identity 4, equal variances; next to the stationary point the direction is its slope."""
    null, pos = normal(2, seed=1), normal(2, seed=2)
    prior, method = pair(null, pos, 0.6, 0.6), SDS(scale)
    stationary = null + scale * (pos - null)
    eps = normal(5, 2, seed=3)
    x0 = stationary.expand(10, 2).clone()
    s = make_inputs(SD, x0, t, torch.cat([eps, -eps]), pair_conditions(10))
    mean = mean_of_pairs(method(prior, s, NO_STATE))
    assert max_difference(mean, torch.zeros_like(mean)) < 1e-13 * (1 + scale)
    offset_direction = mean_of_pairs(method(prior, replace(s, x0=s.x0 + 1), NO_STATE))
    alpha, sigma = alpha_and_sigma(SD, float(s.t[0]))
    slope = torch.full_like(offset_direction, sigma * alpha / (alpha**2 * 0.36 + sigma**2))
    assert max_difference(offset_direction, slope) < 1e-13 * (1 + scale)


@every_time
def test_identity_04_with_unequal_variances_the_stationary_point_depends_on_time(t):
    """Identity 4, unequal variances."""
    null, pos, scale = normal(2, seed=1), normal(2, seed=2), 3.0
    prior = pair(null, pos, 1.0, 0.5)
    eps = normal(5, 2, seed=3)
    zeros = torch.zeros(10, 2).double()
    s = make_inputs(SD, zeros, t, torch.cat([eps, -eps]), pair_conditions(10))
    alpha, sigma = alpha_and_sigma(SD, float(s.t[0]))
    a, b = (1 - scale) / (alpha**2 + sigma**2), scale / (alpha**2 * 0.25 + sigma**2)
    stationary = (a * null + b * pos) / (a + b)
    s = replace(s, x0=stationary.expand(10, 2))
    mean = mean_of_pairs(SDS(scale)(prior, s, NO_STATE))
    assert max_difference(mean, torch.zeros_like(mean)) < 1e-11


def named_pair(null: Tensor, pos: Tensor, std: float) -> GaussianMixture:
    """``pair`` as a prior of a run: the empty text is null, all others the prompt."""
    prior = pair(null, pos, std, std)
    prior.labels = ("plain", "bright")
    rows = {True: f64([0.0, -torch.inf]), False: f64([-torch.inf, 0.0])}
    prior.condition = lambda texts: Condition(torch.stack([rows[text == ""] for text in texts]))
    return prior


def test_identity_04_a_run_has_the_predicted_mean_and_variance():
    """Identity 4, in a run.

    At one time and with SGD the particles are an autoregression of known mean and variance.
    """
    null, pos, scale, t = full(8, -0.5), full(8, 0.5), 3.0, 0.4
    lr, n, c = 0.3, 40, 0.49
    alpha, sigma = alpha_and_sigma(SD, t)
    total = alpha**2 * c + sigma**2
    decay, noise = 1 - lr * sigma * alpha / total, lr * alpha**2 * c / total
    assert decay**60 < 1e-4  # stationary by then
    experiment = Experiment(
        ("bright",),
        method=SDS(scale),
        representation=Latents(lr),
        optimizer=SGD(),
        weight=UniformWeight(),
        timesteps=FixedTimesteps(t),
        particles=n,
        steps=100,
    )
    run, recorded = Run(experiment, named_pair(null, pos, 0.7)), []
    while run.step < 100:
        run.advance()
        if run.step > 60:
            recorded.append(particles_of(run).double())
    x = torch.stack(recorded)  # [40, n, 8]
    std = noise / sqrt(1 - decay**2)
    # correlated samples average like fewer independent ones
    samples = n * 8 * len(recorded)
    for_mean = samples * (1 - decay) / (1 + decay)
    for_variance = samples * (1 - decay**2) / (1 + decay**2)
    assert abs(float(x.mean()) - (-0.5 + scale)) < 4 * std / sqrt(for_mean)
    assert abs(float((x - 2.5).square().mean()) / std**2 - 1) < 4 * sqrt(2 / for_variance)


# Identity 6


@every_time
def test_identity_06_vsd_with_one_particle_and_exact_critic_is_sds_per_sample(t):
    """Identity 6, on three prompts of one particle each."""
    prior, x0 = pair(normal(4, seed=1), normal(4, seed=2), 0.5, 0.8), normal(3, 4, seed=3)
    s = make_inputs(SD, x0, t, normal(3, 4, seed=4), pair_conditions(3))
    method = VSD(7.5, critic=ExactCritic())
    # the critic observes x0 in the step, whatever it was at setup
    state = method.init(prior, SetupContext(3, 3, 0, torch.zeros_like(x0)))
    assert max_difference(method(prior, s, state), SDS(7.5)(prior, s, NO_STATE)) < 1e-12


@every_time
def test_identity_06_does_not_hold_for_two_particles(t):
    """Identity 6 needs its single particle."""
    prior, x0 = pair(normal(4, seed=1), normal(4, seed=2), 0.5, 0.8), 0.1 * normal(2, 4, seed=3)
    s = make_inputs(SD, x0, t, normal(2, 4, seed=4), pair_conditions(2))
    method = VSD(7.5, critic=ExactCritic())
    vsd = method(prior, s, method.init(prior, SetupContext(2, 1, 0, x0)))
    assert max_difference(vsd, SDS(7.5)(prior, s, NO_STATE)) > 1e-3


# Identity 7


class FixedCritic(Critic):
    """A critic that is a given prior and is not trained."""

    def __init__(self, q):
        self.q = q

    def prior(self):
        return self.q

    def observe(self, inputs):
        pass

    def fit(self, inputs):
        return {}

    def tensors(self):
        return {}

    def load(self, tensors):
        pass

    def save(self, folder):
        pass


@every_time
def test_identity_07_vsd_is_zero_if_the_critic_is_the_prior(t):
    """Identity 7, critic = prior."""
    prior = mixture()
    conditions = class_conditions(8, (1, 1, 1), (0.2, 0.5, 0.3))
    s = make_inputs(SD, 3 * normal(8, 4, seed=2), t, normal(8, 4, seed=3), conditions)
    for method in (VSD(1.0, critic=ExactCritic()), VSD(7.5, 7.5, critic=ExactCritic())):
        assert max_difference(method(prior, s, FixedCritic(prior)), torch.zeros(8, 4)) == 0


@every_time
def test_identity_07_vsd_is_zero_if_the_particles_are_the_data(t):
    """Identity 7, particles = data. Prior and critic are independent implementations."""
    images = torch.randint(0, 256, (6, 3, 2, 2), generator=rng()).to(torch.uint8)
    prior = DataSet(images, chunk_size=4)
    x0 = images.double() / 127.5 - 1
    conditions = Conditions(prior.condition(["x"] * 6), prior.condition([""] * 6))
    s = make_inputs(SD, x0, t, normal(6, 3, 2, 2), conditions)
    method = VSD(1.0, critic=ExactCritic())
    vsd = method(prior, s, method.init(prior, SetupContext(6, 1, 0, x0)))
    assert max_difference(vsd, torch.zeros_like(x0)) < 1e-10


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_identity_07_vsd_with_untrained_lora_is_s_minus_one_times_csd(folder, scale):
    """Identity 7, untrained LoRA critic, on a float32 network."""
    prior = StableDiffusion(str(folder))
    x0, eps, t = network_latents(3), network_latents(3, seed=1), torch.tensor([0.1, 0.5, 0.9])
    conditions = prompt_conditions(prior, ["a red mug", "a blue chair", "two cats"])
    s = make_inputs(prior.schedule, x0, t, eps, conditions)
    pos, null = prior(s.xt, s.t, s.conditions.pos, s.conditions.null)
    method = VSD(scale, critic=LoRACritic(4))
    with torch.no_grad():
        vsd = method(prior, s, method.init(prior, SetupContext(3, 3, 0, x0)))
        csd = pos.eps - null.eps
    assert float(csd.abs().max()) > 0.05  # the prompt matters, so the comparison is not trivial
    assert max_difference(vsd, (scale - 1) * csd) < 2e-6 * (1 + scale)


# Identity 8


class Unconditional:
    """A prior that ignores conditions."""

    def __init__(self, q):
        self.q = q

    def __call__(self, xt, t, *conditions):
        return self.q(xt, t, *[self.q.condition([""] * len(xt))] * len(conditions))


class GaussianCritic(FixedCritic):
    """The Gaussian with the mean and the variance of the particles."""

    def __init__(self, schedule):
        self.schedule = schedule

    def observe(self, inputs):
        x = inputs.x0.detach()
        std = float(x.var(correction=0).sqrt())
        self.q = Unconditional(gaussian(x.mean(0), std, self.schedule))


@dataclass(frozen=True)
class GaussianCriticConfig(CriticConfig):
    def build(self, prior, setup):
        return GaussianCritic(prior.schedule)


def drift(method, state, prior, x: Tensor, t: float) -> Tensor:
    """Minus the mean direction over antithetic pairs of noise."""
    eps, rows = normal(len(x), 1, seed=5), torch.arange(len(x)).repeat(2)
    conditions = pair_conditions(2 * len(x))
    s = make_inputs(SD, torch.cat([x, x]), t, torch.cat([eps, -eps]), conditions, rows)
    return -mean_of_pairs(method(prior, s, state))


def integrate(velocity, x: Tensor, span: float, n: int) -> Tensor:
    """Runge-Kutta of fourth order."""
    h = span / n
    for _ in range(n):
        a = velocity(x)
        b = velocity(x + h / 2 * a)
        c = velocity(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + velocity(x + h * c))
    return x


@every_time
@pytest.mark.parametrize("name", ["sds", "vsd"])
def test_identity_08_rate_of_the_particle_variance(name, t):
    """Identity 8, the rates."""
    prior, x = pair(f64([-0.4]), f64([0.8]), 0.7, 0.7), 1.5 * normal(300, 1)
    method = SDS(4.0) if name == "sds" else VSD(4.0, critic=GaussianCriticConfig())
    state = NO_STATE if name == "sds" else GaussianCritic(SD)
    alpha, sigma = alpha_and_sigma(SD, float(SD.snap(f64([t]))))
    c, variance = 0.49, float(x.var(correction=0))
    pull = 1 / (alpha**2 * c + sigma**2)
    if name == "vsd":
        pull -= 1 / (alpha**2 * variance + sigma**2)
    rate = 2 * ((x - x.mean()) * drift(method, state, prior, x, t)).mean()
    assert abs(float(rate) + 2 * sigma * alpha * variance * pull) < 1e-12


def test_identity_08_sds_particles_collapse_exponentially():
    """Identity 8, SDS."""
    null, pos, t = f64([-0.4]), f64([0.8]), 0.3
    prior, x = pair(null, pos, 0.7, 0.7), normal(100, 1)
    alpha, sigma = alpha_and_sigma(SD, t)
    k = sigma * alpha / (alpha**2 * 0.49 + sigma**2)
    end = integrate(lambda y: drift(SDS(4.0), NO_STATE, prior, y, t), x, 4.0, 100)
    stationary = null + 4 * (pos - null)
    assert max_difference(end, stationary + (x - stationary) * exp(-4 * k)) < 1e-8


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_identity_08_vsd_particles_keep_the_variance_of_the_prior(scale):
    """Identity 8, VSD."""
    null, pos, t = f64([-0.4]), f64([0.8]), 0.3
    prior, x = pair(null, pos, 0.7, 0.7), 0.2 * normal(100, 1)
    method, state = VSD(scale, critic=GaussianCriticConfig()), GaussianCritic(SD)
    end = integrate(lambda y: drift(method, state, prior, y, t), x, 60.0, 120)
    assert abs(float(end.mean()) - float(null + scale * (pos - null))) < 1e-7
    assert abs(float(end.var(correction=0)) - 0.49) < 1e-7


# Identity 11


class ReparametrizedPrior:
    """An exact prior whose outputs are converted to a prediction type and back."""

    def __init__(self, prior, prediction_type):
        self.prior, self.prediction_type = prior, prediction_type
        self.schedule = prior.schedule

    def __call__(self, xt, t, *conditions):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, s = alpha[:, None], sigma[:, None]
        out = []
        for prediction in self.prior(xt, t, *conditions):
            outputs = {
                "eps": prediction.eps,
                "x0": prediction.x0,
                "v": a * prediction.eps - s * prediction.x0,
                "flow": prediction.eps - prediction.x0,
            }
            output = outputs[self.prediction_type]
            out.append(Prediction.from_output(self.prediction_type, output, xt, alpha, sigma))
        return out


@pytest.mark.parametrize(
    ("schedule", "prediction_type"),
    [
        *[(s, k) for s in (SD, CosineSchedule()) for k in ("eps", "x0", "v")],
        *[(RectifiedFlowSchedule(), k) for k in ("eps", "x0", "flow")],
    ],
)
@every_time
def test_identity_11_all_prediction_types_give_the_same_direction(schedule, prediction_type, t):
    """Identity 11, directions."""
    prior, conditions = mixture(schedule), mixture_conditions(5)
    s = make_inputs(schedule, normal(5, 4, seed=2), t, normal(5, 4, seed=3), conditions)
    converted = SDS(7.5)(ReparametrizedPrior(prior, prediction_type), s, NO_STATE)
    assert max_difference(converted, SDS(7.5)(prior, s, NO_STATE)) < 1e-11


@every_schedule
@every_time
def test_identity_11_weights_map_eps_residuals_to_x0_and_v_residuals(schedule, t):
    """Identity 11, residuals."""
    prior, x0, eps = mixture(schedule), normal(5, 4, seed=2), normal(5, 4, seed=3)
    s = make_inputs(schedule, x0, t, eps, mixture_conditions(5))
    direction = SDS(7.5)(prior, s, NO_STATE)
    prediction = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5)
    alpha, sigma = schedule.alpha(s.t), schedule.sigma(s.t)
    x0_residual = expand(LambdaWeight()(schedule, s.t), x0) * direction
    assert max_difference(x0_residual, x0 - prediction.x0) < 1e-10
    kind = "flow" if isinstance(schedule, RectifiedFlowSchedule) else "v"
    v_hat = prediction.to_output(kind, alpha, sigma)
    v = Prediction(x0, eps).to_output(kind, alpha, sigma)
    assert max_difference(expand(1 / alpha, x0) * direction, v_hat - v) < 1e-10


# Identity 23


def tetrahedron(schedule=SD) -> DataSet:
    """A data set of four points in three dimensions."""
    corners = [[10, 20, 30], [240, 30, 60], [40, 230, 90], [120, 110, 250]]
    data = torch.tensor(corners, dtype=torch.uint8).reshape(4, 3, 1, 1)
    return DataSet(data, schedule=schedule)


def corners_of(data: DataSet) -> Tensor:
    return data.images.flatten(1).double() / 127.5 - 1


def predict_x0(data: DataSet, xt: Tensor, t: float) -> Tensor:
    return data(xt, full(len(xt), t), data.condition([""] * len(xt)))[0].x0.flatten(1)


@every_time
def test_identity_23_predicted_x0_lies_in_the_convex_hull_of_the_data(t):
    """Identity 23, convex hull."""
    data = tetrahedron()
    x0_hat = predict_x0(data, 4 * normal(50, 3, 1, 1), t)
    system = torch.cat([corners_of(data).T, torch.ones(1, 4).double()])
    shares = torch.linalg.solve(system, torch.cat([x0_hat, torch.ones(50, 1).double()], 1).T)
    assert float(shares.min()) > -1e-12


def test_identity_23_limits_of_small_and_large_noise():
    """Identity 23, limits."""
    data, xt = tetrahedron(CosineSchedule()), normal(20, 3, 1, 1)
    nearest = torch.cdist(xt.flatten(1), corners_of(data)).argmin(1)
    assert max_difference(predict_x0(data, xt, 1e-4), corners_of(data)[nearest]) < 1e-12
    mean = corners_of(data).mean(0).expand(20, 3)
    # the schedule's alpha is at least 1e-9
    assert max_difference(predict_x0(data, xt, 1.0), mean) < 1e-8
    zero_snr = tetrahedron(DiscreteSchedule((0.9, 0.5, 0.0)))
    assert max_difference(predict_x0(zero_snr, xt, 1.0), mean) < 1e-8


def test_identity_23_stable_diffusion_schedule_does_not_reach_the_mean():
    """Identity 23, on Stable Diffusion's schedule."""
    data = tetrahedron()
    distance = predict_x0(data, normal(20, 3, 1, 1), 1.0) - corners_of(data).mean(0)
    assert float(distance.norm(dim=1).mean()) > 0.05


def test_identity_23_sds_is_stationary_at_data_points_for_small_t():
    """Identity 23, SDS; next to a datum the direction leads back when descended."""
    data = tetrahedron()
    x0, eps = corners_of(data).reshape(4, 3, 1, 1), normal(4, 3, 1, 1)
    conditions = Conditions(data.condition([""] * 4), data.condition([""] * 4))
    s = make_inputs(SD, x0, 0.02, eps, conditions)
    assert max_difference(SDS(1.0)(data, s, NO_STATE), torch.zeros_like(x0)) < 1e-13
    offset = 0.05 * normal(4, 3, 1, 1, seed=2)
    s = make_inputs(SD, x0 + offset, 0.02, eps, conditions)
    alpha, sigma = alpha_and_sigma(SD, 0.02)
    assert max_difference(SDS(1.0)(data, s, NO_STATE), alpha / sigma * offset) < 1e-12


# Identity 24


@every_schedule
def test_identity_24_ddim_approaches_the_exact_flow_at_first_order(schedule):
    """Identity 24, the order."""
    mean, std = f64([0.4, -0.3]), 0.6
    prior, start = gaussian(mean, std, schedule), normal(20, 2)
    alpha, sigma = alpha_and_sigma(schedule, 1.0)
    exact = mean + std / sqrt(alpha**2 * std**2 + sigma**2) * (start - alpha * mean)
    ends = [sample_x0(prior, gaussian_conditions(20), start, n, 1.0) for n in (50, 100, 200, 400)]
    errors = [max_difference(end, exact) for end in ends]
    # a table from betas has sigma ~ sqrt(t) near the data, which turns 1/n into log(n)/n
    low = 1.8 if isinstance(schedule, DiscreteSchedule) else 1.95
    assert errors[0] < 0.1
    assert all(low < a / b < 2.1 for a, b in pairwise(errors)), errors


@every_schedule
def test_identity_24_each_ddim_step_on_a_gaussian_is_the_closed_form_step(schedule):
    """Identity 24, a single step."""
    mean, std, start = f64([0.4, -0.3]), 0.6, normal(20, 2)
    levels = [alpha_and_sigma(schedule, t) for t in schedule.sampling_times(10).tolist()]
    distance = start - levels[0][0] * mean
    for (alpha, sigma), (next_alpha, next_sigma) in pairwise([*levels, (1.0, 0.0)]):
        factor = next_alpha * alpha * std**2 + next_sigma * sigma
        distance = distance * factor / (alpha**2 * std**2 + sigma**2)
    end = sample_x0(gaussian(mean, std, schedule), gaussian_conditions(20), start, 10, 1.0)
    assert max_difference(end, mean + distance) < 1e-12


# Identity 25


def test_identity_25_four_surrogate_losses_give_the_same_gradient():
    """Identity 25, surrogate losses. A mean square divides by the number of elements."""
    theta, g, particle = normal(3, 4), normal(3, 4, seed=1), torch.arange(3)

    def gradient(backward) -> Tensor:
        x = theta.clone().requires_grad_()
        backward(x.tanh())
        return x.grad

    expected = g * (1 - theta.tanh() ** 2)
    surrogates = {
        "surrogate": lambda x: surrogate(x, g, particle).backward(),
        "target": lambda x: (0.5 * (x - (x - g).detach()).square().sum()).backward(),
        "injected": lambda x: x.backward(g),
        "product": lambda x: (x * g).sum().backward(),
    }
    for name, backward in surrogates.items():
        assert max_difference(gradient(backward), expected) < 1e-14, name
    mean = gradient(lambda x: nn.functional.mse_loss(x, (x - g).detach()).backward())
    assert max_difference(mean, expected * 2 / 12) < 1e-14


def test_identity_25_rows_of_a_particle_are_averaged():
    """Identity 25, several rows of one particle."""
    x, g = normal(5, 2).requires_grad_(), normal(5, 2, seed=1)
    surrogate(x, g, torch.tensor([0, 0, 1, 0, 2])).backward()
    assert max_difference(x.grad, g * f64([1 / 3, 1 / 3, 1, 1 / 3, 1])[:, None]) < 1e-15


def test_identity_25_only_particles_get_gradients_from_their_loss(prior):
    """Identity 25, the loss of the particles."""
    critic = LoRACritic(4, CriticTraining(steps=0))
    experiment = Experiment(("a red mug",), method=VSD(7.5, critic=critic), particles=2, steps=1)
    run = Run(experiment, prior)
    run.optimizer.zero_grad = lambda set_to_none: None
    run.advance()
    assert all(p.grad is not None for p in run.representation.parameters())
    assert all(p.grad is None for p in prior.unet.parameters())
    assert all(p.grad is None for p in prior.vae.parameters())
    assert all(p.grad is None for p in run.state.adapters.parameters())


def test_identity_25_particles_get_no_gradient_from_the_critic_loss(prior):
    """Identity 25, the loss of the critic, whose step is the last of a run's step."""
    method = VSD(7.5, critic=LoRACritic(4))
    run = Run(Experiment(("a red mug",), method=method, particles=2, steps=1), prior)
    before = [p.clone() for p in run.state.adapters.parameters()]
    run.advance()
    after = run.state.adapters.parameters()
    assert all(p.grad is None for p in run.representation.parameters())
    assert all(p.grad is None for p in prior.unet.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


# Identity 26


@dataclass(frozen=True)
class ScaledWeight(Weight):
    """A constant times sigma^2."""

    factor: float = 1.0

    def __call__(self, schedule, t):
        return self.factor * schedule.sigma(t) ** 2


def optimize(optimizer, factor: float) -> Tensor:
    """The particles after 20 steps with the weight factor sigma^2."""
    experiment = Experiment(
        ("x",),
        method=SDS(1.0),
        representation=Latents(0.03),
        optimizer=optimizer,
        weight=ScaledWeight(factor),
        particles=3,
        steps=20,
    )
    run = Run(experiment, mixture())
    while run.step < 20:
        run.advance()
    return particles_of(run)


def test_identity_26_adam_ignores_a_constant_weight_and_sgd_does_not():
    """Identity 26. A power of two changes no rounding."""
    assert torch.equal(optimize(Adam(eps=0.0), 1.0), optimize(Adam(eps=0.0), 1024.0))
    assert max_difference(optimize(Adam(), 1.0), optimize(Adam(), 1000.0)) < 1e-5
    assert max_difference(optimize(SGD(), 1.0), optimize(SGD(), 2.0)) > 1e-2


# Identity 27


@pytest.mark.parametrize("omega", [0.0, 1.0, 6.5, 99.0])
def test_identity_27_guidance_scale_is_that_of_diffusers(omega):
    """Identity 27, s = 1 + omega."""
    prior, scale = mixture(), omega + 1
    s = make_inputs(SD, normal(5, 4, seed=2), 0.4, normal(5, 4, seed=3), mixture_conditions(5))
    pos, null = prior(s.xt, s.t, s.conditions.pos, s.conditions.null)
    paper = pos.eps + omega * (pos.eps - null.eps)
    ours = guided_prediction(prior, s.xt, s.t, s.conditions, scale).eps
    assert max_difference(ours, paper) < 1e-13 * scale
    assert max_difference(SDS(scale)(prior, s, NO_STATE), paper - s.eps) < 1e-13 * scale


def test_identity_27_scale_zero_is_null_and_one_is_pos():
    """Identity 27, the end points."""
    prior = mixture()
    s = make_inputs(SD, normal(5, 4, seed=2), 0.4, normal(5, 4, seed=3), mixture_conditions(5))
    pos, null = prior(s.xt, s.t, s.conditions.pos, s.conditions.null)
    assert torch.equal(guided_prediction(prior, s.xt, s.t, s.conditions, 0.0).eps, null.eps)
    assert torch.equal(guided_prediction(prior, s.xt, s.t, s.conditions, 1.0).eps, pos.eps)


# Identity 30


def row_by_row(direction, s) -> Tensor:
    return torch.cat([direction(s.select(torch.tensor([i]))) for i in range(len(s.x0))])


def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch():
    """Identity 30, SDS and VSD of one particle per prompt."""
    prior, t = mixture(), torch.linspace(0.05, 0.95, 6).double()
    s = make_inputs(SD, normal(6, 4, seed=2), t, normal(6, 4, seed=3), mixture_conditions(6))
    vsd = VSD(7.5, critic=ExactCritic())
    state = vsd.init(prior, SetupContext(6, 6, 0, torch.zeros_like(s.x0)))

    def sds_direction(inputs):
        return SDS(7.5)(prior, inputs, NO_STATE)

    def vsd_direction(inputs):
        return vsd(prior, inputs, state)

    for direction in (sds_direction, vsd_direction):
        whole = direction(s)
        assert max_difference(row_by_row(direction, s), whole) < 1e-13


def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch_in_a_network(prior):
    """Identity 30, SDS on a network."""
    x0, eps, t = network_latents(4), network_latents(4, seed=1), torch.tensor([0.1, 0.4, 0.6, 0.9])
    conditions = prompt_conditions(prior, ["a red mug", "a blue chair", "two cats", "x"])
    s = make_inputs(prior.schedule, x0, t, eps, conditions)
    with torch.no_grad():
        whole = SDS(7.5)(prior, s, NO_STATE)
        rows = row_by_row(lambda inputs: SDS(7.5)(prior, inputs, NO_STATE), s)
    assert max_difference(whole, rows) < 2e-5


def trajectories(prior, prompts, particles, n=12) -> Tensor:
    """The particles after each step, from given starting points."""
    experiment = Experiment(
        prompts,
        method=SDS(3.0),
        representation=Latents(0.05),
        noise=FixedPerParticleNoise(),
        timesteps=FixedTimesteps(0.4),
        particles=particles,
        steps=n,
    )
    run = Run(experiment, prior)
    with torch.no_grad():
        for i, p in enumerate(run.representation.particles):
            p.copy_(normal(*p.shape, seed=i, dtype=torch.float32))
    out = []
    while run.step < n:
        run.advance()
        out.append(particles_of(run).clone())
    return torch.stack(out)


def test_identity_30_trajectory_does_not_depend_on_the_number_of_particles():
    """Identity 30, in a run."""
    prior = mixture(labels=("mug", "chair", "cat"))
    many = trajectories(prior, ("mug",), 4)
    # to rounding: a matrix product sums in another order for another number of rows
    assert max_difference(trajectories(prior, ("mug",), 1), many[:, :1]) < 1e-6
    assert max_difference(trajectories(prior, ("mug", "chair"), 4)[:, :4], many) < 1e-6


@dataclass(frozen=True)
class PullToZero(StatelessMethod):
    """A known direction: x0 itself."""

    def __call__(self, prior, inputs, state):
        return inputs.x0.detach()


@pytest.mark.parametrize("n", [1, 7])
def test_identity_30_sgd_moves_a_particle_by_its_own_direction(n):
    """Identity 30, SGD."""
    experiment = Experiment(
        ("x",),
        method=PullToZero(),
        representation=Latents(0.5),
        optimizer=SGD(),
        weight=UniformWeight(),
        particles=n,
        steps=1,
    )
    run = Run(experiment, GaussianMixture(normal(1, 4), torch.ones(1)))
    before = particles_of(run).clone()
    run.advance()
    assert torch.equal(particles_of(run), before / 2)


# Identity 31


@pytest.mark.parametrize("method", [SDS(7.5), VSD(7.5, critic=ExactCritic())], ids=["sds", "vsd"])
def test_identity_31_run_depends_on_its_seed_and_not_on_the_global_generator(method):
    """Identity 31, seeds; a run leaves the global generator alone."""
    prior = mixture()
    experiment = Experiment(("x",), method=method, particles=4, batch_size=2, steps=8, seed=5)

    def gradients(experiment, global_seed):
        torch.manual_seed(global_seed)
        return torch.stack([step.gradient for step in steps(experiment, prior)])

    state = torch.get_rng_state()
    first = gradients(experiment, 1)
    assert torch.equal(first, gradients(experiment, 2))
    assert not torch.equal(first, gradients(replace(experiment, seed=6), 1))
    torch.set_rng_state(state)
    list(steps(experiment, prior))
    assert torch.equal(torch.get_rng_state(), state)


@every_time
def test_identity_31_float32_error_bound(t):
    """Identity 31, float32."""
    data = DataSet(torch.randint(0, 256, (30, 3, 8, 8), generator=rng()).to(torch.uint8))
    x0, eps = 0.3 * normal(10, 3, 8, 8), normal(10, 3, 8, 8, seed=1)
    conditions = Conditions(data.condition([""] * 10), data.condition([""] * 10))
    double = SDS(1.0)(data, make_inputs(SD, x0, t, eps, conditions), NO_STATE)
    single = SDS(1.0)(data, make_inputs(SD, x0.float(), t, eps.float(), conditions), NO_STATE)
    assert single.dtype == torch.float32
    assert max_difference(single, double) / float(double.abs().max()) < 1e-4


@every_time
def test_identity_31_bfloat16_error_bound_of_a_network(folder, t):
    """Identity 31, bfloat16."""
    x0, eps = network_latents(2), network_latents(2, seed=1)
    directions = []
    for dtype in (torch.float32, torch.bfloat16):
        prior = StableDiffusion(str(folder), dtype=dtype)
        conditions = prompt_conditions(prior, ["a red mug", "a blue chair"])
        s = make_inputs(prior.schedule, x0, t, eps, conditions)
        with torch.no_grad():
            directions.append(SDS(1.0)(prior, s, NO_STATE))
    single, half = directions
    assert half.dtype == torch.float32
    assert 0 < float((half - single).norm() / single.norm()) < 0.05


# Identity 32


@every_schedule
@every_time
def test_identity_32_eps_is_minus_sigma_times_the_score(schedule, t):
    """Identity 32, the score by autograd."""
    means, stds = normal(3, 4, seed=1), f64([0.3, 0.6, 1.0])
    prior = GaussianMixture(means, stds, torch.tensor([1.0, 2.0, 5.0]), schedule=schedule)
    z = (2 * normal(9, 4, seed=2)).requires_grad_()
    time = schedule.snap(full(9, t))
    for shares in ((1, 1, 1), (0.3, 0.0, 0.7)):
        condition = class_conditions(9, (1, 1, 1), shares).pos
        (score,) = torch.autograd.grad(prior.log_density(z, time, condition).sum(), z)
        eps_hat = prior(z.detach(), time, condition)[0].eps
        assert max_difference(eps_hat, -schedule.sigma(time)[:, None] * score) < 1e-12


@every_time
def test_identity_32_density_is_the_mixture_and_integrates_to_one(t):
    """Identity 32, the density."""
    prior = GaussianMixture(**MIX)
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    time = SD.snap(full(len(z), t))

    def p_t(shares):
        condition = class_conditions(len(z), shares, shares).pos
        return prior.log_density(z[:, None], time, condition).exp()

    for shares in ((1, 1, 1), (0.5, 0.0, 2.0)):
        assert abs(float(torch.trapezoid(p_t(shares), z)) - 1) < 1e-11
    expected = density(z, *alpha_and_sigma(SD, float(time[0])))
    assert max_difference(p_t((1, 1, 1)), expected) < 1e-13


# Identity 33


@every_time
@pytest.mark.parametrize("method", [SDS(7.5), VSD(7.5, critic=ExactCritic())], ids=["sds", "vsd"])
def test_identity_33_direction_is_equivariant(method, t):
    """Identity 33, SDS and VSD."""
    means, x0, eps = normal(3, 4, seed=1), normal(5, 4, seed=2), normal(5, 4, seed=3)
    rotation, shift = torch.linalg.qr(normal(4, 4, seed=4)).Q, normal(4, seed=5)

    def direction(m, x, e):
        prior = GaussianMixture(m, f64([0.3, 0.6, 1.0]))
        s = make_inputs(SD, x, t, e, mixture_conditions(5))
        return method(prior, s, method.init(prior, SetupContext(5, 1, 0, x)))

    reference = direction(means, x0, eps)
    rotated = direction(means @ rotation, x0 @ rotation, eps @ rotation)
    assert max_difference(rotated, reference @ rotation) < 1e-11
    assert max_difference(direction(means + shift, x0 + shift, eps), reference) < 1e-11

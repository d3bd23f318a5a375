"""Every method with every option of guidance: it changes the gradient, or it is refused by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from allowed_times import times_for
from ball_representation import Ball
from mixture_inputs import GREEN, NEGATIVES, five_rows, mixture, perp_neg_conditions
from short_methods import short
from tiny_pipeline import f64, max_difference, normal

from limbeck.config.discovery import choices
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.discriminators.feature import FeatureDiscriminator
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import PredictedNoise
from limbeck.distillation.projections.identity import IdentityProjection
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.distillation.projections.sampled import SampledProjection
from limbeck.distillation.state import Stateless
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.bridge import Bridge
from limbeck.methods.csd import CSD
from limbeck.methods.denoising_student import DenoisingStudent
from limbeck.methods.dmd2 import DMD2
from limbeck.methods.dsd import DSD
from limbeck.methods.esd import ESD
from limbeck.methods.hifa import HiFA
from limbeck.methods.irfds import IRFDS
from limbeck.methods.ism import ISM
from limbeck.methods.lmc import LMC
from limbeck.methods.msd import MSD
from limbeck.methods.nfsd import NFSD
from limbeck.methods.reward_bridge import RewardBridge
from limbeck.methods.rfds_rev import RFDSRev
from limbeck.methods.sdedit import SDEdit
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.methods.stable_sd import StableSD
from limbeck.methods.vsd import VSD
from limbeck.representations.latents import Latents
from limbeck.representations.noise import NoiseMap
from limbeck.training.experiment import Experiment
from limbeck.training.particle_images import particle_images
from limbeck.training.trainer import Run

STEPS = 10
SUFFIXES = {"source_suffix": " blue", "target_suffix": " red"}
#: options by which the formula of a method is another one, besides the defaults of every method
VARIANTS = {
    "bridge": Bridge(**SUFFIXES),
    "bridge, stage one only": Bridge(stage_two_start=1.0, **SUFFIXES),
    "bridge, stage two only": Bridge(stage_two_start=0.0, **SUFFIXES),
    "csd, negative": CSD(negative_prompt="blue"),
    "csd, negative from the start": CSD(negative_prompt="blue", negative_start=1.0),
    "esd, no entropy": ESD(entropy_weight=0.0),
    "hifa, one step": HiFA(denoise_steps=1),
    "irfds, guided": IRFDS(7.5),
    "irfds, unguided": IRFDS(sampling_guidance=1.0),
    "lmc": LMC(projection=LearnedProjection(num_images=0)),
    "lmc, identity": LMC(projection=IdentityProjection()),
    "lmc, sampled": LMC(1.0, SampledProjection()),
    "lmc, corrective alone": LMC(0.0, SampledProjection()),
    "nfsd, no text": NFSD(1.0, t_threshold=0.0, negative_prompt=""),
    "nfsd, unread text": NFSD(1.0, t_threshold=0.0),
    "nfsd, text": NFSD(negative_prompt="blue"),
    "nfsd, low threshold": NFSD(t_threshold=0.0),
    "reward-bridge": RewardBridge(**SUFFIXES),
    "rfds-rev, unguided": RFDSRev(1.0),
    "sdi, cached": SDI(kappa="cached"),
    "msd, sampled": MSD(sampler_steps=3),
    "sds, null": SDS(0.0),
    "sds, unguided": SDS(1.0),
    "stable-sd, unguided": StableSD(1.0),
    "stable-sd, by time": StableSD(order="by-time"),
    "sdedit": SDEdit(denoise_steps=3),
    "vsd, guided critic": VSD(critic_guidance=0.5, critic=LoRACritic(2)),
}
METHODS = {**{name: short(cls) for name, cls in choices(Method).items()}, **VARIANTS}
OPTIONS_2D = {
    "negative_prompt": {"negative_prompt": "a blue chair"},
    "perp_neg": {"negative_prompt": "a blue chair", "perp_neg": 2.0},
    "denoise_steps": {"denoise_steps": 3},
}
VIEWS, NO_VIEWS = ("front", "side", "back", "top"), ("", "", "", "")
OPTIONS_3D = {
    "view_prompts": {"cameras": Orbit(per_particle=4, view_prompts=VIEWS)},
    "cameras.perp_neg": {"cameras": Orbit(per_particle=4, view_prompts=VIEWS, perp_neg=2.0)},
}
#: options that the formula of a method has no place for
REFUSED = {
    ("bridge", "negative_prompt"),
    ("bridge, stage two only", "negative_prompt"),
    ("csd, negative", "negative_prompt"),
    ("csd, negative from the start", "negative_prompt"),
    ("denoising-student", "denoise_steps"),
    ("flow-align", "negative_prompt"),
    ("hifa", "denoise_steps"),
    ("hifa, one step", "denoise_steps"),
    ("irfds, unguided", "negative_prompt"),
    ("lusd", "negative_prompt"),
    ("lmc, corrective alone", "negative_prompt"),
    ("lmc, corrective alone", "perp_neg"),
    ("lmc, corrective alone", "denoise_steps"),
    ("lmc, corrective alone", "cameras.perp_neg"),
    ("msd, sampled", "denoise_steps"),
    ("nfsd, unread text", "negative_prompt"),
    ("reward-bridge", "negative_prompt"),
    ("sdedit", "denoise_steps"),
    ("sds, null", "perp_neg"),
    ("sds, null", "cameras.perp_neg"),
    ("sds, unguided", "negative_prompt"),
    ("rfds-rev, unguided", "negative_prompt"),
    ("stable-sd, unguided", "negative_prompt"),
}
#: options that the images of the particles depend on, not the gradient
OF_IMAGES = {("irfds", "negative_prompt")}
#: guidance scale 0 and LMC's corrective alone read no prompt, which is what their options say
WITHOUT_PROMPT = {"sds, null", "lmc, corrective alone"}


def gradients(experiment: Experiment, prior) -> list[torch.Tensor]:
    """The gradients of the first and of the last step, from the same particles."""
    found = []
    for step in (0, STEPS - 1):
        run = Run(experiment, prior)
        run.step = step
        with torch.no_grad():  # an edit that has not left its source does not hear the null prompt
            for k, parameter in enumerate(run.representation.parameters()):
                parameter += 0.3 * normal(*parameter.shape, seed=k, dtype=parameter.dtype)
        found.append(run.advance().gradient)
    return found


def assert_changed(experiment: Experiment, options, prior) -> None:
    before, after = gradients(experiment, prior), gradients(replace(experiment, **options), prior)
    for a, b in zip(before, after, strict=True):
        assert max_difference(a, b) > 1e-4 * float(a.abs().max())


@pytest.mark.parametrize("option", OPTIONS_2D)
@pytest.mark.parametrize("name", METHODS)
def test_an_option_of_2d_changes_the_gradient_or_is_refused(name, option, tiny, image_path):
    method, options = METHODS[name], OPTIONS_2D[option]
    is_noise = method.optimizes == "noise"
    experiment = Experiment(
        ("a red mug",),
        source_prompt=("two striped cats",),
        method=method,
        representation=NoiseMap(images=(image_path,)) if is_noise else Latents(),
        steps=STEPS,
    )
    if (name, option) in OF_IMAGES:
        runs = (Run(e, tiny) for e in (experiment, replace(experiment, **options)))
        one, other = (particle_images(run, run.eval_request(1)) for run in runs)
        assert max_difference(one, other) > 1e-4
        return None
    if (name, option) not in REFUSED:
        return assert_changed(experiment, options, tiny)
    with pytest.raises(ValueError, match=f"method {name.split(',')[0]} does not use {option} "):
        replace(experiment, **options)


@pytest.mark.parametrize("option", OPTIONS_3D)
@pytest.mark.parametrize("name", METHODS)
def test_an_option_of_3d_changes_the_gradient_or_is_refused(name, option, tiny):
    method, options = METHODS[name], OPTIONS_3D[option]
    no_views = Orbit(per_particle=4, view_prompts=NO_VIEWS)

    def experiment(cameras):
        return Experiment(
            ("a red mug",),
            method=method,
            representation=Ball(),
            cameras=cameras,
            timesteps=times_for(method),
            steps=STEPS,
        )

    if (name, option) in REFUSED:
        with pytest.raises(
            ValueError, match=f"method {name.split(',')[0]} does not use {option}: "
        ):
            experiment(**options)
    elif isinstance(method, SDI) and method.kappa == "cached":
        with pytest.raises(ValueError, match="predicted for another camera"):
            Run(experiment(**options), tiny)
    elif method.optimizes == "noise":
        with pytest.raises(ValueError, match="method irfds optimizes the noise of an image"):
            experiment(**options)
    elif isinstance(method, EditMethod) and not isinstance(method, SDEdit):
        with pytest.raises(ValueError, match="this method edits images"):
            Run(experiment(**options), tiny)
    elif name not in WITHOUT_PROMPT:
        if isinstance(method, ESD) and method.entropy_weight:
            no_views = Orbit(per_particle=4, view_prompts=("near", "near", "near", "near"))
        if option == "cameras.perp_neg":
            no_views = Orbit(per_particle=4, view_prompts=VIEWS)
        assert_changed(experiment(no_views), options, tiny)


def test_a_noise_that_is_predicted_with_guidance_reads_the_negative_prompt(tiny):
    options = {"method": SDS(1.0), "steps": STEPS, "noise": PredictedNoise(7.5)}
    experiment = Experiment(("a red mug",), **options)
    assert_changed(experiment, OPTIONS_2D["negative_prompt"], tiny)


def test_a_discriminator_reads_the_negative_prompt_for_its_samples(tiny):
    discriminator = FeatureDiscriminator(8, sampling_steps=2)
    method = DMD2(1.0, critic=LoRACritic(2), discriminator=discriminator)
    runs = [
        Run(Experiment(("a red mug",), text, method=method, steps=1), tiny)
        for text in ("", "a blue chair")
    ]
    one, other = (float(run.advance().metrics["discriminator"]) for run in runs)
    assert one == pytest.approx(math.log(4))  # heads of zeros
    assert one == other
    weights = [run.state.tensors() for run in runs]
    differences = [max_difference(weights[0][k], weights[1][k]) for k in weights[0]]
    assert max(differences) > 1e-6


@pytest.mark.parametrize(
    "method", [MSD(), SDI(), DSD(), IRFDS(), DenoisingStudent()], ids=lambda m: type(m).__name__
)
def test_a_noise_that_a_method_draws_none_of_is_refused(method, image_path):
    options = {"method": method, "source_prompt": ("two striped cats",)}
    if method.optimizes == "noise":
        options["representation"] = NoiseMap(images=(image_path,))
    Experiment(("a red mug",), **options)
    with pytest.raises(ValueError, match=r"does not use noise predicted: .*leave it out"):
        Experiment(("a red mug",), noise=PredictedNoise(), **options)
    Experiment(("a red mug",), noise=PredictedNoise(), method=SDI(kappa="cached"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_states_its_guidance_scales(name):
    assert METHODS[name].guidance_scales is not None


@pytest.mark.parametrize("blend", [False, True])
def test_bridge_in_3d_compares_source_and_target_of_the_same_view(tiny, blend):
    """As in its authors' code: each text goes through the template of the view."""
    cameras = Orbit(per_particle=4, view_prompts=VIEWS, blend_prompts=blend)
    method = Bridge(stage_two_start=0.0, **SUFFIXES)
    prompts = ("a red mug", "two striped cats")
    experiment = Experiment(
        prompts, method=method, representation=Ball(), cameras=cameras, steps=STEPS
    )
    run = Run(experiment, tiny)
    step = run.advance()
    inputs, camera = step.inputs, step.inputs.camera
    weights = cameras.view_weights(camera, 8)
    expected = []
    for suffix in SUFFIXES.values():
        texts = tiny.condition([f"{p}{suffix}, {view}" for p in prompts for view in VIEWS]).data
        rows = texts.unflatten(0, (2, 4))[inputs.particle]
        expected.append(torch.einsum("bv,bvld->bld", weights, rows))
    for embedding, text in zip(run.state.for_rows(inputs), expected, strict=True):
        assert max_difference(embedding.data, text) < 1e-6
    source, target = (Condition(data) for data in expected)
    with torch.no_grad():
        eps_source, eps_target = tiny(inputs.xt, inputs.t, source, target)
        direction = method(tiny, inputs, run.state)
    assert max_difference(direction, 40 * (eps_target.eps - eps_source.eps)) < 1e-4
    assert len({tuple(row.flatten().tolist()) for row in expected[0]}) > 4


def test_csd_and_stable_sd_are_guided_predictions_with_perp_neg():
    """CSD is the change of the guided prediction with s, and stable SD at r = 1 is SDS."""
    prior, s = mixture(), five_rows(conditions=perp_neg_conditions(5, *NEGATIVES))
    eps = {k: guided_prediction(prior, s.xt, s.t, s.conditions, k).eps for k in (0.0, 1.0, 7.5)}
    csd = CSD()(prior, s, CSD().init(prior, SetupContext(5, 1, 0, s.x0)))
    assert max_difference(csd, eps[1.0] - eps[0.0]) < 1e-12
    assert max_difference(7.5 * csd, eps[7.5] - eps[0.0]) < 1e-12
    r = expand((eps[1.0] * s.eps).sum(1) / s.eps.square().sum(1), s.eps)
    stable = StableSD(7.5)(prior, s, Stateless())
    assert max_difference(stable, eps[7.5] - r * s.eps) < 1e-12
    b = LMC(7.5, IdentityProjection())
    lmc = b(prior, s, b.init(prior, SetupContext(5, 1, 0, s.x0)))
    assert max_difference(lmc, eps[7.5] - s.eps) < 1e-12


def test_the_corrective_of_lmc_hears_no_negative_prompt():
    """b is the mean over the empty prompt, so x0_hat must be of the empty prompt too."""
    prior, plain = mixture(), five_rows()
    y = plain.conditions
    negative = Condition(f64(list(GREEN)).log().expand(5, -1))
    s = replace(plain, conditions=Conditions(y.pos, negative, empty=y.null))
    b = LMC(7.5, IdentityProjection())
    lmc = b(prior, s, b.init(prior, SetupContext(5, 1, 0, s.x0)))
    empty, neg, pos = prior(s.xt, s.t, y.null, negative, y.pos)
    expected = empty.eps - s.eps + 7.5 * (pos.eps - neg.eps)
    assert max_difference(lmc, expected) < 1e-12
    assert prior.call_counter.rows == (3 + 3) * 5


def test_ism_hears_the_negative_prompt_at_t_only():
    """The inversion and eps(x_s) are unconditional, as in all published configurations."""
    prior, plain = mixture(), five_rows()
    y = plain.conditions
    negative = Condition(f64(list(GREEN)).log().expand(5, -1))
    s = replace(plain, conditions=Conditions(y.pos, negative, empty=y.null))
    method = ISM(7.5, warmup=0.0)
    earlier = s.t - 0.08
    xs = method.invert(prior, plain, earlier)
    at_s = prior(xs, earlier, y.null)[0]
    xt = s.schedule.add_noise(at_s.x0, at_s.eps, s.t)
    neg, pos = prior(xt, s.t, negative, y.pos)
    expected = neg.lerp(pos, 7.5).eps - at_s.eps
    assert max_difference(method(prior, s, Stateless()), expected) < 1e-12

"""Priors of every family of diffusers: the numbers of its pipeline, methods and critics."""

import gc
import json
import math
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from allowed_times import times_for
from diffusers import SanaPipeline, StableDiffusionPipeline
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from family_pipelines import (
    FAMILIES,
    OTHER,
    PROMPT,
    STEPS,
    TIMES,
    diffusers_pipeline,
    encode_with_pipeline,
    latents_of_pipeline,
    load_family,
    predict_eps,
    same_predictions,
    sample_with_pipeline,
    train_lora_critic,
    unpack,
    with_network,
)
from short_methods import short
from tiny_pipeline import WORDS, max_difference, normal, prompt_conditions, rng

from limbeck.config.discovery import choices
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.model_options import Model, RuntimeOptions
from limbeck.diffusion.prior import AttentionPrior, Prior
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.base import Method
from limbeck.methods.cds import CDS
from limbeck.methods.irfds import IRFDS
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load
from limbeck.priors.lora_adapters import NetworkPrior
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

LATENT = [family for family in FAMILIES if family != "pixel"]
TRANSFORMERS = ["sd3", "flux", "sana", "pixart-sigma", "lumina2", "klein", "qwen"]
ONE_OF_EACH = ["v", "xl", "pixel", *TRANSFORMERS]
POOLED = ["xl", "sd3", "sd3-no-t5", "flux", "schnell"]
MASKED = ["sana", "pixart-alpha", "pixart-sigma", "lumina2", "qwen"]
SIGNS = {"lumina2": -1}  # of the networks that predict the negative of the flow
#: Pipelines without a second pass for guidance, or that change its norm.
UNGUIDED = ["flux2", "qwen"]


def copy_with_changes(folder, target, file, changes):
    """A copy of a pipeline folder in which a JSON file has other options."""
    shutil.copytree(folder, target)
    config = json.loads((target / file).read_text())
    (target / file).write_text(json.dumps(config | changes))
    return target


@pytest.fixture
def one(family, folders):
    return load_family(family, folders(family))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_with_guidance_is_that_of_the_pipeline(one, family, folders, guidance):
    if guidance > 1 and family in UNGUIDED:
        pytest.skip("the pipeline has no guidance of two passes, or changes its norm")
    noise = torch.randn(2, *one.shape, generator=rng(3))
    x0 = sample_x0(one, prompt_conditions(one, [PROMPT, OTHER]), noise, STEPS, guidance)
    expected = sample_with_pipeline(one, folders(family), noise, guidance)
    assert max_difference(x0, expected) < 1e-4 * max(1.0, float(expected.abs().max()))
    assert max_difference(x0[:1], x0[1:]) > 0.01  # two prompts and two noises


def test_the_network_has_the_inputs_and_outputs_of_the_pipeline(one, family, folders):
    """One recorded call of the pipeline: same output for the same input, of the same type."""
    pipe, calls = diffusers_pipeline(one, folders(family)), []
    network = getattr(pipe, one.network_name)
    network.register_forward_hook(
        lambda module, args, options, out: calls.append((args, options, out)), with_kwargs=True
    )
    noise = torch.randn(2, *one.shape, generator=rng(3))
    sample_with_pipeline(one, folders(family), noise, 1.0, pipe)
    args, options, out = calls[1]  # in the first call x_t is noise alone
    xt = args[0] if args else options["hidden_states"]
    xt, expected = (unpack(pipe, x, noise.shape) for x in (xt, out[0]))
    expected = SIGNS.get(family, 1) * expected[:, : xt.shape[1]]
    t = one.schedule.sampling_times(STEPS)[1].expand(2)
    prediction = one(xt, t, one.condition([PROMPT, OTHER]))[0]
    alpha, sigma = one.schedule.alpha(t), one.schedule.sigma(t)
    output = prediction.to_output(one.prediction_type, alpha, sigma)
    assert max_difference(output, expected) < 5e-5 * float(expected.abs().max())
    assert torch.allclose(one.schedule.add_noise(prediction.x0, prediction.eps, t), xt, atol=1e-4)


def test_sampling_times_are_those_of_the_scheduler(one, family, folders):
    scheduler = diffusers_pipeline(one, folders(family)).scheduler
    schedule, times = one.schedule, one.schedule.sampling_times(STEPS)
    if isinstance(schedule, DiscreteSchedule):
        scheduler.set_timesteps(STEPS)
        assert schedule.timestep_index(times).tolist() == scheduler.timesteps.tolist()
        alphas_cumprod = scheduler.alphas_cumprod[scheduler.timesteps]
        assert max_difference(schedule.alpha(times) ** 2, alphas_cumprod) < 1e-6
    elif family == "sd3":
        scheduler.set_timesteps(STEPS)
        assert max_difference(schedule.sigma(times), scheduler.sigmas[:-1]) < 1e-6
    inverse = schedule.inverse_log_snr(schedule.log_snr(times[1:]))
    assert max_difference(inverse, times[1:]) < 1e-9


def test_it_implements_the_protocols(one, family):
    assert isinstance(one, Prior) and isinstance(one, NetworkPrior)
    assert not any(p.requires_grad for p in one.network.parameters()) and not one.network.training
    conditions = one.condition([PROMPT, "", PROMPT])
    assert torch.equal(conditions.data[0], conditions.data[2])
    assert (conditions.pooled is None) == (family not in POOLED)
    assert (conditions.mask is None) == (family not in MASKED)
    assert max_difference(conditions.data[0], conditions.data[1]) > 0.05
    joined = conditions[:1].concat(conditions[1:2])
    assert torch.equal(joined.data, conditions.data[:2])
    if conditions.pooled is not None:
        assert torch.equal(joined.pooled, conditions.pooled[:2])
        assert len(conditions[torch.tensor([2, 1])].pooled) == 2
        other = conditions[torch.tensor([0, 0, 1])]
        mixed = conditions.where(torch.tensor([True, True, False]), other)
        assert torch.equal(mixed.pooled, conditions.pooled[torch.tensor([0, 1, 1])])


def test_all_conditions_take_one_call_and_are_counted(one):
    xt, conditions = normal(3, *one.shape, dtype=torch.float32), prompt_conditions(one, WORDS[:3])
    passes = []
    one.network.register_forward_hook(
        lambda module, args, options, out: passes.append(len(out[0])), with_kwargs=True
    )
    guided = guided_prediction(one, xt, TIMES, conditions, 7.5)
    guided_prediction(one, xt, TIMES, conditions, 1.0)
    assert passes == [6, 3] and (one.call_counter.calls, one.call_counter.rows) == (2, 9)
    pos, null = one(xt, TIMES, conditions.pos)[0], one(xt, TIMES, conditions.null)[0]
    scale = float((7.5 * pos.eps).abs().max())
    assert max_difference(guided.eps, null.eps + 7.5 * (pos.eps - null.eps)) < 1e-5 * scale
    assert max_difference(pos.eps, null.eps) > 1e-2


@pytest.mark.parametrize("family", LATENT)
def test_the_autoencoder_is_that_of_the_pipeline_with_its_gradient(family, folders):
    prior = load_family(family, folders(family))
    pipe = diffusers_pipeline(prior, folders(family))
    probe = normal(2, *prior.shape, dtype=torch.float32)
    latents, grads = [], []
    for encode in (prior.encode, partial(encode_with_pipeline, pipe)):
        image = torch.rand(2, 3, 16, 16, generator=rng(1)).requires_grad_()
        latents.append(encode(image))
        (latents[-1] * probe).sum().backward()
        grads.append(image.grad)
    assert max_difference(*latents) < 1e-6
    largest = float(grads[1].abs().max())
    assert max_difference(*grads) < 1e-6 * largest and largest > 0
    x0 = normal(2, *prior.shape, seed=5, dtype=torch.float32)
    with torch.no_grad():
        decoded = pipe.vae.decode(latents_of_pipeline(pipe, x0)).sample
        image = (decoded / 2 + 0.5).clamp(0, 1).reshape(2, 3, 16, 16)  # of Qwen, one frame
    assert max_difference(prior.decode(x0), image) < 1e-5 and float(image.std()) > 0.01


def test_pixels_are_only_rescaled(folders):
    prior = load_family("pixel", folders("pixel"))
    image = torch.rand(2, 3, 16, 16, generator=rng(1))
    assert max_difference(prior.encode(image), image * 2 - 1) == 0
    assert max_difference(prior.decode(prior.encode(image)), image) < 1e-6


def check_two_steps(prior, method):
    """Two steps of a method in pixels, as an edit; the particles move."""
    experiment = Experiment(
        (PROMPT,),
        method=method,
        representation=Pixels(),
        particles=2,
        steps=2,
        source_prompt=(OTHER,),
        timesteps=times_for(method),
    )
    run = Run(experiment, prior)
    before = {k: v.clone() for k, v in run.representation.state_dict().items()}
    for _ in range(2):
        step = run.advance()
    assert bool(step.gradient.isfinite().all()), method
    after = run.representation.state_dict()
    assert any(max_difference(before[k], after[k]) > 0 for k in before), f"{method} moves nothing"
    assert all(bool(v.isfinite().all()) for v in after.values()), method


@pytest.mark.parametrize(
    "family",
    [
        "flux",  # the matrix of the methods has a v model
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("v", "xl", "pixel", "sd3", "sana")
        ),
    ],
)
def test_every_method_runs(family, folders):
    """CDS refuses what is no U-Net on latents. iRFDS is left out: its particles are noise."""
    prior = load_family(family, folders(family))
    for cls in choices(Method).values():
        if cls is IRFDS:
            continue
        if cls is CDS and not isinstance(prior, AttentionPrior):
            with pytest.raises(ValueError, match="CDS reads attention features"):
                check_two_steps(prior, cls())
            continue
        check_two_steps(prior, short(cls))


@pytest.mark.parametrize(
    "family", ["pixart-alpha", "pixart-sigma", "lumina2", "flux2", "klein", "qwen"]
)
def test_sds_and_vsd_run(family, folders):
    prior = load_family(family, folders(family))
    check_two_steps(prior, SDS())
    check_two_steps(prior, VSD(critic=LoRACritic(2)))


@pytest.mark.parametrize("family", ["xl", "sd3", "sana", "qwen"])
def test_a_small_critic_and_condition_dropout_run(family, folders):
    prior = load_family(family, folders(family))
    is_flow = family != "xl"
    small_unet = SmallUNetCritic(width=8), "flow" if is_flow else "v"
    lora = LoRACritic(2, CriticTraining(unconditional_prob=0.5)), "flow" if is_flow else "eps"
    for critic, prediction_type in (small_unet, lora):
        run = Run(Experiment((PROMPT,), method=VSD(critic=critic), particles=3, steps=2), prior)
        assert all(bool(run.advance().metrics["critic"].isfinite()) for _ in range(2))
        assert run.state.prior().prediction_type == prediction_type


# masks of text tokens


@pytest.mark.parametrize("family", MASKED)
def test_padding_has_no_effect(family, folders):
    prior = load_family(family, folders(family))
    condition = prior.condition([PROMPT, OTHER, ""])
    lengths = condition.mask.sum(1).tolist()
    assert lengths[0] < lengths[1] < condition.mask.shape[1] and lengths[2] < lengths[0]
    assert float(condition.data[~condition.mask].abs().max()) == 0
    noisy = torch.where(condition.mask[:, :, None], condition.data, torch.full((), 3.0))
    eps = predict_eps(prior, condition)[0]
    assert torch.equal(predict_eps(prior, replace(condition, data=noisy))[0], eps)
    seen = replace(condition, mask=torch.ones_like(condition.mask))
    assert max_difference(predict_eps(prior, seen)[0], eps) > 1e-3


@pytest.mark.parametrize("family", MASKED)
def test_a_blend_of_two_texts_ends_at_each(family, folders):
    prior = load_family(family, folders(family))
    short, long = prior.condition(["", PROMPT, ""]), prior.condition([OTHER] * 3)
    blend = short.lerp(long, torch.tensor([0.0, 1.0, 0.5]))
    ends = short[:1].concat(long[1:2])
    assert torch.equal(blend.data[:2], ends.data) and torch.equal(blend.mask[:2], ends.mask)
    assert torch.equal(blend.mask[2], short.mask[2] | long.mask[2])
    mixed = short.where(torch.tensor([True, False, True]), long)
    assert torch.equal(mixed.mask[:2], ends.mask)


# LoRA critics


def test_without_adapters_the_network_is_the_frozen_one_bit_for_bit(one, family, folders):
    conditions = one.condition(WORDS[:3])
    before = predict_eps(one, conditions)[0]
    run = train_lora_critic(one, n=1)
    assert torch.equal(predict_eps(one, conditions)[0], before)
    mixed = predict_eps(one, conditions, conditions.with_adapters(run.state.adapters))
    assert max_difference(mixed[0], before) < 1e-5 * float(before.abs().max())
    assert max_difference(mixed[1], before) > 1e-4
    del run
    gc.collect()
    assert not any(m._forward_hooks for m in one.network.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_saved_critic_is_the_same_in_diffusers_and_can_be_loaded(family, folders, tmp_path):
    prior = load_family(family, folders(family))
    run = train_lora_critic(prior)
    run.experiment.method.save_critic(prior, run.state, tmp_path / "critic")
    conditions = prior.condition(WORDS[:3])
    adapted = predict_eps(run.state.prior(), conditions)[0]
    bound = 1e-5 * float(adapted.abs().max())
    assert max_difference(adapted, predict_eps(prior, conditions)[0]) > 1e-3
    if not family.startswith("pixart"):  # whose pipeline reads no LoRA
        pipe = diffusers_pipeline(prior, folders(family))
        pipe.load_lora_weights(tmp_path / "critic")
        network = getattr(pipe, prior.network_name)
        in_diffusers = with_network(load_family(family, folders(family)), network)
        assert max_difference(predict_eps(in_diffusers, conditions)[0], adapted) < bound
    # with a higher rank the loaded critic is the same
    critic = LoRACritic(5, init_from=tmp_path / "critic")
    experiment = Experiment((PROMPT,), method=VSD(critic=critic))
    loaded = Run(experiment, load_family(family, folders(family))).state.prior()
    assert max_difference(predict_eps(loaded, conditions)[0], adapted) < bound


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["eps", "sd3"])
@pytest.mark.parametrize("writer", ["diffusers", "peft"])
def test_a_lora_of_another_library_can_be_loaded(family, writer, folders, tmp_path):
    """Its alpha is not its rank, so that the scale must be read."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    prior = load_family(family, folders(family))
    pipe = diffusers_pipeline(prior, folders(family))
    name = prior.network_name
    network = getattr(pipe, name)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(r=4, lora_alpha=10, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    if writer == "peft":
        get_peft_model(network, config).save_pretrained(tmp_path)
    else:
        network.add_adapter(config)
        layers = get_peft_model_state_dict(network, adapter_name="default")
        options = {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": config.to_dict()}
        type(pipe).save_lora_weights(tmp_path, **options)
    reference = with_network(load_family(family, folders(family)), network)
    conditions = prior.condition(WORDS[:3])
    run = Run(Experiment((PROMPT,), method=VSD(critic=LoRACritic(4, init_from=tmp_path))), prior)
    adapted = predict_eps(run.state.prior(), conditions)[0]
    expected = predict_eps(reference, conditions)[0]
    assert max_difference(adapted, expected) < 1e-5 * float(adapted.abs().max())
    assert max_difference(adapted, predict_eps(prior, conditions)[0]) > 1e-2
    with pytest.raises(
        ValueError, match=r"has rank 4, the adapters have rank 2: use --method\.critic\.rank 4"
    ):
        Run(Experiment((PROMPT,), method=VSD(critic=LoRACritic(2, init_from=tmp_path))), prior)


def test_a_lora_that_does_not_fit_is_refused(folders, tmp_path):
    prior, other = (load_family(family, folders(family)) for family in ("eps", "sd3"))
    run = train_lora_critic(prior, n=1)
    run.experiment.method.save_critic(prior, run.state, tmp_path)
    with pytest.raises(ValueError, match="for unet; these adapters are of a transformer"):
        train_lora_critic(other, init_from=tmp_path)
    with pytest.raises(ValueError, match="no LoRA at"):
        train_lora_critic(prior, init_from=tmp_path / "nowhere")


# single families


def test_the_null_text_of_xl_is_zero_if_its_file_says_so(folders, tmp_path):
    assert float(load_family("xl", folders("xl")).condition([""]).data.abs().max()) == 0
    changes = {"force_zeros_for_empty_prompt": False}
    folder = copy_with_changes(folders("xl"), tmp_path / "xl", "model_index.json", changes)
    assert float(load_family("xl", folder).condition([""]).data.abs().max()) > 0


def test_xl_is_conditioned_on_the_image_size(folders):
    prior, time_ids = load_family("xl", folders("xl")), []
    prior.unet.register_forward_pre_hook(
        lambda module, args, options: time_ids.append(options["added_cond_kwargs"]["time_ids"]),
        with_kwargs=True,
    )
    prior(normal(1, 4, 8, 12, dtype=torch.float32), TIMES[:1], prior.condition([PROMPT]))
    assert time_ids[0].tolist() == [[16, 24, 0, 0, 16, 24]]


@pytest.mark.parametrize(("family", "default"), [("flux", 3.5), ("flux2", 4.0)])
def test_the_guidance_embedding_is_an_input_of_flux_dev(family, default, folders):
    options = [{"guidance_embedding": 1.0}, {"guidance_embedding": 8.0}]
    priors = [load_family(family, folders(family), **chosen) for chosen in options]
    given = load_family(family, folders(family), guidance_embedding=default)
    assert same_predictions(given, load_family(family, folders(family)))
    xt = normal(1, *priors[0].shape, dtype=torch.float32)
    low, high = (prior(xt, TIMES[:1], prior.condition([PROMPT]))[0].x0 for prior in priors)
    assert max_difference(low, high) > 1e-3
    assert priors[0].call_counter.rows == 1
    other = {"flux": "schnell", "flux2": "klein"}[family]
    with pytest.raises(ValueError, match=r"guidance_embedding 8\.0: .* has no guidance input"):
        load_family(other, folders(other), guidance_embedding=8.0)


def test_the_shift_of_flux_depends_on_the_resolution(folders):
    small = load(Model(str(folders("flux")), resolution=16), "cpu").schedule.shift
    large = load(Model(str(folders("flux")), resolution=64), "cpu").schedule.shift
    # 16 tokens are the scheduler's base_image_seq_len, 256 its max_image_seq_len
    assert abs(small - math.exp(0.5)) < 1e-9 and abs(large - math.exp(1.15)) < 1e-9


@pytest.mark.parametrize("family", ["flux2", "klein"])
def test_the_shift_of_flux2_is_that_of_50_steps(family, folders):
    prior = load_family(family, folders(family))
    scheduler = diffusers_pipeline(prior, folders(family)).scheduler
    sigmas = torch.linspace(1, 1 / 50, 50).tolist()
    scheduler.set_timesteps(sigmas=sigmas, mu=compute_empirical_mu(4 * 4, 50))
    ours = prior.schedule.sigma(prior.schedule.sampling_times(50))
    assert max_difference(ours, scheduler.sigmas[:-1]) < 1e-6


@pytest.mark.parametrize("family", ["flux2", "klein"])
def test_positions_of_flux2_stay_apart_in_16_bits(family, folders):
    """bfloat16 rounds odd integers above 256, and tokens would share their position."""
    model = Model(str(folders(family)), resolution=16)
    prior = load(model, "cpu", "bfloat16")
    seen = []
    hook = lambda module, args: seen.append(args[0])  # noqa: E731
    prior.network.pos_embed.register_forward_pre_hook(hook)
    xt = normal(1, *prior.shape, dtype=torch.float32)
    prior(xt, TIMES[:1], prior.condition([PROMPT]))
    assert sorted(len(ids.unique(dim=0)) for ids in seen) == sorted(map(len, seen))
    assert max(map(len, seen)) == 512


def test_the_sampler_of_qwen_ends_at_the_terminal_sigma_of_its_file(folders):
    prior = load_family("qwen", folders("qwen"))
    scheduler = diffusers_pipeline(prior, folders("qwen")).scheduler
    mu = math.log(prior.schedule.shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / STEPS, STEPS).tolist(), mu=mu)
    sigma = prior.schedule.sigma(prior.schedule.sampling_times(STEPS))
    assert max_difference(sigma, scheduler.sigmas[:-1]) < 1e-6
    assert float(sigma[0]) == 1 and abs(float(sigma[-1]) - 0.02) < 1e-12


@pytest.mark.parametrize("family", ["sana", "qwen"])
def test_an_autoencoder_without_checkpointing_refuses_it(family, folders):
    options = RuntimeOptions(gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"gradient_checkpointing: Autoencoder.* has none"):
        load(Model(str(folders(family)), resolution=16), "cpu", runtime=options)


def test_lumina_refuses_to_be_compiled(folders):
    with pytest.raises(ValueError, match="compile on: the network of Lumina 2 reads the lengths"):
        load(str(folders("lumina2")), "cpu", runtime=RuntimeOptions(compile="on"))


def test_a_missing_prediction_type_is_the_default_of_the_scheduler(folders, tmp_path):
    """As in the scheduler file of Stable Diffusion 1.5."""
    folder = shutil.copytree(folders("eps"), tmp_path / "eps")
    config = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
    }
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    prior, expected = load_family("eps", folder), load_family("eps", folders("eps"))
    assert prior.prediction_type == "eps"
    assert prior.schedule.alphas_cumprod == expected.schedule.alphas_cumprod


def test_the_solver_of_sana_has_the_noise_of_its_schedule(folders):
    """Up to its first sigma, which is a little below 1."""
    prior = load_family("sana", folders("sana"))
    scheduler = SanaPipeline.from_pretrained(folders("sana")).scheduler
    scheduler.set_timesteps(50)
    sigma = prior.schedule.sigma(prior.schedule.sampling_times(50))
    assert prior.schedule.shift == 3.0
    assert max_difference(sigma, scheduler.sigmas[:-1]) < 1e-3


def test_the_empty_prompt_of_sana_has_no_instruction(folders):
    prior = load_family("sana", folders("sana"))
    counts = prior.condition(["", PROMPT]).mask.sum(1).tolist()
    # the start, and of a prompt also the last token of the instruction before its three words
    assert counts[0] == 1 and counts[1] >= 4


SCHEDULER, UNET, VAE = "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"
NETWORK = "transformer/config.json"
REFUSED = [
    ("eps", SCHEDULER, "prediction_type", "flow_prediction", "not 'flow_prediction'"),
    (
        "eps",
        SCHEDULER,
        "_class_name",
        "EDMEulerScheduler",
        "EDMEulerScheduler has no beta_schedule",
    ),
    ("eps", SCHEDULER, "_class_name", "NoScheduler", "NoScheduler is not one of diffusers"),
    (
        "eps",
        SCHEDULER,
        "rescale_betas_zero_snr",
        True,
        "does not determine x0 at zero terminal SNR",
    ),
    ("eps", UNET, "_class_name", "UNetMotionModel", "its unet is a UNetMotionModel"),
    ("eps", UNET, "time_cond_proj_dim", 8, "time_cond_proj_dim 8; StableDiffusion needs None"),
    ("eps", VAE, "_class_name", "VQModel", "is a VQModel; supported are AutoencoderKL"),
    ("xl", UNET, "addition_embed_type", "image", "'image'; SDXL needs 'text_time'"),
    ("sana", SCHEDULER, "use_flow_sigmas", False, "use_flow_sigmas False; this model family needs"),
    ("sana", SCHEDULER, "flow_shift", 0, "flow_shift must be positive, not 0"),
    ("sana", VAE, "_class_name", "AutoencoderKL", "supported are AutoencoderDC"),
    ("qwen", NETWORK, "use_layer3d_rope", True, "use_layer3d_rope True; QwenImage needs False"),
    ("flux2", NETWORK, "patch_size", 2, "patch_size 2; Flux2 needs 1"),
    ("lumina2", NETWORK, "out_channels", 8, "out_channels 8; Lumina2 needs 16"),
    ("pixart-sigma", NETWORK, "out_channels", 6, "out_channels 6; PixArt needs 8"),
    ("sd3", SCHEDULER, "use_karras_sigmas", True, "sets use_karras_sigmas"),
    ("sd3", SCHEDULER, "_class_name", "DDPMScheduler", "its scheduler is a DDPMScheduler"),
    ("sd3", VAE, "scaling_factor", None, "has no scaling_factor"),
]


@pytest.mark.parametrize(("family", "file", "option", "value", "message"), REFUSED)
def test_an_unsupported_option_is_refused_by_name(
    family, file, option, value, message, folders, tmp_path
):
    folder = copy_with_changes(folders(family), tmp_path / family, file, {option: value})
    with pytest.raises(ValueError, match=message):
        load_family(family, folder)


def test_a_negative_prompt_acts_as_in_the_pipeline(folders):
    prior = load_family("eps", folders("eps"))
    negative = prior.condition(["low quality"] * 2)
    conditions = Conditions(prior.condition([PROMPT, OTHER]), negative)
    noise = torch.randn(2, *prior.shape, generator=rng(3))
    pipe = diffusers_pipeline(prior, folders("eps"))
    assert isinstance(pipe, StableDiffusionPipeline)
    expected = pipe(
        [PROMPT, OTHER],
        negative_prompt=["low quality"] * 2,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        latents=noise.clone(),
        output_type="latent",
    ).images
    x0 = sample_x0(prior, conditions, noise, STEPS, 4.0)
    assert max_difference(x0, expected) < 1e-4 * float(expected.abs().max())

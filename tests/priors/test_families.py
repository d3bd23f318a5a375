"""Every family of diffusers as a prior: the same numbers as the family's own pipeline, and every method and critic on it."""

import gc

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from family_pipelines import FAMILIES, TIMES, predict_eps, diffusers_pipeline, train_lora_critic
from tiny_pipeline import WORDS, normal, rng, prompt_conditions, max_difference

from limbeck.config.discovery import choices
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import AttentionPrior, Prior
from limbeck.diffusion.sampling import sample
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.base import Method
from limbeck.methods.cds import CDS
from limbeck.methods.irfds import IRFDS
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load
from limbeck.priors.lora_adapters import NetworkPrior
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

LATENT = [family for family in FAMILIES if family != "pixel"]
ONE_OF_EACH = ["v", "xl", "pixel", "sd3", "flux"]
STEPS, PROMPT, OTHER = 5, "a red mug", "a blue chair, on grey"


def opened(family, folder, **parts):
    """The family's prior. Flux's files name no size, and its own would be of a megapixel."""
    resolution = 16 if family in ("flux", "schnell") else 0
    return load(Model(str(folder), resolution=resolution, **parts), "cpu")


@pytest.fixture
def one(family, folders):
    return opened(family, folders(family))


def theirs(prior, folder, start, guidance, pipe=None):
    """x0 of the pipeline's own sampler from the noise ``start``, which IF draws itself."""
    pipe = pipe or diffusers_pipeline(prior, folder)
    options = {
        "num_inference_steps": STEPS,
        "guidance_scale": guidance,
        "output_type": "latent",
        "latents": start.clone(),
    }
    prompts = [PROMPT, OTHER]
    height, width = prior.image_size
    if prior.pipeline_name == "IFPipeline":
        del options["latents"]
        options |= {"output_type": "pt", "generator": rng(3), "clean_caption": False}
    if isinstance(pipe, FluxPipeline):
        b, c, h, w = start.shape
        options |= {
            "latents": pipe._pack_latents(start, b, c, h, w), "guidance_scale": 3.5, "true_cfg_scale": guidance,
            "negative_prompt": ["", ""], "max_sequence_length": 512 if pipe.transformer.config.guidance_embeds else 256,
        }  # fmt: skip
    out = pipe(prompts, height=height, width=width, **options).images
    return (
        pipe._unpack_latents(out, height, width, pipe.vae_scale_factor)
        if isinstance(pipe, FluxPipeline)
        else out
    )


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_with_guidance_is_the_pipelines(one, family, folders, guidance):
    start = torch.randn(2, *one.shape, generator=rng(3))
    ours = sample(one, prompt_conditions(one, [PROMPT, OTHER]), start, STEPS, guidance)
    reference = theirs(one, folders(family), start, guidance)
    assert max_difference(ours, reference) < 1e-4 * max(1.0, float(reference.abs().max()))
    assert max_difference(ours[:1], ours[1:]) > 0.01  # two prompts and two noises


def test_the_network_is_asked_what_the_pipeline_asks_it(one, family, folders):
    """One call of the pipeline, its input and output recorded: same answer to the same question, in the same parametrisation."""
    pipe, seen = diffusers_pipeline(one, folders(family)), []
    network = getattr(pipe, one.network_name)
    network.register_forward_hook(
        lambda module, args, options, out: seen.append((args, options, out)), with_kwargs=True
    )
    start = torch.randn(2, *one.shape, generator=rng(3))
    theirs(one, folders(family), start, 1.0, pipe)
    args, options, out = seen[1]  # not the first, where all is noise
    xt = args[0] if args else options["hidden_states"]
    if isinstance(pipe, FluxPipeline):
        xt, said = (
            pipe._unpack_latents(x, *one.image_size, pipe.vae_scale_factor) for x in (xt, out[0])
        )
    else:
        said = out[0][:, : xt.shape[1]]
    t = one.schedule.sampling_times(STEPS)[1].expand(2)
    mine = one(xt, t, one.condition([PROMPT, OTHER]))[0]
    assert max_difference(
        mine.to_output(one.prediction_type, one.schedule.alpha(t), one.schedule.sigma(t)), said
    ) < 5e-5 * float(said.abs().max())
    assert torch.allclose(one.schedule.add_noise(mine.x0, mine.eps, t), xt, atol=1e-4)


def test_times_are_the_schedulers(one, family, folders):
    scheduler = diffusers_pipeline(one, folders(family)).scheduler
    ladder = one.schedule.sampling_times(STEPS)
    if one.network_name == "unet":
        scheduler.set_timesteps(STEPS)
        assert one.schedule.timestep_index(ladder).tolist() == scheduler.timesteps.tolist()
        assert (
            max_difference(one.schedule.alpha(ladder) ** 2, scheduler.alphas_cumprod[scheduler.timesteps])
            < 1e-6
        )
    elif family == "sd3":
        scheduler.set_timesteps(STEPS)
        assert max_difference(one.schedule.sigma(ladder), scheduler.sigmas[:-1]) < 1e-6
    assert max_difference(one.schedule.inverse_log_snr(one.schedule.log_snr(ladder[1:])), ladder[1:]) < 1e-9


def test_it_wears_the_face_of_a_prior(one, family):
    assert isinstance(one, Prior) and isinstance(one, NetworkPrior)
    assert not any(p.requires_grad for p in one.network.parameters()) and not one.network.training
    told = one.condition([PROMPT, "", PROMPT])
    assert torch.equal(told.data[0], told.data[2]) and (told.pooled is None) == (
        family in ("eps", "v", "pixel")
    )
    assert max_difference(told.data[0], told.data[1]) > 0.05
    both = told[:1].concat(told[1:2])
    assert torch.equal(both.data, told.data[:2])
    if told.pooled is not None:
        assert (
            torch.equal(both.pooled, told.pooled[:2])
            and len(told[torch.tensor([2, 1])].pooled) == 2
        )
        mixed = told.where(torch.tensor([True, True, False]), told[torch.tensor([0, 0, 1])])
        assert torch.equal(mixed.pooled, told.pooled[torch.tensor([0, 1, 1])])


def test_all_conditions_are_one_call_and_counted(one):
    xt, told = normal(3, *one.shape, dtype=torch.float32), prompt_conditions(one, WORDS[:3])
    passes = []
    one.network.register_forward_hook(
        lambda m, args, options, out: passes.append(len(out[0])), with_kwargs=True
    )
    both = guided_prediction(one, xt, TIMES, told, 7.5)
    guided_prediction(one, xt, TIMES, told, 1.0)
    assert passes == [6, 3] and (one.call_counter.calls, one.call_counter.rows) == (2, 9)
    pos, null = one(xt, TIMES, told.pos)[0], one(xt, TIMES, told.null)[0]
    scale = float((7.5 * pos.eps).abs().max())
    assert max_difference(both.eps, null.eps + 7.5 * (pos.eps - null.eps)) < 1e-5 * scale
    assert max_difference(pos.eps, null.eps) > 1e-2


@pytest.mark.parametrize("family", LATENT)
def test_the_autoencoder_is_the_pipelines_with_its_gradient(family, folders):
    prior = opened(family, folders(family))
    vae = diffusers_pipeline(prior, folders(family)).vae
    shift = vae.config.shift_factor or 0.0
    probe = normal(2, *prior.shape, dtype=torch.float32)
    grads = []
    for encode in (
        prior.encode,
        lambda x: (vae.encode(x * 2 - 1).latent_dist.mode() - shift) * vae.config.scaling_factor,
    ):
        image = torch.rand(2, 3, 16, 16, generator=rng(1)).requires_grad_()
        latent = encode(image)
        (latent * probe).sum().backward()
        grads.append((latent, image.grad))
    assert max_difference(grads[0][0], grads[1][0]) < 1e-6
    assert (
        max_difference(grads[0][1], grads[1][1]) < 1e-6 * float(grads[1][1].abs().max())
        and float(grads[1][1].abs().max()) > 0
    )
    x0 = normal(2, *prior.shape, seed=5, dtype=torch.float32)
    with torch.no_grad():
        picture = (vae.decode(x0 / vae.config.scaling_factor + shift).sample / 2 + 0.5).clamp(0, 1)
    assert max_difference(prior.decode(x0), picture) < 1e-5 and float(picture.std()) > 0.01


def test_pixels_are_encoded_as_they_are(folders):
    prior = opened("pixel", folders("pixel"))
    image = torch.rand(2, 3, 16, 16, generator=rng(1))
    assert (
        max_difference(prior.encode(image), image * 2 - 1) == 0
        and max_difference(prior.decode(prior.encode(image)), image) < 1e-6
    )


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_every_method_runs(family, folders):
    """Two steps of every method there is, in pixels, as an edit; every particle moves. CDS refuses what is no U-Net of latents, and
    iRFDS what holds no noise."""
    prior = opened(family, folders(family))
    for name, cls in choices(Method).items():
        if cls is IRFDS:
            continue
        experiment = Experiment(
            (PROMPT,),
            method=cls(),
            representation=Pixels(),
            particles=2,
            steps=2,
            source_prompt=(OTHER,),
        )
        if cls is CDS and not isinstance(prior, AttentionPrior):
            with pytest.raises(ValueError, match="CDS compares a network's attention"):
                Run(experiment, prior)
            continue
        run = Run(experiment, prior)
        before = {k: v.clone() for k, v in run.representation.state_dict().items()}
        for _ in range(2):
            step = run.advance()
        assert bool(step.gradient.isfinite().all()), name
        after = run.representation.state_dict()
        assert any(max_difference(before[k], after[k]) > 0 for k in before), f"{name} moves nothing"
        assert all(bool(v.isfinite().all()) for v in after.values()), name


@pytest.mark.parametrize("family", ["xl", "sd3"])
def test_a_small_critic_and_condition_dropout_run(family, folders):
    from limbeck.distillation.critics.small_unet import SmallUNetCritic

    prior = opened(family, folders(family))
    for critic in (SmallUNetCritic(width=8), LoRACritic(2, CriticTraining(unconditional_prob=0.5))):
        run = Run(Experiment((PROMPT,), method=VSD(critic=critic), particles=3, steps=2), prior)
        assert all(bool(run.advance().metrics["critic"].isfinite()) for _ in range(2))
        assert run.state.prior().prediction_type == (
            "flow" if family == "sd3" else "v" if isinstance(critic, SmallUNetCritic) else "eps"
        )


# critics of low rank


def test_a_critic_off_is_the_frozen_network_bit_for_bit_and_on_is_not(one, family, folders):
    told = one.condition(WORDS[:3])
    before = predict_eps(one, told)[0]
    run = train_lora_critic(one, n=1)
    assert torch.equal(predict_eps(one, told)[0], before)
    mixed = predict_eps(one, told, told.with_adapters(run.state.adapters))
    assert max_difference(mixed[0], before) < 1e-5 * float(before.abs().max())
    assert max_difference(mixed[1], before) > 1e-4
    del run
    gc.collect()
    assert not any(m._forward_hooks for m in one.network.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_saved_critic_is_the_same_in_diffusers_and_comes_back(family, folders, tmp_path):
    prior = opened(family, folders(family))
    run = train_lora_critic(prior)
    run.experiment.method.save_critic(prior, run.state, tmp_path / "critic")
    told = prior.condition(WORDS[:3])
    ours, plain = predict_eps(run.state.prior(), told)[0], predict_eps(prior, told)[0]
    pipe = diffusers_pipeline(prior, folders(family))
    pipe.load_lora_weights(tmp_path / "critic")
    fresh = opened(family, folders(family))
    fresh.network = getattr(pipe, prior.network_name)
    if prior.network_name == "unet":
        fresh.unet = fresh.network
    assert max_difference(ours, plain) > 1e-3
    assert max_difference(predict_eps(fresh, told)[0], ours) < 1e-5 * float(ours.abs().max())
    # what diffusers writes of it, begun with here; a higher rank changes nothing
    again = opened(family, folders(family))
    back = Run(
        Experiment((PROMPT,), method=VSD(critic=LoRACritic(5, init_from=tmp_path / "critic"))), again
    )
    assert max_difference(predict_eps(back.state.prior(), told)[0], ours) < 1e-5 * float(ours.abs().max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["eps", "sd3"])
@pytest.mark.parametrize("writer", ["diffusers", "peft"])
def test_a_critic_saved_elsewhere_loads(family, writer, folders, tmp_path):
    """Its alpha is not its rank, so that the scale must be read."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    prior = opened(family, folders(family))
    pipe = diffusers_pipeline(prior, folders(family))
    network = getattr(pipe, prior.network_name)
    config = LoraConfig(
        r=4,
        lora_alpha=10,
        target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    if writer == "peft":
        wrapped = get_peft_model(network, config)
        wrapped.save_pretrained(tmp_path)
    else:
        network.add_adapter(config)
        layers = {
            f"{prior.network_name}_lora_layers": get_peft_model_state_dict(network, adapter_name="default")
        }
        layers |= {f"{prior.network_name}_lora_adapter_metadata": config.to_dict()}
        type(pipe).save_lora_weights(tmp_path, **layers)
    fresh = opened(family, folders(family))
    fresh.network = network
    if prior.network_name == "unet":
        fresh.unet = network
    told = prior.condition(WORDS[:3])
    run = Run(Experiment((PROMPT,), method=VSD(critic=LoRACritic(4, init_from=tmp_path))), prior)
    ours = predict_eps(run.state.prior(), told)[0]
    assert max_difference(ours, predict_eps(fresh, told)[0]) < 1e-5 * float(ours.abs().max())
    assert max_difference(ours, predict_eps(prior, told)[0]) > 1e-2
    with pytest.raises(
        ValueError, match=r"rank 4, and the adapters of 2: give --method\.critic\.rank 4"
    ):
        Run(Experiment((PROMPT,), method=VSD(critic=LoRACritic(2, init_from=tmp_path))), prior)


def test_adapters_that_do_not_fit_are_refused(folders, tmp_path):
    prior, other = opened("eps", folders("eps")), opened("sd3", folders("sd3"))
    run = train_lora_critic(prior, n=1)
    run.experiment.method.save_critic(prior, run.state, tmp_path)
    with pytest.raises(ValueError, match=r"adapts unet\.down_blocks"):
        train_lora_critic(other, start=tmp_path)
    with pytest.raises(ValueError, match="no adapters at"):
        train_lora_critic(prior, start=tmp_path / "nowhere")


# what only one family has


def test_null_of_xl_is_zeros_where_its_file_says_so(folders, tmp_path):
    import json
    import shutil

    assert float(opened("xl", folders("xl")).condition([""]).data.abs().max()) == 0
    folder = shutil.copytree(folders("xl"), tmp_path / "xl")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"force_zeros_for_empty_prompt": False})
    )
    assert float(opened("xl", folder).condition([""]).data.abs().max()) > 0


def test_xl_is_told_the_size_of_the_picture(folders):
    prior, seen = opened("xl", folders("xl")), []
    prior.unet.register_forward_pre_hook(
        lambda m, args, options: seen.append(options["added_cond_kwargs"]["time_ids"]),
        with_kwargs=True,
    )
    prior(normal(1, 4, 8, 12, dtype=torch.float32), TIMES[:1], prior.condition([PROMPT]))
    assert seen[0].tolist() == [[16, 24, 0, 0, 16, 24]]


def test_distilled_guidance_is_an_input_of_flux(folders):
    told, xt = [PROMPT], normal(1, 16, 8, 8, dtype=torch.float32)
    low, high = (opened("flux", folders("flux"), guidance_embedding=g) for g in (1.0, 8.0))
    assert max_difference(*(p(xt, TIMES[:1], p.condition(told))[0].x0 for p in (low, high))) > 1e-3
    assert low.call_counter.rows == 1
    with pytest.raises(ValueError, match=r"distilled 8\.0: the network of .* takes no guidance"):
        opened("schnell", folders("schnell"), guidance_embedding=8.0)


def test_the_shift_of_flux_follows_the_size(folders):
    import math

    small = load(Model(str(folders("flux")), resolution=16), "cpu").schedule.shift
    large = load(Model(str(folders("flux")), resolution=64), "cpu").schedule.shift
    # 16 tokens are the base, 256 the most
    assert abs(small - math.exp(0.5)) < 1e-9 and abs(large - math.exp(1.15)) < 1e-9


def test_an_old_pipeline_needs_no_prediction_type(folders, tmp_path):
    """SD 1.5's own scheduler file names none: it means the default of its class."""
    import json
    import shutil

    folder = shutil.copytree(folders("eps"), tmp_path / "eps")
    said = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
    }
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(said | {"num_train_timesteps": 1000})
    )
    prior = opened("eps", folder)
    assert (
        prior.prediction_type == "eps"
        and prior.schedule.alphas_cumprod == opened("eps", folders("eps")).schedule.alphas_cumprod
    )


@pytest.mark.parametrize(
    ("family", "file", "change", "message"),
    [
        ("eps", "scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "'flow_prediction' is not known"),
        ("eps", "scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler has no beta_schedule"),
        ("eps", "scheduler/scheduler_config.json", {"_class_name": "NoScheduler"}, "NoScheduler is not one of diffusers"),
        ("eps", "scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "says nothing where the signal ends"),
        ("eps", "unet/config.json", {"_class_name": "UNetMotionModel"}, "its unet is a UNetMotionModel"),
        ("eps", "unet/config.json", {"time_cond_proj_dim": 8}, "time_cond_proj_dim 8, and Stable reads None"),
        ("eps", "vae/config.json", {"_class_name": "VQModel"}, "its autoencoder is a VQModel; known are AutoencoderKL"),
        ("xl", "unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type 'image', and XL reads 'text_time'"),
        ("sd3", "scheduler/scheduler_config.json", {"use_karras_sigmas": True}, "sets use_karras_sigmas"),
        ("sd3", "scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"}, "its scheduler is a DDPMScheduler"),
        ("sd3", "vae/config.json", {"scaling_factor": None}, "has no scaling_factor"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(family, file, change, message, folders, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(folders(family), tmp_path / family)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    with pytest.raises(ValueError, match=message):
        opened(family, folder)


def test_the_pipeline_of_stable_diffusion_tells_the_same_negative_text(folders):
    prior = opened("eps", folders("eps"))
    told = Conditions(prior.condition([PROMPT, OTHER]), prior.condition(["low quality"] * 2))
    start = torch.randn(2, *prior.shape, generator=rng(3))
    pipe = diffusers_pipeline(prior, folders("eps"))
    assert isinstance(pipe, StableDiffusionPipeline)
    reference = pipe(
        [PROMPT, OTHER], negative_prompt=["low quality"] * 2, num_inference_steps=STEPS, guidance_scale=4.0, latents=start.clone(),
        output_type="latent",
    ).images  # fmt: skip
    assert max_difference(sample(prior, told, start, STEPS, 4.0), reference) < 1e-4 * float(
        reference.abs().max()
    )

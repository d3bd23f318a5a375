"""Stable Diffusion as a prior: the same numbers as the pipeline of diffusers."""

import gc
import json
import weakref

import pytest
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tiny_pipeline import WORDS, max_difference, normal, prompt_conditions

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.priors.loading import check_layout
from limbeck.priors.stable_diffusion import StableDiffusion

T = torch.tensor([0.02, 0.4, 0.98])


@pytest.fixture
def pipe(folder):
    return StableDiffusionPipeline.from_pretrained(folder)


def test_priors_implement_the_protocol(prior):
    data = DataSet(torch.zeros(2, 3, 2, 2, dtype=torch.uint8))
    mixture = GaussianMixture(normal(2, 3), torch.ones(2))
    for one in (prior, data, mixture):
        assert isinstance(one, Prior)


def test_prediction_type_and_schedule_are_read_from_the_folder(eps_folder, v_folder):
    for path, prediction_type, last_alpha in ((eps_folder, "eps", 0.0682), (v_folder, "v", 0.0)):
        prior = StableDiffusion(str(path))
        assert prior.prediction_type == prediction_type
        assert abs(float(prior.schedule.alpha(torch.ones(1))) - last_alpha) < 1e-4
        assert prior.shape == (4, 8, 8) and prior.image_size == (16, 16)
        expected = DDIMScheduler.from_pretrained(path, subfolder="scheduler").alphas_cumprod
        assert max_difference(torch.tensor(prior.schedule.alphas_cumprod), expected) == 0


def test_predictions_are_those_of_unet_and_scheduler(folder, pipe):
    prior = StableDiffusion(str(folder))
    xt, prompts = normal(3, 4, 8, 8, dtype=torch.float32), WORDS[:3]
    prediction = prior(xt, T, prior.condition(prompts))[0]
    ids = pipe.tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=pipe.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    timesteps = torch.tensor([20, 400, 980])
    with torch.no_grad():
        out = pipe.unet(xt, timesteps, pipe.text_encoder(ids)[0]).sample
    alpha, sigma = prior.schedule.alpha(T), prior.schedule.sigma(T)
    assert max_difference(prediction.to_output(prior.prediction_type, alpha, sigma), out) < 2e-5
    pipe.scheduler.set_timesteps(1000)
    for i, timestep in enumerate(timesteps):
        expected = pipe.scheduler.step(out[i], int(timestep), xt[i]).pred_original_sample
        assert max_difference(prediction.x0[i], expected) / float(expected.abs().max()) < 2e-5
    assert prediction.x0.dtype == prediction.eps.dtype == torch.float32


def test_text_embeddings_are_those_of_the_pipeline(folder, pipe):
    prior = StableDiffusion(str(folder))
    conditions = prompt_conditions(prior, ["a red mug", "zebra!"])
    pos, null = pipe.encode_prompt(["a red mug", "zebra!"], "cpu", 1, True, ["", ""])
    assert (
        max_difference(conditions.pos.data, pos) < 1e-6
        and max_difference(conditions.null.data, null) < 1e-6
    )
    assert max_difference(conditions.pos.data[0], conditions.pos.data[1]) > 0.1


def test_a_long_prompt_is_truncated_like_in_the_pipeline(folder, pipe):
    prior, text = StableDiffusion(str(folder)), "a red mug and " * 30
    pos, _ = pipe.encode_prompt([text], "cpu", 1, False)
    assert max_difference(prior.condition([text]).data, pos) < 1e-6


def test_each_prompt_is_encoded_once_and_the_text_encoder_freed(prior, monkeypatch):
    encoders = []
    load = transformers.CLIPTextModel.from_pretrained

    def recorded_load(*args, **options):
        model, report = load(*args, **options)
        encoders.append(weakref.ref(model))
        return model, report

    monkeypatch.setattr(transformers.CLIPTextModel, "from_pretrained", recorded_load)
    encoded = []
    encode = prior._encode

    def recorded_encode(prompts):
        encoded.append(list(prompts))
        return encode(prompts)

    monkeypatch.setattr(prior, "_encode", recorded_encode)
    first = prior.condition(["a red mug", "", "a red mug"])
    prior.condition([""])
    prior.condition(["a red mug", "a blue chair"])
    again = prior.condition(["a red mug"])
    assert encoded == [["", "a red mug"], ["a blue chair"]]
    assert len(encoders) == 2
    gc.collect()
    assert all(encoder() is None for encoder in encoders)
    assert torch.equal(again.data[0], first.data[0]) and torch.equal(first.data[0], first.data[2])


def test_guidance_1_takes_one_pass_and_any_other_two_in_one_call(prior):
    xt, conditions = normal(3, 4, 8, 8, dtype=torch.float32), prompt_conditions(prior, WORDS[:3])
    passes = []
    prior.unet.register_forward_hook(lambda m, inputs, out: passes.append(len(inputs[0])))
    for scale in (1.0, 0.0, 7.5):
        guided_prediction(prior, xt, T, conditions, scale)
    assert passes == [3, 3, 6]
    assert (prior.call_counter.calls, prior.call_counter.rows) == (3, 12)


def test_guidance_extrapolates_from_the_null_prediction(prior):
    xt, conditions = normal(3, 4, 8, 8, dtype=torch.float32), prompt_conditions(prior, WORDS[:3])
    pos, null = prior(xt, T, conditions.pos)[0], prior(xt, T, conditions.null)[0]
    guided = guided_prediction(prior, xt, T, conditions, 7.5)
    assert max_difference(guided.eps, null.eps + 7.5 * (pos.eps - null.eps)) < 1e-4


def test_encode_is_the_mean_of_the_pipeline_and_differentiable(folder, pipe):
    prior = StableDiffusion(str(folder))
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    latent = prior.encode(image)
    with torch.no_grad():
        expected = (
            pipe.vae.encode(image * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
        )
    assert max_difference(latent, expected) < 1e-5
    probe = normal(*latent.shape, seed=1, dtype=torch.float32)
    (latent * probe).sum().backward()
    step = normal(*image.shape, seed=2, dtype=torch.float32)
    step *= 1e-2 / step.norm()
    with torch.no_grad():
        difference = (prior.encode(image + step) - prior.encode(image - step)).double()
        change = (difference * probe).sum() / 2
    # the bound is that of a central difference in float32
    assert abs(float((image.grad * step).sum() / change) - 1) < 2e-2
    assert all(p.grad is None for p in prior.vae.parameters())


def test_decode_is_that_of_the_pipeline_clamped_to_0_and_1(folder, pipe):
    prior, x0 = StableDiffusion(str(folder)), 3 * normal(2, 4, 8, 8, dtype=torch.float32)
    image = prior.decode(x0)
    with torch.no_grad():
        expected = (pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(
            0, 1
        )
    assert max_difference(image, expected) < 1e-5
    assert image.shape == (2, 3, 16, 16) and float(image.min()) >= 0 and float(image.max()) <= 1
    big = prior.decode(1000 * x0)
    assert float(big.min()) == 0 or float(big.max()) == 1


def test_weights_are_frozen_and_in_evaluation_mode(prior):
    for part in (prior.unet, prior.vae):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())


def test_inputs_and_outputs_are_float32_in_half_precision(eps_folder):
    prior = StableDiffusion(str(eps_folder), dtype=torch.bfloat16)
    xt = normal(3, 4, 8, 8, dtype=torch.float32)
    prediction = prior(xt, T, prior.condition(WORDS[:3]))[0]
    image = prior.decode(prior.encode(torch.rand(1, 3, 16, 16)))
    text = prior.condition(["x"]).data
    for output in (prediction.x0, prediction.eps, image, text):
        assert output.dtype == torch.float32
    assert prior.unet.dtype == torch.bfloat16


def test_unsupported_and_incomplete_folders_are_refused(tmp_path, eps_folder):
    with pytest.raises(ValueError, match=r"model_index\.json"):
        check_layout(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KolorsPipeline"}))
    with pytest.raises(ValueError, match="KolorsPipeline"):
        check_layout(tmp_path)
    index = json.dumps({"_class_name": "StableDiffusionPipeline"})
    (tmp_path / "model_index.json").write_text(index)
    (tmp_path / "unet").mkdir()
    with pytest.raises(ValueError, match="lacks scheduler, vae, text_encoder, tokenizer"):
        check_layout(tmp_path)
    check_layout(eps_folder)

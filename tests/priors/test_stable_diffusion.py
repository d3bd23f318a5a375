"""Diffusers pipelines as priors: the same numbers as the pipeline's own parts, text encoded once, images in [0, 1]."""

import gc
import json
import weakref

import pytest
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tiny_pipeline import WORDS, normal, prompt_conditions, max_difference

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.priors.loading import check_layout
from limbeck.priors.stable_diffusion import StableDiffusion

T = torch.tensor([0.02, 0.4, 0.98])


@pytest.fixture
def pipe(folder):
    return StableDiffusionPipeline.from_pretrained(folder)


def test_every_prior_wears_the_same_face(prior):
    data = DataSet(torch.zeros(2, 3, 2, 2, dtype=torch.uint8))
    mixture = GaussianMixture(normal(2, 3), torch.ones(2))
    for one in (prior, data, mixture):
        assert isinstance(one, Prior)


def test_what_it_is_comes_from_the_folder(eps_folder, v_folder):
    for path, kind, end in ((eps_folder, "eps", 0.0682), (v_folder, "v", 0.0)):
        prior = StableDiffusion(str(path))
        assert prior.prediction_type == kind
        assert abs(float(prior.schedule.alpha(torch.ones(1))) - end) < 1e-4
        assert prior.shape == (4, 8, 8) and prior.image_size == (16, 16)
        theirs = DDIMScheduler.from_pretrained(path, subfolder="scheduler").alphas_cumprod
        assert max_difference(torch.tensor(prior.schedule.alphas_cumprod), theirs) == 0


def test_answers_are_the_unets_and_read_by_the_scheduler(folder, pipe):
    prior = StableDiffusion(str(folder))
    xt, texts = normal(3, 4, 8, 8, dtype=torch.float32), WORDS[:3]
    said = prior(xt, T, prior.condition(texts))[0]
    ids = pipe.tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=pipe.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    ticks = torch.tensor([20, 400, 980])
    with torch.no_grad():
        out = pipe.unet(xt, ticks, pipe.text_encoder(ids)[0]).sample
    assert (
        max_difference(said.to_output(prior.prediction_type, prior.schedule.alpha(T), prior.schedule.sigma(T)), out) < 2e-5
    )
    pipe.scheduler.set_timesteps(1000)
    for i, tick in enumerate(ticks):
        theirs = pipe.scheduler.step(out[i], int(tick), xt[i]).pred_original_sample
        assert max_difference(said.x0[i], theirs) / float(theirs.abs().max()) < 2e-5
    assert said.x0.dtype == said.eps.dtype == torch.float32


def test_text_features_are_the_pipelines(folder, pipe):
    prior = StableDiffusion(str(folder))
    told = prompt_conditions(prior, ["a red mug", "zebra!"])
    pos, null = pipe.encode_prompt(["a red mug", "zebra!"], "cpu", 1, True, ["", ""])
    assert max_difference(told.pos.data, pos) < 1e-6 and max_difference(told.null.data, null) < 1e-6
    assert max_difference(told.pos.data[0], told.pos.data[1]) > 0.1


def test_a_long_prompt_is_cut_as_the_pipeline_cuts_it(folder, pipe):
    prior, text = StableDiffusion(str(folder)), "a red mug and " * 30
    pos, _ = pipe.encode_prompt([text], "cpu", 1, False)
    assert max_difference(prior.condition([text]).data, pos) < 1e-6


def test_text_is_encoded_once_and_the_encoder_let_go(prior, monkeypatch):
    loaded = []
    load = transformers.CLIPTextModel.from_pretrained

    def watched(*args, **options):
        model = load(*args, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(transformers.CLIPTextModel, "from_pretrained", watched)
    seen = []
    encode = prior._encode
    monkeypatch.setattr(
        prior, "_encode", lambda prompts: seen.append(list(prompts)) or encode(prompts)
    )
    first = prior.condition(["a red mug", "", "a red mug"])
    prior.condition([""])
    prior.condition(["a red mug", "a blue chair"])
    again = prior.condition(["a red mug"])
    assert seen == [["", "a red mug"], ["a blue chair"]]
    assert len(loaded) == 2
    gc.collect()
    assert all(one() is None for one in loaded)
    assert torch.equal(again.data[0], first.data[0]) and torch.equal(first.data[0], first.data[2])


def test_guidance_one_is_one_row_and_any_other_two_in_one_call(prior):
    xt, told = normal(3, 4, 8, 8, dtype=torch.float32), prompt_conditions(prior, WORDS[:3])
    passes = []
    prior.unet.register_forward_hook(lambda m, inputs, out: passes.append(len(inputs[0])))
    for scale in (1.0, 0.0, 7.5):
        guided_prediction(prior, xt, T, told, scale)
    assert passes == [3, 3, 6]
    assert (prior.call_counter.calls, prior.call_counter.rows) == (3, 12)


def test_guidance_is_the_pipelines_form(prior):
    xt, told = normal(3, 4, 8, 8, dtype=torch.float32), prompt_conditions(prior, WORDS[:3])
    pos, null = prior(xt, T, told.pos)[0], prior(xt, T, told.null)[0]
    assert (
        max_difference(guided_prediction(prior, xt, T, told, 7.5).eps, null.eps + 7.5 * (pos.eps - null.eps))
        < 1e-4
    )


def test_encode_is_differentiable_and_the_pipelines_mean(folder, pipe):
    prior = StableDiffusion(str(folder))
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    latent = prior.encode(image)
    with torch.no_grad():
        theirs = pipe.vae.encode(image * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert max_difference(latent, theirs) < 1e-5
    probe = normal(*latent.shape, seed=1, dtype=torch.float32)
    (latent * probe).sum().backward()
    step = normal(*image.shape, seed=2, dtype=torch.float32)
    step *= 1e-2 / step.norm()
    with torch.no_grad():
        change = (
            (prior.encode(image + step) - prior.encode(image - step)).double() * probe
        ).sum() / 2
    assert (
        abs(float((image.grad * step).sum() / change) - 1) < 2e-2
    )  # central difference in float32
    assert all(p.grad is None for p in prior.vae.parameters())


def test_decode_is_the_pipelines_picture_in_zero_to_one(folder, pipe):
    prior, x0 = StableDiffusion(str(folder)), 3 * normal(2, 4, 8, 8, dtype=torch.float32)
    image = prior.decode(x0)
    with torch.no_grad():
        theirs = (pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert max_difference(image, theirs) < 1e-5
    assert image.shape == (2, 3, 16, 16) and float(image.min()) >= 0 and float(image.max()) <= 1
    big = prior.decode(1000 * x0)
    assert float(big.min()) == 0 or float(big.max()) == 1


def test_weights_are_frozen_and_in_evaluation_mode(prior):
    for part in (prior.unet, prior.vae):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())


def test_half_precision_stays_inside(eps_folder):
    prior = StableDiffusion(str(eps_folder), dtype=torch.bfloat16)
    xt = normal(3, 4, 8, 8, dtype=torch.float32)
    said = prior(xt, T, prior.condition(WORDS[:3]))[0]
    image = prior.decode(prior.encode(torch.rand(1, 3, 16, 16)))
    assert (
        said.x0.dtype
        == said.eps.dtype
        == image.dtype
        == prior.condition(["x"]).data.dtype
        == torch.float32
    )
    assert prior.unet.dtype == torch.bfloat16


def test_a_folder_of_another_kind_is_refused_in_words(tmp_path, eps_folder):
    with pytest.raises(ValueError, match=r"model_index\.json"):
        check_layout(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KolorsPipeline"}))
    with pytest.raises(ValueError, match="KolorsPipeline"):
        check_layout(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline"})
    )
    (tmp_path / "unet").mkdir()
    with pytest.raises(ValueError, match="lacks scheduler, vae, text_encoder, tokenizer"):
        check_layout(tmp_path)
    check_layout(eps_folder)

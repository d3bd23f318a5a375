"""Samples of the generator of a run, and the pipeline of diffusers that it is exported as."""

import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_pipeline import max_difference, write_pipeline

from limbeck.cli.main import main
from limbeck.config.yaml import to_yaml
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.sampling import Sampling, sample_x0
from limbeck.evaluation.image_sets import sample_images
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.generator import Generator
from limbeck.runs.generator_samples import (
    draw_from_generator,
    export_generator,
    load_generator,
    require_pipeline,
)
from limbeck.runs.recorder import record
from limbeck.training.experiment import Experiment

PROMPTS = ("a red mug", "a blue chair")


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A model and the folder of a run of a generator, by its prediction type and LoRA rank."""
    made = {}

    def run(kind, rank=0):
        if (kind, rank) not in made:
            base = tmp_path_factory.mktemp(f"{kind}-{rank}")
            model = write_pipeline(base, kind)
            config = Generator(critic_warmup=0, lr=1e-2, lora_rank=rank, ema=0.5)
            e = Experiment(PROMPTS, model=str(model), method=SDS(2.0), representation=config)
            e = replace(e, steps=2, batch_size=3, precision="float32")
            record(e, StableDiffusion(str(model)), base / "run")
            made[kind, rank] = model, base / "run"
        return made[kind, rank]

    return run


def test_a_sample_is_one_pass_of_the_mean_weights(run_of):
    """The noise is that of other samples at the same seed, and each prompt has its own images."""
    model, folder = run_of("epsilon")
    prior = StableDiffusion(str(model))
    generator = load_generator(folder, prior)
    sampling = Sampling(PROMPTS, generator=folder, num_images=2, seed=3)
    rows = prior.call_counter.rows
    images = draw_from_generator(sampling, generator, prior, prior.condition(PROMPTS))
    assert prior.call_counter.rows - rows == 4
    z = torch.randn(4, *prior.shape, generator=torch.Generator().manual_seed(3))
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    t = prior.schedule.snap(torch.ones(4))
    with torch.no_grad():
        x0 = generator.average_network(z, t, prior.condition(prompts))[0].x0
        trained = generator.network(z, t, prior.condition(prompts))[0].x0
        assert max_difference(images, prior.decode(x0)) < 1e-4
    assert max_difference(trained, x0) > 1e-2
    other = replace(sampling, seed=4)
    others = draw_from_generator(other, generator, prior, prior.condition(PROMPTS))
    assert max_difference(images, others) > 1e-2


def test_samples_need_no_captions_of_the_training(tmp_path, monkeypatch):
    captions, prior = tmp_path / "captions.txt", colored_shapes(size=8)
    captions.write_text("red disc\nblue ring\n", encoding="utf-8")
    config = Generator(captions=captions, critic_warmup=0)
    e = Experiment(("red disc",), model="gaussians", representation=config, steps=1)
    record(e, prior, tmp_path / "run")
    captions.unlink()
    texts, condition = [], prior.condition

    def encoded(prompts):
        texts.extend(prompts)
        return condition(prompts)

    monkeypatch.setattr(prior, "condition", encoded)
    load_generator(tmp_path / "run", prior)
    assert "red disc" in texts and "blue ring" not in texts


@pytest.mark.parametrize(
    ("kind", "rank"), [("epsilon", 0), ("v_prediction", 0), ("v_prediction", 2)]
)
def test_diffusers_draws_the_same_from_the_exported_folder_in_one_step(
    kind, rank, run_of, tmp_path
):
    model, folder = run_of(kind, rank)
    prior, target = StableDiffusion(str(model)), tmp_path / "exported"
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # as diffusers gives for odd schedulers
        export_generator(folder, prior, target)
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    generator = load_generator(folder, prior)
    z = torch.randn(2, *prior.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = generator.sample(z, prior.condition(PROMPTS))
        before = prior(z, prior.schedule.snap(torch.ones(2)), prior.condition(PROMPTS))[0].x0
    pipe = StableDiffusionPipeline.from_pretrained(target, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "latents": z}
    found = pipe(list(PROMPTS), output_type="latent", **options).images
    assert max_difference(found, expected) < 1e-3
    assert max_difference(before, expected) > 1e-2
    images = torch.from_numpy(pipe(list(PROMPTS), output_type="np", **options).images)
    assert max_difference(images.permute(0, 3, 1, 2), prior.decode(expected)) < 1e-3
    # the folder is also a model of its own
    own = StableDiffusion(str(target))
    conditions = Conditions(own.condition(PROMPTS), own.condition(["", ""]))
    assert max_difference(sample_x0(own, conditions, z, 1, 1.0), expected) < 1e-3


def test_the_command_line_samples_and_exports(run_of, tmp_path, monkeypatch, capsys):
    model, folder = run_of("epsilon")
    words = ["sample", "a red mug", "--model", str(model), "--generator", str(folder)]
    words += ["--num-images", "2", "--precision", "float32", "--out", str(tmp_path / "samples")]
    assert main([*words, "--export", str(tmp_path / "exported")]) in (None, 0)
    lines = capsys.readouterr().out.split()
    assert lines == [str(tmp_path / "samples/final.png"), str(tmp_path / "exported")]
    assert len(list((tmp_path / "samples/final").iterdir())) == 2
    assert (tmp_path / "exported/model_index.json").is_file()
    label = sample_images(tmp_path / "samples").label
    assert label.startswith(f"samples of the generator {folder.name}, 1 pass")
    # without --out the folder does not name a sampler that had no part in it
    monkeypatch.chdir(tmp_path)
    assert main(words[: words.index("--num-images")]) in (None, 0)
    (own,) = (tmp_path / "samples").glob("a-red-mug-*")
    assert own.name.startswith("a-red-mug-generator-")


@pytest.mark.parametrize("name", ["steps", "guidance", "sampler", "negative_prompt", "views"])
def test_options_of_a_sampler_are_refused(name, tmp_path):
    values = {"steps": 2, "guidance": 2.0, "sampler": "ancestral", "negative_prompt": "b"}
    values["views"] = 4
    with pytest.raises(ValueError, match=f"{name} .* changes nothing: a generator draws"):
        Sampling(("a",), generator=tmp_path, **{name: values[name]})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--generator missing", "there is no folder missing"),
        ("--export exported", "--export exported writes a generator: give its run with"),
        ("--generator {run} --export {run}", "exists and is not overwritten; choose another with"),
        ("--generator {run}", "the generator of {run} belongs to the model of its run"),
        ("--generator {latents}", "{latents} has no generator, its representation is latents"),
    ],
)
def test_wrong_command_lines_are_refused_before_the_model_is_loaded(
    words, message, run_of, tmp_path, monkeypatch, capsys
):
    model, folder = run_of("epsilon")
    (tmp_path / "latents").mkdir()
    other = to_yaml(Experiment(("a",), model=str(model)))
    (tmp_path / "latents/run.yaml").write_text(other, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {"run": folder, "latents": "latents"}
    assert main(["sample", "red", *words.format(**names).split()]) == 2
    assert message.format(**names) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["latents"]


def test_a_small_unet_is_no_pipeline(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    small = Generator(network="small-unet", captions=None)
    text = to_yaml(Experiment(("a",), representation=small))
    (tmp_path / "run/run.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "red", "--generator", "run", "--export", "exported"]) == 2
    assert "the generator of run is a small-unet: leave it out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_model_without_such_a_pipeline_is_refused():
    with pytest.raises(ValueError, match="this model is of another family"):
        require_pipeline(colored_shapes(8))

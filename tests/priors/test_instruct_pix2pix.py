"""InstructPix2Pix: the numbers of diffusers' pipeline, its two guidances, edits and refusals."""

import diffusers
import pytest
import torch
from family_pipelines import OTHER, PROMPT, STEPS, TIMES, load_family
from refusals import refused
from small_2d import write_test_image
from tiny_controls import write_control_net, write_instruct_pix2pix
from tiny_families import to_ddim
from tiny_pipeline import count_calls, make_inputs, max_difference, normal, prompt_conditions, rng

import limbeck as lb
from limbeck.cli.main import main
from limbeck.config.yaml import from_yaml
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import apply_guidance, guided_prediction, required_conditions
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import InstructionPrior
from limbeck.diffusion.sampling import sample_x0
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.state import Stateless
from limbeck.methods.cds import CDS
from limbeck.methods.csd import CSD
from limbeck.methods.dds import DDS
from limbeck.methods.ism import ISM
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.families import follows_instructions
from limbeck.priors.loading import load
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.representations.pixels import Pixels
from limbeck.system.image_files import read_image
from limbeck.training.experiment import Experiment
from limbeck.training.resources import trace_step
from limbeck.training.trainer import Run


@pytest.fixture(scope="module")
def model(folders, tmp_path_factory):
    return write_instruct_pix2pix(folders("eps"), tmp_path_factory.mktemp("instruct") / "pipe")


@pytest.fixture
def prior(model):
    return load(str(model), "cpu")


@pytest.fixture
def photos(tmp_path):
    return tuple(write_test_image(tmp_path / f"{i}.png", 16, 16, 0.9 * i) for i in range(2))


def pipeline(model):
    pipe = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = to_ddim(pipe.scheduler)
    return pipe


def sample_with_pipeline(model, images, noise, guidance, image_guidance, **options):
    return pipeline(model)(
        prompt=[PROMPT, OTHER],
        image=images,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        image_guidance_scale=image_guidance,
        output_type="latent",
        latents=noise.clone(),
        **options,
    ).images


@pytest.mark.parametrize("negative", ["", "low quality"])
@pytest.mark.parametrize(("guidance", "image_guidance"), [(7.5, 1.5), (4.0, 1.0), (3.0, 3.0)])
def test_sampling_is_that_of_the_pipeline(guidance, image_guidance, negative, model):
    prior = load(Model(str(model), image_guidance=image_guidance), "cpu")
    images = torch.rand(2, 3, 16, 16, generator=rng(1))
    noise = torch.randn(2, *prior.shape, generator=rng(3))
    text = Conditions(prior.condition([PROMPT, OTHER]), prior.condition([negative] * 2))
    source = prior.source_latents(prior.encode(images))
    conditions = text.with_image(source, prior.image_guidance)
    x0 = sample_x0(prior, conditions, noise, STEPS, guidance)
    options = {"negative_prompt": [negative] * 2}
    expected = sample_with_pipeline(model, images, noise, guidance, image_guidance, **options)
    assert max_difference(x0, expected) < 1e-5 * max(1.0, float(expected.abs().max()))
    flipped = text.with_image(source.flip(0), prior.image_guidance)
    assert max_difference(sample_x0(prior, flipped, noise, STEPS, guidance), x0) > 0.05


def test_the_latents_of_the_image_are_the_mode_without_its_scale(model, prior):
    images = torch.rand(2, 3, 16, 16, generator=rng(1))
    expected = pipeline(model).vae.encode(images * 2 - 1).latent_dist.mode()
    assert max_difference(prior.source_latents(prior.encode(images)), expected) < 1e-6
    assert isinstance(prior, InstructionPrior) and prior.image_guidance == 1.5


def test_rows_without_an_image_have_zeros(prior):
    xt, text = normal(3, *prior.shape, dtype=torch.float32), prior.condition([PROMPT, OTHER, ""])
    zeros = Condition(text.data, image=torch.zeros_like(xt))
    assert torch.equal(prior(xt, TIMES, text)[0].eps, prior(xt, TIMES, zeros)[0].eps)


# guidance by text and image


def conditions_of(image_guidance):
    texts = [Condition(torch.full((2, 1, 1), float(i))) for i in range(2)]
    return Conditions(*texts).with_image(torch.ones(2, 4, 1, 1), image_guidance)


@pytest.mark.parametrize("image_guidance", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 7.5])
def test_the_guided_prediction_is_the_sum_of_three(guidance, image_guidance):
    conditions = conditions_of(image_guidance)
    eps = {
        id(term): normal(2, 4, 2, 2, seed=i)
        for i, term in enumerate((conditions.no_image, conditions.null, conditions.pos))
    }
    none, null, pos = eps.values()
    needed = required_conditions(conditions, guidance)
    predictions = [Prediction(2 * eps[id(c)], eps[id(c)]) for c in needed]
    found = apply_guidance(conditions, predictions, guidance)
    expected = none + guidance * (pos - null) + image_guidance * (null - none)
    assert max_difference(found.eps, expected) < 1e-12
    assert max_difference(found.x0, 2 * expected) < 1e-12
    coefficients = (1 - image_guidance, image_guidance - guidance, guidance)
    assert len(needed) == sum(value != 0 for value in coefficients)


def test_only_the_last_condition_has_no_image():
    conditions = conditions_of(1.5)
    assert conditions.no_image.image is None
    assert torch.equal(conditions.no_image.data, conditions.null.data)
    assert conditions.pos.image is not None and conditions.null.image is not None
    rows = conditions[torch.tensor([1])]
    assert len(rows.no_image) == 1 and rows.image_guidance == 1.5
    both = conditions.concat(conditions)
    assert len(both.no_image) == 4 and both.no_image.image is None
    with pytest.raises(ValueError, match="with and without guidance by an image"):
        conditions.concat(Conditions(conditions.pos, conditions.null))


# runs


def run_of(prior, photos, method=None, representation=Latents, **options):
    e = Experiment(
        (PROMPT, OTHER),
        method=method or SDS(7.5),
        representation=representation(images=photos),
        steps=2,
        **options,
    )
    return Run(e, prior)


def test_the_image_is_what_the_particles_were_at_first(prior, photos):
    run = run_of(prior, photos)
    images = torch.stack([read_image(path, (16, 16)) for path in photos])
    expected = prior.source_latents(prior.encode(images))
    for _ in range(2):
        conditions = run.advance().inputs.conditions
        for condition in (conditions.pos, conditions.null):
            assert max_difference(condition.image, expected) < 1e-5
        assert conditions.no_image.image is None and conditions.image_guidance == 1.5


def test_a_step_of_sds_takes_three_rows_per_particle(model, prior, photos):
    run = run_of(prior, photos)
    step, calls = count_calls(prior, run.advance)
    assert calls == (1, 6)
    inputs, c = step.inputs, step.inputs.conditions
    eps = [p.eps for p in prior(inputs.xt, inputs.t, c.no_image, c.null, c.pos)]
    expected = eps[0] + 7.5 * (eps[2] - eps[1]) + 1.5 * (eps[1] - eps[0]) - inputs.eps
    found = SDS(7.5)(prior, inputs, Stateless())
    assert max_difference(found, expected) < 1e-4 * float(expected.abs().max())
    plain = load(Model(str(model), image_guidance=1.0), "cpu")
    assert count_calls(plain, run_of(plain, photos).advance)[1] == (1, 4)
    assert trace_step(run).flops["method"] > 1.3 * trace_step(run_of(plain, photos)).flops["method"]


def test_dds_compares_with_the_source_without_an_instruction(prior, photos):
    run = run_of(prior, photos, DDS(7.5))
    run.advance()
    inputs = run.advance().inputs
    assert torch.equal(inputs.source.conditions.pos.data, prior.condition(["", ""]).data)
    found = DDS(7.5)(prior, inputs, Stateless())
    source_xt = prior.schedule.add_noise(inputs.source.x0, inputs.eps, inputs.t)
    target = guided_prediction(prior, inputs.xt, inputs.t, inputs.conditions, 7.5).eps
    image = inputs.source.conditions.pos
    none, seen = (p.eps for p in prior(source_xt, inputs.t, inputs.conditions.no_image, image))
    expected = target - (none + 1.5 * (seen - none))
    assert max_difference(found, expected) < 1e-4 * float(expected.abs().max())


METHODS = {
    "vsd": VSD(critic=LoRACritic(2, CriticTraining(unconditional_prob=0.5))),
    "ism": ISM(),
    "csd": CSD(),
    "pds": PDS(),
    "cds": CDS(),
}


@pytest.mark.parametrize("name", METHODS)
def test_two_steps_of_methods(name, prior, photos):
    run = run_of(prior, photos, METHODS[name], Pixels)
    steps = [run.advance() for _ in range(2)]
    assert all(bool(step.gradient.isfinite().all()) for step in steps)
    assert float(steps[1].gradient.abs().max()) > 0


def test_sdedit_from_noise_is_the_pipeline(model, prior):
    """But for one tick of 1000: its steps are at 800, 600 ..., those of the pipeline at 799 ..."""
    images = torch.rand(2, 3, 16, 16, generator=rng(1))
    x0 = prior.encode(images)
    text = prompt_conditions(prior, [PROMPT, OTHER])
    conditions = text.with_image(prior.source_latents(x0), 1.5)
    eps = torch.randn(2, *prior.shape, generator=rng(3))
    t = torch.ones(2, dtype=torch.float64)
    inputs = make_inputs(prior.schedule, x0, t, eps, conditions)
    edited = x0 - SDEdit(7.5, STEPS)(prior, inputs, Stateless())
    expected = sample_with_pipeline(model, images, inputs.xt, 7.5, 1.5)
    assert max_difference(edited, expected) < 1e-3 * float(expected.abs().max())


# edits


def test_an_edit_from_the_command_line_needs_no_source_prompt(
    model, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = ["edit", str(photos[0]), "--target-prompt", PROMPT, "--model", str(model)]
    line += ["--device", "cpu", "--method.denoise-steps", "2", "--out", "edited"]
    assert main(line) == 0, capsys.readouterr().err
    folder = tmp_path / "edited"
    assert (folder / "report.html").is_file() and list((folder / "edit").glob("*-after.png"))
    e = from_yaml(Experiment, (folder / "run.yaml").read_text(encoding="utf-8"))
    assert isinstance(e.method, SDEdit) and e.timesteps.t == 1.0 and e.method.guidance == 7.5


def test_an_edit_in_python(prior, photos, tmp_path):
    result = lb.edit(photos[0], PROMPT, model=prior, method="dds", steps=2, out=tmp_path / "edit")
    assert result.report().is_file()


def test_models_that_follow_instructions_are_known_before_they_are_loaded(model, folders, prior):
    for name in (str(model), Model(str(model)), "timbrooks/instruct-pix2pix", prior):
        assert follows_instructions(name)
    for name in ("world", str(folders("eps")), "nobody/knows-this", "gaussians"):
        assert not follows_instructions(name)


# refusals


def test_what_has_no_source_image_is_refused(prior):
    for representation in (Latents(), Pixels()):
        with pytest.raises(ValueError, match="give them with --representation"):
            Run(Experiment((PROMPT,), representation=representation, steps=1), prior)
    with pytest.raises(ValueError, match="but the representation nerf is 3D"):
        Run(Experiment((PROMPT,), representation=NeRF(), steps=1), prior)


def test_perp_neg_is_refused(prior, photos):
    with pytest.raises(ValueError, match="has no place beside the guidance by an image"):
        run_of(prior, photos, negative_prompt="low quality", perp_neg=1.0)


def test_negative_prompts_are_refused_where_the_null_prompt_has_no_weight(model, photos):
    """At the guidance scale of the image, 1.5, and not at 1."""
    settings = {"model": Model(str(model)), "negative_prompt": "low quality"}
    settings["representation"] = Pixels(images=photos[:1])
    Experiment((PROMPT,), method=SDS(guidance=1.0), **settings)
    with pytest.raises(ValueError, match=r"use a guidance scale other than 1\.5, or leave it out"):
        Experiment((PROMPT,), method=SDS(guidance=1.5), **settings)


def test_wrong_options_are_refused_in_one_line(
    model, folders, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    control = write_control_net(folders("eps"), tmp_path / "depth")
    plain = ["--model", str(folders("eps")), "--device", "cpu"]
    own = ["--model", str(model), "--device", "cpu"]
    edit = ["edit", str(photos[0]), "--target-prompt", PROMPT]
    image = ["--model.control", str(control), "--model.control-image", str(photos[0])]
    for argv, expected in (
        ([*edit, *plain], "--source-prompt is missing"),
        ([*edit, "--method", "sdedit", *plain, "--model.image-guidance", "2"], "leave it out"),
        ([*edit, *own, "--model.image-guidance", "-1"], "image-guidance must not be negative"),
        ([*edit, *own, *image], "for which none is read"),
        (["sample", PROMPT, *own], "use limbeck edit IMAGE --target-prompt TEXT"),
    ):
        assert expected in refused(capsys, *argv)
    assert not (tmp_path / "edits").exists()


def test_other_inpainting_networks_are_refused(model, folders):
    with pytest.raises(ValueError, match="in_channels"):
        load_family("eps", write_plain_as_instruct(folders("eps"), model))


def write_plain_as_instruct(pipeline_folder, model):
    """The U-Net of Stable Diffusion in a folder of InstructPix2Pix."""
    import shutil

    folder = model.parent / "plain"
    shutil.copytree(pipeline_folder, folder)
    shutil.copy(model / "model_index.json", folder / "model_index.json")
    return folder

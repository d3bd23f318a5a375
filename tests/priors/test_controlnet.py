"""ControlNet: the numbers of diffusers' pipelines, conditions, and what is refused."""

import json
import re
import shutil

import diffusers
import pytest
import torch
from family_pipelines import (
    OTHER,
    PROMPT,
    STEPS,
    TIMES,
    load_family,
    predict_eps,
    same_predictions,
    sample_with_pipeline,
    train_lora_critic,
)
from safetensors.torch import load_file, save_file
from tiny_controls import write_control_image, write_control_net
from tiny_families import to_ddim
from tiny_pipeline import count_calls, max_difference, normal, prompt_conditions, rng

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.model_options import Model, RuntimeOptions
from limbeck.diffusion.prior import ControlledPrior
from limbeck.diffusion.sampling import sample_x0
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.priors.loading import load
from limbeck.priors.stacked_conditions import stack_conditions

PIPELINES = {
    "eps": diffusers.StableDiffusionControlNetPipeline,
    "xl": diffusers.StableDiffusionXLControlNetPipeline,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def controls(folders, tmp_path_factory):
    """Returns the ControlNet of a family, whose name says depth, and the file of an image."""
    written = {}

    def files(family):
        if family not in written:
            folder = tmp_path_factory.mktemp("control")
            write_control_image(folder / "image.png")
            net = write_control_net(folders(family), folder / "tiny-depth")
            written[family] = net, folder / "image.png"
        return written[family]

    return files


def controlled(family, folders, controls, image=True, **options):
    net, file = controls(family)
    options |= {"control_image": file} if image else {}
    return load_family(family, folders(family), control=str(net), **options)


def controlled_pipeline(family, prior, folders, controls):
    net, _ = controls(family)
    network = diffusers.ControlNetModel.from_pretrained(net)
    pipe = PIPELINES[family].from_pretrained(folders(family), controlnet=network)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = to_ddim(pipe.scheduler)
    return pipe


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_is_that_of_the_pipeline(family, guidance, folders, controls, tmp_path):
    prior = controlled(family, folders, controls, control_scale=0.7)
    pipe = controlled_pipeline(family, prior, folders, controls)
    image = write_control_image(tmp_path / "same.png").expand(2, -1, -1, -1)
    noise = torch.randn(2, *prior.shape, generator=rng(3))
    x0 = sample_x0(prior, prompt_conditions(prior, [PROMPT, OTHER]), noise, STEPS, guidance)
    expected = pipe(
        prompt=[PROMPT, OTHER],
        image=image,
        height=16,
        width=16,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        controlnet_conditioning_scale=0.7,
        output_type="latent",
        latents=noise.clone(),
    ).images
    largest = float(expected.abs().max())
    assert max_difference(x0, expected) < 1e-5 * max(1.0, largest)
    plain = sample_with_pipeline(prior, folders(family), noise, guidance)
    assert max_difference(x0, plain) > 0.05


@pytest.mark.parametrize("family", PIPELINES)
def test_at_scale_0_it_is_the_plain_prior_bit_for_bit(family, folders, controls):
    plain = load_family(family, folders(family))
    assert same_predictions(plain, controlled(family, folders, controls, control_scale=0.0))
    assert not same_predictions(plain, controlled(family, folders, controls))


def test_the_images_of_rows_and_the_image_of_the_options_are_the_same(folders, controls, tmp_path):
    image = write_control_image(tmp_path / "same.png")
    prior, of_rows = (controlled("eps", folders, controls, own) for own in (True, False))
    assert prior.control_kind is None and of_rows.control_kind == "depth"
    assert isinstance(prior, ControlledPrior)
    conditions = prompt_conditions(prior, [PROMPT, OTHER, ""])
    xt = normal(3, *prior.shape, dtype=torch.float32)
    expected = guided_prediction(prior, xt, TIMES, conditions, 4.0)
    seen = conditions.with_control(image.expand(3, -1, -1, -1))
    found, calls = count_calls(of_rows, lambda: guided_prediction(of_rows, xt, TIMES, seen, 4.0))
    assert torch.equal(found.eps, expected.eps)
    assert calls == (1, 6)  # its own pass is part of that of the network


def test_each_row_has_its_own_image(folders, controls):
    prior = controlled("eps", folders, controls, image=False)
    images = torch.rand(3, 3, 16, 16, generator=rng(2))
    conditions = prompt_conditions(prior, [PROMPT, OTHER, PROMPT]).with_control(images)
    xt = normal(3, *prior.shape, dtype=torch.float32)
    together = prior(xt, TIMES, conditions.null, conditions.pos)
    for i in range(3):
        row = slice(i, i + 1)
        alone = prior(xt[row], TIMES[row], conditions.null[row], conditions.pos[row])
        for one, all_rows in zip(alone, together, strict=True):
            assert max_difference(one.eps, all_rows.eps[row]) < 1e-5
    shuffled = conditions.with_control(images.flip(0))
    assert max_difference(prior(xt, TIMES, shuffled.pos)[0].eps, together[1].eps) > 1e-3


def test_images_of_another_size_are_scaled(folders, controls):
    prior = controlled("eps", folders, controls, image=False)
    small = torch.rand(3, 3, 4, 4, generator=rng(2))
    large = torch.nn.functional.interpolate(small, (16, 16), mode="bilinear", antialias=True)
    text = prompt_conditions(prior, [PROMPT, OTHER, PROMPT])
    eps = [predict_eps(prior, text.with_control(image).pos)[0] for image in (small, large)]
    assert torch.equal(*eps)
    wide = torch.randn(3, 4, 8, 12, generator=rng(4))
    assert prior(wide, TIMES, text.with_control(small).pos)[0].eps.shape == wide.shape


def test_conditions_keep_their_control_images():
    images = torch.rand(4, 3, 2, 2, generator=rng(1))
    one = Condition(torch.zeros(2, 5, 3), control=images[:2])
    other = Condition(torch.ones(2, 5, 3), control=images[2:])
    assert torch.equal(one.concat(other).control, images)
    assert torch.equal(one[torch.tensor([1])].control, images[1:2])
    chosen = one.where(torch.tensor([True, False]), other).control
    assert torch.equal(chosen, images[[0, 3]])
    assert torch.equal(other.of_renders(one).control, images[:2])
    stacked = stack_conditions([one, one[:1]], 2, torch.float32)
    assert torch.equal(stacked.control, images[[0, 1, 0, 1]])


def test_a_lora_critic_trains_beside_it(folders, controls):
    prior = controlled("eps", folders, controls)
    before = {k: v.clone() for k, v in prior.control_net.network.state_dict().items()}
    conditions = prior.condition([PROMPT, OTHER, ""])
    plain = predict_eps(prior, conditions)[0]
    run = train_lora_critic(prior)
    adapted = predict_eps(prior, conditions, conditions.with_adapters(run.state.adapters))
    assert max_difference(adapted[0], plain) < 1e-5 and max_difference(adapted[1], plain) > 1e-3
    after = prior.control_net.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_projection_is_not_trained_on_samples_without_renders(folders, controls):
    prior = controlled("eps", folders, controls, image=False)
    setup = SetupContext(1, 1, 0, torch.zeros(1, *prior.shape), (PROMPT,))
    with pytest.raises(ValueError, match="is shown the depth of renders"):
        LearnedProjection().build(prior, setup)
    LearnedProjection(num_images=0).build(prior, setup)


def test_gradients_pass_through_it(folders, controls):
    """Methods that differentiate the network see the whole of it, by central differences."""
    prior = controlled("eps", folders, controls)
    condition, t = prior.condition([PROMPT]), TIMES[1:2]
    xt, probe = (normal(1, *prior.shape, seed=s, dtype=torch.float32) for s in (1, 2))

    def value(x):
        return (prior(x, t, condition)[0].eps.double() * probe).sum()

    x = xt.clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(x), x)
    step = 1e-2
    with torch.no_grad():
        slope = (value(xt + step * probe) - value(xt - step * probe)) / (2 * step)
    expected = float((grad.double() * probe).sum())
    assert float(slope) == pytest.approx(expected, rel=5e-3) and abs(expected) > 0.1


def test_offload_moves_it_with_the_network(folders, controls):
    prior = controlled("eps", folders, controls)
    assert prior.denoising_modules == [prior.unet, prior.control_net]


# refusals


def loading_error(model):
    with pytest.raises(ValueError) as error:
        load(model, "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(controls, tmp_path, **options):
    """The ControlNet with other options in its file."""
    folder = shutil.copytree(controls("eps")[0], tmp_path / "changed-depth")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | options))
    return str(folder)


def test_other_folders_are_refused(folders, controls, tmp_path):
    model = str(folders("eps"))
    (tmp_path / "empty").mkdir()
    for control, expected in (
        (str(tmp_path / "missing"), r"no ControlNet '.*missing': give its folder or a hub id"),
        (str(tmp_path / "empty"), "has no config.json of a ControlNet"),
        (str(folders("eps") / "unet"), "is of a UNet2DConditionModel; give the folder of a"),
        (str(controls("eps")[0] / WEIGHTS), "give the folder with its config.json, not one file"),
    ):
        message = loading_error(Model(model, control=control, control_kind="depth"))
        assert re.search(expected, message), message


def test_other_families_are_refused(folders, controls):
    net, image = controls("eps")
    for family in ("pixel", "sd3"):
        with pytest.raises(ValueError, match="for which none is read"):
            load_family(family, folders(family), control=str(net), control_image=image)


def test_a_control_net_of_another_network_is_refused(folders, controls, tmp_path):
    net, image = controls("eps")
    message = loading_error(Model(str(folders("xl")), control=str(net), control_image=image))
    assert "cross_attention_dim 32, the U-Net of the model 80" in message
    model = str(folders("eps"))
    for options, expected in (
        ({"global_pool_conditions": True}, "global_pool_conditions"),
        ({"conditioning_embedding_out_channels": [16, 32, 96, 256]}, "8 pixels per latent"),
        ({"block_out_channels": [32, 32]}, "block_out_channels"),
    ):
        folder = changed(controls, tmp_path / next(iter(options)), **options)
        assert expected in loading_error(Model(model, control=folder, control_image=image))


def test_missing_weights_are_named(folders, controls, tmp_path):
    folder = shutil.copytree(controls("eps")[0], tmp_path / "control-depth")
    weights = load_file(folder / WEIGHTS)
    del weights["controlnet_mid_block.weight"]
    save_file(weights, folder / WEIGHTS)
    message = loading_error(Model(str(folders("eps")), control=str(folder)))
    assert "lacks tensors of its model: controlnet_mid_block.weight" in message


def test_what_it_takes_must_be_known(folders, controls, tmp_path):
    folder = shutil.copytree(controls("eps")[0], tmp_path / "mine")
    model = Model(str(folders("eps")), control=str(folder))
    assert "does not say whether it takes depths or normals" in loading_error(model)
    both = tmp_path / "depth-and-normal"
    assert "does not say" in loading_error(
        Model(str(folders("eps")), control=str(folder.rename(both)))
    )


def test_images_that_cannot_be_read_are_refused_before_the_weights(folders, controls, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for name, expected in (("text.png", "is not an image"), ("none.png", "no image file")):
        with pytest.raises(ValueError, match=expected):
            net, file = str(controls("eps")[0]), tmp_path / name
            load_family("eps", folders("eps"), control=net, control_image=file)


def test_options_without_effect_are_refused(controls, tmp_path):
    for options in ({"control_scale": 0.5}, {"control_kind": "normal"}):
        with pytest.raises(ValueError, match="needs a ControlNet: give it with"):
            Model("world", **options)
    with pytest.raises(ValueError, match="control_scale must not be negative, not -1"):
        Model("world", control="a/depth", control_scale=-1.0)


def test_rows_without_an_image_are_refused(folders, controls):
    prior = controlled("eps", folders, controls, image=False)
    with pytest.raises(ValueError, match="these rows have no render that shows depth"):
        predict_eps(prior, prior.condition([PROMPT, OTHER, ""]))
    assert RuntimeOptions() == prior.runtime

"""Trained critics: adapted layers, camera conditioning, another model's network, loss targets."""

from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from family_pipelines import load_family
from safetensors.torch import load_file
from tiny_families import write_tiny_pipeline
from tiny_pipeline import (
    WORDS,
    make_inputs,
    max_difference,
    normal,
    prompt_conditions,
    rng,
    row_rng,
    zero_snr_schedule,
)
from torch import nn

from limbeck.cli.main import main
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import Sampling
from limbeck.diffusion.schedule import (
    CosineSchedule,
    DiscreteSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.frozen import FrozenCritic, load_compatible_prior
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.critics.trained import CriticTrainer
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.esd import ESD
from limbeck.methods.vsd import VSD
from limbeck.priors.camera_conditioning import PoseEmbedding, stack_poses
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.loading import load
from limbeck.priors.lora_adapters import DEFAULT_TARGET_MODULES, AdapterRows, LoRAAdapters
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.latents import LatentParticles
from limbeck.runs import sample_recorder
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

T = torch.tensor([0.1, 0.5, 0.9])
XT = normal(3, 4, 8, 8, dtype=torch.float32)
PROMPT = "a red mug"
#: View prompts in the vocabulary of the tiny pipeline.
VIEW_PROMPTS = ("a blue chair", "two striped", "low quality", "on grey")
FAST = CriticTraining(lr=1e-2)


class ViewDependentLatents(LatentParticles):
    """Latents that are brighter the further right the camera is."""

    def render(self, request: RenderRequest) -> Render:
        latents = super().render(request).image
        right = torch.zeros(len(latents))
        if request.camera is not None:
            right = request.camera.azimuth.sin()
        return Render(latents + 0.5 * right.to(latents).view(-1, 1, 1, 1), "latent")


@dataclass(frozen=True)
class ViewDependent(RepresentationConfig):
    """Latents that depend on the view."""

    @property
    def cameras(self) -> Orbit:
        return Orbit(view_prompts=VIEW_PROMPTS)

    def build(self, prior, particles: int, seed: int) -> Representation:
        initial = torch.randn(particles, *prior.shape, generator=rng(seed))
        return ViewDependentLatents(initial, 0.03)


def camera_experiment(critic, **options) -> Experiment:
    defaults = {
        "method": VSD(7.5, critic=critic),
        "representation": ViewDependent(),
        "particles": 2,
        "steps": 6,
    }
    return Experiment((PROMPT,), **(defaults | options))


def advance(run: Run, steps: int) -> Run:
    for _ in range(steps):
        run.advance()
    return run


def predict_eps(prior, *conditions: Condition) -> list[torch.Tensor]:
    with torch.no_grad():
        return [prediction.eps for prediction in prior(XT, T, *conditions)]


def make_poses(n: int = 3) -> torch.Tensor:
    azimuth, elevation = torch.linspace(0.3, 2.5, n), torch.linspace(-0.1, 0.8, n)
    return orbit_cameras(azimuth, elevation, 3.5, 40.0).pose


def with_poses(condition: Condition) -> Condition:
    return replace(condition, pose=make_poses(len(condition)))


# adapted layers

MORE_MODULES = (*DEFAULT_TARGET_MODULES, "ff.net.2", "conv1", "time_emb_proj", "proj_in")


def test_a_target_adapts_every_layer_whose_name_ends_with_it(prior):
    def adapt(*targets):
        return LoRAAdapters(prior.unet, AdapterRows(), 2, rng(), target_modules=targets)

    adapters = adapt("attn2.to_k", "conv1", "net.2")
    modules = prior.unet.named_modules()
    layers = [name for name, m in modules if isinstance(m, nn.Linear | nn.Conv2d)]
    expected = [name for name in layers if name.endswith((".attn2.to_k", ".conv1", ".net.2"))]
    assert adapters.names == expected and len(expected) > 6
    assert adapt("net.2", "attn2.to_k", "conv1").names == expected
    for name, (down, _) in zip(adapters.names, adapters.pairs, strict=True):
        assert down.shape == (2, *prior.unet.get_submodule(name).weight.shape[1:])
    assert any(down.ndim == 4 for down, _ in adapters.pairs)


@pytest.mark.parametrize("target", ["to_z", "o_q", "q", "ff.net"])
def test_an_unknown_target_is_refused_with_the_known_ones(prior, target):
    known = r"its layers are named conv.*net\.2.*to_k, to_out\.0, to_q"
    with pytest.raises(ValueError, match=rf"no layer named {target} to adapt; {known}"):
        critic = LoRACritic(2, target_modules=("to_q", target))
        Run(Experiment((PROMPT,), method=VSD(critic=critic)), prior)
    with pytest.raises(ValueError, match="no layer named nothing to adapt"):
        critic = LoRACritic(2, target_modules=())
        Run(Experiment((PROMPT,), method=VSD(critic=critic)), prior)


@pytest.mark.filterwarnings("ignore")
def test_a_saved_critic_with_convolutions_is_the_same_in_diffusers_and_can_be_loaded(
    eps_folder, tmp_path
):
    def make_run(critic):
        experiment = Experiment((PROMPT,), method=VSD(critic=critic), particles=2, steps=3)
        return Run(experiment, StableDiffusion(str(eps_folder)))

    critic = LoRACritic(3, FAST, target_modules=MORE_MODULES)
    run = advance(make_run(critic), 3)
    prior = run.prior
    run.state.save(tmp_path)
    conditions = prior.condition(WORDS[:3])
    adapted = predict_eps(run.state.prior(), conditions)[0]
    attention_only = advance(make_run(LoRACritic(3, FAST)), 3).state.prior()
    assert max_difference(adapted, predict_eps(attention_only, conditions)[0]) > 1e-3
    pipe = StableDiffusionPipeline.from_pretrained(eps_folder)
    pipe.load_lora_weights(tmp_path)
    expected = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    assert max_difference(expected, predict_eps(prior, conditions)[0]) > 1e-2
    assert max_difference(expected, adapted) < 1e-5
    loaded = make_run(replace(critic, init_from=tmp_path)).state.prior()
    assert max_difference(predict_eps(loaded, conditions)[0], adapted) < 1e-5
    with pytest.raises(
        ValueError,
        match=r"more layers that are not among to_q.*add them to --method\.critic\.target-modules",
    ):
        make_run(LoRACritic(3, init_from=tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_a_lora_of_other_layers_saved_by_diffusers_is_loaded_with_its_scale(eps_folder, tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = StableDiffusionPipeline.from_pretrained(eps_folder)
    torch.manual_seed(0)
    targets = ["to_k", "conv2", "ff.net.2"]
    config = LoraConfig(r=4, lora_alpha=10, target_modules=targets, init_lora_weights=False)
    pipe.unet.add_adapter(config)
    pipe.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="default"),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    prior = StableDiffusion(str(eps_folder))
    critic = LoRACritic(4, init_from=tmp_path, target_modules=tuple(targets))
    run = Run(Experiment((PROMPT,), method=VSD(critic=critic)), prior)
    conditions = prior.condition(WORDS[:3])
    expected = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    adapted = predict_eps(run.state.prior(), conditions)[0]
    assert max_difference(adapted, expected) < 1e-5 * float(expected.abs().max())
    assert max_difference(adapted, predict_eps(prior, conditions)[0]) > 1e-2


# camera conditioning


@pytest.mark.parametrize(
    "family",
    ["v", "xl", "pixel", "sd3", "flux", "sana", "pixart-sigma", "lumina2", "klein", "qwen"],
)
def test_the_camera_has_no_effect_untrained_and_trained_only_on_its_rows(family, tmp_path):
    """In every family of networks; frozen rows of the same call are not affected."""
    prior = load_family(family, write_tiny_pipeline(family, tmp_path))
    adapters = LoRAAdapters(
        prior.network, prior.adapter_rows, 2, rng(), prior.network_name, camera=True
    )
    condition = with_poses(prior.condition(WORDS[:3]))
    adapted = condition.with_adapters(adapters)
    xt = normal(3, *prior.shape, dtype=torch.float32)

    def predict(*conditions):
        return [prediction.eps for prediction in prior(xt, T, *conditions)]

    with torch.no_grad():
        frozen = predict(condition)[0]
        assert torch.equal(predict(adapted)[0], frozen)
        untrained = predict(condition, adapted)
        adapters.pose.last.weight.normal_(generator=rng(1))
        trained = predict(condition, adapted)
        assert torch.equal(trained[0], untrained[0])
        assert torch.equal(predict(condition)[0], frozen)
        assert max_difference(trained[1], untrained[1]) > 1e-3
        # the same alone in a call, where all rows are adapted
        bound = 1e-5 * float(trained[1].abs().max())
        assert max_difference(predict(adapted)[0], trained[1]) < bound
        # swapped cameras of the last two rows
        swapped = predict(replace(adapted, pose=adapted.pose[[0, 2, 1]]))[0]
        assert max_difference(swapped[:1], trained[1][:1]) < bound
        assert max_difference(swapped[1:], trained[1][1:]) > 1e-4


def test_a_missing_camera_is_a_pose_of_zeros(prior):
    adapters = LoRAAdapters(prior.unet, prior.adapter_rows, 2, rng(), camera=True)
    adapters.pose.last.weight.data.normal_(generator=rng(1))
    without = prior.condition(WORDS[:3]).with_adapters(adapters)
    zeros = replace(without, pose=torch.zeros(3, 4, 4))
    posed = with_poses(without)
    eps_without, eps_posed = predict_eps(prior, without)[0], predict_eps(prior, posed)[0]
    assert torch.equal(eps_without, predict_eps(prior, zeros)[0])
    assert max_difference(eps_without, eps_posed) > 1e-3
    mixed = predict_eps(prior, without, posed)
    assert max_difference(mixed[0], eps_without) < 1e-5
    assert max_difference(mixed[1], eps_posed) < 1e-5
    assert stack_poses([without], 3) is None
    assert stack_poses([without, posed], 3).shape == (6, 16)
    one_row = replace(without[:1], pose=make_poses(1))  # one row may stand for all
    assert torch.equal(stack_poses([one_row], 3), make_poses(1).flatten(1).expand(3, -1))


def test_the_pose_embedding_is_two_layers_on_the_flattened_pose():
    """ProlificDreamer's code: c2w flattened row by row to 16, Linear, SiLU, Linear."""
    embedding = PoseEmbedding(6, rng(3), torch.device("cpu"))
    first, last = embedding.first, embedding.last
    assert 0.8 / 4 < float(first.weight.detach().abs().max()) <= 1 / 4
    assert not bool(last.weight.any()) and not bool(last.bias.any())
    last.weight.data.normal_(generator=rng(1))
    hidden = make_poses(2).flatten(1) @ first.weight.T + first.bias
    expected = (hidden * hidden.sigmoid()) @ last.weight.T
    pose = stack_poses([with_poses(Condition(torch.zeros(2, 1, 1)))], 2)
    assert max_difference(embedding(pose), expected) < 1e-5
    before = torch.random.get_rng_state()
    PoseEmbedding(4, rng(), torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_camera_does_not_change_the_initial_adapters(prior):
    plain, camera = (
        LoRAAdapters(prior.unet, AdapterRows(), 2, rng(5), camera=c) for c in (False, True)
    )
    assert torch.equal(plain.weights, camera.weights)


def test_a_network_without_time_embedding_refuses_the_camera():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q = nn.Linear(2, 2)

    with pytest.raises(ValueError, match="Bare has no time embedding named time_embedding or"):
        LoRAAdapters(Bare(), AdapterRows(), 1, rng(), target_modules=("to_q",), camera=True)


def test_a_critic_is_float32_on_a_network_in_16_bits(eps_folder):
    """Untrained it changes nothing, and its training is not rounded to 16 bits."""
    prior = StableDiffusion(str(eps_folder), dtype=torch.bfloat16)
    critic = LoRACritic(2, FAST, target_modules=MORE_MODULES, camera=True)
    run = Run(camera_experiment(critic), prior)
    condition = with_poses(prior.condition(WORDS[:3]))
    before = predict_eps(prior, condition)[0]
    assert torch.equal(predict_eps(run.state.prior(), condition)[0], before)
    advance(run, 2)
    for p in run.state.adapters.parameters():
        assert p.dtype == torch.float32 and bool(p.isfinite().all())
    assert float(run.state.adapters.pose.last.weight.detach().abs().max()) > 0
    assert torch.equal(predict_eps(prior, condition)[0], before)
    assert max_difference(predict_eps(run.state.prior(), condition)[0], before) > 1e-2


@pytest.mark.parametrize(
    "critic",
    [LoRACritic(2, camera=True), SmallUNetCritic(8, camera=True)],
    ids=["lora", "small-unet"],
)
def test_a_2d_representation_has_no_camera(critic, prior):
    with pytest.raises(ValueError, match=r"leave --method\.critic\.camera out"):
        Run(Experiment((PROMPT,), method=VSD(critic=critic)), prior)


def record_conditions(monkeypatch) -> list[tuple[Condition, ...]]:
    """A list that grows by the conditions of every call of a prior."""
    recorded: list[tuple[Condition, ...]] = []
    original = StableDiffusion.__call__

    def call(self, xt, t, *conditions):
        recorded.append(conditions)
        return original(self, xt, t, *conditions)

    monkeypatch.setattr(StableDiffusion, "__call__", call)
    return recorded


@pytest.mark.parametrize("camera", [True, False])
def test_conditions_of_prior_and_critic(camera, prior, monkeypatch):
    """The prior has the view prompt.

    A camera-conditioned critic has the pose and the prompt without a view, another critic the same
    prompt as the prior.
    """
    training = replace(FAST, camera_dropout=0.0) if camera else FAST
    critic = LoRACritic(2, training, camera=camera)
    run = Run(camera_experiment(critic), prior)
    recorded = record_conditions(monkeypatch)
    inputs = run.advance().inputs
    (null, pos, critic_pos), (trained,) = recorded
    view_free = prior.condition([PROMPT] * 2).data
    assert torch.equal(pos.data, inputs.conditions.pos.data)
    assert max_difference(pos.data, view_free) > 0.1
    assert torch.equal(null.data, prior.condition([""] * 2).data)
    assert null.adapters is None and pos.adapters is None
    assert critic_pos.adapters is trained.adapters is run.state.adapters
    assert torch.equal(critic_pos.data, view_free if camera else pos.data)
    assert torch.equal(trained.data, critic_pos.data)
    assert torch.equal(critic_pos.pose, inputs.camera.pose)
    assert torch.equal(trained.pose, inputs.camera.pose)
    assert (prior.call_counter.calls, prior.call_counter.rows) == (2, 6 + 2)


def test_blended_view_prompts_keep_the_prompt_without_a_view(prior):
    cameras = Orbit(view_prompts=VIEW_PROMPTS, blend_prompts=True)
    prompts = (PROMPT, "two striped cats")
    experiment = Experiment(prompts, representation=ViewDependent(), cameras=cameras, particles=2)
    run = Run(experiment, prior)
    conditions = run.prompts.conditions_for(torch.arange(4), cameras.sample(4, row_rng(4)))
    view_free = conditions.pos.without_view.data
    assert torch.equal(
        view_free, prior.condition([prompt for prompt in prompts for _ in "ab"]).data
    )
    assert max_difference(conditions.pos.data, view_free) > 0.1


def test_text_and_camera_dropout(prior, monkeypatch):
    """With the given probabilities and independently; the other rows have no view prompt."""
    training = CriticTraining(lr=0.0, batch_size=64, unconditional_prob=0.25, camera_dropout=0.5)
    run = Run(camera_experiment(LoRACritic(2, training, camera=True)), prior)
    recorded = record_conditions(monkeypatch)
    inputs = run.advance().inputs
    condition = recorded[-1][0]
    no_camera = (condition.pose == 0).flatten(1).all(1)
    null, view_free = (prior.condition([text]).data for text in ("", PROMPT))
    no_text = (condition.data == null).flatten(1).all(1)
    has_text = (condition.data == view_free).flatten(1).all(1)
    assert bool((no_text | has_text).all())
    assert 20 <= int(no_camera.sum()) <= 44 and 7 <= int(no_text.sum()) <= 26
    assert 0 < int((no_camera & no_text).sum()) < int(no_text.sum())
    poses = {tuple(pose.flatten().tolist()) for pose in inputs.camera.pose}
    assert {tuple(pose.flatten().tolist()) for pose in condition.pose[~no_camera]} == poses


@pytest.mark.parametrize(("prob", "text"), [(0.0, PROMPT), (1.0, "")])
def test_unconditional_prob_0_and_1(prob, text, prior, monkeypatch):
    method = VSD(critic=LoRACritic(2, CriticTraining(unconditional_prob=prob)))
    run = Run(Experiment((PROMPT,), method=method, particles=3, steps=2), prior)
    recorded = record_conditions(monkeypatch)
    run.advance()
    assert torch.equal(recorded[-1][0].data, prior.condition([text] * 3).data)


def test_esd_in_3d_keeps_the_text_and_zeroes_the_camera(prior, monkeypatch):
    """phi guidance .5 between the same text without and with the camera, as guidance_scale_lora."""
    method = ESD(7.5, 0.5, LoRACritic(2, camera=True))
    run = Run(camera_experiment(None, method=method), prior)
    with torch.no_grad():  # a new pose embedding ends in zeros and hears no camera
        run.state.adapters.pose.last.weight.normal_(generator=rng(1))
    recorded = record_conditions(monkeypatch)
    step = run.advance()
    inputs = step.inputs
    _, _, critic_null, critic_pos = recorded[0]
    assert torch.equal(critic_pos.pose, inputs.camera.pose)
    assert torch.equal(critic_null.pose, torch.zeros(2, 4, 4))
    text = prior.condition([PROMPT] * 2).data
    assert torch.equal(critic_null.data, text) and torch.equal(critic_pos.data, text)

    fresh = Run(camera_experiment(None, method=method), prior)
    fresh.state.adapters.load_state_dict(run.state.adapters.state_dict())
    critic = fresh.state.adapters
    conditions = [prior.condition([PROMPT] * 2).with_adapters(critic) for _ in range(2)]
    conditions[1] = replace(conditions[1], pose=inputs.camera.pose.float())
    with torch.no_grad():
        without, with_camera = prior(inputs.xt, inputs.t, *conditions)
        eps_hat = guided_prediction(prior, inputs.xt, inputs.t, inputs.conditions, 7.5).eps
        direction = method(prior, inputs, fresh.state)
    assert max_difference(without.eps, with_camera.eps) > 1e-2
    expected = eps_hat - 0.5 * without.eps - 0.5 * with_camera.eps
    assert max_difference(direction, expected) < 1e-5


def test_esd_in_3d_without_camera_conditioning_leaves_out_the_view_words(prior, monkeypatch):
    training = CriticTraining(unconditional_prob=1.0)
    method = ESD(7.5, 0.5, LoRACritic(2, training))
    run = Run(camera_experiment(None, method=method), prior)
    recorded = record_conditions(monkeypatch)
    run.advance()
    _, pos, critic_null, critic_pos = recorded[0]
    view_free = prior.condition([PROMPT] * 2).data
    assert torch.equal(critic_null.data, view_free) and torch.equal(critic_pos.data, pos.data)
    assert torch.equal(recorded[1][0].data, view_free)  # the rows that train it


def test_esd_in_3d_needs_a_critic_that_gets_the_view(prior):
    cameras = Orbit(view_prompts=("", "", "", ""))
    method = ESD(7.5, 0.5, LoRACritic(2))
    experiment = camera_experiment(None, method=method, cameras=cameras)
    with pytest.raises(ValueError, match="this method needs a critic that gets the view"):
        Run(experiment, prior)


def test_only_a_camera_conditioned_critic_learns_views_apart(prior):
    """Two cameras, one prompt, opposite images: without the camera only their mean is learned."""
    conditions = prompt_conditions(prior, [PROMPT] * 2)
    x0 = torch.stack([torch.ones(4, 8, 8), -torch.ones(4, 8, 8)])
    camera = orbit_cameras(torch.tensor([0.0, 3.0]), torch.zeros(2), 3.5, 40.0)
    eps = normal(2, 4, 8, 8, dtype=torch.float32)
    inputs = replace(make_inputs(prior.schedule, x0, 0.9, eps, conditions), camera=camera)
    setup = SetupContext(2, 1, 0, x0, (PROMPT,), has_cameras=True)
    training = CriticTraining(
        lr=1e-2,
        steps=60,
        batch_size=4,
        timesteps=UniformTimesteps(0.8, 1.0),
        camera_dropout=0.0,
    )
    # one noise for both rows, so that x_t does not tell the images apart
    noise = normal(1, 4, 8, 8, seed=2, dtype=torch.float32).expand(2, -1, -1, -1)
    difference = {}
    for has_camera in (True, False):
        used = training if has_camera else replace(training, camera_dropout=0.1)
        critic = SmallUNetCritic(8, used, camera=has_camera).build(prior, setup)
        critic.fit(replace(inputs, rng=row_rng(len(inputs.x0), 1)))
        with torch.no_grad():
            t, condition = torch.full((2,), 0.95), inputs.with_pose(conditions.pos)
            first, second = critic.prior()(noise, t, condition)[0].x0.mean((1, 2, 3))
        difference[has_camera] = float(first - second)
    assert difference[True] > 0.8 and abs(difference[False]) < 1e-5


RESUMED = {
    "camera": LoRACritic(2, FAST, camera=True),
    "layers": LoRACritic(2, FAST, target_modules=MORE_MODULES),
    "small-unet": SmallUNetCritic(8, FAST, camera=True),
    "v": LoRACritic(
        2, CriticTraining(lr=1e-2, loss_target="v", unconditional_prob=0.3), camera=True
    ),
}


@pytest.mark.parametrize("critic", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(critic, eps_folder):
    whole = advance(Run(camera_experiment(critic), StableDiffusion(str(eps_folder))), 3)
    checkpoint = {k: v.detach().clone() for k, v in whole.tensors().items()}
    resumed = Run(camera_experiment(critic), StableDiffusion(str(eps_folder)))
    resumed.load(checkpoint, 3)
    torch.manual_seed(123)
    for _ in range(3):
        a, b = whole.advance(), resumed.advance()
        assert torch.equal(a.gradient, b.gradient)
        assert all(torch.equal(a.metrics[k], b.metrics[k]) for k in a.metrics)
    assert all(torch.equal(resumed.tensors()[k], v) for k, v in whole.tensors().items())
    if isinstance(critic, LoRACritic) and critic.camera:
        names = [k for k in checkpoint if k.startswith("state.adapters.")]
        pose_names = [k for k in names if k.startswith("state.adapters.pose.")]
        assert len(pose_names) == 4
        assert all(max_difference(checkpoint[k], whole.tensors()[k]) > 0 for k in pose_names)
        moments = [k for k in checkpoint if k.startswith("state.") and k.endswith(".exp_avg")]
        assert len(moments) == len(names)


@pytest.mark.filterwarnings("ignore")
def test_the_pose_embedding_is_saved_next_to_a_lora_that_diffusers_loads(eps_folder, tmp_path):
    prior, critic = StableDiffusion(str(eps_folder)), LoRACritic(3, FAST, camera=True)
    run = advance(Run(camera_experiment(critic), prior), 4)
    folder = tmp_path / "critic"
    run.state.save(folder)
    saved = load_file(folder / "pose.safetensors")
    assert {name: value.shape[-1] for name, value in saved.items()} == {
        "first.weight": 16,
        "first.bias": 128,
        "last.weight": 128,
        "last.bias": 128,
    }

    def load_critic(critic):
        return Run(camera_experiment(critic), StableDiffusion(str(eps_folder))).state.prior()

    conditions = prior.condition(WORDS[:3])
    adapted = predict_eps(run.state.prior(), with_poses(conditions))[0]
    loaded = load_critic(replace(critic, init_from=folder))
    assert torch.equal(predict_eps(loaded, with_poses(conditions))[0], adapted)
    # in diffusers it is the critic without its pose embedding
    file = folder / "pytorch_lora_weights.safetensors"
    pipe = StableDiffusionPipeline.from_pretrained(eps_folder)
    pipe.load_lora_weights(folder, weight_name=file.name)
    expected = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    run.state.adapters.pose.last.requires_grad_(False).weight.zero_()
    run.state.adapters.pose.last.bias.zero_()
    assert max_difference(predict_eps(run.state.prior(), conditions)[0], expected) < 1e-5
    assert max_difference(adapted, expected) > 1e-3
    with pytest.raises(
        ValueError, match=r"is conditioned on the camera: use --method\.critic\.camera"
    ):
        load_critic(LoRACritic(3, init_from=folder))
    (folder / "pose.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is not a readable \.safetensors file"):
        load_critic(replace(critic, init_from=file))


def test_a_small_unet_with_a_camera_is_a_model_of_diffusers(prior, tmp_path):
    run = advance(Run(camera_experiment(SmallUNetCritic(8, FAST, camera=True)), prior), 2)
    run.state.save(tmp_path)
    net = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    condition = with_poses(prior.condition(WORDS[:3]))
    with torch.no_grad():
        output = net(XT, T * 1000, condition.data, condition.pose.flatten(1)).sample
    alpha, sigma = prior.schedule.alpha(T), prior.schedule.sigma(T)
    expected = Prediction.from_output("v", output, XT, alpha, sigma).eps
    eps = predict_eps(run.state.prior(), condition)[0]
    assert max_difference(expected, eps) < 1e-5
    without_camera = predict_eps(run.state.prior(), replace(condition, pose=None))[0]
    assert max_difference(eps, without_camera) > 1e-4


def test_pose_and_view_free_condition_stay_with_their_rows():
    view_free = Condition(normal(3, 2, 2, seed=1))
    a = Condition(normal(3, 2, 2, seed=2), pose=make_poses(3), view_free=view_free)
    b = Condition(normal(3, 2, 2, seed=3), pose=make_poses(3) + 1)
    assert torch.equal(a[1:].pose, a.pose[1:])
    assert torch.equal(a[1:].view_free.data, view_free.data[1:])
    both = a.concat(b)
    assert torch.equal(both.pose, torch.cat([a.pose, b.pose]))
    assert torch.equal(both.view_free.data, torch.cat([view_free.data, b.data]))
    chosen = a.where(torch.tensor([True, False, True]), b)
    assert torch.equal(chosen.pose[1], b.pose[1])
    assert torch.equal(chosen.without_view.data[0], view_free.data[0])
    assert torch.equal(chosen.without_view.data[1], b.data[1])
    assert torch.equal(chosen.without_view.pose, chosen.pose)
    assert b.without_view is b and a.with_adapters("x").without_view.adapters == "x"
    assert b.concat(Condition(normal(1, 2, 2))).pose is None


# another model's network


def test_a_critic_can_adapt_another_model(eps_folder, v_folder):
    """As in the official code: phi predicts v, the prior eps, on one schedule."""
    prior = StableDiffusion(str(eps_folder))
    schedule = prior.schedule

    def load_other(name):
        other = StableDiffusion(name)
        other.schedule = schedule
        return other

    setup = SetupContext(
        2,
        1,
        0,
        torch.zeros(2, 4, 8, 8),
        (PROMPT,),
        view_prompts=tuple(f"{PROMPT}, {view_prompt}" for view_prompt in VIEW_PROMPTS),
        load_prior=load_other,
    )
    critic = LoRACritic(2, FAST, model=str(v_folder)).build(prior, setup)
    assert critic.prior().prediction_type == "v" and prior.prediction_type == "eps"
    prompts, x0 = [f"{PROMPT}, {VIEW_PROMPTS[0]}", PROMPT], XT[:2]
    conditions = prompt_conditions(prior, prompts)
    noise = normal(2, 4, 8, 8, dtype=torch.float32)
    s = make_inputs(schedule, x0, 0.5, noise, conditions)
    other = load_other(str(v_folder))
    other_condition = other.condition(prompts)
    with torch.no_grad():
        frozen, (untrained,) = critic.predict_both(
            prior, s, [conditions.null, conditions.pos], [conditions.pos]
        )
        assert torch.equal(untrained.eps, other(s.xt, s.t, other_condition)[0].eps)
        assert max_difference(untrained.eps, frozen[1].eps) > 1e-2
    loss = critic.fit(replace(s, rng=row_rng(len(s.x0), 4)))["critic"]
    random = row_rng(len(s.x0), 4).fold("critic 0")
    t = schedule.snap(FAST.timesteps(s.step, s.steps, 2, schedule, random))
    eps = random.normal("eps", *x0.shape[1:])
    with torch.no_grad():
        xt = schedule.add_noise(x0, eps, t)
        v = other.unet(xt, schedule.timestep_index(t), other_condition.data).sample
    target = Prediction(x0, eps).to_output("v", schedule.alpha(t), schedule.sigma(t))
    assert float(loss) == pytest.approx(float((v - target).square().mean()), rel=1e-4)
    with torch.no_grad():
        trained = critic.prior()(s.xt, s.t, conditions.pos)[0].eps
        assert max_difference(trained, untrained.eps) > 1e-4
        # standalone, it takes any prompt, encoded by its own model
        condition = other.condition(["low quality", PROMPT])
        standalone = critic.standalone()(s.xt, s.t, condition)[0].eps
        assert max_difference(standalone[1], trained[1]) < 1e-5


def test_a_compatible_prior_may_have_another_image_size(eps_folder, v_folder):
    """As Stable Diffusion 2.1 (768 pixels) and its base (512)."""
    prior, other = StableDiffusion(str(eps_folder)), StableDiffusion(str(v_folder))
    other.schedule = prior.schedule
    x0 = torch.zeros(2, 4, 8, 8)
    setup = SetupContext(2, 1, 0, x0, (PROMPT,), load_prior=lambda name: other)
    other.shape, other.image_size = (4, 12, 12), (24, 24)
    assert load_compatible_prior("it", prior, setup) is other
    other.image_size = (48, 48)  # latents of 4 x 4 pixels
    message = r"critic it has x0 of \[4, 12, 12\], the model of \[4, 8, 8\]"
    with pytest.raises(ValueError, match=message):
        load_compatible_prior("it", prior, setup)


def test_an_incompatible_model_is_refused(prior, v_folder):
    def load_mixture(name):
        return GaussianMixture(torch.zeros(2, 4, 8, 8), torch.ones(2), schedule=prior.schedule)

    x0 = torch.zeros(1, 4, 8, 8)
    setup = SetupContext(1, 1, 0, x0, (PROMPT,), load_prior=lambda name: load(name, "cpu"))
    with pytest.raises(ValueError, match="has another noise schedule than the model"):
        LoRACritic(model=str(v_folder)).build(prior, setup)
    with pytest.raises(ValueError, match=r"critic\.model it has no network to adapt"):
        LoRACritic(model="it").build(prior, replace(setup, load_prior=load_mixture))


# loss targets

PREDICTION_TYPES = ("eps", "x0", "v", "flow")


class LinearDenoiser(nn.Module):
    """A denoiser with one parameter and any prediction type."""

    def __init__(self, prediction_type, schedule):
        super().__init__()
        self.prediction_type, self.schedule = prediction_type, schedule
        self.gain = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, xt, t, condition):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        output = self.gain * xt
        return [Prediction.from_output(self.prediction_type, output, xt, alpha, sigma)]


def empty_conditions(rows: int) -> Conditions:
    return Conditions(Condition(torch.zeros(rows, 1, 1)), Condition(torch.zeros(rows, 1, 1)))


@pytest.mark.parametrize(
    "schedule",
    [stable_diffusion_schedule(), CosineSchedule(), RectifiedFlowSchedule()],
    ids=["sd", "cosine", "flow"],
)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("loss_target", PREDICTION_TYPES)
def test_the_loss_is_the_square_error_of_its_target(prediction_type, loss_target, schedule):
    is_flow = isinstance(schedule, RectifiedFlowSchedule)
    if prediction_type == ("v" if is_flow else "flow"):
        pytest.skip("no network has this prediction type on this schedule")
    net, x0 = LinearDenoiser(prediction_type, schedule), normal(4, 2, 2, 2)
    inputs = make_inputs(schedule, x0, 0.5, normal(4, 2, 2, 2, seed=1), empty_conditions(4))
    training = CriticTraining(lr=0.0, loss_target=loss_target)
    trainer = CriticTrainer([net.gain], training, prediction_type)
    loss = trainer.fit(net, replace(inputs, rng=row_rng(4, 2)))["critic"]
    drawn = row_rng(4, 2).fold("critic 0")
    t = schedule.snap(drawn.uniform("t"))
    eps = drawn.normal("eps", 2, 2, 2).double()
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    with torch.no_grad():
        prediction = net(schedule.add_noise(x0, eps, t), t, None)[0]
    target = Prediction(x0, eps).to_output(loss_target, alpha, sigma)
    error = prediction.to_output(loss_target, alpha, sigma) - target
    assert float(loss) == pytest.approx(float(error.square().mean()), rel=1e-6)


def test_the_loss_of_v_is_accurate_at_small_alpha():
    """At alpha = 1e-4 in float32: v by dividing by alpha would have an error of 1e-3."""
    schedule = DiscreteSchedule((0.999, 1e-8))
    x0 = normal(2, 1, 4, 4, dtype=torch.float32)

    class AlmostPerfect(nn.Module):
        """Its error of eps is 1e-3."""

        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, xt, t, condition):
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            difference = xt.double() - alpha.view(-1, 1, 1, 1) * x0
            eps = (difference / sigma.view(-1, 1, 1, 1)).float()
            output = eps + self.offset + 1e-3
            return [Prediction.from_output("eps", output, xt, alpha, sigma)]

    inputs = replace(make_inputs(schedule, x0, 0.5, x0, empty_conditions(2)), rng=row_rng(2, 1))
    net = AlmostPerfect()
    training = CriticTraining(lr=0.0, loss_target="v", timesteps=UniformTimesteps(1.0, 1.0))
    loss = CriticTrainer([net.offset], training, "eps").fit(net, inputs)["critic"]
    assert float(loss) == pytest.approx((1e-3 / 1e-4) ** 2, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera_dropout": 1.5}, r"camera_dropout must lie in \[0, 1\], not 1\.5"),
        ({"unconditional_prob": -0.5}, r"unconditional_prob must lie in \[0, 1\], not -0\.5"),
        ({"lr": -1.0}, r"lr must not be negative, not -1\.0"),
        ({"steps": -1}, "steps must not be negative, not -1"),
        ({"batch_size": -2}, "batch_size must not be negative, not -2"),
        ({"loss_target": "w"}, "loss_target must be one of auto, eps, x0, v, flow, not 'w'"),
    ],
)
def test_critic_training_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        CriticTraining(**options)


@pytest.mark.parametrize("critic", [LoRACritic, NullTextCritic])
def test_an_infinite_loss_is_refused(critic, eps_folder):
    prior = StableDiffusion(str(eps_folder))
    prior.schedule = zero_snr_schedule()
    setup = SetupContext(1, 1, 0, torch.zeros(1, 4, 8, 8), (PROMPT,))
    with pytest.raises(
        ValueError,
        match="loss_target v has infinite weight: this network predicts eps and alpha is 0 at",
    ):
        critic(training=CriticTraining(loss_target="v")).build(prior, setup)
    critic(training=CriticTraining(loss_target="eps")).build(prior, setup)


# sampling


def test_a_critic_is_sampled_with_a_camera_or_without(eps_folder, tmp_path, monkeypatch):
    prior = StableDiffusion(str(eps_folder))
    run = advance(Run(camera_experiment(LoRACritic(2, FAST, camera=True)), prior), 4)
    monkeypatch.setattr(
        sample_recorder, "load_critic", lambda folder, prior, camera: run.state.standalone()
    )
    recorded = record_conditions(monkeypatch)

    def sample_pose(camera):
        sampling = Sampling(
            (PROMPT,), steps=2, num_images=2, guidance=1.0, critic=tmp_path, camera=camera
        )
        folder = tmp_path / f"camera-{len(recorded)}"
        sample_recorder.sample_to_folder(sampling, prior, folder)
        assert (folder / "sample.yaml").read_text().count("camera") == 1
        return recorded[-1][0].pose

    assert sample_pose(()) is None
    right, left = sample_pose((90.0, 10.0, 3.5)), sample_pose((-90.0, 10.0, 3.5))
    assert float(right[0, 0, 3]) > 3
    assert max_difference(right[:, 0, 3], -left[:, 0, 3]) < 1e-5
    for camera in ((1.0,), (1.0, 2.0)):
        with pytest.raises(
            ValueError, match="camera takes an azimuth, an elevation and a distance"
        ):
            Sampling((PROMPT,), critic=tmp_path, camera=camera)
    with pytest.raises(ValueError, match="needs a critic"):
        Sampling((PROMPT,), camera=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--camera", "90", "-10", "3"], "its critic is not conditioned on cameras"),
        ([], "see the run's final.png"),
    ],
)
def test_an_exact_critic_cannot_be_sampled(options, message, tmp_path, capsys):
    model, folder = ["--model", "gaussians", "--device", "cpu"], str(tmp_path / "run")
    method = ["--method", "vsd", "--method.critic", "exact"]
    assert main(["run", "red disc", *model, *method, "--steps", "1", "--out", folder]) == 0
    capsys.readouterr()
    argv = ["sample", "red disc", *model, "--critic", folder, "--out", str(tmp_path / "sample")]
    assert main([*argv, *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_critic_is_not_sampled_with_another_model(tmp_path, capsys):
    common, folder = ["--device", "cpu", "--out"], str(tmp_path / "run")
    method = ["--method", "vsd", "--steps", "1"]
    assert main(["run", "red disc", "--model", "gaussians", *method, *common, folder]) == 0
    for model in ([], ["--model", "gaussians-flow"]):  # the latter has the same shape
        capsys.readouterr()
        out = tmp_path / "sample"
        assert main(["sample", "a", *model, "--critic", folder, *common, str(out)]) == 2
        text = " ".join(capsys.readouterr().err.split())
        assert "sample it with --model gaussians" in text and not out.exists()


def test_a_frozen_critic_cannot_be_sampled():
    x0, prior = torch.zeros(1, 3, 24, 24), load("gaussians", "cpu")
    setup = SetupContext(1, 1, 0, x0, ("red disc",), load_prior=lambda name: load(name, "cpu"))
    critic = FrozenCritic("gaussians").build(prior, setup)
    with pytest.raises(ValueError, match="sample it with --model gaussians and no --critic"):
        critic.standalone()


def test_critic_options_are_on_the_command_line(capsys):
    assert main(["run", "x", "--method", "vsd", "--method.critic", "lora", "--help"]) == 0
    text = capsys.readouterr().out
    for option in (
        "target-modules",
        "camera",
        "model",
        "training.loss-target",
        "training.camera-dropout",
    ):
        assert f"--method.critic.{option}" in text

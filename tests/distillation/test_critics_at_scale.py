"""Critics at real scale: which layers they adapt, what a camera says to them, another model's network, the kind of their loss."""

from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from tiny_families import write_tiny_pipeline
from tiny_pipeline import WORDS, make_inputs, normal, rng, prompt_conditions, max_difference, zero_snr_schedule
from torch import nn

from limbeck.cli.main import main
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import Sampling
from limbeck.diffusion.schedule import CosineSchedule, DiscreteSchedule, RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.distillation.critics.base import CriticTrainer, CriticTraining
from limbeck.distillation.critics.frozen import FrozenCritic, load_compatible_prior
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
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
from limbeck.priors.lora_adapters import AdapterRows, DEFAULT_TARGET_MODULES, LoRAAdapters
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.latents import LatentParticles
from limbeck.runs import sample_recorder as record_samples
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

T = torch.tensor([0.1, 0.5, 0.9])
XT = normal(3, 4, 8, 8, dtype=torch.float32)
PROMPT = "a red mug"
SIDES = (
    "a blue chair",
    "two striped",
    "low quality",
    "on grey",
)  # words of the tiny pipeline's own
EAGER = CriticTraining(lr=1e-2)


class SidedLatents(LatentParticles):
    """Latents that are brighter where the camera stands to the right: enough to have sides."""

    def render(self, view: RenderRequest) -> Render:
        flat = super().render(view).image
        right = torch.zeros(len(flat)) if view.camera is None else view.camera.azimuth.sin()
        return Render(flat + 0.5 * right.to(flat).view(-1, 1, 1, 1), "latent")


@dataclass(frozen=True)
class Sided(RepresentationConfig):
    """Latents with sides."""

    @property
    def cameras(self) -> Orbit:
        return Orbit(view_prompts=SIDES)

    def build(self, prior, particles: int, seed: int) -> Representation:
        return SidedLatents(torch.randn(particles, *prior.shape, generator=rng(seed)), 0.03)


def sided(critic, **more) -> Experiment:
    return Experiment(
        (PROMPT,),
        **(
            {
                "method": VSD(7.5, critic=critic),
                "representation": Sided(),
                "particles": 2,
                "steps": 6,
            }
            | more
        ),
    )


def advanced(run: Run, steps: int) -> Run:
    for _ in range(steps):
        run.advance()
    return run


def eps(prior, *conditions: Condition) -> list[torch.Tensor]:
    with torch.no_grad():
        return [said.eps for said in prior(XT, T, *conditions)]


def poses(count: int = 3) -> torch.Tensor:
    return orbit_cameras(
        torch.linspace(0.3, 2.5, count), torch.linspace(-0.1, 0.8, count), 3.5, 40.0
    ).pose


def with_pose(conditions: Condition) -> Condition:
    return replace(conditions, pose=poses(len(conditions)))


# which layers

MORE = (*DEFAULT_TARGET_MODULES, "ff.net.2", "conv1", "time_emb_proj", "proj_in")


def test_a_name_adapts_every_layer_that_ends_so_and_no_other(prior):
    adapters = LoRAAdapters(prior.unet, AdapterRows(), 2, rng(), targets=("attn2.to_k", "conv1", "net.2"))
    kinds = [n for n, m in prior.unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert (
        adapters.names == [n for n in kinds if n.endswith((".attn2.to_k", ".conv1", ".net.2"))]
        and len(adapters.names) > 6
    )
    assert (
        adapters.names
        == LoRAAdapters(prior.unet, AdapterRows(), 2, rng(), targets=("net.2", "attn2.to_k", "conv1")).names
    )
    shapes = [tuple(p.shape) for p in adapters.down]
    layer = prior.unet.get_submodule(
        adapters.names[shapes.index(next(s for s in shapes if len(s) == 4))]
    )
    assert (2, *layer.weight.shape[1:]) in shapes


@pytest.mark.parametrize("wrong", ["to_z", "o_q", "q", "ff.net"])
def test_a_name_that_is_not_there_is_refused_with_those_that_are(prior, wrong):
    with pytest.raises(
        ValueError,
        match=rf"no layer named {wrong} to adapt; those there are: conv.*net\.2.*to_k, to_out\.0, to_q",
    ):
        Run(Experiment((PROMPT,), method=VSD(critic=LoRACritic(2, target_modules=("to_q", wrong)))), prior)
    with pytest.raises(ValueError, match="no layer named nothing to adapt"):
        Run(Experiment((PROMPT,), method=VSD(critic=LoRACritic(2, target_modules=()))), prior)


@pytest.mark.filterwarnings("ignore")
def test_convolutions_and_feed_forward_are_the_same_in_diffusers_and_come_back(
    eps_folder, tmp_path
):
    critic = LoRACritic(3, EAGER, target_modules=MORE)
    prior = StableDiffusion(str(eps_folder))
    run = advanced(
        Run(Experiment((PROMPT,), method=VSD(critic=critic), particles=2, steps=3), prior), 3
    )
    run.state.save(tmp_path)
    conditions = prior.condition(WORDS[:3])
    ours, plain = eps(run.state.prior(), conditions)[0], eps(prior, conditions)[0]
    attention = Run(
        Experiment((PROMPT,), method=VSD(critic=LoRACritic(3, EAGER)), particles=2, steps=3),
        StableDiffusion(str(eps_folder)),
    )
    assert max_difference(ours, eps(advanced(attention, 3).state.prior(), conditions)[0]) > 1e-3
    pipe = StableDiffusionPipeline.from_pretrained(eps_folder)
    pipe.load_lora_weights(tmp_path)
    theirs = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    assert max_difference(theirs, plain) > 1e-2 and max_difference(theirs, ours) < 1e-5
    again = Run(
        Experiment((PROMPT,), method=VSD(critic=replace(critic, start=tmp_path))),
        StableDiffusion(str(eps_folder)),
    )
    assert max_difference(eps(again.state.prior(), conditions)[0], ours) < 1e-5
    with pytest.raises(
        ValueError,
        match=r"more that are none of the layers to_q.*name theirs too with --method\.critic\.targets",
    ):
        Run(
            Experiment((PROMPT,), method=VSD(critic=LoRACritic(3, init_from=tmp_path))),
            StableDiffusion(str(eps_folder)),
        )


@pytest.mark.filterwarnings("ignore")
def test_a_lora_of_other_layers_saved_by_diffusers_loads_with_its_scale(eps_folder, tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = StableDiffusionPipeline.from_pretrained(eps_folder)
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=["to_k", "conv2", "ff.net.2"], init_lora_weights=False
    )
    pipe.unet.add_adapter(config)
    layers = get_peft_model_state_dict(pipe.unet, adapter_name="default")
    pipe.save_lora_weights(
        tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=config.to_dict()
    )
    prior = StableDiffusion(str(eps_folder))
    critic = LoRACritic(4, init_from=tmp_path, target_modules=("to_k", "conv2", "ff.net.2"))
    run = Run(Experiment((PROMPT,), method=VSD(critic=critic)), prior)
    conditions = prior.condition(WORDS[:3])
    theirs = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    ours = eps(run.state.prior(), conditions)[0]
    assert (
        max_difference(ours, theirs) < 1e-5 * float(theirs.abs().max())
        and max_difference(ours, eps(prior, conditions)[0]) > 1e-2
    )


# the camera


@pytest.mark.parametrize("family", ["v", "xl", "pixel", "sd3", "flux"])
def test_an_untrained_camera_says_nothing_and_a_trained_one_speaks_to_its_rows_alone(
    family, tmp_path
):
    """In every family of networks; and the frozen rows of the same call hear nothing of it."""
    # Flux's files name no size, and its own would be of a megapixel
    model = Model(str(write_tiny_pipeline(family, tmp_path)), resolution=16 if family == "flux" else 0)
    prior = load(model, "cpu")
    adapters = LoRAAdapters(prior.network, prior.adapter_rows, 2, rng(), prior.network_name, camera=True)
    conditions = with_pose(prior.condition(WORDS[:3]))
    xt = normal(3, *prior.shape, dtype=torch.float32)
    ask = lambda *c: [p.eps for p in prior(xt, T, *c)]  # noqa: E731
    with torch.no_grad():
        frozen = ask(conditions)[0]
        assert torch.equal(ask(conditions.with_adapters(adapters))[0], frozen)
        before = ask(conditions, conditions.with_adapters(adapters))
        adapters.pose.last.weight.normal_(generator=rng(1))
        after = ask(conditions, conditions.with_adapters(adapters))
        assert torch.equal(after[0], before[0]) and torch.equal(ask(conditions)[0], frozen)
        assert max_difference(after[1], before[1]) > 1e-3
        # one call of all rows, and rows whose camera is another
        scale = float(after[1].abs().max())
        assert max_difference(ask(conditions.with_adapters(adapters))[0], after[1]) < 1e-5 * scale
        other = ask(replace(conditions, pose=conditions.pose[[0, 2, 1]]).with_adapters(adapters))[0]
        assert (
            max_difference(other[:1], after[1][:1]) < 1e-5 * scale and max_difference(other[1:], after[1][1:]) > 1e-4
        )


def test_no_camera_is_a_pose_of_zeros(prior):
    adapters = LoRAAdapters(prior.unet, prior.adapter_rows, 2, rng(), camera=True)
    adapters.pose.last.weight.data.normal_(generator=rng(1))
    conditions = prior.condition(WORDS[:3]).with_adapters(adapters)
    none, zeros, seen = (
        replace(conditions, pose=None),
        replace(conditions, pose=torch.zeros(3, 4, 4)),
        with_pose(conditions),
    )
    assert torch.equal(eps(prior, none)[0], eps(prior, zeros)[0])
    assert max_difference(eps(prior, none)[0], eps(prior, seen)[0]) > 1e-3
    mixed, alone = eps(prior, none, seen), [eps(prior, none)[0], eps(prior, seen)[0]]
    assert all(max_difference(a, b) < 1e-5 for a, b in zip(mixed, alone, strict=True))
    assert stack_poses([none], 3) is None and stack_poses([none, seen], 3).shape == (6, 16)
    one = replace(conditions[:1], pose=poses(1))  # one row may speak for all
    assert torch.equal(stack_poses([one], 3), poses(1).flatten(1).expand(3, -1))


def test_what_a_camera_says_is_two_layers_of_the_flattened_pose():
    """ProlificDreamer's code: c2w flattened row by row to 16, Linear, SiLU, Linear."""
    pose = PoseEmbedding(6, rng(3), torch.device("cpu"))
    bound = float(pose.first.weight.detach().abs().max())
    assert (
        0.8 / 4 < bound <= 1 / 4
        and not bool(pose.last.weight.any())
        and not bool(pose.last.bias.any())
    )
    pose.last.weight.data.normal_(generator=rng(1))
    x = poses(2).flatten(1) @ pose.first.weight.T + pose.first.bias
    assert (
        max_difference(
            pose(stack_poses([with_pose(Condition(torch.zeros(2, 1, 1)))], 2)),
            (x * x.sigmoid()) @ pose.last.weight.T,
        )
        < 1e-5
    )
    before = torch.random.get_rng_state()
    PoseEmbedding(4, rng(), torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_camera_changes_nothing_of_how_adapters_start(prior):
    plain, camera = (LoRAAdapters(prior.unet, AdapterRows(), 2, rng(5), camera=c) for c in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain.down, camera.down, strict=True))


def test_a_network_without_an_embedding_of_time_is_refused():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q = nn.Linear(2, 2)

    with pytest.raises(ValueError, match="Bare has no embedding of time named time_embedding or"):
        LoRAAdapters(Bare(), AdapterRows(), 1, rng(), targets=("to_q",), camera=True)


def test_in_sixteen_bits_the_critic_stays_in_float32(eps_folder):
    """The frozen network's precision is its own: untrained nothing changes, and what is trained keeps its digits."""
    prior = StableDiffusion(str(eps_folder), dtype=torch.bfloat16)
    run = Run(sided(LoRACritic(2, EAGER, target_modules=MORE, camera=True)), prior)
    conditions = with_pose(prior.condition(WORDS[:3]))
    before = eps(prior, conditions)[0]
    assert torch.equal(eps(run.state.prior(), conditions)[0], before)
    advanced(run, 2)
    assert all(
        p.dtype == torch.float32 and bool(p.isfinite().all())
        for p in run.state.adapters.parameters()
    )
    assert float(run.state.adapters.pose.last.weight.detach().abs().max()) > 0
    assert (
        torch.equal(eps(prior, conditions)[0], before)
        and max_difference(eps(run.state.prior(), conditions)[0], before) > 1e-2
    )


@pytest.mark.parametrize(
    "critic",
    [LoRACritic(2, camera=True), SmallUNetCritic(8, camera=True)],
    ids=["lowrank", "small"],
)
def test_pictures_have_no_camera_to_tell(critic, prior):
    with pytest.raises(ValueError, match=r"seen by no camera; leave --method\.critic\.camera out"):
        Run(Experiment((PROMPT,), method=VSD(critic=critic)), prior)


def listen(monkeypatch, prior) -> list[tuple[Condition, ...]]:
    """Every call's conditions from now on."""
    heard: list[tuple[Condition, ...]] = []
    plain = StableDiffusion.__call__

    def call(self, xt, t, *conditions):
        heard.append(conditions)
        return plain(self, xt, t, *conditions)

    monkeypatch.setattr(StableDiffusion, "__call__", call)
    return heard


@pytest.mark.parametrize("camera", [True, False])
def test_who_hears_what(camera, prior, monkeypatch):
    """The prior the words of the side; a critic told the camera the bare prompt and the pose, another what the prior hears."""
    run = Run(sided(LoRACritic(2, replace(EAGER, camera_dropout=0.0), camera=camera)), prior)
    heard = listen(monkeypatch, prior)
    step = run.advance()
    sample = step.inputs
    (null, pos, own), (learnt,) = heard
    bare = prior.condition([PROMPT] * 2).data
    assert torch.equal(pos.data, sample.conditions.pos.data) and max_difference(pos.data, bare) > 0.1
    assert (
        torch.equal(null.data, prior.condition([""] * 2).data)
        and null.adapters is None is pos.adapters
    )
    assert own.adapters is learnt.adapters is run.state.adapters
    assert torch.equal(own.data, bare if camera else pos.data) and torch.equal(
        learnt.data, own.data
    )
    assert torch.equal(own.pose, sample.camera.pose) and torch.equal(
        learnt.pose, sample.camera.pose
    )
    assert (prior.call_counter.calls, prior.call_counter.rows) == (2, 6 + 2)


def test_mixed_sides_have_the_bare_words_of_their_prompt(prior):
    views = Orbit(view_prompts=SIDES, blend_prompts=True)
    run = Run(
        Experiment(
            (PROMPT, "two striped cats"), representation=Sided(), cameras=views, particles=2
        ),
        prior,
    )
    camera = views.sample(4, rng())
    conditions = run.conditions_for(torch.arange(4), camera)
    assert torch.equal(
        conditions.pos.without_view.data,
        prior.condition([PROMPT, PROMPT, "two striped cats", "two striped cats"]).data,
    )
    assert max_difference(conditions.pos.data, conditions.pos.without_view.data) > 0.1


def test_dropped_cameras_and_texts(prior, monkeypatch):
    """As often as asked for; texts and cameras apart; the bare text and not the one of a side."""
    learning = CriticTraining(lr=0.0, batch_size=64, unconditional_prob=0.25, camera_dropout=0.5)
    run = Run(sided(LoRACritic(2, learning, camera=True)), prior)
    heard = listen(monkeypatch, prior)
    step = run.advance()
    conditions = heard[-1][0]
    blind = (conditions.pose == 0).flatten(1).all(1)
    null, bare = (prior.condition([text]).data for text in ("", PROMPT))
    silent = (conditions.data == null).flatten(1).all(1)
    assert torch.equal(
        silent | (conditions.data == bare).flatten(1).all(1), torch.ones(64, dtype=torch.bool)
    )
    assert (
        20 <= int(blind.sum()) <= 44
        and 7 <= int(silent.sum()) <= 26
        and 0 < int((blind & silent).sum()) < int(silent.sum())
    )
    places = {tuple(p.flatten().tolist()) for p in step.inputs.camera.pose}
    assert {tuple(p.flatten().tolist()) for p in conditions.pose[~blind]} == places


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_texts_or_none_are_dropped(share, prior, monkeypatch):
    experiment = Experiment(
        (PROMPT,),
        method=VSD(critic=LoRACritic(2, CriticTraining(unconditional_prob=share))),
        particles=3,
        steps=2,
    )
    run = Run(experiment, prior)
    heard = listen(monkeypatch, prior)
    run.advance()
    assert torch.equal(heard[-1][0].data, prior.condition([PROMPT if share == 0 else ""] * 3).data)


def test_an_entropic_critic_hears_the_camera_in_both_its_rows(prior, monkeypatch):
    run = Run(sided(None, method=ESD(7.5, 0.5, LoRACritic(2, camera=True))), prior)
    heard = listen(monkeypatch, prior)
    step = run.advance()
    null, _, own_null, own = heard[0]
    assert torch.equal(own_null.pose, step.inputs.camera.pose) and torch.equal(
        own.pose, step.inputs.camera.pose
    )
    assert torch.equal(own_null.data, null.data) and torch.equal(
        own.data, prior.condition([PROMPT] * 2).data
    )


def test_a_critic_that_is_told_the_camera_learns_what_another_cannot(prior):
    """Two cameras, one text, opposite pictures: who is told which is which is right, who is not can only be right on average."""
    conditions, x0 = (
        prompt_conditions(prior, [PROMPT] * 2),
        torch.stack([torch.ones(4, 8, 8), -torch.ones(4, 8, 8)]),
    )
    camera = orbit_cameras(torch.tensor([0.0, 3.0]), torch.zeros(2), 3.5, 40.0)
    s = replace(
        make_inputs(prior.schedule, x0, 0.9, normal(2, 4, 8, 8, dtype=torch.float32), conditions),
        camera=camera,
    )
    start = SetupContext(2, 1, 0, x0, (PROMPT,), has_cameras=True)
    apart = {}
    for knows in (True, False):
        learning = CriticTraining(
            lr=1e-2, steps=30, batch_size=4, timesteps=UniformTimesteps(0.8, 1.0), camera_dropout=0.0
        )
        critic = SmallUNetCritic(8, learning, camera=knows).build(prior, start)
        critic.fit(replace(s, rng=rng(1)))
        noise = normal(1, 4, 8, 8, seed=2, dtype=torch.float32).expand(
            2, -1, -1, -1
        )  # nothing of the picture in x_t
        with torch.no_grad():
            x = critic.prior()(noise, torch.full((2,), 0.95), s.with_pose(conditions.pos))[
                0
            ].x0.mean((1, 2, 3))
        apart[knows] = float(x[0] - x[1])
    assert apart[True] > 0.8 and abs(apart[False]) < 1e-5


RESUMED = {
    "lowrank": LoRACritic(2, EAGER, camera=True),
    "layers": LoRACritic(2, EAGER, target_modules=MORE),
    "small": SmallUNetCritic(8, EAGER, camera=True),
    "v": LoRACritic(2, CriticTraining(lr=1e-2, loss_target="v", unconditional_prob=0.3), camera=True),
}


@pytest.mark.parametrize("critic", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(critic, eps_folder):
    whole = advanced(Run(sided(critic), StableDiffusion(str(eps_folder))), 3)
    kept = {k: v.detach().clone() for k, v in whole.tensors().items()}
    again = Run(sided(critic), StableDiffusion(str(eps_folder)))
    again.load(kept, 3)
    torch.manual_seed(123)
    for _ in range(3):
        a, b = whole.advance(), again.advance()
        assert torch.equal(a.gradient, b.gradient) and all(
            torch.equal(a.metrics[k], b.metrics[k]) for k in a.metrics
        )
    assert all(torch.equal(again.tensors()[k], v) for k, v in whole.tensors().items())
    if isinstance(critic, LoRACritic) and critic.camera:
        names = {k for k in kept if k.startswith("state.adapters.pose.")}
        assert len(names) == 4 and all(max_difference(kept[k], whole.tensors()[k]) > 0 for k in names)
        assert sum(k.endswith(".exp_avg") and k.startswith("state.") for k in kept) == len(
            [k for k in kept if k.startswith("state.adapters.")]
        )


@pytest.mark.filterwarnings("ignore")
def test_what_the_camera_says_is_saved_beside_a_lora_that_diffusers_loads(eps_folder, tmp_path):
    prior, critic = StableDiffusion(str(eps_folder)), LoRACritic(3, EAGER, camera=True)
    run = advanced(Run(sided(critic), prior), 4)
    run.state.save(tmp_path / "critic")
    saved = load_file(tmp_path / "critic" / "pose.safetensors")
    assert {k: tuple(v.shape)[-1] for k, v in saved.items()} == {
        "first.weight": 16,
        "first.bias": 128,
        "last.weight": 128,
        "last.bias": 128,
    }
    conditions = prior.condition(WORDS[:3])
    ours = eps(run.state.prior(), with_pose(conditions))[0]
    again = Run(sided(replace(critic, start=tmp_path / "critic")), StableDiffusion(str(eps_folder)))
    assert torch.equal(eps(again.state.prior(), with_pose(conditions))[0], ours)
    file = tmp_path / "critic" / "pytorch_lora_weights.safetensors"
    pipe = StableDiffusionPipeline.from_pretrained(eps_folder)
    pipe.load_lora_weights(file.parent, weight_name=file.name)
    theirs = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    run.state.adapters.pose.last.requires_grad_(False).weight.zero_()  # without its camera
    run.state.adapters.pose.last.bias.zero_()
    assert (
        max_difference(eps(run.state.prior(), conditions)[0], theirs) < 1e-5 and max_difference(ours, theirs) > 1e-3
    )
    with pytest.raises(ValueError, match=r"was told the camera: give --method\.critic\.camera"):
        Run(sided(LoRACritic(3, init_from=tmp_path / "critic")), StableDiffusion(str(eps_folder)))
    (tmp_path / "critic" / "pose.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no \.safetensors file that can be read"):
        Run(sided(replace(critic, start=file)), StableDiffusion(str(eps_folder)))


def test_a_small_network_with_cameras_is_one_of_diffusers(prior, tmp_path):
    run = advanced(Run(sided(SmallUNetCritic(8, EAGER, camera=True)), prior), 2)
    run.state.save(tmp_path)
    net = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    conditions = with_pose(prior.condition(WORDS[:3]))
    with torch.no_grad():
        out = net(XT, T * 1000, conditions.data, conditions.pose.flatten(1)).sample
    alpha, sigma = prior.schedule.alpha(T), prior.schedule.sigma(T)
    assert (
        max_difference(
            Prediction.from_output("v", out, XT, alpha, sigma).eps,
            eps(run.state.prior(), conditions)[0],
        )
        < 1e-5
    )
    assert (
        max_difference(
            eps(run.state.prior(), conditions)[0],
            eps(run.state.prior(), replace(conditions, pose=None))[0],
        )
        > 1e-4
    )


# conditions carry the camera along


def test_rows_joins_and_choices_keep_pose_and_bare_words_with_their_rows():
    bare = Condition(normal(3, 2, 2, seed=1))
    a = Condition(normal(3, 2, 2, seed=2), pose=poses(3), view_free=bare)
    b = Condition(normal(3, 2, 2, seed=3), pose=poses(3) + 1)
    assert torch.equal(a[1:].pose, a.pose[1:]) and torch.equal(a[1:].view_free.data, bare.data[1:])
    both, kept = a.concat(b), torch.tensor([True, False, True])
    assert torch.equal(both.pose, torch.cat([a.pose, b.pose])) and torch.equal(
        both.view_free.data, torch.cat([bare.data, b.data])
    )
    chosen = a.where(kept, b)
    assert torch.equal(chosen.pose[1], b.pose[1]) and torch.equal(
        chosen.without_view.data[1], b.data[1]
    )
    assert torch.equal(chosen.without_view.data[0], bare.data[0]) and torch.equal(
        chosen.without_view.pose, chosen.pose
    )
    assert b.without_view is b and a.with_adapters("x").without_view.adapters == "x"
    assert b.concat(Condition(normal(1, 2, 2))).pose is None


# another model's network, and the kind of a loss


def test_adapters_on_another_model_speak_its_kind_and_hear_its_words(
    eps_folder, v_folder, monkeypatch
):
    """The official code's phi: adapters of the model that predicts v, beside a guide that predicts eps; one schedule."""
    prior = StableDiffusion(str(eps_folder))

    def other(name):
        phi = StableDiffusion(name)
        phi.schedule = prior.schedule
        return phi

    start = SetupContext(
        2,
        1,
        0,
        torch.zeros(2, 4, 8, 8),
        (PROMPT,),
        view_prompts=tuple(f"{PROMPT}, {w}" for w in SIDES),
        load_prior=other,
    )
    critic = LoRACritic(2, EAGER, model=str(v_folder)).build(prior, start)
    conditions = prompt_conditions(prior, [f"{PROMPT}, {SIDES[0]}", PROMPT])
    s = make_inputs(prior.schedule, XT[:2], 0.5, normal(2, 4, 8, 8, dtype=torch.float32), conditions)
    v = other(str(v_folder))
    words = v.condition([f"{PROMPT}, {SIDES[0]}", PROMPT])
    with torch.no_grad():
        frozen, own = critic.predict_both(
            prior, s, [conditions.null, conditions.pos], [conditions.pos]
        )
        assert (
            torch.equal(own[0].eps, v(s.xt, s.t, words)[0].eps)
            and max_difference(own[0].eps, frozen[1].eps) > 1e-2
        )
    v.shape, v.image_size = (
        (4, 12, 12),
        (24, 24),
    )  # 2.1 is of 768 pixels and its base of 512: a network has no size of its own
    assert load_compatible_prior("it", prior, replace(start, load_prior=lambda name: v)) is v
    v.image_size = (48, 48)  # latents of four pixels a side are other ones
    with pytest.raises(
        ValueError, match=r"critic it has x0 of \[4, 12, 12\], the model of \[4, 8, 8\]"
    ):
        load_compatible_prior("it", prior, replace(start, load_prior=lambda name: v))
    assert critic.prior().prediction_type == "v" and prior.prediction_type == "eps"
    loss = critic.fit(replace(s, rng=rng(4)))["critic"]
    g = rng(4)
    t = prior.schedule.snap(torch.rand(2, generator=g))
    e = torch.randn(XT[:2].shape, generator=g)
    a, b = prior.schedule.alpha(t), prior.schedule.sigma(t)
    with torch.no_grad():
        out = v.unet(
            prior.schedule.add_noise(XT[:2], e, t), prior.schedule.timestep_index(t), words.data
        ).sample
    assert float(loss) == pytest.approx(
        float((out - Prediction(XT[:2], e).to_output("v", a, b)).square().mean()), rel=1e-4
    )
    with torch.no_grad():
        assert max_difference(critic.prior()(s.xt, s.t, conditions.pos)[0].eps, own[0].eps) > 1e-4
        free = critic.standalone()  # of any words, its own model's
        said = free(s.xt, s.t, v.condition(["low quality", PROMPT]))[0]
        assert max_difference(said.eps[1], critic.prior()(s.xt, s.t, conditions.pos)[0].eps[1]) < 1e-5


def test_a_model_to_adapt_must_fit(prior, v_folder):
    start = SetupContext(
        1, 1, 0, torch.zeros(1, 4, 8, 8), (PROMPT,), load_prior=lambda name: load(name, "cpu")
    )
    with pytest.raises(ValueError, match="has another noise schedule than the model"):
        LoRACritic(model=str(v_folder)).build(prior, start)
    exact = lambda name: GaussianMixture(
        torch.zeros(2, 4, 8, 8), torch.ones(2), schedule=prior.schedule
    )  # noqa: E731
    with pytest.raises(ValueError, match=r"critic\.model it has no network to adapt"):
        LoRACritic(model="it").build(prior, replace(start, load_prior=exact))


KINDS = ("eps", "x0", "v", "flow")


class Linear(nn.Module):
    """A denoiser of one number, so that errors of every kind can be had from its answer."""

    def __init__(self, kind, schedule):
        super().__init__()
        self.gain, self.kind, self.schedule = (
            nn.Parameter(torch.tensor(0.3, dtype=torch.float64)),
            kind,
            schedule,
        )

    def forward(self, xt, t, conditions):
        return [
            Prediction.from_output(
                self.kind, self.gain * xt, xt, self.schedule.alpha(t), self.schedule.sigma(t)
            )
        ]


@pytest.mark.parametrize(
    "schedule",
    [stable_diffusion_schedule(), CosineSchedule(), RectifiedFlowSchedule()],
    ids=["sd", "cosine", "flow"],
)
@pytest.mark.parametrize("own", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_a_loss_of_another_kind_is_the_square_error_of_that_kind(own, wanted, schedule):
    if own == ("v" if isinstance(schedule, RectifiedFlowSchedule) else "flow"):
        pytest.skip("no network is of this kind on this schedule")
    net, x0 = Linear(own, schedule), normal(4, 2, 2, 2)
    conditions = Conditions(Condition(torch.zeros(4, 1, 1)), Condition(torch.zeros(4, 1, 1)))
    s = replace(make_inputs(schedule, x0, 0.5, normal(4, 2, 2, 2, seed=1), conditions), rng=rng(2))
    loss = CriticTrainer([net.gain], CriticTraining(lr=0.0, loss_target=wanted), own).fit(net, s)[
        "critic"
    ]
    g = rng(2)
    t = schedule.snap(torch.rand(4, generator=g))
    e = torch.randn(x0.shape, generator=g).double()
    a, b = schedule.alpha(t), schedule.sigma(t)
    with torch.no_grad():
        said = net(schedule.add_noise(x0, e, t), t, None)[0]
    direct = (said.to_output(wanted, a, b) - Prediction(x0, e).to_output(wanted, a, b)).square().mean()
    assert float(loss) == pytest.approx(float(direct), rel=1e-6)


def test_a_loss_of_v_is_finite_where_almost_nothing_is_left():
    """At alpha = 1e-4, in float32: v of eps made by dividing x0 would be an error of 1e-3; as a weight it is exact."""
    schedule = DiscreteSchedule((0.999, 1e-8))

    class Perfect(nn.Module):
        def __init__(self):
            super().__init__()
            self.off = nn.Parameter(torch.zeros(()))

        def forward(self, xt, t, conditions):
            eps = (xt.double() - schedule.alpha(t).view(-1, 1, 1, 1) * x0) / schedule.sigma(t).view(
                -1, 1, 1, 1
            )
            return [
                Prediction.from_output(
                    "eps", eps.float() + self.off + 1e-3, xt, schedule.alpha(t), schedule.sigma(t)
                )
            ]

    x0 = normal(2, 1, 4, 4, dtype=torch.float32)
    conditions = Conditions(Condition(torch.zeros(2, 1, 1)), Condition(torch.zeros(2, 1, 1)))
    s = replace(make_inputs(schedule, x0, 0.5, x0, conditions), rng=rng(1))
    net = Perfect()
    loss = CriticTrainer(
        [net.off], CriticTraining(lr=0.0, loss_target="v", timesteps=UniformTimesteps(1.0, 1.0)), "eps"
    ).fit(net, s)["critic"]
    assert float(loss) == pytest.approx((1e-3 / 1e-4) ** 2, rel=1e-2)


def test_bad_learning_is_refused(eps_folder):
    with pytest.raises(ValueError, match=r"camera_dropout is a share in \[0, 1\], not 1\.5"):
        CriticTraining(camera_dropout=1.5)
    with pytest.raises(ValueError, match="kind must be one of auto, eps, x0, v, flow, not 'w'"):
        CriticTraining(loss_target="w")
    prior = StableDiffusion(str(eps_folder))
    prior.schedule = zero_snr_schedule()
    start = SetupContext(1, 1, 0, torch.zeros(1, 4, 8, 8), (PROMPT,))
    for critic in (LoRACritic, NullTextCritic):
        with pytest.raises(
            ValueError,
            match="kind v: this network predicts eps and its signal ends at t = 1; use auto",
        ):
            critic(learning=CriticTraining(loss_target="v")).build(prior, start)
        critic(learning=CriticTraining(loss_target="eps")).build(prior, start)


# sampling from what was saved


def test_a_critic_is_sampled_from_a_camera_or_from_none(eps_folder, tmp_path, monkeypatch):
    prior = StableDiffusion(str(eps_folder))
    run = advanced(Run(sided(LoRACritic(2, EAGER, camera=True)), prior), 4)
    monkeypatch.setattr(
        record_samples, "saved_critic", lambda folder, prior, camera: run.state.standalone()
    )
    heard = listen(monkeypatch, prior)
    ended = {}
    for camera in ((), (90.0, 10.0, 3.5), (-90.0, 10.0, 3.5)):
        sampling = Sampling(
            (PROMPT,), steps=2, num_images=2, guidance=1.0, critic=tmp_path, camera=camera
        )
        record_samples.sample_to_folder(sampling, prior, tmp_path / f"out{len(ended)}")
        ended[camera] = heard[-1][0].pose
        assert (tmp_path / f"out{len(ended) - 1}" / "sample.yaml").read_text().count("camera") == 1
    assert ended[()] is None
    right, left = ended[90.0, 10.0, 3.5], ended[-90.0, 10.0, 3.5]
    assert float(right[0, 0, 3]) > 3 and max_difference(right[:, 0, 3], -left[:, 0, 3]) < 1e-5
    for bad in ((1.0,), (1.0, 2.0)):
        with pytest.raises(
            ValueError,
            match="camera takes an azimuth, an elevation and a distance",
        ):
            Sampling((PROMPT,), critic=tmp_path, camera=bad)
    with pytest.raises(ValueError, match="needs a critic"):
        Sampling((PROMPT,), camera=(1.0, 2.0, 3.0))


def test_critics_that_cannot_be_sampled_say_what_to_look_at(tmp_path, capsys):
    words = ["--model", "gaussians", "--device", "cpu"]
    run = [
        "run",
        "red disc",
        *words,
        "--steps",
        "1",
        "--method",
        "vsd",
        "--method.critic",
        "exact",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(run) == 0
    capsys.readouterr()
    for camera, conditions in (
        (["--camera", "90", "-10", "3"], "its critic is not conditioned on cameras"),
        ([], "look at its final.png"),
    ):
        assert (
            main(
                [
                    "sample",
                    "red disc",
                    *words,
                    "--critic",
                    str(tmp_path / "run"),
                    *camera,
                    "--out",
                    str(tmp_path / "s"),
                ]
            )
            == 2
        )
        assert conditions in " ".join(capsys.readouterr().err.split())
    start = SetupContext(
        1, 1, 0, torch.zeros(1, 3, 24, 24), ("red disc",), load_prior=lambda name: load(name, "cpu")
    )
    with pytest.raises(ValueError, match="sample it with --model gaussians and no --critic"):
        FrozenCritic("gaussians").build(load("gaussians", "cpu"), start).standalone()


def test_the_options_are_on_the_command_line(capsys):
    assert main(["run", "x", "--method", "vsd", "--method.critic", "lora", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("targets", "camera", "model", "learning.kind", "learning.camera-dropout"):
        assert f"--method.critic.{option}" in shown

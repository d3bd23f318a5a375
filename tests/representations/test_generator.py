"""One-step generators: noise and prompts of a step, mean weights, resuming, network passes."""

import shutil
from dataclasses import replace

import pytest
import torch
from tiny_pipeline import max_difference

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.dmd2 import DMD2
from limbeck.methods.sds import SDS
from limbeck.methods.sid import SiD
from limbeck.methods.svgd import SVGD
from limbeck.priors.exact import colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.generator import Generator
from limbeck.representations.latents import Latents
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.presets.one_step import OneStepPreset
from limbeck.training.row_draws import draw_rows
from limbeck.training.trainer import Run
from limbeck.training.warm_start import load_representation
from limbeck.world.caption_lists import combination_captions, spread_captions
from limbeck.world.scene import COLORS, OBJECTS, PATTERNS, is_held_out

PROMPTS = ("a red mug", "a blue chair")
SMALL = Generator(critic_warmup=0, lr=1e-3)


def experiment(representation=SMALL, method=None, prompts=PROMPTS, **options) -> Experiment:
    options = {"particles": 2, "steps": 4} | options
    return Experiment(prompts, method=method or SDS(2.0), representation=representation, **options)


def train_request(step: int, particle: list[int]) -> RenderRequest:
    rows = torch.tensor(particle)
    return RenderRequest(rows, rng=RowRandom.of_step(0, step, rows))


def samples(run: Run, request: RenderRequest) -> torch.Tensor:
    with torch.no_grad():
        return run.representation.render(request).image


def rounding(x0: torch.Tensor) -> float:
    """What other batch sizes may change: division by a small alpha enlarges the rounding of x0."""
    return 1e-6 * float(x0.abs().max())


@pytest.mark.parametrize("rank", [0, 2])
def test_it_starts_as_the_x0_prediction_of_pure_noise(rank, prior):
    run = Run(experiment(replace(SMALL, lora_rank=rank)), prior)
    request = train_request(0, [0, 3])
    z = request.rng.normal("z", *prior.shape)
    with torch.no_grad():
        expected = prior(z, prior.schedule.snap(torch.ones(2)), prior.condition(PROMPTS))[0].x0
    assert max_difference(samples(run, request), expected) < 1e-5


def test_every_step_has_new_noise_which_does_not_depend_on_other_rows(prior):
    run = Run(experiment(), prior)
    first, second = (samples(run, train_request(step, [0, 1, 2])) for step in (0, 1))
    assert min(float((first - second).abs().flatten(1).max(1).values.min()), 1) > 1e-3
    alone = samples(run, train_request(0, [2]))
    assert max_difference(alone[0], first[2]) < rounding(first)


def test_what_is_shown_has_one_noise_for_each_particle_and_the_mean_weights(prior):
    run = Run(experiment(replace(SMALL, ema=0.5)), prior)
    request = run.eval_request(1)
    before = samples(run, request)
    assert max_difference(samples(run, request[2:3])[0], before[2]) < rounding(before)
    weights = [p.detach().clone() for p in run.representation.trained.parameters()]
    for decay in (0.1, 2 / 11, 3 / 12):  # the mean over the steps so far, until ema is larger
        run.advance()
        trained = list(run.representation.trained.parameters())
        weights = [decay * w + (1 - decay) * p for w, p in zip(weights, trained, strict=True)]
    means = list(run.representation.average.parameters())
    assert max(map(max_difference, means, weights)) < 1e-6
    assert max_difference(samples(run, request), before) > 1e-4


def test_a_step_has_as_many_rows_as_batch_size_says_however_many_particles_are_shown(prior):
    e = experiment(batch_size=7, particles=1)
    assert (e.total, e.rows_per_step) == (2, 7)
    run, extra = Run(e, prior), set()
    for step in range(8):
        counts = draw_rows(e, step).particle.bincount().tolist()
        assert sorted(counts) == [3, 4]  # equal turns, and one more for a prompt that is drawn
        extra.add(counts.index(4))
    assert extra == {0, 1}
    rng = draw_rows(e, 0)
    x0 = samples(run, RenderRequest(rng.particle, rng=rng))
    assert len({float(row.sum()) for row in x0}) == 7
    inputs = run.advance().inputs
    assert max_difference(inputs.x0, x0) < rounding(x0)
    assert len({float(row.sum()) for row in inputs.eps}) == len(set(inputs.t.tolist())) == 7
    assert len(samples(run, run.eval_request(1))) == 2


class Constant(SDS):
    """The same direction everywhere."""

    def __call__(self, prior, inputs, state):
        return torch.ones_like(inputs.x0)


def test_each_row_of_a_step_counts_equally(prior):
    """Also where one prompt has a turn more than another: rows are no views to average over."""
    e = experiment(batch_size=3, particles=1, method=Constant(2.0), weight=UniformWeight())
    run, rng = Run(e, prior), draw_rows(e, 0)
    parameters = list(run.representation.trained.parameters())
    x0 = run.representation.render(RenderRequest(rng.particle, rng=rng)).image
    expected = torch.autograd.grad(x0.sum(), parameters)
    run.optimizer.zero_grad = lambda **options: None
    run.advance()
    scale = max(float(g.abs().max()) for g in expected)
    assert (
        max(max_difference(p.grad, g) for p, g in zip(parameters, expected, strict=True))
        < 1e-4 * scale
    )


def test_only_a_generator_draws_more_rows_than_there_are_particles():
    with pytest.raises(ValueError, match="batch_size 7 is more than the 2 particles"):
        experiment(Latents(), batch_size=7, particles=1)


@pytest.mark.parametrize("prompts", [1, 3, 56])
@pytest.mark.parametrize("size", ["world", "full"])
def test_the_recipe_has_one_sample_of_each_prompt_and_32_rows_per_step(size, prompts):
    stage = OneStepPreset(size=size).stages(("a red mug",))["generator"]
    e = replace(stage, prompts=("a red mug",) * prompts)  # as the command line does
    assert (e.total, e.particles, e.rows_per_step) == (prompts, 1, 32)


@pytest.mark.parametrize("critic", [LoRACritic(), SmallUNetCritic(width=8)], ids=["lora", "unet"])
def test_other_critics_follow_a_generator(critic, prior):
    run = Run(experiment(method=DMD2(2.0, critic=critic)), prior)
    before = {name: value.clone() for name, value in run.tensors().items()}
    run.advance()
    assert float(run.advance().metrics["grad_norm"]) > 0
    after = run.tensors()
    for head in ("representation.trained.", "state."):
        names = [name for name in before if name.startswith(head)]
        assert names and any(not torch.equal(before[name], after[name]) for name in names), head


def test_captions_are_drawn_for_each_row_and_reach_the_method(prior, tmp_path):
    path = tmp_path / "captions.txt"
    captions = ["a red mug", "two striped cats", "low quality"]
    path.write_text("# captions\n" + "\n\n".join(captions) + "\n", encoding="utf-8")
    run = Run(experiment(replace(SMALL, captions=path), particles=30), prior)
    inputs = run.advance().inputs
    encoded = prior.condition(captions).data
    drawn = [
        int((encoded - row).flatten(1).norm(dim=1).argmin()) for row in inputs.conditions.pos.data
    ]
    assert set(drawn) == {0, 1, 2}
    assert max_difference(inputs.conditions.pos.data, encoded[drawn]) == 0
    shown = run.representation.render(run.eval_request(1))
    assert shown.condition is None


@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_run_is_the_same_bit_by_bit(rank, eps_folder):
    e = experiment(
        replace(SMALL, lora_rank=rank, critic_steps=2, critic_warmup=1), DMD2(), batch_size=3
    )
    whole, half = (Run(e, StableDiffusion(str(eps_folder))) for _ in range(2))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        half.advance()
    resumed = Run(e, StableDiffusion(str(eps_folder)), pretrain=False)
    resumed.load({name: value.clone() for name, value in half.tensors().items()}, 2)
    for _ in range(2):
        resumed.advance()
    expected, found = whole.tensors(), resumed.tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("method", [DMD2(2.0), SiD(2.0)], ids=["dmd2", "sid"])
def test_network_passes(method, prior):
    """G, prior and critic of the direction, the critic's training; on two time scales three."""
    run, b = Run(experiment(replace(SMALL, critic_steps=3), method), prior), 4
    counter = prior.call_counter
    rows, grad_rows = counter.rows, counter.grad_rows
    run.advance()
    through = isinstance(method, SiD)
    direction = 2 * b + b  # of the prior and of the critic
    generator_and_critic = b + 3 * b
    assert counter.grad_rows - grad_rows == generator_and_critic + through * direction
    assert counter.rows - rows == generator_and_critic + direction + 2 * b  # new samples of G


def test_the_critic_is_trained_more_often_than_the_generator(prior):
    """Warm-up and the two time scales, on new samples each time; the generator stands still."""
    e = experiment(replace(SMALL, critic_steps=3, critic_warmup=5), DMD2())
    run, seen = Run(e, prior), []
    fit = run.state.fit
    run.state.fit = lambda inputs: (seen.append(inputs.x0.detach().clone()), fit(inputs))[1]
    run.advance()
    assert len(seen) == 5 + 3
    run.advance()
    assert len(seen) == 5 + 3 + 3
    assert len({float(x.sum()) for x in seen}) == len(seen)


def test_a_critic_copy_starts_as_the_prior_and_leaves_it_alone(prior):
    before = {name: value.clone() for name, value in prior.network.state_dict().items()}
    run = Run(experiment(method=DMD2(1.0, critic=NetworkCritic(CriticTraining(lr=1e-2)))), prior)
    first = run.advance()
    assert float(first.metrics["residual"]) < 1e-4  # the critic is the prior: no direction
    second = run.advance()
    assert float(second.metrics["residual"]) > 1e-2
    assert all(torch.equal(before[name], v) for name, v in prior.network.state_dict().items())


def test_a_generator_starts_from_another_one(prior, tmp_path):
    from limbeck.runs.recorder import record

    folder = tmp_path / "first"
    record(experiment(steps=2), prior, folder)
    first, _ = load_representation(folder, prior)
    second = Run(experiment(replace(SMALL, init_from=folder)), prior).representation
    trained = list(second.trained.parameters())
    assert all(map(torch.equal, trained, first.average.parameters()))
    assert (folder / "final.png").is_file()
    record(experiment(Latents(), steps=1), prior, tmp_path / "latents")
    e = experiment(replace(SMALL, init_from=folder), steps=2)
    whole = Run(e, prior)
    whole.advance()
    saved = {name: value.clone() for name, value in whole.tensors().items()}
    shutil.rmtree(folder)  # a resumed run does without it
    resumed = Run(e, prior, pretrain=False)
    resumed.load(saved, 1)
    whole.advance(), resumed.advance()
    assert all(map(torch.equal, whole.tensors().values(), resumed.tensors().values()))
    with pytest.raises(ValueError, match="a generator can start from a generator only"):
        Run(experiment(replace(SMALL, init_from=tmp_path / "latents")), prior)


SMALL_UNET = replace(SMALL, network="small-unet", channels=8)


@pytest.mark.parametrize("exact", [False, True])
def test_a_small_unet_is_a_generator_of_any_prior_of_images(exact, prior, tmp_path):
    from limbeck.runs.recorder import record

    prior = colored_shapes(8) if exact else prior
    own = experiment(SMALL_UNET, DMD2(1.0), ("red disc", "blue ring"), steps=2)
    run, other = Run(own, prior), Run(replace(own, seed=1), prior)
    network, rows = run.representation.network, prior.call_counter.rows
    start = samples(run, train_request(0, [0, 3]))
    assert prior.call_counter.rows == rows  # passes of the small U-Net are not the prior's
    z = train_request(0, [0, 3]).rng.normal("z", *prior.shape)
    t = prior.schedule.snap(torch.ones(2))
    v = network.module(z, t * 1000, prior_features(prior, own.prompts), return_dict=False)[0]
    alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (prior.schedule.alpha, prior.schedule.sigma))
    assert max_difference(start, alpha * z - sigma * v) < 1e-5 * float(start.abs().max())
    assert max_difference(start, samples(other, train_request(0, [0, 3]))) > 1e-2  # by the seed
    before = [p.detach().clone() for p in run.representation.trained.parameters()]
    run.advance()
    run.advance()  # in the first step the critic of a model is the model, and there is no direction
    changed = [
        not torch.equal(a, b)
        for a, b in zip(before, run.representation.trained.parameters(), strict=True)
    ]
    assert sum(changed) > 0.9 * len(changed)
    folder = tmp_path / "first"
    record(own, prior, folder)
    first, _ = load_representation(folder, prior)
    warm = Run(replace(own, representation=replace(SMALL_UNET, init_from=folder)), prior)
    trained = list(warm.representation.trained.parameters())
    assert all(map(torch.equal, trained, first.average.parameters()))
    with pytest.raises(ValueError, match="is another network"):
        wide = replace(SMALL_UNET, channels=16, init_from=folder)
        Run(replace(own, representation=wide), prior)


def test_a_small_unet_makes_images_whose_size_it_cannot_halve():
    run = Run(experiment(SMALL_UNET, DMD2(1.0), ("red disc",), steps=1), colored_shapes(9))
    run.advance()
    assert samples(run, train_request(0, [0])).shape == (1, 3, 9, 9)


def prior_features(prior, prompts) -> torch.Tensor:
    """What a small U-Net reads of prompts: tokens, or the weights of a mixture's components."""
    data = prior.condition(prompts).data.float()
    return data.exp()[:, None] if data.ndim == 2 else data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "small-unet", "channels": 12}, "channels must be a multiple of 8, not 12"),
        (
            {"network": "small-unet", "lora_rank": 4},
            "lora_rank 4 has no effect with network small-unet",
        ),
        ({"network": "small-unet", "depth": 4}, "depth 4 has no effect with network small-unet"),
        ({"channels": 64}, "channels 64 has no effect with network own"),
        ({"lr": 0.0}, "lr must be positive, not 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), not 1"),
        ({"images": ("a.png",)}, "leave out images"),
        ({"captions": "a.txt", "world_captions": True}, "not both"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        Generator(**options)


def test_refused_with_others(prior, tmp_path):
    with pytest.raises(ValueError, match="source_prompt edits images"):
        experiment(source_prompt=("a red mug",))
    with pytest.raises(ValueError, match="no network to adapt"):
        Run(experiment(replace(SMALL, lora_rank=2), prompts=("red disc",)), colored_shapes(16))
    with pytest.raises(ValueError, match="cannot read"):
        Run(experiment(replace(SMALL, captions=tmp_path / "none.txt")), prior)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no line of text"):
        Run(experiment(replace(SMALL, captions=empty)), prior)
    empty.write_text("a red mug\n", encoding="utf-8")
    with pytest.raises(ValueError, match="the generator draws captions"):
        Run(experiment(replace(SMALL, captions=empty), SVGD()), prior)


def test_captions_of_the_world():
    seen, unseen = combination_captions(), combination_captions(unseen=True)
    assert len(seen) + len(unseen) == len(OBJECTS) * len(COLORS) * len(PATTERNS) * 7
    assert len(set(seen) | set(unseen)) == len(seen) + len(unseen)
    shown = spread_captions(28, unseen=True)
    assert len(set(shown)) == 28 and set(shown) <= set(unseen)
    with pytest.raises(ValueError, match="there are 234 captions, not 1000"):
        spread_captions(1000, unseen=True)
    words = [text.split() for text in unseen]
    for row in words:
        o, c = (next(i for i, w in enumerate(kind) if w in row) for kind in (OBJECTS, COLORS))
        p = next((i for i, w in enumerate(PATTERNS) if w in row), PATTERNS.index("plain"))
        assert bool(is_held_out(o, c, p))

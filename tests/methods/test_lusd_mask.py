"""The mask of LUSD: maps of words, their running mean, their share over the run, resuming."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_pipeline import make_inputs, max_difference, normal, prompt_conditions

from limbeck.config.scheduled_numbers import ScheduledNumber
from limbeck.diffusion.attention_maps import AttentionMaps
from limbeck.distillation.attention_masks import Masked, Unmasked, word_map
from limbeck.distillation.inputs import EditSource, SetupContext
from limbeck.distillation.thresholds import Threshold
from limbeck.methods.lusd import LUSD
from limbeck.priors.exact import colored_shapes
from limbeck.system.notices import collect_notices
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

TARGETS, SOURCES = (
    ("a red mug", "a blue chair", "a red mug"),
    ("a blue mug", "a blue cats", "a mug"),
)


TAU = 0.2  #: of which the tiny network refuses some draws


def random_maps(rows=2, side=4, cross_side=2, tokens=5, seed=0) -> AttentionMaps:
    own = normal(rows, side**2, side**2, seed=seed).softmax(2).float()
    cross = normal(rows, tokens, cross_side, cross_side, seed=seed + 1).softmax(1).float()
    return AttentionMaps(own, (side, side), cross)


def words_of(*rows: str) -> torch.Tensor:
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


def network_step(prior, step=0, steps=5, rows=3):
    """A step of three edits with different words."""
    x0, eps, source = (normal(rows, 4, 8, 8, seed=k, dtype=torch.float32) for k in (2, 3, 4))
    conditions = prompt_conditions(prior, list(TARGETS[:rows]))
    s = make_inputs(prior.schedule, x0, 0.5, eps, conditions)
    sources = prompt_conditions(prior, list(SOURCES[:rows]))
    return replace(s, source=EditSource(source, sources), step=step, steps=steps)


def setup(prior, targets=TARGETS, sources=SOURCES) -> SetupContext:
    x0 = torch.zeros(len(targets), *prior.shape)
    return SetupContext(len(targets), len(targets), 0, x0, targets, source_prompts=sources)


def old_direction(prior, s, state, method) -> torch.Tensor:
    """LUSD as it was before it had a mask."""
    target, source = prior(s.xt, s.t, s.conditions.pos, s.source.conditions.pos)
    e = target.eps - source.eps
    d = (1 - method.pull) * method.guidance * e + method.pull * (s.x0.detach() - s.source.x0)
    std_e, std_d = e.flatten(1).std(1), d.flatten(1).std(1)
    gain = method.step_schedule(s.step, s.steps) / std_d.clamp_min(1e-8)
    accepted = gain * state.accept(s.particle, std_e)
    return accepted.view(-1, 1, 1, 1) * d


# maps of words


def test_a_map_is_the_scaled_product_of_both_attentions():
    """Of layers and a latent of one size, by sums over positions."""
    maps = random_maps(1, 3, 3)
    found = word_map(maps, words_of("01010"), (3, 3))[0]
    own, cross = maps.self_attention[0].tolist(), maps.cross_attention[0].flatten(1).tolist()
    c = [sum(own[i][j] * (cross[1][j] + cross[3][j]) / 2 for j in range(9)) for i in range(9)]
    expected = [(value - min(c)) / (max(c) - min(c)) for value in c]
    assert max_difference(found.flatten(), torch.tensor(expected)) < 1e-5


def test_maps_are_enlarged_twice_and_lie_between_zero_and_one():
    maps, words = random_maps(), words_of("01000", "00110")
    found = word_map(maps, words, (8, 8))
    for row, tokens in enumerate(([1], [2, 3])):
        cross = maps.cross_attention[row, tokens].mean(0)
        cross = F.interpolate(cross[None, None], (4, 4), mode="bicubic").flatten()
        c = (maps.self_attention[row] @ cross).view(1, 1, 4, 4)
        c = F.interpolate(c, (8, 8), mode="bicubic")[0, 0]
        assert max_difference(found[row], (c - c.min()) / (c.max() - c.min())) < 1e-4
    assert torch.equal(found.amin((1, 2)), torch.zeros(2))
    assert max_difference(found.amax((1, 2)), torch.ones(2)) == 0


def test_a_row_without_words_has_a_map_of_ones():
    found = word_map(random_maps(), words_of("00000", "01000"), (8, 8))
    assert torch.equal(found[0], torch.ones(8, 8)) and float(found[1].min()) == 0


# running mean and share


def test_the_mask_is_a_running_mean_of_the_maps_of_accepted_draws(prior):
    s, words = network_step(prior), words_of("01000", "00100", "00010")
    state = Masked(words, 0.01, (8, 8))
    assert torch.equal(state.mask, torch.ones(3, 8, 8))
    draws = [random_maps(3, seed=seed) for seed in (1, 2, 3)]
    maps = [word_map(draw, words, (8, 8)) for draw in draws]
    for draw, accepted in zip(draws, ([1, 0, 1], [1, 1, 0], [1, 1, 1]), strict=True):
        state.add_maps(s, torch.tensor(accepted).double(), [draw])
    means = [0.9 * (0.9 * maps[0] + 0.1 * maps[1]) + 0.1 * maps[2]]
    means += [0.9 * maps[1] + 0.1 * maps[2], 0.9 * maps[0] + 0.1 * maps[2]]
    for row, mean in enumerate(means):
        assert max_difference(state.mask[row], mean[row]) < 1e-6
    assert float(state.mask.min()) >= 0 and float(state.mask.max()) <= 1
    rows = torch.tensor([2, 0])
    for b in (0.0, 0.25, 1.0):
        expected = b * state.mask[rows][:, None] + 1 - b
        assert max_difference(state.mask_of(rows, b), expected) < 1e-6


def test_the_share_of_the_mask_grows_from_none_to_all(prior):
    """The direction is that of LUSD with its M_k, of the attention of the target prompt."""
    method = LUSD(guidance=2.0, tau=0.0, pull=0.1)
    state = method.init(prior, setup(prior))
    with torch.no_grad():
        for step, b in ((0, 0.0), (1, 0.25), (4, 1.0)):
            s = network_step(prior, step)
            mask = state.mask.clone()
            target, source = prior(s.xt, s.t, s.conditions.pos, s.source.conditions.pos)
            m = (b * mask + 1 - b)[:, None]
            d = 0.9 * 2.0 * m * (target.eps - source.eps) + 0.1 * (s.x0 - s.source.x0)
            gain = 0.01 + 0.14 / (1 + torch.tensor(10 * b - 5).exp())
            expected = gain * d / d.flatten(1).std(1).view(-1, 1, 1, 1)
            assert max_difference(method(prior, s, state), expected) < 1e-5
            with prior.capture_attention_maps() as maps:
                prior(s.xt, s.t, s.conditions.pos)
            words = prior.changed_tokens(TARGETS, SOURCES)
            found = word_map(maps[0], words, (8, 8))
            expected = found if step == 0 else 0.9 * mask + 0.1 * found
            assert max_difference(state.mask, expected) < 2e-3
    assert float(state.mask[:2].min()) < 0.1


def test_a_direction_does_not_depend_on_the_other_rows(prior):
    method, rows = LUSD(tau=0.0), torch.tensor([1])
    whole, alone = method.init(prior, setup(prior)), method.init(prior, setup(prior))
    with torch.no_grad():
        for step in (0, 2, 4):
            s = network_step(prior, step)
            expected = method(prior, s, whole)[rows]
            assert max_difference(method(prior, s.select(rows), alone), expected) < 1e-4
    assert max_difference(alone.mask[rows], whole.mask[rows]) < 2e-3
    assert torch.equal(alone.mask[[0, 2]], torch.ones(2, 8, 8))


def test_attention_of_a_refused_draw_is_not_kept(prior):
    method = LUSD(tau=1e3)
    state = method.init(prior, setup(prior))
    with torch.no_grad():
        direction = method(prior, network_step(prior), state)
    assert not bool(direction.any()) and torch.equal(state.mask, torch.ones(3, 8, 8))


# without a mask


def test_without_its_mask_lusd_is_what_it_was(prior):
    method = LUSD(guidance=3.0, tau=1.0, attention_mask=False)
    state, own = method.init(prior, setup(prior)), Threshold(3, 1.0, torch.device("cpu"))
    with torch.no_grad():
        for step in range(5):
            s = network_step(prior, step)
            expected = old_direction(prior, s, own, method)
            assert torch.equal(method(prior, s, state), expected)
    assert torch.equal(state.tau, own.tau) and set(state.tensors()) == {"tau"}


def test_the_first_step_and_prompts_without_new_words_are_not_masked(prior):
    """A target that only leaves words out has no W, and M = 1 in every step."""
    masked, plain = LUSD(tau=0.0), LUSD(tau=0.0, attention_mask=False)
    for targets, sources, steps in ((TARGETS, SOURCES, (0,)), (SOURCES, SOURCES, (0, 2, 4))):
        states = [m.init(prior, setup(prior, targets, sources)) for m in (masked, plain)]
        with torch.no_grad():
            for step in steps:
                s = network_step(prior, step)
                assert torch.equal(masked(prior, s, states[0]), plain(prior, s, states[1]))


def test_a_model_without_maps_gets_no_mask_and_a_notice():
    prior = colored_shapes(16)
    prompts = {"targets": ("red disc",), "sources": ("blue ring",)}
    with collect_notices() as notices:
        state = LUSD().init(prior, setup(prior, **prompts))
    assert notices == [
        "the mask is 1 everywhere, as with --method.no-attention-mask: GaussianMixture has no "
        "maps of attention to words"
    ]
    assert type(state) is Unmasked
    with collect_notices() as notices:
        LUSD(attention_mask=False).init(prior, setup(prior, **prompts))
    assert notices == []


# whole runs


def edit(**changes) -> Experiment:
    options = {"method": LUSD(tau=TAU), "particles": 3, "batch_size": 2, "steps": 6} | changes
    return Experiment(("a red mug",), source_prompt=("two striped cats",), **options)


def test_a_resumed_run_of_lusd_equals_an_uninterrupted_one(prior):
    whole, first, second = (Run(edit(), prior) for _ in range(3))
    for _ in range(6):
        whole.advance()
    for _ in range(3):
        first.advance()
    # a checkpoint keeps values, not the tensors themselves
    second.load({name: value.clone() for name, value in first.tensors().items()}, 3)
    for _ in range(3):
        second.advance()
    tensors = second.tensors()
    assert {"state.tau", "state.mask", "state.has_map"} <= set(tensors)
    for name, value in whole.tensors().items():
        assert torch.equal(value, tensors[name]), name
    assert float(whole.state.mask.min()) < 1 and float(whole.state.tau.min()) < TAU


def test_a_masked_step_is_one_call_of_two_rows(prior):
    run = Run(edit(batch_size=0), prior)
    for _ in range(3):
        before = prior.call_counter.calls, prior.call_counter.rows
        run.advance()
        assert prior.call_counter.calls - before[0] == 1
        assert prior.call_counter.rows - before[1] == 2 * 3


def test_a_schedule_of_tau_is_refused():
    with pytest.raises(ValueError, match="tau is the first threshold, which adapts by itself"):
        LUSD(tau=ScheduledNumber("linear 1 0"))

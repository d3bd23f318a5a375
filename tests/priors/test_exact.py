"""Exact priors: two independent closed forms agree, prompts pick components, memory is bounded by chunks."""

import pytest
import torch
from tiny_pipeline import class_conditions, normal, rng, max_difference

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import CosineSchedule, RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.inputs import SetupContext
from limbeck.priors.exact import DataSet, GaussianMixture, colored_shapes, component_log_weights

SCHEDULES = [stable_diffusion_schedule(), CosineSchedule(), RectifiedFlowSchedule()]


def pictures(n: int, size: int = 2, seed: int = 0):
    return torch.randint(0, 256, (n, 3, size, size), generator=rng(seed)).to(torch.uint8)


def spikes(data: DataSet, **options) -> GaussianMixture:
    """The same distribution as a mixture without width."""
    means = data.images.double() / 127.5 - 1
    return GaussianMixture(means, torch.zeros(len(means)), schedule=data.schedule, **options)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("at", [0.05, 0.3, 0.7, 0.95])
def test_data_set_is_the_mixture_without_width(schedule, at):
    data = DataSet(pictures(7), schedule=schedule, chunk_size=3)
    xt, t = normal(5, 3, 2, 2), torch.full((5,), at, dtype=torch.float64)
    ours, theirs = (
        data(xt, t, data.condition([""] * 5))[0],
        spikes(data)(xt, t, spikes(data).condition([""] * 5))[0],
    )
    assert max_difference(ours.x0, theirs.x0) < 1e-10 and max_difference(ours.eps, theirs.eps) < 1e-10


@pytest.mark.parametrize("at", [0.05, 0.5, 0.95])
def test_exact_critic_is_the_mixture_of_the_particles_of_its_prompt(at):
    particles = normal(6, 3, 2, 2, seed=3)
    host = spikes(DataSet(pictures(4)))
    critic = ExactCritic().build(host, SetupContext(6, 2, 0, particles)).prior()
    xt, t = normal(6, 3, 2, 2, seed=4), torch.full((6,), at, dtype=torch.float64)
    said = critic(xt, t, host.condition([""] * 6))[0]
    for half in (slice(0, 3), slice(3, 6)):
        alone = GaussianMixture(particles[half], torch.zeros(3))
        expected = alone(xt[half], t[half], alone.condition([""] * 3))[0]
        assert (
            max_difference(said.x0[half], expected.x0) < 1e-11
            and max_difference(said.eps[half], expected.eps) < 1e-11
        )


def test_chunks_do_not_change_the_answer():
    xt, t = normal(4, 3, 2, 2), torch.tensor([0.02, 0.3, 0.6, 0.98], dtype=torch.float64)
    labels = tuple(f"picture {i % 3}" for i in range(10))
    whole, parts = (DataSet(pictures(10), labels, chunk_size=c) for c in (100, 1))
    for told in (["picture 1"] * 4, [""] * 4):
        a, b = (d(xt, t, d.condition(told))[0] for d in (whole, parts))
        assert max_difference(a.x0, b.x0) < 1e-12 and max_difference(a.eps, b.eps) < 1e-12


def test_conditions_asked_together_are_those_asked_apart():
    for prior in (
        DataSet(pictures(6), tuple("abcabc")),
        spikes(DataSet(pictures(3)), labels=("a", "b", "c")),
    ):
        xt, t = normal(2, 3, 2, 2), torch.tensor([0.2, 0.8], dtype=torch.float64)
        asked = [prior.condition(p) for p in (["a", "b"], ["", ""])]
        for together, alone in zip(
            prior(xt, t, *asked), [prior(xt, t, c)[0] for c in asked], strict=True
        ):
            assert torch.equal(together.x0, alone.x0) and torch.equal(together.eps, alone.eps)


def test_a_prompt_selects_the_pictures_of_its_label():
    data = DataSet(pictures(4), ("red mug", "red chair", "blue mug", "blue chair"))
    t = torch.full((1,), 0.5, dtype=torch.float64)
    for i, label in enumerate(data.labels):
        alone = data(normal(1, 3, 2, 2), t, data.condition([label]))[0]
        assert max_difference(alone.x0[0], data.images[i].double() / 127.5 - 1) < 1e-12


@pytest.mark.parametrize(("prompt", "chosen"), [
    ("a red disc", [1, 0, 0, 0]), ("red", [1, 1, 0, 0]), ("RING, please", [0, 1, 0, 1]), ("", [1, 1, 1, 1]),
])  # fmt: skip
def test_words_of_a_prompt_choose_components(prompt, chosen):
    labels = ("red disc", "red ring", "blue disc", "blue ring")
    assert component_log_weights(labels, [prompt])[0].exp().tolist() == chosen


def test_a_prompt_that_names_nothing_says_what_can_be_named():
    with pytest.raises(ValueError, match=r"'a cat'.*disc, green"):
        colored_shapes(8).condition(["a cat"])


def test_two_spellings_of_one_mixture_agree():
    means, stds = normal(2, 3), torch.tensor([0.3, 0.7])
    once = GaussianMixture(means, stds, torch.tensor([2.0, 1.0]))
    split = GaussianMixture(means[[0, 1, 0]], stds[[0, 1, 0]], torch.tensor([5.0, 5.0, 5.0]))
    xt, t = normal(4, 3), torch.tensor([0.02, 0.4, 0.7, 0.98], dtype=torch.float64)
    a, b = (p(xt, t, p.condition([""] * 4))[0] for p in (once, split))
    assert max_difference(a.x0, b.x0) < 1e-13 and max_difference(a.eps, b.eps) < 1e-13


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_prediction_obeys_the_forward_process(schedule):
    prior = GaussianMixture(normal(3, 2), torch.tensor([0.1, 0.5, 1.0]), schedule=schedule)
    t = torch.linspace(0.02, 0.98, 9, dtype=torch.float64)
    xt = normal(9, 2)
    said = prior(xt, t, prior.condition([""] * 9))[0]
    assert max_difference(schedule.add_noise(said.x0, said.eps, t), xt) < 1e-13


def test_meter_counts_rows_of_every_condition():
    for prior in (GaussianMixture(normal(2, 3, 2, 2), torch.ones(2)), DataSet(pictures(2))):
        prior(
            normal(5, 3, 2, 2),
            torch.full((5,), 0.5, dtype=torch.float64),
            *[prior.condition([""] * 5)] * 3,
        )
        assert (prior.call_counter.calls, prior.call_counter.rows) == (1, 15)


@pytest.mark.parametrize("stds", [torch.tensor([1.0]), torch.tensor([1.0, -0.1])])
def test_mixtures_that_are_none_are_refused(stds):
    with pytest.raises(ValueError, match="stds"):
        GaussianMixture(normal(2, 3), stds)


def test_pictures_round_trip_through_encode_and_decode():
    prior = colored_shapes(8)
    image = torch.rand(2, 3, 8, 8, generator=rng())
    assert max_difference(prior.decode(prior.encode(image)), image) < 1e-6
    assert max_difference(prior.encode(torch.zeros(1, 3, 8, 8)), -torch.ones(1, 3, 8, 8)) == 0


def test_a_class_without_weight_says_nothing():
    means = normal(3, 2)
    prior = GaussianMixture(means, torch.full((3,), 0.5))
    told = class_conditions(4, null=(1, 1, 1), pos=(0, 1, 0))
    xt, t = normal(4, 2), torch.full((4,), 0.4, dtype=torch.float64)
    alone = GaussianMixture(means[1:2], torch.full((1,), 0.5))
    a, b = (
        prior(xt, t, told.pos)[0],
        alone(xt, t, Condition(torch.zeros(4, 1, dtype=torch.float64)))[0],
    )
    assert max_difference(a.x0, b.x0) < 1e-13 and max_difference(a.eps, b.eps) < 1e-13

"""Exact priors: two independent closed forms agree, and prompts select components."""

import pytest
import torch
from tiny_pipeline import class_conditions, max_difference, normal, rng

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.inputs import SetupContext
from limbeck.priors.exact import DataSet, GaussianMixture, colored_shapes, component_log_weights

SCHEDULES = [stable_diffusion_schedule(), CosineSchedule(), RectifiedFlowSchedule()]


def random_images(n: int, size: int = 2, seed: int = 0):
    return torch.randint(0, 256, (n, 3, size, size), generator=rng(seed)).to(torch.uint8)


def point_mixture(data: DataSet, **options) -> GaussianMixture:
    """The same distribution as a mixture of components with std 0."""
    means = data.images.double() / 127.5 - 1
    return GaussianMixture(means, torch.zeros(len(means)), schedule=data.schedule, **options)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("at", [0.05, 0.3, 0.7, 0.95])
def test_a_data_set_is_a_mixture_of_points(schedule, at):
    data = DataSet(random_images(7), schedule=schedule, chunk_size=3)
    xt, t = normal(5, 3, 2, 2), torch.full((5,), at, dtype=torch.float64)
    mixture = point_mixture(data)
    a = data(xt, t, data.condition([""] * 5))[0]
    b = mixture(xt, t, mixture.condition([""] * 5))[0]
    assert max_difference(a.x0, b.x0) < 1e-10 and max_difference(a.eps, b.eps) < 1e-10


@pytest.mark.parametrize("at", [0.05, 0.5, 0.95])
def test_the_exact_critic_is_a_mixture_of_the_particles_of_each_prompt(at):
    particles = normal(6, 3, 2, 2, seed=3)
    prior = point_mixture(DataSet(random_images(4)))
    critic = ExactCritic().build(prior, SetupContext(6, 2, 0, particles)).prior()
    xt, t = normal(6, 3, 2, 2, seed=4), torch.full((6,), at, dtype=torch.float64)
    prediction = critic(xt, t, prior.condition([""] * 6))[0]
    for half in (slice(0, 3), slice(3, 6)):
        alone = GaussianMixture(particles[half], torch.zeros(3))
        expected = alone(xt[half], t[half], alone.condition([""] * 3))[0]
        assert max_difference(prediction.x0[half], expected.x0) < 1e-11
        assert max_difference(prediction.eps[half], expected.eps) < 1e-11


def test_the_chunk_size_does_not_change_predictions():
    xt, t = normal(4, 3, 2, 2), torch.tensor([0.02, 0.3, 0.6, 0.98], dtype=torch.float64)
    labels = tuple(f"image {i % 3}" for i in range(10))
    priors = [DataSet(random_images(10), labels, chunk_size=c) for c in (100, 1)]
    for prompts in (["image 1"] * 4, [""] * 4):
        a, b = (prior(xt, t, prior.condition(prompts))[0] for prior in priors)
        assert max_difference(a.x0, b.x0) < 1e-12 and max_difference(a.eps, b.eps) < 1e-12


def test_conditions_of_one_call_do_not_affect_each_other():
    for prior in (
        DataSet(random_images(6), tuple("abcabc")),
        point_mixture(DataSet(random_images(3)), labels=("a", "b", "c")),
    ):
        xt, t = normal(2, 3, 2, 2), torch.tensor([0.2, 0.8], dtype=torch.float64)
        conditions = [prior.condition(p) for p in (["a", "b"], ["", ""])]
        together = prior(xt, t, *conditions)
        for a, condition in zip(together, conditions, strict=True):
            b = prior(xt, t, condition)[0]
            assert torch.equal(a.x0, b.x0) and torch.equal(a.eps, b.eps)


def test_a_prompt_selects_the_images_of_its_label():
    data = DataSet(random_images(4), ("red mug", "red chair", "blue mug", "blue chair"))
    t = torch.full((1,), 0.5, dtype=torch.float64)
    for i, label in enumerate(data.labels):
        alone = data(normal(1, 3, 2, 2), t, data.condition([label]))[0]
        assert max_difference(alone.x0[0], data.images[i].double() / 127.5 - 1) < 1e-12


@pytest.mark.parametrize(
    ("prompt", "weights"),
    [
        ("a red disc", [1, 0, 0, 0]),
        ("red", [1, 1, 0, 0]),
        ("RING, please", [0, 1, 0, 1]),
        ("", [1, 1, 1, 1]),
    ],
)
def test_words_of_a_prompt_select_components(prompt, weights):
    labels = ("red disc", "red ring", "blue disc", "blue ring")
    assert component_log_weights(labels, [prompt])[0].exp().tolist() == weights


def test_an_unknown_prompt_is_refused_with_the_known_words():
    with pytest.raises(ValueError, match=r"'a cat'.*disc, green"):
        colored_shapes(8).condition(["a cat"])


def test_a_split_component_is_the_same_mixture():
    means, stds = normal(2, 3), torch.tensor([0.3, 0.7])
    once = GaussianMixture(means, stds, torch.tensor([2.0, 1.0]))
    split = GaussianMixture(means[[0, 1, 0]], stds[[0, 1, 0]], torch.tensor([5.0, 5.0, 5.0]))
    xt, t = normal(4, 3), torch.tensor([0.02, 0.4, 0.7, 0.98], dtype=torch.float64)
    a, b = (p(xt, t, p.condition([""] * 4))[0] for p in (once, split))
    assert max_difference(a.x0, b.x0) < 1e-13 and max_difference(a.eps, b.eps) < 1e-13


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_prediction_satisfies_the_forward_process(schedule):
    prior = GaussianMixture(normal(3, 2), torch.tensor([0.1, 0.5, 1.0]), schedule=schedule)
    t = torch.linspace(0.02, 0.98, 9, dtype=torch.float64)
    xt = normal(9, 2)
    prediction = prior(xt, t, prior.condition([""] * 9))[0]
    assert max_difference(schedule.add_noise(prediction.x0, prediction.eps, t), xt) < 1e-13


def test_the_call_counter_counts_rows_of_every_condition():
    for prior in (GaussianMixture(normal(2, 3, 2, 2), torch.ones(2)), DataSet(random_images(2))):
        t = torch.full((5,), 0.5, dtype=torch.float64)
        prior(normal(5, 3, 2, 2), t, *[prior.condition([""] * 5)] * 3)
        assert (prior.call_counter.calls, prior.call_counter.rows) == (1, 15)


@pytest.mark.parametrize("stds", [torch.tensor([1.0]), torch.tensor([1.0, -0.1])])
def test_invalid_mixtures_are_refused(stds):
    with pytest.raises(ValueError, match="stds"):
        GaussianMixture(normal(2, 3), stds)


def test_encode_and_decode_are_inverse():
    prior = colored_shapes(8)
    image = torch.rand(2, 3, 8, 8, generator=rng())
    assert max_difference(prior.decode(prior.encode(image)), image) < 1e-6
    assert max_difference(prior.encode(torch.zeros(1, 3, 8, 8)), -torch.ones(1, 3, 8, 8)) == 0


def test_a_component_with_weight_zero_has_no_effect():
    means = normal(3, 2)
    prior = GaussianMixture(means, torch.full((3,), 0.5))
    conditions = class_conditions(4, null=(1, 1, 1), pos=(0, 1, 0))
    xt, t = normal(4, 2), torch.full((4,), 0.4, dtype=torch.float64)
    alone = GaussianMixture(means[1:2], torch.full((1,), 0.5))
    a = prior(xt, t, conditions.pos)[0]
    b = alone(xt, t, Condition(torch.zeros(4, 1, dtype=torch.float64)))[0]
    assert max_difference(a.x0, b.x0) < 1e-13 and max_difference(a.eps, b.eps) < 1e-13

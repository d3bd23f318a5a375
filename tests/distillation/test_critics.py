"""Critics beyond the first ones: past particles, a learned text, another frozen model."""

from dataclasses import replace

import pytest
import torch
from tiny_pipeline import class_conditions, make_inputs, f64, normal, rng, prompt_conditions, max_difference
from torch import Tensor

from limbeck.cli.main import main
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.schedule import RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.frozen import FrozenCritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.state import Stateless
from limbeck.methods.csd import CSD
from limbeck.methods.esd import ESD
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import DataSet, GaussianMixture, colored_shapes
from limbeck.priors.loading import load
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

SD = stable_diffusion_schedule()
FREE = Stateless()
TOLD = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))


def mixture() -> GaussianMixture:
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))


def sample_of(x0: Tensor, view: list[int], t: float = 0.5, seed: int = 3):
    return make_inputs(
        SD, x0, t, normal(*x0.shape, seed=seed), class_conditions(len(x0), *TOLD), torch.tensor(view)
    )


def denoised(xt: Tensor, t: Tensor, points: Tensor) -> Tensor:
    """eps of the optimal denoiser of ``points``, written out."""
    a, s = float(SD.alpha(t)[0]), float(SD.sigma(t)[0])
    out = []
    for row in xt:
        share = f64([float(-(row - a * p).square().sum() / (2 * s**2)) for p in points]).softmax(0)
        out.append((row - a * (share[:, None] * points).sum(0)) / s)
    return torch.stack(out)


# past particles


def walked(buffer: int, steps: int, prompts: int = 1, particles: int = 3):
    """A critic that has seen ``steps`` steps, the places at each of them, and the next sample it is told of."""
    places = [normal(particles, 4, seed=10 + k) for k in range(steps + 1)]
    critic = ExactCritic(buffer).build(mixture(), SetupContext(particles, prompts, 0, places[0]))
    for k in range(steps):
        s = sample_of(places[k], list(range(particles)))
        critic.observe(s)
        critic.fit(s)
    s = sample_of(places[steps], list(range(particles)))
    critic.observe(s)
    return critic, places, s


@pytest.mark.parametrize(
    ("buffer", "steps"), [(0, 3), (2, 0), (2, 1), (3, 1), (4, 1), (4, 2), (6, 2), (7, 3), (100, 3)]
)
def test_the_last_places_count_beside_the_present_ones(buffer, steps):
    critic, places, s = walked(buffer, steps)
    left = torch.cat([*places[:steps], torch.zeros(0, 4).double()])  # in the order they were left
    points = torch.cat([places[steps], left[max(0, len(left) - buffer) :]])
    said = critic.prior()(s.xt, s.t, s.conditions.pos)[0]
    assert max_difference(said.eps, denoised(s.xt, s.t, points)) < 1e-10
    assert max_difference(SD.add_noise(said.x0, said.eps, s.t), s.xt) < 1e-12


def test_a_prompts_past_is_its_own():
    critic, places, s = walked(2, 2, prompts=2, particles=4)
    for prompt, rows in enumerate(([0, 1], [2, 3])):
        points = torch.cat([places[2][rows], places[1][rows]])
        eps = critic.prior()(s.xt, s.t, s.conditions.pos)[0].eps
        assert max_difference(eps[rows], denoised(s.xt[rows], s.t, points)) < 1e-10, prompt


@pytest.mark.parametrize("buffer", [0, 3])
def test_a_particle_that_is_not_drawn_counts_where_it_was_last_seen(buffer):
    """And, never seen, at its start; it leaves nothing behind while it is not drawn."""
    start, first, second = (normal(3, 4, seed=k) for k in (20, 21, 22))
    critic = ExactCritic(buffer).build(mixture(), SetupContext(3, 1, 0, start))
    a = sample_of(first[:2], [0, 2])
    critic.observe(a)
    critic.fit(a)
    b = sample_of(second[1:2], [2])
    critic.observe(b)
    now = torch.stack([first[0], start[1], second[1]])
    points = torch.cat([now, first[:2]]) if buffer else now
    assert (
        max_difference(critic.prior()(b.xt, b.t, b.conditions.pos)[0].eps, denoised(b.xt, b.t, points))
        < 1e-10
    )


def test_the_past_survives_a_checkpoint():
    critic, places, s = walked(5, 3)
    kept = {k: v.clone() for k, v in critic.tensors().items()}
    again = ExactCritic(5).build(mixture(), SetupContext(3, 1, 0, places[0]))
    again.load(kept)
    again.fit(s)  # what is loaded is a copy
    assert all(torch.equal(kept[k], v) for k, v in critic.tensors().items())
    critic.fit(s)
    assert all(torch.equal(again.tensors()[k], v) for k, v in critic.tensors().items())
    nothing = ExactCritic().build(mixture(), SetupContext(3, 1, 0, places[0]))
    assert set(nothing.tensors()) == {"x0"}


def test_the_past_softens_vsd_of_one_particle():
    """With the particle alone VSD is SDS; with its past phi is another."""
    prior = colored_shapes(8)

    def first(buffer: int, steps: int) -> Tensor:
        run = Run(
            Experiment(("red disc",), method=VSD(5.0, critic=ExactCritic(buffer)), steps=steps),
            prior,
        )
        return [run.advance() for _ in range(steps)][-1]

    def sds(step) -> Tensor:
        return SDS(5.0)(prior, step.sample, FREE) * expand(
            SD.sigma(step.sample.t) ** 2, step.gradient
        )

    assert max_difference(first(0, 3).gradient, sds(first(0, 3))) < 2e-4
    assert max_difference(first(9, 1).gradient, sds(first(9, 1))) < 2e-4  # there is no past yet
    assert max_difference(first(9, 3).gradient, sds(first(9, 3))) > 1e-3


def resumed(experiment: Experiment, make, at: int = 3) -> None:
    whole = Run(experiment, make())
    while whole.step < at:
        whole.advance()
    kept = {k: v.detach().clone() for k, v in whole.tensors().items()}
    torch.manual_seed(123)
    again = Run(experiment, make())
    again.load(kept, at)
    while whole.step < experiment.steps:
        a, b = whole.advance(), again.advance()
        assert torch.equal(a.gradient, b.gradient) and all(
            torch.equal(a.metrics[k], b.metrics[k]) for k in a.metrics
        )
    assert all(torch.equal(again.tensors()[k], v) for k, v in whole.tensors().items())


LEARNING = CriticTraining(lr=1e-2)
CRITICS = {
    "past": ExactCritic(4),
    "null": NullTextCritic(training=LEARNING),
    "prompt": NullTextCritic("prompt"),
    "frozen": FrozenCritic("gaussians"),
}


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
def test_a_resumed_run_is_the_uninterrupted_one(critic):
    method = VSD(5.0, critic=critic)
    resumed(
        Experiment(("red disc", "blue ring"), method=method, particles=3, batch_size=4, steps=6),
        lambda: colored_shapes(24),
    )


def test_exact_refuses():
    with pytest.raises(ValueError, match="buffer must not be negative, not -1"):
        ExactCritic(-1)


# a learned text


def said_by(prior, texts: list[str], x0: Tensor, view=None):
    return make_inputs(
        prior.schedule,
        x0,
        torch.full((len(x0),), 0.5),
        normal(*x0.shape, seed=1, dtype=torch.float32),
        prompt_conditions(prior, texts),
    )


@pytest.mark.parametrize("critic_guidance", [1.0, 0.5])
def test_an_untrained_text_is_the_one_it_begins_as(prior, critic_guidance):
    """Empty: VSD is s times CSD. The prompt's own: (s - 1) times CSD, as with untrained adapters."""
    texts, x0 = ["a red mug", "a blue chair"], normal(2, 4, 8, 8, dtype=torch.float32)
    s, start = said_by(prior, texts, x0), SetupContext(2, 2, 0, x0)
    with torch.no_grad():
        csd = CSD()(prior, s, FREE)
        for begin, factor in (("null", 7.5), ("prompt", 6.5)):
            if begin == "prompt" and critic_guidance != 1:
                continue  # each row hears its own text there, also the null row
            method = VSD(7.5, critic_guidance, critic=NullTextCritic(begin))
            state = method.init(prior, start)
            assert max_difference(method(prior, s, state), factor * csd) < 2e-5
    assert float(csd.abs().max()) > 0.05


@pytest.mark.parametrize("begin", ["null", "prompt"])
@pytest.mark.parametrize("critic_guidance", [1.0, 0.5])
def test_the_text_learns_whatever_the_critics_guidance(prior, begin, critic_guidance):
    """A learned unconditional text that is asked only beside a prompt never hears a gradient at guidance 1. This one does."""
    run = Run(Experiment(("a red mug",), method=VSD(7.5, critic_guidance, critic=NullTextCritic(begin, CriticTraining(lr=0.05))), particles=2,
                         representation=Latents(1e-6), steps=25), prior)  # fmt: skip
    before = run.state.tensors()["text.text"].clone()
    run.advance()
    assert float((run.state.tensors()["text.text"] - before).abs().min()) > 0
    assert all(p.grad is None for p in prior.unet.parameters())
    x0 = torch.stack(list(run.representation.particles)).detach()
    s = said_by(prior, ["a red mug"] * 2, x0)

    def loss(critic) -> float:
        total = 0.0
        with torch.no_grad():
            for seed in range(6):
                eps = normal(2, 4, 8, 8, seed=seed, dtype=torch.float32)
                q = replace(s, eps=eps)
                total += float((critic(q.xt, q.t, q.conditions.pos)[0].eps - eps).square().mean())
        return total

    early = loss(run.state.prior())
    while run.step < 25:
        run.advance()
    assert loss(run.state.prior()) < early


def test_a_learned_text_rides_in_the_frozen_rows_call(prior):
    run = Run(
        Experiment(("a red mug",), method=VSD(7.5, critic=NullTextCritic()), particles=2, steps=3),
        prior,
    )
    calls, rows = prior.call_counter.calls, prior.call_counter.rows
    run.advance()
    assert (prior.call_counter.calls - calls, prior.call_counter.rows - rows) == (2, 6 + 2)


def test_on_a_mixture_the_text_is_the_weights_of_its_components():
    """Particles at one component teach the critic that component."""
    prior = GaussianMixture(
        4 * torch.eye(3, 4).double(), f64([0.3] * 3), labels=("red", "green", "blue")
    )
    critic = NullTextCritic(training=CriticTraining(lr=0.1, steps=5)).build(
        prior, SetupContext(4, 1, 0, torch.zeros(4, 4))
    )
    x0 = prior.means[1].expand(4, 4) + 0.3 * normal(4, 4)
    conditions = Conditions(prior.condition(["red"] * 4), prior.condition([""] * 4))
    for step in range(40):
        s = replace(make_inputs(SD, x0, 0.5, normal(4, 4), conditions), rng=rng(step))
        critic.fit(s)
    assert float(critic.tensors()["text.text"].softmax(1)[0, 1]) > 0.9


def test_on_a_data_set_the_text_learns_too():
    data = DataSet(torch.randint(0, 256, (5, 3, 4, 4), generator=rng()).to(torch.uint8), chunk_size=2)
    critic = NullTextCritic(training=CriticTraining(lr=0.1)).build(
        data, SetupContext(2, 1, 0, torch.zeros(2, 3, 4, 4))
    )
    conditions = Conditions(data.condition(["x"] * 2), data.condition([""] * 2))
    x0 = (data.images[:2].float() / 127.5 - 1) + 0.1
    for step in range(3):
        critic.fit(
            replace(
                make_inputs(SD, x0, 0.9, normal(2, 3, 4, 4, dtype=torch.float32), conditions),
                rng=rng(step),
            )
        )
    assert float(critic.tensors()["text.text"].abs().max()) > 0


def test_the_learned_text_is_saved(prior, tmp_path):
    from safetensors.torch import load_file

    critic = NullTextCritic().build(prior, SetupContext(1, 1, 0, torch.zeros(1, 4, 8, 8)))
    critic.save(tmp_path / "critic")
    assert torch.equal(
        load_file(tmp_path / "critic" / "text.safetensors")["text"], prior.condition([""]).data
    )


# another frozen model


def start_of(prior, texts: tuple[str, ...], load_, **more) -> SetupContext:
    return SetupContext(
        len(texts), len(texts), 0, torch.zeros(len(texts), *prior.shape), texts, load=load_, **more
    )


@pytest.mark.parametrize("entropy", [0.0, 0.4, 1.0])
def test_the_model_itself_as_critic_is_told_prompt_and_null_apart(entropy):
    prior = colored_shapes(8)
    critic = FrozenCritic("anything").build(
        prior, start_of(prior, ("red disc", "blue ring"), lambda name: colored_shapes(8))
    )
    s = make_inputs(
        SD,
        normal(4, 3, 8, 8),
        0.5,
        normal(4, 3, 8, 8, seed=1),
        prompt_conditions(prior, ["red disc", "red disc", "blue ring", "blue ring"]),
    )
    csd = CSD()(prior, s, FREE)
    assert max_difference(VSD(7.5)(prior, s, critic), 6.5 * csd) < 1e-11
    assert max_difference(VSD(7.5, 7.5)(prior, s, critic), torch.zeros_like(csd)) < 1e-11
    assert max_difference(ESD(7.5, entropy)(prior, s, critic), (6.5 + entropy) * csd) < 1e-11


def test_another_model_hears_the_prompt_in_its_own_way():
    """Two mixtures of the same pictures whose components stand in another order and carry other words."""
    prior = GaussianMixture(
        normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=("red", "green", "blue")
    )
    other = GaussianMixture(
        prior.means.flip(0), prior.stds.flip(0), labels=("blue thing", "green thing", "red thing")
    )
    texts = ("red", "blue")
    critic = FrozenCritic("other").build(
        prior, start_of(prior, texts, lambda name: other, negative_prompt="green")
    )
    conditions = Conditions(prior.condition(texts), prior.condition(["green"] * 2))
    s = make_inputs(SD, normal(2, 4), 0.5, normal(2, 4, seed=1), conditions)
    pos, null = prior(s.xt, s.t, conditions.pos, conditions.null)
    same, empty = critic.prior()(s.xt, s.t, conditions.pos, conditions.null)
    assert max_difference(same.eps, pos.eps) < 1e-12 and max_difference(empty.eps, null.eps) < 1e-12
    unknown = Condition(prior.condition(["red green"]).data.expand(2, -1))
    assert bool(critic.prior()(s.xt, s.t, unknown)[0].eps.isnan().all())


def test_a_text_the_critic_was_never_told_of_stops_the_run():
    run = Run(
        Experiment(("red disc",), method=VSD(5.0, critic=FrozenCritic("gaussians")), steps=2),
        colored_shapes(24),
    )
    run.advance()
    run.conditions = Conditions(run.prior.condition(["blue ring"]), run.conditions.null)
    with pytest.raises(NonFiniteError, match="the direction the method answered"):
        run.advance()


def test_a_frozen_critic_in_a_run_is_loaded_by_name_on_the_runs_device():
    prior = colored_shapes(24)
    run = Run(
        Experiment(
            ("red disc",), method=VSD(5.0, critic=FrozenCritic("gaussians")), particles=2, steps=2
        ),
        prior,
    )
    step = run.advance()
    csd = CSD()(prior, step.inputs, FREE)
    assert max_difference(step.gradient, 4 * csd * expand(SD.sigma(step.inputs.t) ** 2, csd)) < 1e-4
    assert (
        prior.call_counter.rows == 2 * 2 + 2 * 2
    )  # two of the step and two of this test: the critic's rows are not the model's
    assert run.state.prior().call_counter.rows == 2


def test_pipelines_as_prior_and_critic(eps_folder):
    prior = StableDiffusion(str(eps_folder))
    texts = ("a red mug", "a blue chair, on grey")
    critic = FrozenCritic(str(eps_folder)).build(
        prior, start_of(prior, texts, lambda name: load(name, "cpu"))
    )
    s = said_by(prior, list(texts), normal(2, 4, 8, 8, dtype=torch.float32))
    with torch.no_grad():
        assert max_difference(VSD(7.5)(prior, s, critic), 6.5 * CSD()(prior, s, FREE)) < 5e-5


def test_frozen_refuses_what_does_not_fit():
    prior, flow = colored_shapes(8), colored_shapes(8, schedule=RectifiedFlowSchedule())
    with pytest.raises(
        ValueError, match=r"critic other has x0 of \[3, 24, 24\], the model of \[3, 8, 8\]"
    ):
        FrozenCritic("other").build(
            prior, start_of(prior, ("disc",), lambda name: colored_shapes(24))
        )
    with pytest.raises(ValueError, match="critic other has another noise schedule than the model"):
        FrozenCritic("other").build(prior, start_of(prior, ("disc",), lambda name: flow))
    with pytest.raises(ValueError, match="no way to load 'world' here"):
        FrozenCritic().build(prior, SetupContext(1, 1, 0, torch.zeros(1, 3, 8, 8), ("disc",)))
    with pytest.raises(ValueError, match="names nothing of this model"):
        FrozenCritic("other").build(mixture(), SetupContext(1, 1, 0, torch.zeros(1, 4), ("zebra",), load=lambda name: GaussianMixture(
            normal(3, 4), torch.ones(3), labels=("red", "green", "blue"))))  # fmt: skip


@pytest.mark.parametrize("critic", ["frozen", "nulltext", "exact"])
def test_critics_on_the_command_line(critic, tmp_path, capsys):
    words = [
        "--model",
        "gaussians",
        "--device",
        "cpu",
        "--steps",
        "2",
        "--particles",
        "2",
        "--method",
        "vsd",
        "--method.critic",
        critic,
    ]
    more = {
        "frozen": ["--method.critic.model", "gaussians"],
        "exact": ["--method.critic.buffer", "5"],
        "nulltext": [],
    }[critic]
    assert main(["run", "red disc", *words, *more, "--out", str(tmp_path / "run")]) == 0, (
        capsys.readouterr()
    )
    assert (tmp_path / "run" / "report.html").exists()

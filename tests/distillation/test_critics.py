"""Exact critics with a buffer, learned-text critics and frozen critics."""

from dataclasses import replace

import pytest
import torch
from tiny_pipeline import (
    class_conditions,
    f64,
    make_inputs,
    max_difference,
    normal,
    prompt_conditions,
    rng,
    row_rng,
)
from torch import Tensor

from limbeck.cli.main import main
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.schedule import RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics import exact
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
STATE = Stateless()
CLASS_SHARES = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))


def mixture() -> GaussianMixture:
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))


def mixture_inputs(x0: Tensor, particle: list[int], t: float = 0.5, seed: int = 3):
    conditions = class_conditions(len(x0), *CLASS_SHARES)
    eps = normal(*x0.shape, seed=seed)
    return make_inputs(SD, x0, t, eps, conditions, torch.tensor(particle))


def optimal_eps(xt: Tensor, t: Tensor, points: Tensor) -> Tensor:
    """eps of the optimal denoiser of ``points``, in a loop over rows."""
    a, s = float(SD.alpha(t)[0]), float(SD.sigma(t)[0])
    out = []
    for row in xt:
        share = f64([float(-(row - a * p).square().sum() / (2 * s**2)) for p in points]).softmax(0)
        out.append((row - a * (share[:, None] * points).sum(0)) / s)
    return torch.stack(out)


# exact critic with a buffer


def critic_after(buffer: int, steps: int, prompts: int = 1, particles: int = 3):
    """A critic after ``steps`` steps, the x0 of these and of the next one, and the next inputs."""
    x0 = [normal(particles, 4, seed=10 + k) for k in range(steps + 1)]
    critic = ExactCritic(buffer).build(mixture(), SetupContext(particles, prompts, 0, x0[0]))
    for k in range(steps):
        s = mixture_inputs(x0[k], list(range(particles)))
        critic.observe(s)
        critic.fit(s)
    s = mixture_inputs(x0[steps], list(range(particles)))
    critic.observe(s)
    return critic, x0, s


@pytest.mark.parametrize(
    ("buffer", "steps"), [(0, 3), (2, 0), (2, 1), (3, 1), (4, 1), (4, 2), (6, 2), (7, 3), (100, 3)]
)
def test_the_latest_past_x0_count_like_present_ones(buffer, steps):
    critic, x0, s = critic_after(buffer, steps)
    past = torch.cat([*x0[:steps], torch.zeros(0, 4).double()])  # oldest first
    points = torch.cat([x0[steps], past[max(0, len(past) - buffer) :]])
    prediction = critic.prior()(s.xt, s.t, s.conditions.pos)[0]
    assert max_difference(prediction.eps, optimal_eps(s.xt, s.t, points)) < 1e-10
    assert max_difference(SD.add_noise(prediction.x0, prediction.eps, s.t), s.xt) < 1e-12


def test_each_prompt_has_its_own_buffer():
    critic, x0, s = critic_after(2, 2, prompts=2, particles=4)
    for prompt, rows in enumerate(([0, 1], [2, 3])):
        points = torch.cat([x0[2][rows], x0[1][rows]])
        eps = critic.prior()(s.xt, s.t, s.conditions.pos)[0].eps
        assert max_difference(eps[rows], optimal_eps(s.xt[rows], s.t, points)) < 1e-10, prompt


@pytest.mark.parametrize("buffer", [0, 3])
def test_a_particle_outside_the_batch_counts_with_its_last_x0(buffer):
    """At first with its initial one; it adds nothing to the buffer meanwhile."""
    initial, first, second = (normal(3, 4, seed=k) for k in (20, 21, 22))
    critic = ExactCritic(buffer).build(mixture(), SetupContext(3, 1, 0, initial))
    a = mixture_inputs(first[:2], [0, 2])
    critic.observe(a)
    critic.fit(a)
    b = mixture_inputs(second[1:2], [2])
    critic.observe(b)
    present = torch.stack([first[0], initial[1], second[1]])
    points = torch.cat([present, first[:2]]) if buffer else present
    eps = critic.prior()(b.xt, b.t, b.conditions.pos)[0].eps
    assert max_difference(eps, optimal_eps(b.xt, b.t, points)) < 1e-10


def test_a_checkpoint_restores_the_buffer():
    critic, x0, s = critic_after(5, 3)
    saved = {k: v.clone() for k, v in critic.tensors().items()}
    restored = ExactCritic(5).build(mixture(), SetupContext(3, 1, 0, x0[0]))
    restored.load(saved)
    restored.fit(s)  # what is loaded is a copy
    assert all(torch.equal(saved[k], v) for k, v in critic.tensors().items())
    critic.fit(s)
    assert all(torch.equal(restored.tensors()[k], v) for k, v in critic.tensors().items())
    without_buffer = ExactCritic().build(mixture(), SetupContext(3, 1, 0, x0[0]))
    assert set(without_buffer.tensors()) == {"x0"}


def test_with_a_buffer_vsd_of_one_particle_is_not_sds():
    """VSD is SDS if phi knows the particle alone: without a buffer, or at the first step."""
    prior = colored_shapes(8)

    def last_step(buffer: int, steps: int):
        method = VSD(5.0, critic=ExactCritic(buffer))
        run = Run(Experiment(("red disc",), method=method, steps=steps), prior)
        return [run.advance() for _ in range(steps)][-1]

    def difference_to_sds(step) -> float:
        weight = SD.sigma(step.inputs.t) ** 2
        sds = SDS(5.0)(prior, step.inputs, STATE) * expand(weight, step.gradient)
        return max_difference(step.gradient, sds)

    assert difference_to_sds(last_step(0, 3)) < 2e-4
    assert difference_to_sds(last_step(9, 1)) < 2e-4
    assert difference_to_sds(last_step(9, 3)) > 1e-3


def check_resume(experiment: Experiment, make_prior, at: int = 3) -> None:
    """A run resumed from a checkpoint is bit for bit the uninterrupted one."""
    uninterrupted = Run(experiment, make_prior())
    while uninterrupted.step < at:
        uninterrupted.advance()
    checkpoint = {k: v.detach().clone() for k, v in uninterrupted.tensors().items()}
    torch.manual_seed(123)
    resumed = Run(experiment, make_prior())
    resumed.load(checkpoint, at)
    while uninterrupted.step < experiment.steps:
        a, b = uninterrupted.advance(), resumed.advance()
        assert torch.equal(a.gradient, b.gradient)
        assert all(torch.equal(a.metrics[k], b.metrics[k]) for k in a.metrics)
    for name, value in uninterrupted.tensors().items():
        assert torch.equal(resumed.tensors()[name], value)


CRITICS = {
    "buffer": ExactCritic(4),
    "null": NullTextCritic(training=CriticTraining(lr=1e-2)),
    "prompt": NullTextCritic("prompt"),
    "frozen": FrozenCritic("gaussians"),
}


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
def test_a_resumed_run_is_the_uninterrupted_one(critic):
    experiment = Experiment(
        ("red disc", "blue ring"),
        method=VSD(5.0, critic=critic),
        particles=3,
        batch_size=4,
        steps=6,
    )
    check_resume(experiment, lambda: colored_shapes(24))


def test_exact_refuses():
    with pytest.raises(ValueError, match="buffer must not be negative, not -1"):
        ExactCritic(-1)


# learned text


def prompt_inputs(prior, prompts: list[str], x0: Tensor):
    eps = normal(*x0.shape, seed=1, dtype=torch.float32)
    t = torch.full((len(x0),), 0.5)
    return make_inputs(prior.schedule, x0, t, eps, prompt_conditions(prior, prompts))


@pytest.mark.parametrize("critic_guidance", [1.0, 0.5])
def test_an_untrained_text_is_its_initial_one(prior, critic_guidance):
    """Empty: VSD is s CSD. The prompt's own: (s - 1) CSD, as with untrained adapters."""
    prompts, x0 = ["a red mug", "a blue chair"], normal(2, 4, 8, 8, dtype=torch.float32)
    s, setup = prompt_inputs(prior, prompts, x0), SetupContext(2, 2, 0, x0)
    with torch.no_grad():
        csd = CSD()(prior, s, STATE)
        for init_from, factor in (("null", 7.5), ("prompt", 6.5)):
            if init_from == "prompt" and critic_guidance != 1:
                continue  # each condition keeps its text, so the guidance matters
            method = VSD(7.5, critic_guidance, critic=NullTextCritic(init_from))
            state = method.init(prior, setup)
            assert max_difference(method(prior, s, state), factor * csd) < 2e-5
    assert float(csd.abs().max()) > 0.05


@pytest.mark.parametrize("init_from", ["null", "prompt"])
@pytest.mark.parametrize("critic_guidance", [1.0, 0.5])
def test_the_text_is_trained_at_any_critic_guidance(prior, init_from, critic_guidance):
    """A learned text for the null condition alone would have no gradient at critic guidance 1."""
    critic = NullTextCritic(init_from, CriticTraining(lr=0.05))
    experiment = Experiment(
        ("a red mug",),
        method=VSD(7.5, critic_guidance, critic=critic),
        particles=2,
        representation=Latents(1e-6),
        steps=25,
    )
    run = Run(experiment, prior)
    before = run.state.tensors()["text.text"].clone()
    run.advance()
    assert float((run.state.tensors()["text.text"] - before).abs().min()) > 0
    assert all(p.grad is None for p in prior.unet.parameters())
    x0 = torch.stack(list(run.representation.particles)).detach()
    s = prompt_inputs(prior, ["a red mug"] * 2, x0)

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


def test_a_learned_text_shares_the_call_of_the_prior(prior):
    experiment = Experiment(
        ("a red mug",), method=VSD(7.5, critic=NullTextCritic()), particles=2, steps=3
    )
    run = Run(experiment, prior)
    calls, rows = prior.call_counter.calls, prior.call_counter.rows
    run.advance()
    assert (prior.call_counter.calls - calls, prior.call_counter.rows - rows) == (2, 6 + 2)


def test_on_a_mixture_the_text_is_the_weights_of_its_components():
    """Particles at one component teach the critic that component."""
    means = 4 * torch.eye(3, 4).double()
    prior = GaussianMixture(means, f64([0.3] * 3), labels=("red", "green", "blue"))
    config = NullTextCritic(training=CriticTraining(lr=0.1, steps=5))
    critic = config.build(prior, SetupContext(4, 1, 0, torch.zeros(4, 4)))
    x0 = prior.means[1].expand(4, 4) + 0.3 * normal(4, 4)
    conditions = Conditions(prior.condition(["red"] * 4), prior.condition([""] * 4))
    for step in range(40):
        s = replace(make_inputs(SD, x0, 0.5, normal(4, 4), conditions), rng=row_rng(len(x0), step))
        critic.fit(s)
    assert float(critic.tensors()["text.text"].softmax(1)[0, 1]) > 0.9


def test_the_text_is_trained_on_a_data_set():
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=rng()).to(torch.uint8)
    data = DataSet(images, chunk_size=2)
    config = NullTextCritic(training=CriticTraining(lr=0.1))
    critic = config.build(data, SetupContext(2, 1, 0, torch.zeros(2, 3, 4, 4)))
    conditions = Conditions(data.condition(["x"] * 2), data.condition([""] * 2))
    x0 = (data.images[:2].float() / 127.5 - 1) + 0.1
    s = make_inputs(SD, x0, 0.9, normal(2, 3, 4, 4, dtype=torch.float32), conditions)
    for step in range(3):
        critic.fit(replace(s, rng=row_rng(len(x0), step)))
    assert float(critic.tensors()["text.text"].abs().max()) > 0


def test_the_learned_text_is_saved(prior, tmp_path):
    from safetensors.torch import load_file

    critic = NullTextCritic().build(prior, SetupContext(1, 1, 0, torch.zeros(1, 4, 8, 8)))
    critic.save(tmp_path / "critic")
    assert torch.equal(
        load_file(tmp_path / "critic" / "text.safetensors")["text"], prior.condition([""]).data
    )


# frozen critic


def setup_with_loader(prior, prompts: tuple[str, ...], load_model, **options) -> SetupContext:
    n = len(prompts)
    x0 = torch.zeros(n, *prior.shape)
    return SetupContext(n, n, 0, x0, prompts, load_prior=load_model, **options)


@pytest.mark.parametrize("entropy", [0.0, 0.4, 1.0])
def test_with_the_prior_itself_as_critic_vsd_is_a_multiple_of_csd(entropy):
    prior = colored_shapes(8)
    setup = setup_with_loader(prior, ("red disc", "blue ring"), lambda name: colored_shapes(8))
    critic = FrozenCritic("anything").build(prior, setup)
    conditions = prompt_conditions(prior, ["red disc", "red disc", "blue ring", "blue ring"])
    s = make_inputs(SD, normal(4, 3, 8, 8), 0.5, normal(4, 3, 8, 8, seed=1), conditions)
    csd = CSD()(prior, s, STATE)
    assert max_difference(VSD(7.5)(prior, s, critic), 6.5 * csd) < 1e-11
    assert max_difference(VSD(7.5, 7.5)(prior, s, critic), torch.zeros_like(csd)) < 1e-11
    assert max_difference(ESD(7.5, entropy)(prior, s, critic), (6.5 + entropy) * csd) < 1e-11


def test_a_frozen_critic_encodes_the_prompt_itself():
    """Two mixtures of the same components, in another order and with other labels."""
    prior = GaussianMixture(
        normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=("red", "green", "blue")
    )
    other = GaussianMixture(
        prior.means.flip(0), prior.stds.flip(0), labels=("blue thing", "green thing", "red thing")
    )
    prompts = ("red", "blue")
    setup = setup_with_loader(prior, prompts, lambda name: other, negative_prompt="green")
    critic = FrozenCritic("other").build(prior, setup)
    conditions = Conditions(prior.condition(prompts), prior.condition(["green"] * 2))
    s = make_inputs(SD, normal(2, 4), 0.5, normal(2, 4, seed=1), conditions)
    pos, null = prior(s.xt, s.t, conditions.pos, conditions.null)
    critic_pos, critic_null = critic.prior()(s.xt, s.t, conditions.pos, conditions.null)
    assert max_difference(critic_pos.eps, pos.eps) < 1e-12
    assert max_difference(critic_null.eps, null.eps) < 1e-12
    unknown = Condition(prior.condition(["red green"]).data.expand(2, -1))
    assert bool(critic.prior()(s.xt, s.t, unknown)[0].eps.isnan().all())


def test_a_prompt_unknown_to_the_critic_stops_the_run():
    method = VSD(5.0, critic=FrozenCritic("gaussians"))
    run = Run(Experiment(("red disc",), method=method, steps=2), colored_shapes(24))
    run.advance()
    blue = run.prior.condition(["blue ring"])
    run.prompts.conditions = Conditions(blue, run.prompts.conditions.null)
    with pytest.raises(NonFiniteError, match="the direction the method returned"):
        run.advance()


def test_a_run_loads_its_frozen_critic_by_name():
    prior = colored_shapes(24)
    method = VSD(5.0, critic=FrozenCritic("gaussians"))
    run = Run(Experiment(("red disc",), method=method, particles=2, steps=2), prior)
    step = run.advance()
    csd = CSD()(prior, step.inputs, STATE)
    expected = 4 * csd * expand(SD.sigma(step.inputs.t) ** 2, csd)
    assert max_difference(step.gradient, expected) < 1e-4
    # two rows of two conditions in the step and in this test; the critic counts its own
    assert prior.call_counter.rows == 2 * 2 + 2 * 2
    assert run.state.prior().call_counter.rows == 2


def test_pipelines_as_prior_and_critic(eps_folder):
    prior = StableDiffusion(str(eps_folder))
    prompts = ("a red mug", "a blue chair, on grey")
    setup = setup_with_loader(prior, prompts, lambda name: load(name, "cpu"))
    critic = FrozenCritic(str(eps_folder)).build(prior, setup)
    s = prompt_inputs(prior, list(prompts), normal(2, 4, 8, 8, dtype=torch.float32))
    with torch.no_grad():
        vsd, csd = VSD(7.5)(prior, s, critic), CSD()(prior, s, STATE)
        assert max_difference(vsd, 6.5 * csd) < 5e-5


def test_frozen_refuses_what_does_not_fit():
    prior, flow = colored_shapes(8), colored_shapes(8, schedule=RectifiedFlowSchedule())
    labels = ("red", "green", "blue")
    labeled = GaussianMixture(normal(3, 4), torch.ones(3), labels=labels)
    with pytest.raises(
        ValueError, match=r"critic other has x0 of \[3, 24, 24\], the model of \[3, 8, 8\]"
    ):
        setup = setup_with_loader(prior, ("disc",), lambda name: colored_shapes(24))
        FrozenCritic("other").build(prior, setup)
    with pytest.raises(ValueError, match="critic other has another noise schedule than the model"):
        setup = setup_with_loader(prior, ("disc",), lambda name: flow)
        FrozenCritic("other").build(prior, setup)
    with pytest.raises(ValueError, match=r"leave out --cameras\.blend-prompts"):
        setup = setup_with_loader(
            prior, ("disc",), lambda name: colored_shapes(8), interpolates_prompts=True
        )
        FrozenCritic("other").build(prior, setup)
    with pytest.raises(ValueError, match="cannot load 'world'"):
        FrozenCritic().build(prior, SetupContext(1, 1, 0, torch.zeros(1, 3, 8, 8), ("disc",)))
    with pytest.raises(ValueError, match="names nothing of this model"):
        setup = setup_with_loader(mixture(), ("zebra",), lambda name: labeled)
        FrozenCritic("other").build(mixture(), setup)


@pytest.mark.parametrize(
    ("critic", "options"),
    [
        ("frozen", ["--method.critic.model", "gaussians"]),
        ("null-text", []),
        ("exact", ["--method.critic.buffer", "5"]),
    ],
)
def test_critics_on_the_command_line(critic, options, tmp_path, capsys):
    run = (
        f"--model gaussians --device cpu --steps 2 --particles 2 --method vsd --out {tmp_path}/run"
    )
    arguments = [*run.split(), "--method.critic", critic, *options]
    assert main(["run", "red disc", *arguments]) == 0, capsys.readouterr()
    assert (tmp_path / "run" / "report.html").exists()


def test_the_exact_critic_computes_the_rows_of_its_process_only(monkeypatch):
    torch.manual_seed(0)
    x0, xt, t = torch.randn(2, 3, 4), torch.randn(6, 4), torch.linspace(0.1, 0.9, 6)
    prompt = torch.tensor([0, 0, 0, 1, 1, 1])
    prior = GaussianMixture(torch.zeros(1, 4), torch.ones(1))
    valid = torch.ones(2, 3, dtype=torch.bool)
    denoiser = exact._ParticleDenoiser(prior, x0, valid, prompt)
    (whole,) = denoiser(xt, t, prior.condition(["a"] * 6))
    computed = []

    def join(rows, count):
        computed.append(len(rows))
        return torch.cat([whole.x0[:2], rows])

    monkeypatch.setattr(exact, "is_divided", lambda count: count >= 2)
    monkeypatch.setattr(exact, "own_rows", lambda count: slice(2, count))
    monkeypatch.setattr(exact, "take_rows", lambda x: x[2:])
    monkeypatch.setattr(exact, "join_rows", join)
    (divided,) = denoiser(xt, t, prior.condition(["a"] * 6))
    assert computed == [4]
    assert torch.allclose(divided.x0, whole.x0) and torch.allclose(divided.eps, whole.eps)

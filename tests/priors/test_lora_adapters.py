"""Low-rank adapters with rows: off is the pretrained network bit for bit, on is what diffusers makes of the saved file."""

import gc

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_pipeline import WORDS, normal, rng, prompt_conditions, max_difference
from torch import nn

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.lora_adapters import AdapterRows, DEFAULT_TARGET_MODULES, LoRAAdapters, NetworkPrior
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

T = torch.tensor([0.1, 0.5, 0.9])
XT = normal(3, 4, 8, 8, dtype=torch.float32)


def trained(prior, n=3, rank=4) -> Run:
    """A run whose critic has learnt a little."""
    learning = CriticTraining(lr=1e-2)
    run = Run(
        Experiment(
            ("a red mug",), method=VSD(7.5, critic=LoRACritic(rank, learning)), particles=2, steps=n
        ),
        prior,
    )
    for _ in range(n):
        run.advance()
    return run


def ask(prior, *conditions):
    with torch.no_grad():
        return prior(XT, T, *conditions)


@pytest.fixture
def untouched(eps_folder):
    return StableDiffusion(str(eps_folder))


def test_every_attention_projection_is_adapted_and_starts_without_effect(prior, untouched):
    adapters = LoRAAdapters(prior.unet, prior.adapter_rows, 4, rng())
    expected = [
        n
        for n, m in prior.unet.named_modules()
        if n.rsplit(".", 1)[-1] in ("to_q", "to_k", "to_v") or n.endswith("to_out.0")
    ]
    assert adapters.names == expected and len(expected) % 4 == 0 and expected
    told = prior.condition(WORDS[:3])
    on, off = ask(prior, told.with_adapters(adapters))[0], ask(untouched, told)[0]
    assert torch.equal(on.eps, off.eps) and torch.equal(on.x0, off.x0)


def test_off_is_the_pretrained_network_bit_for_bit_even_after_training(prior, untouched):
    adapters = trained(prior).state.adapters
    told = prior.condition(WORDS[:3])
    off, before = ask(prior, told)[0], ask(untouched, told)[0]
    assert torch.equal(off.eps, before.eps) and torch.equal(off.x0, before.x0)
    assert max_difference(ask(prior, told.with_adapters(adapters))[0].eps, off.eps) > 1e-2


def test_rows_of_a_mixed_call_are_those_of_calls_of_one_kind(prior):
    adapters = trained(prior).state.adapters
    told = prompt_conditions(prior, WORDS[:3])
    mixed = ask(prior, told.null, told.pos.with_adapters(adapters), told.pos)
    frozen, adapted = ask(prior, told.null, told.pos), ask(prior, told.pos.with_adapters(adapters))
    assert max_difference(mixed[0].eps, frozen[0].eps) < 1e-6 and max_difference(mixed[2].eps, frozen[1].eps) < 1e-6
    assert max_difference(mixed[1].eps, adapted[0].eps) < 1e-6
    assert max_difference(mixed[1].eps, mixed[2].eps) > 1e-2


def test_rows_are_forgotten_after_a_call_and_after_a_failure(prior):
    told = prior.condition(WORDS[:3]).with_adapters(LoRAAdapters(prior.unet, prior.adapter_rows, 2, rng()))
    ask(prior, told)
    assert (prior.adapter_rows.owner, prior.adapter_rows.index, prior.adapter_rows.everyone) == (None, None, False)
    with pytest.raises(RuntimeError):
        prior(XT[:, :3], T, told)
    assert (prior.adapter_rows.owner, prior.adapter_rows.index, prior.adapter_rows.everyone) == (None, None, False)


def test_gradients_reach_the_adapters_of_adapted_rows_alone(prior):
    adapters = LoRAAdapters(prior.unet, prior.adapter_rows, 4, rng())
    for up in adapters.up:
        up.data.normal_(generator=rng(1))
    told = prior.condition(WORDS[:3])
    frozen, adapted = prior(XT, T, told, told.with_adapters(adapters))
    frozen.eps.sum().backward(retain_graph=True)
    assert all(p.grad is None or float(p.grad.abs().max()) == 0 for p in adapters.parameters())
    adapted.eps.square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in adapters.parameters())
    assert all(p.grad is None for p in prior.unet.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_saved_critic_is_the_same_in_diffusers(folder, tmp_path):
    prior = StableDiffusion(str(folder))
    run = trained(prior, rank=3)  # a rank that is no default anywhere
    run.experiment.method.save_critic(prior, run.state, tmp_path / "critic")
    ours = run.experiment.method.critic_prior(prior, run.state)
    told = prior.condition(WORDS[:3])
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    plain = pipe.unet(XT, prior.schedule.timestep_index(T), told.data).sample.detach()
    pipe.load_lora_weights(tmp_path / "critic")
    theirs = pipe.unet(XT, prior.schedule.timestep_index(T), told.data).sample.detach()
    with torch.no_grad():
        said = ours(XT, T, told)[0].to_output(
            prior.prediction_type, prior.schedule.alpha(T), prior.schedule.sigma(T)
        )
    assert max_difference(theirs, plain) > 1e-2
    assert max_difference(said, theirs) < 1e-5


def test_adapters_that_are_gone_leave_nothing_behind(prior):
    adapters = LoRAAdapters(prior.unet, prior.adapter_rows, 4, rng())
    assert any(m._forward_hooks for m in prior.unet.modules())
    del adapters
    gc.collect()
    assert not any(m._forward_hooks for m in prior.unet.modules())


def test_one_call_passes_through_one_set_of_adapters(prior):
    told = prior.condition(WORDS[:3])
    two = [LoRAAdapters(prior.unet, prior.adapter_rows, 2, rng(i)) for i in range(2)]
    with pytest.raises(ValueError, match="one set of adapters"):
        ask(prior, *(told.with_adapters(one) for one in two))


def test_a_second_run_on_one_prior_owes_nothing_to_the_first(prior):
    """The first run's critic must not speak in the second's."""

    def end(run):
        return torch.stack(list(run.representation.particles)).detach()

    first = end(trained(prior))
    assert torch.equal(end(trained(prior)), first)


def test_two_runs_under_way_on_one_prior_do_not_mix(prior, eps_folder):
    learning = CriticTraining(lr=1e-2)
    experiment = Experiment(
        ("a red mug",), method=VSD(7.5, critic=LoRACritic(4, learning)), particles=2, steps=3
    )
    a, b, apart = (
        Run(experiment, prior),
        Run(experiment, prior),
        Run(experiment, StableDiffusion(str(eps_folder))),
    )
    for _ in range(3):
        for run in (a, b, apart):
            run.advance()
    for run in (a, b):
        assert all(
            torch.equal(p, q)
            for p, q in zip(
                run.representation.particles, apart.representation.particles, strict=True
            )
        )


def test_the_seed_of_a_run_decides_the_adapters_start(prior):
    a, b, c = (
        LoRAAdapters(nn.Sequential(nn.Linear(3, 3)), AdapterRows(), 2, rng())
        if False
        else LoRAAdapters(prior.unet, AdapterRows(), 2, rng(s))
        for s in (0, 0, 1)
    )
    assert all(torch.equal(x, y) for x, y in zip(a.down, b.down, strict=True))
    assert not torch.equal(a.down[0], c.down[0])
    bound = prior.unet.get_submodule(a.names[0]).in_features ** -0.5
    assert 0.8 * bound < float(a.down[0].detach().abs().max()) <= bound


def test_a_critic_starts_from_the_seed_of_its_run(eps_folder):
    def start(seed):
        experiment = Experiment(("a red mug",), method=VSD(7.5, critic=LoRACritic(4)), seed=seed)
        return Run(experiment, StableDiffusion(str(eps_folder))).state.adapters.down[0]

    assert torch.equal(start(3), start(3)) and not torch.equal(start(3), start(4))


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match="to_q"):
        LoRAAdapters(nn.Sequential(nn.Linear(2, 2)), AdapterRows(), 2, rng())
    assert len(DEFAULT_TARGET_MODULES) == 4


def test_an_exact_prior_cannot_carry_adapters_and_says_what_can():
    prior = GaussianMixture(normal(2, 3), torch.ones(2))
    assert not isinstance(prior, NetworkPrior)
    with pytest.raises(ValueError, match="exact or smallunet"):
        Run(Experiment(("x",), method=VSD(critic=LoRACritic())), prior)

"""LoRA adapters: without them the pretrained network bit for bit, with them that of diffusers."""

import gc

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_pipeline import WORDS, max_difference, normal, prompt_conditions, rng
from torch import nn

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.lora_adapters import (
    DEFAULT_TARGET_MODULES,
    AdapterRows,
    LoRAAdapters,
    NetworkPrior,
)
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

T = torch.tensor([0.1, 0.5, 0.9])
XT = normal(3, 4, 8, 8, dtype=torch.float32)


def train_critic(prior, n=3, rank=4) -> Run:
    """A run after ``n`` steps of its critic."""
    method = VSD(7.5, critic=LoRACritic(rank, CriticTraining(lr=1e-2)))
    run = Run(Experiment(("a red mug",), method=method, particles=2, steps=n), prior)
    for _ in range(n):
        run.advance()
    return run


def predict(prior, *conditions):
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
    conditions = prior.condition(WORDS[:3])
    on, off = (
        predict(prior, conditions.with_adapters(adapters))[0],
        predict(untouched, conditions)[0],
    )
    assert torch.equal(on.eps, off.eps) and torch.equal(on.x0, off.x0)


def test_without_adapters_the_network_is_the_pretrained_one_bit_for_bit(prior, untouched):
    adapters = train_critic(prior).state.adapters
    conditions = prior.condition(WORDS[:3])
    off, before = predict(prior, conditions)[0], predict(untouched, conditions)[0]
    assert torch.equal(off.eps, before.eps) and torch.equal(off.x0, before.x0)
    assert max_difference(predict(prior, conditions.with_adapters(adapters))[0].eps, off.eps) > 1e-2


def test_rows_of_a_mixed_call_are_those_of_separate_calls(prior):
    adapters = train_critic(prior).state.adapters
    conditions = prompt_conditions(prior, WORDS[:3])
    mixed = predict(prior, conditions.null, conditions.pos.with_adapters(adapters), conditions.pos)
    frozen = predict(prior, conditions.null, conditions.pos)
    adapted = predict(prior, conditions.pos.with_adapters(adapters))
    assert max_difference(mixed[0].eps, frozen[0].eps) < 1e-6
    assert max_difference(mixed[2].eps, frozen[1].eps) < 1e-6
    assert max_difference(mixed[1].eps, adapted[0].eps) < 1e-6
    assert max_difference(mixed[1].eps, mixed[2].eps) > 1e-2


def test_adapted_rows_are_cleared_after_a_call_and_after_a_failure(prior):
    rows = prior.adapter_rows
    adapters = LoRAAdapters(prior.unet, rows, 2, rng())
    conditions = prior.condition(WORDS[:3]).with_adapters(adapters)
    predict(prior, conditions)
    assert (rows.owner, rows.pairs, rows.first) == (None, (), 0)
    with pytest.raises(RuntimeError):
        prior(XT[:, :3], T, conditions)
    assert (rows.owner, rows.pairs, rows.first) == (None, (), 0)


def test_only_adapted_rows_give_gradients_to_the_adapters(prior):
    adapters = LoRAAdapters(prior.unet, prior.adapter_rows, 4, rng())
    for _, up in adapters.pairs:
        up.normal_(generator=rng(1))
    conditions = prior.condition(WORDS[:3])
    frozen, adapted = prior(XT, T, conditions, conditions.with_adapters(adapters))
    frozen.eps.sum().backward(retain_graph=True)
    assert float(adapters.weights.grad.abs().max()) == 0
    adapted.eps.square().sum().backward()
    grads = adapters.split(adapters.weights.grad)
    assert all(float(a.abs().max()) > 0 and float(b.abs().max()) > 0 for a, b in grads)
    assert all(p.grad is None for p in prior.unet.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_saved_critic_is_the_same_in_diffusers(folder, tmp_path):
    prior = StableDiffusion(str(folder))
    run = train_critic(prior, rank=3)  # not the default rank of any library
    run.experiment.method.save_critic(prior, run.state, tmp_path / "critic")
    critic = run.experiment.method.critic_prior(prior, run.state)
    conditions = prior.condition(WORDS[:3])
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    plain = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    pipe.load_lora_weights(tmp_path / "critic")
    expected = pipe.unet(XT, prior.schedule.timestep_index(T), conditions.data).sample.detach()
    with torch.no_grad():
        output = critic(XT, T, conditions)[0].to_output(
            prior.prediction_type, prior.schedule.alpha(T), prior.schedule.sigma(T)
        )
    assert max_difference(expected, plain) > 1e-2
    assert max_difference(output, expected) < 1e-5


def test_deleted_adapters_leave_no_hooks(prior):
    adapters = LoRAAdapters(prior.unet, prior.adapter_rows, 4, rng())
    assert any(m._forward_hooks for m in prior.unet.modules())
    del adapters
    gc.collect()
    assert not any(m._forward_hooks for m in prior.unet.modules())


def test_one_call_refuses_two_sets_of_adapters(prior):
    conditions = prior.condition(WORDS[:3])
    two = [LoRAAdapters(prior.unet, prior.adapter_rows, 2, rng(i)) for i in range(2)]
    with pytest.raises(ValueError, match="one set of adapters"):
        predict(prior, *(conditions.with_adapters(one) for one in two))


def test_a_second_run_on_one_prior_does_not_depend_on_the_first(prior):
    """The first run's critic must not affect the second's."""

    def final_particles(run):
        return torch.stack(list(run.representation.particles)).detach()

    first = final_particles(train_critic(prior))
    assert torch.equal(final_particles(train_critic(prior)), first)


def test_two_simultaneous_runs_on_one_prior_do_not_mix(prior, eps_folder):
    method = VSD(7.5, critic=LoRACritic(4, CriticTraining(lr=1e-2)))
    experiment = Experiment(("a red mug",), method=method, particles=2, steps=3)
    shared = [Run(experiment, prior), Run(experiment, prior)]
    separate = Run(experiment, StableDiffusion(str(eps_folder)))
    for _ in range(3):
        for run in (*shared, separate):
            run.advance()
    expected = separate.representation.particles
    for run in shared:
        assert all(map(torch.equal, run.representation.particles, expected))


def test_the_generator_determines_the_initial_adapters(prior):
    a, b, c = (LoRAAdapters(prior.unet, AdapterRows(), 2, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(a.weights, b.weights)
    assert not torch.equal(a.weights, c.weights)
    bound = prior.unet.get_submodule(a.names[0]).in_features ** -0.5
    assert 0.8 * bound < float(a.pairs[0][0].abs().max()) <= bound


def test_the_seed_of_a_run_determines_its_critic(eps_folder):
    def initial_weight(seed):
        experiment = Experiment(("a red mug",), method=VSD(7.5, critic=LoRACritic(4)), seed=seed)
        return Run(experiment, StableDiffusion(str(eps_folder))).state.adapters.weights

    assert torch.equal(initial_weight(3), initial_weight(3))
    assert not torch.equal(initial_weight(3), initial_weight(4))


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match="to_q"):
        LoRAAdapters(nn.Sequential(nn.Linear(2, 2)), AdapterRows(), 2, rng())
    assert len(DEFAULT_TARGET_MODULES) == 4


def test_an_exact_prior_refuses_adapters_and_names_alternatives():
    prior = GaussianMixture(normal(2, 3), torch.ones(2))
    assert not isinstance(prior, NetworkPrior)
    with pytest.raises(ValueError, match="exact or small-unet"):
        Run(Experiment(("x",), method=VSD(critic=LoRACritic())), prior)

"""Network and autoencoder passes per step, counted on the modules, and by the call counter."""

import pytest
import torch
from tiny_pipeline import normal

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

B, STEPS = 3, 4


class CallLog:
    """Rows of every pass through a module, and whether gradients were recorded."""

    def __init__(self, module):
        self.rows: list[tuple[int, bool]] = []
        module.register_forward_hook(
            lambda m, inputs, out: self.rows.append((len(inputs[0]), torch.is_grad_enabled()))
        )


def count_passes(prior, method, representation=None, batch_size=0):
    """Passes of a short run: of the U-Net, of a small U-Net critic, of the encoder and decoder."""
    experiment = Experiment(
        ("a red mug",),
        method=method,
        representation=representation or Latents(),
        particles=B,
        batch_size=batch_size,
        steps=STEPS,
    )
    run = Run(experiment, prior)
    unet, encoder, decoder = map(CallLog, (prior.unet, prior.vae.encoder, prior.vae.decoder))
    has_small_unet = isinstance(method, VSD) and isinstance(method.critic, SmallUNetCritic)
    critic = run.state.prior() if has_small_unet else None
    small_unet = CallLog(critic.module) if critic else None
    before = prior.call_counter.calls, prior.call_counter.rows
    for _ in range(STEPS):
        run.advance()
    calls, rows = prior.call_counter.calls - before[0], prior.call_counter.rows - before[1]
    assert (calls, rows) == (len(unet.rows), sum(n for n, _ in unet.rows))
    if critic:
        counter = critic.call_counter
        assert counter.calls == len(small_unet.rows)
        assert counter.rows == sum(n for n, _ in small_unet.rows)
    return unet.rows, small_unet.rows if critic else [], encoder.rows, decoder.rows


def without_grad(rows):
    return [(n, False) for n in rows]


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 2 * B), (1.0, B), (0.0, B), (100.0, 2 * B)])
def test_sds_is_one_call_without_gradients_and_without_the_autoencoder(prior, guidance, rows):
    unet, _, encoder, decoder = count_passes(prior, SDS(guidance))
    assert unet == without_grad([rows]) * STEPS
    assert encoder == decoder == []


@pytest.mark.parametrize(
    ("guidance", "critic_guidance", "rows"),
    [(7.5, 1.0, 3), (1.0, 1.0, 2), (7.5, 0.5, 4), (1.0, 0.5, 3)],
)
def test_vsd_with_lora_critic_is_one_call_and_one_with_gradients(
    prior, guidance, critic_guidance, rows
):
    unet, _, encoder, decoder = count_passes(
        prior, VSD(guidance, critic_guidance, critic=LoRACritic(4))
    )
    assert unet == [(rows * B, False), (B, True)] * STEPS
    assert encoder == decoder == []


@pytest.mark.parametrize("k", [0, 1, 3])
def test_each_critic_step_is_one_pass_with_gradients(prior, k):
    unet, *_ = count_passes(prior, VSD(7.5, critic=LoRACritic(4, CriticTraining(steps=k))))
    assert unet == [(3 * B, False), *[(B, True)] * k] * STEPS


def test_critic_batch_size_is_independent(prior):
    unet, *_ = count_passes(prior, VSD(7.5, critic=LoRACritic(4, CriticTraining(batch_size=5))))
    assert unet == [(3 * B, False), (5, True)] * STEPS


@pytest.mark.parametrize(("critic_guidance", "rows"), [(1.0, B), (0.5, 2 * B)])
def test_vsd_with_small_unet_critic_passes(prior, critic_guidance, rows):
    method = VSD(7.5, critic_guidance, critic=SmallUNetCritic(8))
    unet, small_unet, encoder, decoder = count_passes(prior, method)
    assert unet == without_grad([2 * B]) * STEPS
    assert small_unet == [(rows, False), (B, True)] * STEPS
    assert encoder == decoder == []


def test_vsd_with_exact_critic_passes_as_sds(prior):
    unet, *_ = count_passes(prior, VSD(7.5, critic=ExactCritic()))
    assert unet == without_grad([2 * B]) * STEPS


@pytest.mark.parametrize("method", [SDS(7.5), VSD(7.5, critic=LoRACritic(4))], ids=["sds", "vsd"])
def test_pixels_are_encoded_once_per_step_and_never_decoded(prior, method):
    *_, encoder, decoder = count_passes(prior, method, Pixels(num_levels=3))
    assert encoder == [(B, True)] * STEPS
    assert decoder == []


def test_passes_scale_with_the_batch_size(prior):
    method = VSD(7.5, critic=LoRACritic(4))
    unet, _, encoder, _ = count_passes(prior, method, Pixels(num_levels=3), batch_size=2)
    assert unet == [(6, False), (2, True)] * STEPS
    assert encoder == [(2, True)] * STEPS


@pytest.mark.parametrize(
    ("method", "rows"), [(SDS(7.5), 2 * B), (SDS(1.0), B), (VSD(7.5, critic=ExactCritic()), 2 * B)]
)
def test_exact_priors_count_calls_too(method, rows):
    prior = GaussianMixture(normal(2, 4), torch.ones(2))
    run = Run(Experiment(("x",), method=method, particles=B, steps=STEPS), prior)
    for _ in range(STEPS):
        run.advance()
    assert (prior.call_counter.calls, prior.call_counter.rows) == (STEPS, rows * STEPS)

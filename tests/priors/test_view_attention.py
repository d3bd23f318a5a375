"""Self-attention over groups of views: exact properties on any U-Net of diffusers."""

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from family_pipelines import load_family
from grouped_prior import GroupedDiffusion
from tiny_pipeline import max_difference, normal, write_pipeline

from limbeck.diffusion.view_attention import ViewFolding
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.priors.loading import load
from limbeck.priors.lora_adapters import LoRAAdapters


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("pipeline"), "epsilon")


@pytest.fixture(scope="module")
def prior(folder):
    return GroupedDiffusion(str(folder))


def rows(count, prior, seed=0):
    """x_t, times and conditions of groups of different views, one time per group."""
    groups = count // 4
    words = ["a red mug", "a blue chair, on grey", "two striped cats", "low quality"]
    condition = prior.condition([words[i % 4] for i in range(count)])
    return (
        normal(count, 4, 8, 8, seed=seed, dtype=torch.float32),
        torch.linspace(0.3, 0.8, groups).repeat_interleave(4),
        condition.__class__(condition.data, camera=cameras(groups)),
    )


def cameras(groups):
    return turntable_cameras(4, 15.0, 3.0, 40.0).pose.repeat(groups, 1, 1)


def eps(prior, xt, t, condition):
    return prior(xt, t, condition)[0].eps


def test_permuted_views_give_permuted_outputs(prior):
    xt, t, condition = rows(8, prior)
    order = torch.tensor([2, 0, 3, 1, 7, 5, 4, 6])
    out = eps(prior, xt, t, condition)
    same_cameras = condition.__class__(condition.data[order], camera=condition.camera)
    permuted = eps(prior, xt[order], t[order], same_cameras)
    assert max_difference(permuted, out[order]) < 1e-5
    other = torch.tensor([0, 1, 2, 4, 3, 5, 6, 7])  # a view of another group is no permutation
    mixed = condition.__class__(condition.data[other], camera=condition.camera)
    assert max_difference(eps(prior, xt[other], t, mixed), out[other]) > 1e-3


def test_two_groups_in_one_call_equal_two_calls(prior):
    xt, t, condition = rows(8, prior)
    both = eps(prior, xt, t, condition)
    for part in (slice(0, 4), slice(4, 8)):
        assert max_difference(eps(prior, xt[part], t[part], condition[part]), both[part]) < 1e-5


def test_two_conditions_in_one_call_equal_two_calls(prior):
    """Guidance puts rows of the empty prompt below those of the prompt."""
    xt, t, condition = rows(8, prior)
    empty = prior.condition([""])
    both = prior(xt, t, empty, condition)
    assert max_difference(both[1].eps, eps(prior, xt, t, condition)) < 1e-5
    alone = empty.__class__(empty.data.expand(8, -1, -1), camera=condition.camera)
    assert max_difference(both[0].eps, eps(prior, xt, t, alone)) < 1e-5


def test_without_cameras_it_is_the_plain_model_bit_for_bit(prior, folder):
    from limbeck.priors.stable_diffusion import StableDiffusion

    xt, t, condition = rows(8, prior)
    plain_condition = condition.__class__(condition.data)
    plain = StableDiffusion(str(folder))
    assert torch.equal(eps(prior, xt, t, plain_condition), eps(plain, xt, t, plain_condition))
    folded = eps(prior, xt, t, condition)
    assert max_difference(folded, eps(prior, xt, t, plain_condition)) > 1e-2


def test_gradients_flow_between_the_views_of_a_group_only(prior):
    xt, t, condition = rows(8, prior)
    xt.requires_grad_()
    (gradient,) = torch.autograd.grad(eps(prior, xt, t, condition)[1].sum(), xt)
    size = gradient.flatten(1).norm(dim=1)
    assert bool((size[:4] > 1e-4).all())
    assert bool((size[4:] == 0).all())


@pytest.mark.parametrize("name", ["eps", "xl", "world"])
def test_a_layer_attends_to_all_tokens_of_its_group(name, folders):
    """Against attention written out, with the weights of the layer."""
    unet = load("world", "cpu", "float32").unet if name == "world" else None
    if unet is None:
        unet = load_family(name, folders(name)).network
    folding = ViewFolding(unet)
    block = next(m for m in unet.modules() if isinstance(m, BasicTransformerBlock))
    layer = block.attn1
    x = normal(6, 5, layer.to_q.in_features, dtype=torch.float32)
    with folding.groups_of(3), torch.no_grad():
        found = layer(x)
    heads = layer.heads
    with torch.no_grad():
        for group in range(2):
            tokens = x[3 * group : 3 * group + 3].flatten(0, 1)
            q, k, v = (
                f(tokens).unflatten(1, (heads, -1)).transpose(0, 1)
                for f in (layer.to_q, layer.to_k, layer.to_v)
            )
            weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
            expected = layer.to_out[0]((weights @ v).transpose(0, 1).flatten(1))
            part = found[3 * group : 3 * group + 3].flatten(0, 1)
            assert max_difference(part, expected) < 1e-5


def test_a_network_without_transformer_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has no transformer blocks with self-attention"):
        ViewFolding(torch.nn.Linear(2, 2))


def test_adapters_change_their_rows_only(prior):
    """A folded layer has a fourth of the rows; adapted ones must be the same."""
    xt, t, condition = rows(8, prior)
    with torch.random.fork_rng(devices=[]):
        adapters = LoRAAdapters(
            prior.network, prior.adapter_rows, 2, torch.Generator().manual_seed(0)
        )
        adapters.weights.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.3)
    plain, adapted = prior(xt, t, condition, condition.with_adapters(adapters))
    assert torch.equal(plain.eps, prior(xt, t, condition, condition)[0].eps)
    alone = prior(xt, t, condition.with_adapters(adapters))[0].eps
    assert max_difference(adapted.eps, alone) < 1e-5
    assert max_difference(adapted.eps, plain.eps) > 1e-2
    assert LoRACritic().target_modules == adapters.target_modules  # those of attention

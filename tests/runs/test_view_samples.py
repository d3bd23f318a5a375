"""Sampling of several views of an object: which rows see each other, and what they are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grouped_prior import GroupedDiffusion, check_rings
from refusals import refused
from tiny_pipeline import max_difference, write_pipeline

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.sampling import Sampling, sample_x0
from limbeck.diffusion.view_attention import _FoldedProcessor
from limbeck.priors.exact import colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.runs.sample_recorder import sample_to_folder
from limbeck.runs.view_samples import (
    check_views,
    condition_rows,
    seen_together,
    view_conditions,
)
from limbeck.system.image_files import read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("pipeline"), "epsilon")


@pytest.fixture(scope="module")
def prior(folder):
    return StableDiffusion(str(folder))


def sampling(**options) -> Sampling:
    defaults = {"num_images": 8, "views": 4, "steps": 2, "guidance": 3.0}
    return Sampling(("mug", "chair"), **(defaults | options))


def test_each_group_of_views_is_sampled_as_if_alone_and_with_its_own_view_words(prior, tmp_path):
    options = sampling()
    sample_to_folder(options, prior, tmp_path / "out")
    files = sorted((tmp_path / "out" / "final").glob("*.png"))
    assert len(files) == 16
    noise = torch.randn(16, *prior.shape, generator=torch.Generator().manual_seed(0))
    views = ("front", "side", "back", "side")
    texts = [f"chair, {view} view" for view in views]
    conditions = Conditions(prior.condition(texts), prior.condition([""] * 4))
    with prior.fold_views(4):
        alone = prior.decode(sample_x0(prior, conditions, noise[12:], 2, 3.0))
    apart = prior.decode(sample_x0(prior, conditions, noise[12:], 2, 3.0))
    written = torch.stack([read_image(path, prior.image_size) for path in files[12:]])
    assert max_difference(written, alone) < 0.51 / 255 + 1e-4
    assert max_difference(apart, alone) > 2 / 255


def test_nothing_stays_folded(prior, folder, tmp_path):
    before = sample_once(prior)
    sample_to_folder(sampling(), prior, tmp_path / "out")
    assert torch.equal(sample_once(prior), before)
    assert not any(isinstance(p, _FoldedProcessor) for p in prior.unet.attn_processors.values())


def sample_once(prior):
    noise = torch.randn(4, *prior.shape, generator=torch.Generator().manual_seed(1))
    conditions = Conditions(prior.condition(["a red mug"] * 4), prior.condition([""] * 4))
    return sample_x0(prior, conditions, noise, 2, 3.0)


def test_a_model_of_several_views_gets_cameras_instead_of_view_words(folder, tmp_path):
    prior = GroupedDiffusion(str(folder))
    prior.needs_cameras = True
    options = sampling()
    conditions = view_conditions(options, prior)[condition_rows(options)]
    assert conditions.pos.camera is not None and conditions.null.camera is not None
    check_rings(conditions.pos.camera)
    eye = conditions.pos.camera[:4, :3, 3]
    assert eye[0, 2] > 3 and eye[1, 0] > 3  # the front first, then the object's left side
    assert torch.equal(conditions.pos.data[:1], prior.condition(["mug"]).data)
    assert torch.equal(conditions.pos.data[8:9], prior.condition(["chair"]).data)
    sample_to_folder(options, prior, tmp_path / "out")  # the prior checks its rows
    assert prior.calls_of_groups == 2
    with pytest.raises(ValueError, match="views must be 4"):
        sample_to_folder(sampling(views=2), prior, tmp_path / "other")


def test_a_prior_without_attention_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a model that is a U-Net"):
        sample_to_folder(sampling(), colored_shapes(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--views", "3"], "--num-images must be a multiple of the 3 views of an object, not 4"),
        (["--views", "0"], "views"),
        (["--views", "4", "--critic", "somewhere"], "views 4 cannot be drawn from a critic"),
    ],
)
def test_views_that_cannot_be_drawn_are_refused(options, message, capsys):
    assert message in refused(capsys, "sample", "a red mug", *options)


def test_a_prompt_that_names_a_view_is_refused(prior):
    with pytest.raises(ValueError, match='names the view "side view", but --views'):
        check_views(replace(sampling(), prompts=("a mug, Side view",)), prior)


def test_one_view_is_sampled_without_folding(prior):
    rows = condition_rows(sampling(views=1))
    assert rows.tolist() == [0] * 8 + [1] * 8
    with seen_together(sampling(views=1), prior):
        assert not any(isinstance(p, _FoldedProcessor) for p in prior.unet.attn_processors.values())

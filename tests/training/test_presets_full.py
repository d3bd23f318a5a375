"""The recipes in full size, which need a GPU: their every choice but sizes and steps, on a tiny model of random weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_families import write_tiny_pipeline

from limbeck.config.discovery import choices
from limbeck.graphics.fields.decoders import Decoder, MLPDecoder, ResidualDecoder
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.priors.loading import load
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.nerf import NeRF
from limbeck.runs.recorder import record
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset, start_stage_from
from limbeck.training.presets.prolificdreamer import ProlificDreamerPreset
from limbeck.training.warm_start import load_representation

RECIPES = [recipe(size="full") for recipe in choices(Preset).values()]
RECIPES += [ProlificDreamerPreset(size="full", scene_type=place) for place in ("scene", "mixed")]
STEPS = 2


def _encoding(of: Encoding) -> Encoding:
    if isinstance(of, HashGridEncoding):
        return replace(of, num_levels=3, log2_hashmap_size=8, base_resolution=4, max_resolution=16)
    return replace(of, resolutions=(8,)) if isinstance(of, DenseGridEncoding) else of


def _decoder(of: Decoder) -> Decoder:
    if isinstance(of, ResidualDecoder):
        return replace(of, num_blocks=1, hidden_dim=16)
    return replace(of, hidden_dim=8) if isinstance(of, MLPDecoder) else of


def _small(of: RepresentationConfig) -> RepresentationConfig:
    """The same with fewer of everything."""
    if isinstance(of, GaussianSplats):
        return replace(of, count=200, every=1)
    if isinstance(of, DMTet):
        return replace(
            of, cells=10, fit=2, encoding=_encoding(of.encoding), decoder=_decoder(of.decoder)
        )
    assert isinstance(of, NeRF)
    sides = {"resolution": of.resolution and 8, "late": of.late and 16}
    return replace(
        of,
        samples=32,
        cells=8,
        **sides,
        encoding=_encoding(of.encoding),
        decoder=_decoder(of.decoder),
    )


def tiny(stage: Experiment, model: Path) -> Experiment:
    """A stage with nothing changed but its sizes and its model."""
    return replace(
        stage, model=str(model), representation=_small(stage.representation), steps=STEPS
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_pipeline("eps", tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", RECIPES, ids=lambda recipe: f"{type(recipe).__name__}-{getattr(recipe, 'place', '')}"
)
def test_every_stage_in_full_size_moves_and_hands_over(recipe, model, tmp_path):
    """Each stage ends with finite parameters that are not those it began with, and a later one begins with the one before."""
    prior, before = load(str(model), "cpu", "float32"), None
    for name, stage in recipe.stages(("a red mug",)).items():
        small = tiny(stage, model)
        small = small if before is None else start_stage_from(small, before)
        folder = tmp_path / name
        record(small, prior, folder, stop_on_collapse=False)
        made, count = load_representation(folder, prior)
        first = small.representation.build(prior, small.total, small.seed)
        moved = {
            key
            for key, value in made.state_dict().items()
            if not torch.equal(value, first.state_dict()[key])
        }
        assert count == 1 and all(value.isfinite().all() for value in made.state_dict().values())
        assert moved & {key for key, _ in made.named_parameters()}, f"{name} moved nothing"
        if before is not None:
            assert str(before) in first.init_message
        before = folder

"""The full presets, which need a GPU, on a tiny model: every choice but sizes and steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_families import write_tiny_pipeline
from tiny_image_dream import write_image_dream
from tiny_mvdream import write_mvdream
from tiny_zero123 import write_zero123

from limbeck.config.discovery import choices
from limbeck.diffusion.model_options import Model
from limbeck.graphics.fields.decoders import Decoder, MLPDecoder, ResidualDecoder
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.priors.loading import load
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.generator import Generator
from limbeck.representations.nerf import NeRF
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset, start_stage_from
from limbeck.training.presets.imagedream import ImageDreamPreset
from limbeck.training.presets.mvdream import MVDreamPreset
from limbeck.training.presets.prolificdreamer import ProlificDreamerPreset
from limbeck.training.presets.zero123 import Zero123Preset
from limbeck.training.warm_start import build_representation, load_representation

PRESETS = {name: preset(size="full") for name, preset in choices(Preset).items()}
PRESETS |= {
    f"prolificdreamer-{scene_type}": ProlificDreamerPreset(size="full", scene_type=scene_type)
    for scene_type in ("scene", "mixed")
}
STEPS = 2


def shrink_encoding(encoding: Encoding) -> Encoding:
    if isinstance(encoding, HashGridEncoding):
        return replace(
            encoding, num_levels=3, log2_hashmap_size=8, base_resolution=4, max_resolution=16
        )
    if isinstance(encoding, DenseGridEncoding):
        return replace(encoding, resolutions=(8,))
    return encoding


def shrink_decoder(decoder: Decoder) -> Decoder:
    if isinstance(decoder, ResidualDecoder):
        return replace(decoder, num_blocks=1, hidden_dim=16)
    return replace(decoder, hidden_dim=8) if isinstance(decoder, MLPDecoder) else decoder


def shrink(config: RepresentationConfig) -> RepresentationConfig:
    """The same representation with fewer of everything."""
    if isinstance(config, Generator):
        return replace(config, critic_steps=2)
    if isinstance(config, GaussianSplats):
        return replace(config, num_gaussians=200, refine_every=1)
    assert isinstance(config, DMTet | NeRF)
    parts = {
        "encoding": shrink_encoding(config.encoding),
        "decoder": shrink_decoder(config.decoder),
    }
    if isinstance(config, DMTet):
        return replace(config, grid_resolution=10, init_steps=2, **parts)
    resolutions = {
        "resolution": config.resolution and 8,
        "resolution_late": config.resolution_late and 16,
    }
    return replace(config, samples=32, occupancy_resolution=8, **resolutions, **parts)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory) -> Callable[[Preset], Path]:
    """The folder of a tiny model of the kind that a preset is for."""
    several, _ = write_mvdream("original-names", tmp_path_factory.mktemp("mvdream"))
    image = write_zero123(tmp_path_factory.mktemp("zero123"))
    other = write_tiny_pipeline("eps", tmp_path_factory.mktemp("model"))
    both, _ = write_image_dream("original-names", tmp_path_factory.mktemp("imagedream"))
    kinds = {MVDreamPreset: several, Zero123Preset: image, ImageDreamPreset: both}
    return lambda preset: kinds.get(type(preset), other)


def with_image(stage: Experiment, folder: Path) -> Experiment:
    """The stage with an image of an object as its reference."""
    image = Image.new("RGB", (32, 32), "white")
    image.paste((200, 30, 20), (8, 8, 24, 24))
    image.save(folder / "image.png")
    return replace(stage, reference=replace(stage.reference, image=folder / "image.png"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_full_stage_changes_its_particles_and_starts_the_next(preset, folder_of, tmp_path):
    is_from_image = isinstance(preset, Zero123Preset | ImageDreamPreset)
    pose_input = "distance" if isinstance(preset, Zero123Preset) else "auto"
    model = Model(str(folder_of(preset)), pose_input=pose_input)
    prior, previous = load(model, "cpu", "float32"), None
    preset.check_prior(prior)
    for name, full_stage in preset.stages(("a red mug",)).items():
        representation = shrink(full_stage.representation)
        stage = replace(full_stage, model=model, representation=representation, steps=STEPS)
        stage = stage if previous is None else start_stage_from(stage, previous)
        if is_from_image:
            stage = with_image(stage, tmp_path)
        folder = tmp_path / name
        record(stage, prior, folder, RecordingOptions(stop_on_collapse=False))
        trained, count = load_representation(folder, prior)
        initial = build_representation(stage.representation, prior, stage.total, stage.seed)
        changed = {
            key
            for key, value in trained.state_dict().items()
            if not torch.equal(value, initial.state_dict()[key])
        }
        assert count == stage.total
        assert all(value.isfinite().all() for value in trained.state_dict().values())
        assert changed & {key for key, _ in trained.named_parameters()}, f"{name} changed nothing"
        if previous is not None:
            assert str(previous) in initial.init_message
        previous = folder

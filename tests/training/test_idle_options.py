"""Options of a representation that have no effect beside the others are said, not refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.rendering.shading import Shading
from limbeck.priors.loading import load
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.mesh import Mesh
from limbeck.representations.nerf import NeRF
from limbeck.runs.run_command import read_run_command
from limbeck.sweeps.planned_runs import build_stages
from limbeck.system.notices import collect_notices, display_notices
from limbeck.training.idle_options import notify_idle_options
from limbeck.training.presets.prolificdreamer import ProlificDreamerPreset

RUN = Path("run")
IDLE = [
    (NeRF(resolution_switch=0.3), "resolution_switch 0.3 has no effect without resolution_late"),
    (NeRF(entropy_warmup=1.0), "entropy_warmup 1.0 has no effect without entropy_weight"),
    (NeRF(shading=Shading(ambient_ratio=0.5)), "shading.ambient_ratio 0.5 has no effect at shad"),
    (NeRF(space="latent", background=SolidBackground()), "background solid has no effect with sp"),
    (DMTet(geometry=False, sdf_lr=0.1), "sdf_lr 0.1 has no effect without geometry"),
    (DMTet(geometry=False, laplacian_weight=1.0), "laplacian_weight 1.0 has no effect without ge"),
    (DMTet(shading="normals", ambient=0.1), "ambient 0.1 has no effect with shading normals"),
    (DMTet(iso_level=5.0), "iso_level 5.0 has no effect without init_from"),
    (DMTet(init_from=RUN, init_radii=(0.5, 0.5, 0.5)), "init_radii 0.5 0.5 0.5 has no effect wi"),
    (Mesh(shading="texture", ambient=0.1), "ambient 0.1 has no effect with shading texture"),
    (Mesh(geometry=True, shading="clay", start="gray"), "start gray has no effect with shading"),
    (GaussianSplats(init_fit_steps=7), "init_fit_steps 7 has no effect without init_from"),
    (
        GaussianSplats(init_from=RUN, init_radius=0.5),
        "init_radius 0.5 has no effect with init",
    ),
    (GaussianSplats(refine_every=0, min_opacity=0.1), "min_opacity 0.1 has no effect with refine"),
]
USED = [
    NeRF(resolution_late=32, resolution_switch=0.3, entropy_weight=1.0, entropy_warmup=1.0),
    NeRF(shading=Shading(diffuse_prob=0.5, ambient_ratio=0.5), background=SolidBackground()),
    DMTet(sdf_lr=0.1, ambient=0.1, init_radii=(0.5, 0.5, 0.5)),
    DMTet(init_from=RUN, iso_level=5.0),
    Mesh(ambient=0.1, start="gray"),
    GaussianSplats(init_radius=0.5, min_opacity=0.1),
    GaussianSplats(init_from=RUN, init_fit_steps=7),
]


def notices(chosen: RepresentationConfig, default: RepresentationConfig) -> list[str]:
    with display_notices(lambda text: None), collect_notices() as collected:
        notify_idle_options(chosen, default)
    return collected


@pytest.mark.parametrize(("chosen", "message"), IDLE)
def test_an_option_without_effect_is_named(chosen: RepresentationConfig, message: str) -> None:
    assert [text[: len(message)] for text in notices(chosen, type(chosen)())] == [message]


@pytest.mark.parametrize("chosen", USED)
def test_options_with_an_effect_are_not(chosen: RepresentationConfig) -> None:
    assert not notices(chosen, type(chosen)())


def test_what_a_preset_sets_is_not_named() -> None:
    """The texture stage keeps the regularizers of the stage before, which it does not use."""
    stage = ProlificDreamerPreset("full").stages(("any",))["texture"].representation
    assert isinstance(stage, DMTet) and stage.laplacian_weight == 0.5
    assert not notices(stage, stage)
    changed = replace(stage, sdf_lr=0.1)
    assert notices(changed, stage) == ["sdf_lr 0.1 has no effect without geometry"]


def test_commands_sweeps_and_python_say_it() -> None:
    argv = ["a", "--representation", "dmtet", "--representation.no-geometry"]
    argv += ["--representation.sdf-lr", "0.1"]
    plain = {"representation": {"name": "dmtet", "geometry": False, "sdf_lr": 0.1}}
    message = "sdf_lr 0.1 has no effect without geometry"
    for read in (lambda: read_run_command(argv), lambda: build_stages({"prompts": "a", **plain})):
        with display_notices(lambda text: None), collect_notices() as collected:
            read()
        assert message in collected


def test_a_field_says_that_its_renders_are_larger_than_the_model() -> None:
    prior = load("world", "cpu")
    short = min(prior.image_size)
    with display_notices(lambda text: None), collect_notices() as collected:
        NeRF(resolution=short, resolution_late=4 * short).build(prior, 1, 0)
    assert [text.partition(":")[0] for text in collected] == [
        f"resolution_late {4 * short} is above the size of the model, to which training renders "
        "are reduced"
    ]

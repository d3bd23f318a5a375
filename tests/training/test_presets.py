"""Recipes: the papers' numbers, stages that begin where the one before stopped, and what is said when options do not fit."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.config.discovery import choices
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import DreamFusionWeight as DreamFusionWeight
from limbeck.distillation.weights import Fantasia3DWeight, LambdaWeight
from limbeck.distillation.weights import UniformWeight as Even
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.density_init import GaussianDensityInit
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.priors.loading import load as load_prior
from limbeck.representations.dmtet import DMTet
from limbeck.runs.recorder import record
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset, apply_shared_options, start_stage_from
from limbeck.training.presets.dreamfusion import DreamFusionPreset
from limbeck.training.presets.latent_nerf import LatentNeRFPreset
from limbeck.training.presets.lucid_splats import LucidSplatsPreset
from limbeck.training.presets.magic3d import Magic3DPreset
from limbeck.training.presets.prolificdreamer import ProlificDreamerPreset
from limbeck.training.presets.sjc import SJCPreset

PROMPT = ("a yellow duck",)
NAMES = choices(Preset)


def cli(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "limbeck", "run", *words], capture_output=True, text=True
    )


def test_there_are_the_recipes_that_are_promised():
    assert set(NAMES) == {
        "dreamfusion",
        "prolificdreamer",
        "magic3d",
        "latentnerf",
        "lucidsplats",
        "sjc",
    }


@pytest.mark.parametrize("size", ["world", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_every_recipe_reads_back_from_what_it_writes(name, size):
    stages = NAMES[name](size=size).stages(PROMPT)
    for stage in stages.values():
        assert from_yaml(Experiment, to_yaml(stage)) == stage and stage.prompts == PROMPT
        assert (stage.model == "world") == (size == "world")


def test_dreamfusion_has_the_numbers_of_the_paper():
    e = DreamFusionPreset(size="full").stages(PROMPT)["field"]
    assert (
        e.steps,
        e.method.guidance,
        e.camera_sampler.per_particle,
        e.representation.resolution,
    ) == (
        15_000,
        101.0,
        4,
        64,
    )
    assert (e.timesteps.t_min, e.timesteps.t_max) == (0.02, 0.98)
    assert (
        e.camera_sampler.camera_distance_range,
        e.camera_sampler.elevation_range,
        e.camera_sampler.uniform_sphere_prob,
        e.camera_sampler.camera_perturb,
    ) == (
        (1.0, 1.5),
        (-10.0, 90.0),
        0.5,
        0.1,
    )
    assert (
        e.camera_sampler.center_perturb,
        e.camera_sampler.up_perturb,
        e.camera_sampler.overhead_threshold,
        e.representation.half,
    ) == (
        0.2,
        0.02,
        60.0,
        1.4,
    )
    shading = e.representation.shading
    assert (shading.diffuse_prob, shading.textureless_prob, shading.ambient_ratio) == (
        0.75,
        0.5,
        0.1,
    ) and shading.ambient_only_fraction == pytest.approx(1_000 / 15_000)
    assert (
        e.representation.blob.scale,
        e.representation.blob.std,
        e.representation.density,
    ) == (5.0, 0.2, "exp")


def test_prolificdreamer_has_the_numbers_of_its_code():
    field, geometry, texture = ProlificDreamerPreset(size="full").stages(PROMPT).values()
    assert (field.steps, geometry.steps, texture.steps) == (25_000, 15_000, 30_000)
    assert (field.method.guidance, geometry.method.guidance, texture.method.guidance) == (
        7.5,
        100.0,
        7.5,
    )
    assert (
        field.timesteps.t_max,
        field.timesteps.late_t_max,
        field.timesteps.switch_at * field.steps,
    ) == (
        0.98,
        0.5,
        5_000,
    )
    assert (geometry.timesteps.t_max, texture.timesteps.t_max) == (0.5, 0.5)
    assert (field.representation.resolution, field.representation.late) == (64, 512)
    assert (
        geometry.representation.cells,
        geometry.representation.bending,
        geometry.representation.laplacian,
    ) == (256, 5000.0, 0.5)
    assert geometry.representation.shading == "normals" and not texture.representation.geometry
    assert field.method.critic.camera and field.method.critic.training.lr == 1e-4
    scene = ProlificDreamerPreset(size="full", scene_type="scene").stages(PROMPT)
    assert list(scene) == ["field"] and scene["field"].timesteps.switch_at * 25_000 == 10_000
    assert (
        scene["field"].representation.blob.scale,
        scene["field"].representation.blob.radius,
    ) == (-10.0, 2.5)
    assert (
        field.camera_sampler.front_threshold == 30.0
        and scene["field"].camera_sampler.prompts_by_view("a hall") == ("a hall",) * 4
    )
    assert [e.representation.background for e in (field, geometry, texture)] == [
        EnvironmentBackground(num_hidden_layers=1, random_aug_prob=0.5)
    ] * 3
    assert (
        geometry.representation.encoding
        == field.representation.encoding
        == HashGridEncoding(lr_scale=10.0)
    )


def test_latent_fields_have_the_numbers_of_their_codes():
    e = LatentNeRFPreset(size="full").stages(PROMPT)["field"]
    assert (e.steps, e.method.guidance, e.weight, e.timesteps) == (
        5_000,
        100.0,
        Fantasia3DWeight(),
        UniformTimesteps(0.02, 0.98),
    )
    assert (e.representation.density, e.representation.blob) == (
        "exp",
        GaussianDensityInit(5.0, 0.2),
    )
    assert e.representation.entropy == pytest.approx(
        5e-4 / math.log(2), rel=2e-3
    )  # theirs is in bits
    assert (
        e.camera_sampler.elevation_range,
        e.camera_sampler.uniform_sphere_prob,
        e.camera_sampler.front_threshold,
    ) == (
        (-60.0, 90.0),
        0.0,
        35.0,
    )
    e = SJCPreset(size="full").stages(PROMPT)["field"]
    assert (e.steps, e.weight, e.timesteps) == (10_000, Even(), UniformTimesteps(0.01, 0.97))
    assert (e.representation.encoding.resolutions, e.representation.rate) == ((100,), 0.05)
    assert e.representation.samples == int(
        2 * math.sqrt(3) / (0.5 * 2 / 100)
    )  # half a voxel apart, over the diagonal
    assert e.representation.opacity == pytest.approx(1e4 * math.log(11) / 346, rel=0.02)
    low, high = (
        e.camera_sampler.elevation_range
    )  # they draw cos of the polar angle in 1 - 2 v / 180, v in 0 to 100 degrees
    assert math.sin(math.radians(low)) == pytest.approx(1 - 200 / 180, abs=1e-3) and (
        high,
        e.camera_sampler.uniform_sphere_prob,
    ) == (90.0, 1.0)
    assert math.sin(math.radians(e.camera_sampler.overhead_threshold)) == pytest.approx(
        1 - 60 / 180, abs=1e-3
    )


def test_magic3d_and_lucidsplats_have_the_numbers_of_the_codes():
    coarse, fine = Magic3DPreset(size="full").stages(PROMPT).values()
    assert (coarse.steps, fine.steps, coarse.method.guidance) == (
        10_000,
        5_000,
        101.0,
    )  # written 100, of pos + s (pos - null)
    assert (coarse.weight, fine.weight, fine.timesteps.t_max) == (Even(), DreamFusionWeight(), 0.5)
    assert (coarse.camera_sampler.fovy_range, fine.camera_sampler.fovy_range, fine.camera_sampler.camera_distance_range) == (
        (40.0, 70.0),
        (30.0, 45.0),
        (1.5, 2.0),
    )
    assert (
        fine.representation.cells,
        fine.representation.bending,
        fine.representation.laplacian,
    ) == (128, 10_000.0, 0.0)
    e = LucidSplatsPreset(size="full").stages(PROMPT)["splats"]
    assert (e.steps, e.camera_sampler.per_particle, e.method.guidance, e.weight) == (
        5_000,
        4,
        7.5,
        LambdaWeight(),
    )
    assert (e.method.delta_t_first, e.method.delta_t, e.method.anneal, e.method.delta_s) == (
        0.1,
        0.08,
        0.3,
        0.2,
    )
    assert [e.timesteps.bounds(step, e.steps) for step in (0, 1_500)] == [(0.02, 0.98), (0.02, 0.5)]
    assert e.camera_sampler.fovy_range == pytest.approx((math.degrees(0.16), math.degrees(0.60)), abs=0.05)
    assert e.representation.rate_mean == pytest.approx(
        1.6e-4 * 3.5
    )  # times the scale of their scene


def test_what_holds_for_all_stages_is_passed_on_and_the_rest_is_refused():
    stages = ProlificDreamerPreset().stages(PROMPT)
    first = stages["field"]
    chosen = replace(first, prompts=("a red mug",), seed=3, particles=2)
    later = apply_shared_options(first, chosen, stages["texture"])
    assert (later.prompts, later.seed, later.particles, later.steps) == (
        ("a red mug",),
        3,
        2,
        stages["texture"].steps,
    )
    with pytest.raises(
        ValueError,
        match=r"--steps would change one stage of several: choose it with --preset\.only",
    ):
        apply_shared_options(first, replace(first, steps=5), stages["texture"])


def test_three_stages_hand_over(tmp_path):
    """Each stage begins with what the one before left, and the last leaves the geometry as it was."""
    prior = load_prior("world", "cpu", "bfloat16")
    before, made = None, {}
    for name, stage in ProlificDreamerPreset().stages(PROMPT).items():
        small = replace(stage, steps=1)
        if isinstance(stage.representation, DMTet):
            small = replace(small, representation=replace(stage.representation, cells=12, fit=2))
        else:
            small = replace(
                small,
                representation=replace(stage.representation, late=0, resolution=16, samples=24),
            )
        small = small if before is None else start_stage_from(small, before)
        before = tmp_path / name
        record(small, prior, before)
        made[name] = (before / "checkpoint.safetensors", small)
    assert made["geometry"][1].representation.init_from == tmp_path / "field"
    assert made["texture"][1].representation.init_from == tmp_path / "geometry"


@pytest.mark.parametrize(("words", "says"), [
    (("--preset", "dreamfusion"), "a prompt is missing"),
    (("a duck", "--preset", "dreamfuson"), "Did you mean dreamfusion?"),
    (("a duck", "--preset", "dreamfusion", "--preset.size", "huge"), "--preset.size"),
    (("a duck", "--preset", "prolificdreamer", "--steps", "9"), "--preset.only"),
    (("a duck", "--preset", "prolificdreamer", "--preset.only", "nerf"), "field, geometry, texture"),
    (("a duck", "--preset", "prolificdreamer", "--preset.place", "scene"), "objects only"),
    (("a duck", "--preset", "dreamfusion", "--config", "run.yaml"), "give one of them"),
])  # fmt: skip
def test_what_does_not_fit_is_told_in_a_line(words, says, tmp_path):
    done = cli(*words, "--out", str(tmp_path / "run"))
    assert (
        done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    ), done.stderr
    assert not (tmp_path / "run").exists()


def test_options_of_a_single_stage_are_changed_one_by_one(tmp_path):
    out = tmp_path / "run"
    done = cli(
        "a red mug",
        "--preset",
        "dreamfusion",
        "--steps",
        "1",
        "--representation.resolution",
        "8",
        "--out",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    kept = from_yaml(Experiment, (out / "run.yaml").read_text())
    assert (kept.steps, kept.representation.resolution, kept.method.guidance) == (1, 8, 15.0)
    assert Path(done.stdout.strip()) == out / "report.html"

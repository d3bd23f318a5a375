"""Presets: the papers' numbers, stages that continue each other, and refused options."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import limbeck as lb
from limbeck.config.discovery import choices
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import (
    DreamFusionWeight,
    Fantasia3DWeight,
    LambdaWeight,
    UniformWeight,
)
from limbeck.graphics.cameras.samplers import Around
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.density_init import GaussianDensityInit, Magic3DDensityInit
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.methods.ism import ISM
from limbeck.methods.sds import SDS
from limbeck.priors.loading import load
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.run_command import read_run_command
from limbeck.system.notices import collect_notices
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import Preset, apply_shared_options, start_stage_from
from limbeck.training.presets.dreamfusion import DreamFusionPreset
from limbeck.training.presets.imagedream import ImageDreamPreset
from limbeck.training.presets.latent_nerf import LatentNeRFPreset
from limbeck.training.presets.lucid_splats import LucidSplatsPreset
from limbeck.training.presets.magic3d import Magic3DPreset
from limbeck.training.presets.mvdream import MVDreamPreset
from limbeck.training.presets.prolificdreamer import ProlificDreamerPreset
from limbeck.training.presets.sjc import SJCPreset
from limbeck.training.presets.zero123 import Zero123Preset
from limbeck.world.background import WorldBackground

PROMPTS = ("a yellow duck",)
PRESETS = choices(Preset)


def run_cli(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "limbeck", "run", *args]
    return subprocess.run(command, capture_output=True, text=True)


def full_stages(preset: type[Preset], **options) -> dict[str, Experiment]:
    return preset(size="full", **options).stages(PROMPTS)


def test_names_of_presets():
    expected = {"dreamfusion", "prolificdreamer", "magic3d", "latent-nerf", "lucid-splats", "sjc"}
    expected |= {"mvdream", "zero123", "imagedream", "one-step"}
    assert set(PRESETS) == expected


SIZES = [(name, size) for name in PRESETS for size in ("world", "full")]
SIZES.remove(("zero123", "world"))
SIZES.remove(("imagedream", "world"))


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_every_stage_of_every_preset_reads_back_from_yaml(name, size):
    for stage in PRESETS[name](size=size).stages(PROMPTS).values():
        assert from_yaml(Experiment, to_yaml(stage)) == stage and stage.prompts == PROMPTS
        assert str(stage.model).startswith("world") == (size == "world")


def test_learning_rates_of_full_recipes_are_constant_where_those_of_their_sources_are():
    # DreamFusion: a warm-up of 3,000 of 15,000 steps, then a decay; LucidDreamer: a decay
    decay_starts = {"dreamfusion": 0.2, "lucid-splats": 0.0}
    for name, preset in PRESETS.items():
        for stage in full_stages(preset).values():
            assert stage.optimizer == Adam(decay_start=decay_starts.get(name, 1.0)), name


def test_dreamfusion_has_the_numbers_of_the_paper():
    e = full_stages(DreamFusionPreset)["field"]
    cameras, nerf, shading = e.camera_sampler, e.representation, e.representation.shading
    assert (e.steps, e.method.guidance) == (15_000, 101.0)
    assert (cameras.per_particle, nerf.resolution) == (4, 64)
    assert e.timesteps == UniformTimesteps(0.02, 0.98)
    assert cameras.camera_distance_range == (1.0, 1.5)
    assert cameras.elevation_range == (-10.0, 90.0)
    assert (cameras.uniform_sphere_prob, cameras.camera_perturb) == (0.5, 0.1)
    assert (cameras.center_perturb, cameras.up_perturb) == (0.2, 0.02)
    assert (cameras.overhead_threshold, nerf.bound) == (60.0, 1.4)
    assert (shading.diffuse_prob, shading.textureless_prob) == (0.75, 0.5)
    assert shading.ambient_ratio == 0.1
    assert shading.ambient_only_fraction == pytest.approx(1_000 / 15_000)
    assert (nerf.density_init, nerf.density_activation) == (GaussianDensityInit(5.0, 0.2), "exp")


def test_prolificdreamer_has_the_numbers_of_its_code():
    field, geometry, texture = full_stages(ProlificDreamerPreset).values()
    assert [stage.steps for stage in (field, geometry, texture)] == [25_000, 15_000, 30_000]
    guidance = [stage.method.guidance for stage in (field, geometry, texture)]
    assert guidance == [7.5, 100.0, 7.5]
    times = field.timesteps
    assert (times.t_max, times.late_t_max, times.switch_at * field.steps) == (0.98, 0.5, 5_000)
    assert (geometry.timesteps.t_max, texture.timesteps.t_max) == (0.5, 0.5)
    assert (field.representation.resolution, field.representation.resolution_late) == (64, 512)
    mesh = geometry.representation
    assert (mesh.grid_resolution, mesh.normal_consistency_weight, mesh.laplacian_weight) == (
        256,
        5000.0,
        0.5,
    )
    assert mesh.shading == "normals" and not texture.representation.geometry
    assert field.method.critic.camera and field.method.critic.training.lr == 1e-4
    assert field.camera_sampler.front_threshold == 30.0  # half of 60 degrees
    backgrounds = [stage.representation.background for stage in (field, geometry, texture)]
    expected = EnvironmentBackground(num_hidden_layers=1, random_aug_prob=0.5)
    assert backgrounds == [expected] * 3
    encoding = HashGridEncoding(lr_scale=10.0)
    assert mesh.encoding == field.representation.encoding == encoding


def test_prolificdreamer_of_a_scene_has_the_numbers_of_its_code():
    stages = full_stages(ProlificDreamerPreset, scene_type="scene")
    field = stages["field"]
    density = field.representation.density_init
    assert list(stages) == ["field"] and field.timesteps.switch_at * 25_000 == 10_000
    assert (density.scale, density.radius) == (-10.0, 2.5)
    assert field.camera_sampler.prompts_by_view("a hall") == ("a hall",) * 4


def test_latent_nerf_has_the_numbers_of_its_code():
    e = full_stages(LatentNeRFPreset)["field"]
    cameras, nerf = e.camera_sampler, e.representation
    assert (e.steps, e.method.guidance, e.weight) == (5_000, 100.0, Fantasia3DWeight())
    assert e.timesteps == UniformTimesteps(0.02, 0.98)
    assert (nerf.density_activation, nerf.density_init) == ("exp", GaussianDensityInit(5.0, 0.2))
    assert nerf.entropy_weight == pytest.approx(5e-4 / math.log(2), rel=2e-3)  # theirs is in bits
    assert (cameras.elevation_range, cameras.uniform_sphere_prob) == ((-60.0, 90.0), 0.0)
    assert cameras.front_threshold == 35.0  # half of 70 degrees


def test_sjc_has_the_numbers_of_its_code():
    e = full_stages(SJCPreset)["field"]
    cameras, nerf = e.camera_sampler, e.representation
    assert (e.steps, e.weight) == (10_000, UniformWeight())
    assert e.timesteps == UniformTimesteps(0.01, 0.97)
    assert (nerf.encoding.resolutions, nerf.lr) == ((100,), 0.05)
    # half a voxel apart, over the diagonal
    assert nerf.samples == int(2 * math.sqrt(3) / (0.5 * 2 / 100))
    assert nerf.opacity_weight == pytest.approx(1e4 * math.log(11) / 346, rel=0.02)
    # they draw the cosine of the polar angle in 1 - 2 v / 180, v in 0 to 100 degrees
    low, high = cameras.elevation_range
    assert math.sin(math.radians(low)) == pytest.approx(1 - 200 / 180, abs=1e-3)
    assert (high, cameras.uniform_sphere_prob) == (90.0, 1.0)
    overhead = math.sin(math.radians(cameras.overhead_threshold))
    assert overhead == pytest.approx(1 - 60 / 180, abs=1e-3)


def test_magic3d_has_the_numbers_of_the_code():
    coarse, fine = full_stages(Magic3DPreset).values()
    assert (coarse.steps, fine.steps) == (10_000, 5_000)
    assert coarse.method.guidance == 101.0  # written 100, of pos + s (pos - null)
    assert (coarse.weight, fine.weight) == (UniformWeight(), DreamFusionWeight())
    assert fine.timesteps.t_max == 0.5
    assert coarse.camera_sampler.fovy_range == (40.0, 70.0)
    assert fine.camera_sampler.fovy_range == (30.0, 45.0)
    assert fine.camera_sampler.camera_distance_range == (1.5, 2.0)
    mesh = fine.representation
    assert (mesh.grid_resolution, mesh.normal_consistency_weight, mesh.laplacian_weight) == (
        128,
        10_000.0,
        0.0,
    )


def test_lucid_splats_has_the_numbers_of_the_code():
    e = full_stages(LucidSplatsPreset)["splats"]
    assert (e.steps, e.camera_sampler.per_particle) == (5_000, 4)
    assert (e.method.guidance, e.weight) == (7.5, LambdaWeight())
    ism = e.method
    assert (ism.delta_t_start, ism.delta_t, ism.warmup, ism.delta_s) == (0.1, 0.08, 0.3, 0.2)
    assert [e.timesteps.bounds(step, e.steps) for step in (0, 1_500)] == [(0.02, 0.98), (0.02, 0.5)]
    expected = (math.degrees(0.16), math.degrees(0.60))
    assert e.camera_sampler.fovy_range == pytest.approx(expected, abs=0.05)
    assert e.representation.means_lr == pytest.approx(1.6e-4 * 3.5)  # times their scene's scale


def test_lucid_splats_of_the_world_start_from_the_field_of_mvdream():
    """Whose colors are those of every view, like those of splats."""
    stages = LucidSplatsPreset().stages(PROMPTS)
    assert list(stages) == ["field", "splats"]
    field, other = stages["field"], MVDreamPreset().stages(PROMPTS)["field"]
    assert replace(field, representation=other.representation) == other
    grid = replace(other.representation.encoding, features_per_level=4)
    plain = replace(other.representation, encoding=grid, view_dependence="none")
    assert field.representation == plain
    splats = stages["splats"]
    assert splats.representation.background.shared and not splats.timesteps.per_row
    assert isinstance(splats.representation, GaussianSplats) and isinstance(splats.method, ISM)
    assert splats.timesteps.bounds(0, splats.steps) == (0.02, 0.5)  # what the field has stays
    assert splats.representation.init_fit_steps == 100


def test_mvdream_has_the_numbers_of_its_code():
    stage = full_stages(MVDreamPreset)["field"]
    assert str(stage.model) == "ashawkey/mvdream-sd2.1-diffusers" and stage.steps == 10_000
    assert stage.method == SDS(50.0, rescale=0.5) and stage.weight == LambdaWeight()
    assert stage.negative_prompt.startswith("ugly, bad anatomy, blurry, pixelated obscure")
    cameras = stage.camera_sampler
    assert cameras == Around(4, (0.8, 1.0), (15.0, 60.0), (0.0, 30.0), 0.0, relative_distance=True)
    # 1 / tan(37.5 / 2 degrees) times .9
    assert cameras.resolved_eval_camera == pytest.approx((15.0, 2.6512, 37.5), rel=1e-4)
    times = stage.timesteps
    assert not times.per_row
    for step, expected in {0: (0.98, 0.98), 3999: (0.5, 0.74), 8000: (0.02, 0.5)}.items():
        assert times.bounds(step, stage.steps) == pytest.approx(expected, abs=2e-4)
    assert times.bounds(9999, stage.steps) == pytest.approx((0.02, 0.5))
    field = stage.representation
    assert (field.bound, field.samples, field.lr) == (1.0, 512, 1e-2)
    assert (field.resolution, field.resolution_late, field.resolution_switch) == (64, 256, 0.5)
    assert field.decoder.lr_scale == field.background.lr_scale == 0.1
    assert field.background.random_aug_shared and field.background.random_aug_prob == 0.5


def test_imagedream_has_the_numbers_of_its_code():
    stage = ImageDreamPreset().stages(PROMPTS)["field"]
    assert str(stage.model) == "ashawkey/imagedream-ipmv-diffusers" and stage.steps == 12_500
    assert stage.method == SDS(5.0, rescale=0.2) and stage.weight == LambdaWeight()
    assert stage.camera_sampler == Around(
        4, (0.6, 0.75), (45.0, 50.0), (0.0, 5.0), 0.0, relative_distance=True
    )
    field, reference = stage.representation, stage.reference
    assert (field.opacity_weight, field.orientation_weight) == (1.0, 10.0)
    assert reference.color_weight == reference.mask_weight == 0
    assert stage.negative_prompt == full_stages(MVDreamPreset)["field"].negative_prompt


def test_mvdream_on_the_embedded_model_of_four_views_differs_from_dreamfusion_in_little():
    stage, single = MVDreamPreset().stages(PROMPTS)["field"], DreamFusionPreset().stages(PROMPTS)
    assert str(stage.model) == "world-mv" and not stage.timesteps.per_row
    cameras = stage.camera_sampler
    assert cameras == Around(4, elevation_range=(-2.0, 35.0), uniform_sphere_prob=0.0)
    field = single["field"].representation
    grid = replace(field.encoding, features_per_level=6)
    assert stage.representation == replace(
        field,
        background=WorldBackground(shared=True),
        encoding=grid,
        view_dependence="brightness",
    )
    own = ("model", "method", "cameras", "timesteps", "representation")  # what four views ask for
    assert (
        replace(stage, **{name: getattr(single["field"], name) for name in own})
        == (single["field"])
    )


def test_shared_options_are_passed_on_and_others_are_refused():
    stages = ProlificDreamerPreset(last_stage="texture").stages(PROMPTS)
    first, last = stages["field"], stages["texture"]
    chosen = replace(first, prompts=("a red mug",), seed=3, particles=2, perp_neg=0.0)
    chosen = replace(chosen, runtime=RuntimeOptions(vae_slicing=True))
    later = apply_shared_options(first, chosen, last)
    assert later.runtime == chosen.runtime
    assert (later.prompts, later.seed, later.particles) == (("a red mug",), 3, 2)
    assert later.steps == last.steps
    message = (
        r"--steps would change one stage of several: choose the stage with --preset\.stage NAME. "
        "Options for all stages: --negative-prompt, --perp-neg, --model"
    )
    with pytest.raises(ValueError, match=message):
        apply_shared_options(first, replace(first, steps=5), last)


def test_prolificdreamer_stops_on_the_embedded_model_where_later_stages_do_not_help():
    assert list(ProlificDreamerPreset().stages(PROMPTS)) == ["field"]
    assert list(ProlificDreamerPreset(stage="texture").stages(PROMPTS)) == ["texture"]
    assert ProlificDreamerPreset().stops_early and not ProlificDreamerPreset("full").stops_early
    two = ProlificDreamerPreset(last_stage="geometry").stages(PROMPTS)
    assert list(two) == ["field", "geometry"]
    assert len(ProlificDreamerPreset(size="full").stages(PROMPTS)) == 3


def test_each_stage_is_initialized_from_the_one_before(tmp_path):
    prior, previous, stages = load("world", "cpu", "float32"), None, {}
    for name, stage in ProlificDreamerPreset(last_stage="texture").stages(PROMPTS).items():
        representation = stage.representation
        if isinstance(representation, DMTet):
            small = replace(representation, grid_resolution=12, init_steps=2)
        else:
            small = replace(representation, resolution_late=0, resolution=16, samples=24)
        stage = replace(stage, steps=1, representation=small)
        stage = stage if previous is None else start_stage_from(stage, previous)
        previous, stages[name] = tmp_path / name, stage
        record(stage, prior, previous, RecordingOptions(films=False))
    assert stages["geometry"].representation.init_from == tmp_path / "field"
    assert stages["texture"].representation.init_from == tmp_path / "geometry"


DREAMFUSION = ("a duck", "--preset", "dreamfusion")
PROLIFICDREAMER = ("a duck", "--preset", "prolificdreamer", "--preset.last-stage", "texture")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--preset", "dreamfusion"), "a prompt is missing"),
        (("a duck", "--preset", "dreamfuson"), "Did you mean dreamfusion?"),
        ((*DREAMFUSION, "--preset.size", "huge"), "--preset.size"),
        ((*PROLIFICDREAMER, "--steps", "9"), "--preset.stage"),
        ((*PROLIFICDREAMER[:-1], "nerf"), "--preset.last-stage must be one of field, geometry"),
        ((*PROLIFICDREAMER[:-2], "--preset.stage", "nerf"), "field, geometry, texture"),
        ((*PROLIFICDREAMER, "--preset.stage", "field"), "exclude each other"),
        ((*PROLIFICDREAMER, "--preset.scene-type", "scene"), "objects only"),
        ((*DREAMFUSION, "--config", "run.yaml"), "must be left out where a preset is given"),
    ],
)
def test_wrong_options_are_refused_in_one_line(args, message, tmp_path):
    process = run_cli(*args, "--out", str(tmp_path / "run"))
    assert process.returncode == 2, process.stderr
    assert message in process.stderr and len(process.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_later_stage_that_has_no_run_to_start_from_says_so():
    for start, said in ((None, 1), (Path("run"), 0)):
        preset = Magic3DPreset(stage="fine")
        fine = preset.stages(PROMPTS)["fine"]
        fine = replace(fine, representation=replace(fine.representation, init_from=start))
        with collect_notices() as notices:
            preset.check_start(fine)
            Magic3DPreset(stage="coarse").check_start(fine)
        assert len(notices) == said
    message = "stage texture colors a shape and starts from none: give a run of stage geometry with"
    with pytest.raises(ValueError, match=message):
        lb.distill("a duck", preset=ProlificDreamerPreset(stage="texture"))
    with pytest.raises(ValueError, match=message):
        read_run_command([*PROLIFICDREAMER[:-2], "--preset.stage", "texture"])


def test_options_of_a_preset_with_one_stage_can_be_changed(tmp_path):
    folder = tmp_path / "run"
    options = ("--steps", "1", "--representation.resolution", "8", "--out", str(folder))
    process = run_cli("a red mug", "--preset", "dreamfusion", "--no-films", *options)
    assert process.returncode == 0, process.stderr
    e = from_yaml(Experiment, (folder / "run.yaml").read_text())
    assert (e.steps, e.representation.resolution, e.method.guidance) == (1, 8, 15.0)
    assert Path(process.stdout.strip()) == folder / "report.html"


def test_zero123_has_the_numbers_of_its_code():
    e = full_stages(Zero123Preset)["field"]
    cameras, nerf, reference = e.camera_sampler, e.representation, e.reference
    assert str(e.model) == "ashawkey/zero123-xl-diffusers" and e.steps == 600
    assert e.method == SDS(3.0) and e.weight == DreamFusionWeight()
    assert e.timesteps.bounds(0, 600) == (0.4, 0.85)
    for step in (200, 599):
        assert e.timesteps.bounds(step, 600) == pytest.approx((0.2, 0.5), abs=2e-3)
    assert (cameras.camera_distance_range, cameras.fovy_range) == ((3.8, 3.8), (20.0, 20.0))
    assert cameras.elevation_range == (-10.0, 80.0)
    assert reference.camera == (0.0, 5.0, 3.8, 20.0)
    # the weights of the code belong to a weight of .1 of SDS
    weights = (reference.color_weight, reference.mask_weight, nerf.normal_smooth_weight)
    assert [0.1 * weight for weight in weights] == pytest.approx([500, 50, 8])
    weights = (nerf.orientation_weight, nerf.opacity_weight, nerf.entropy_weight)
    assert [0.1 * weight for weight in weights] == pytest.approx([1, 0.1, 0.1])
    assert (nerf.bound, nerf.density_init) == (2.0, Magic3DDensityInit(10.0, 0.5))
    assert (nerf.resolution, nerf.resolution_switch * e.steps) == (64, pytest.approx(200))
    stable = full_stages(Zero123Preset, variant="stable-zero123")["field"]
    assert str(stable.model) == "ashawkey/stable-zero123-diffusers"
    assert stable.timesteps.bounds(0, 600) == (0.7, 0.98)
    assert stable.timesteps.bounds(599, 600) == pytest.approx((0.3, 0.8))
    assert 0.1 * stable.representation.opacity_weight == pytest.approx(0.5)


@pytest.mark.parametrize("preset", [Zero123Preset, MVDreamPreset, ImageDreamPreset])
def test_recipes_of_a_kind_of_model_refuse_others(preset):
    with pytest.raises(ValueError, match=f"preset {preset.name} needs a model"):
        preset().check_prior(load("gaussians"))


def test_zero123_has_no_size_for_the_embedded_model():
    with pytest.raises(ValueError, match="preset zero123 needs a model"):
        Zero123Preset(size="world").stages(PROMPTS)

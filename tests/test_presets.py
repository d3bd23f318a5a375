"""Recipes: the papers' numbers, stages that begin where the one before stopped, and what is said when options do not fit."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.components import choices
from limbeck.config import dump, load
from limbeck.loading import load as load_prior
from limbeck.preset import Preset, begun, shared
from limbeck.presets.dreamfusion import DreamFusion
from limbeck.presets.prolificdreamer import ProlificDreamer
from limbeck.record import record
from limbeck.representations.mesh import Mesh

PROMPT = ("a yellow duck",)
NAMES = choices(Preset)


def cli(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "limbeck", "run", *words], capture_output=True, text=True)


def test_there_are_the_recipes_that_are_promised():
    assert set(NAMES) == {"dreamfusion", "prolificdreamer", "magic3d", "latentnerf", "lucidsplats", "sjc"}


@pytest.mark.parametrize("size", ["world", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_every_recipe_reads_back_from_what_it_writes(name, size):
    stages = NAMES[name](size=size).stages(PROMPT)
    for stage in stages.values():
        assert load(dump(stage)) == stage and stage.prompts == PROMPT
        assert (stage.model == "world") == (size == "world")


def test_dreamfusion_has_the_numbers_of_the_paper():
    e = DreamFusion(size="full").stages(PROMPT)["field"]
    assert (e.steps, e.method.guidance, e.looking.each, e.representation.resolution) == (15_000, 101.0, 4, 64)
    assert (e.timesteps.low, e.timesteps.high) == (0.02, 0.98)
    assert (e.looking.distance, e.looking.elevation, e.looking.over_area, e.looking.jitter) == ((1.0, 1.5), (-10.0, 90.0), 0.5, 0.1)
    assert (e.looking.aim, e.looking.roll, e.looking.overhead, e.representation.half) == (0.2, 0.02, 60.0, 1.4)
    shading = e.representation.shading
    assert (shading.lit, shading.textureless, shading.ambient) == (0.75, 0.5, 0.1) and shading.after == pytest.approx(
        1_000 / 15_000
    )
    assert (e.representation.blob.height, e.representation.blob.width, e.representation.density) == (5.0, 0.2, "exp")


def test_prolificdreamer_has_the_numbers_of_its_code():
    field, geometry, texture = ProlificDreamer(size="full").stages(PROMPT).values()
    assert (field.steps, geometry.steps, texture.steps) == (25_000, 15_000, 30_000)
    assert (field.method.guidance, geometry.method.guidance, texture.method.guidance) == (7.5, 100.0, 7.5)
    assert (field.timesteps.high, field.timesteps.late, field.timesteps.switch * field.steps) == (0.98, 0.5, 5_000)
    assert (geometry.timesteps.high, texture.timesteps.high) == (0.5, 0.5)
    assert (field.representation.resolution, field.representation.late) == (64, 512)
    assert (geometry.representation.cells, geometry.representation.bending, geometry.representation.laplacian) == (256, 5000.0, 0.5)
    assert geometry.representation.shading == "normals" and not texture.representation.geometry
    assert field.method.critic.camera and field.method.critic.learning.rate == 1e-4
    scene = ProlificDreamer(size="full", place="scene").stages(PROMPT)
    assert list(scene) == ["field"] and scene["field"].timesteps.switch * 25_000 == 10_000
    assert (scene["field"].representation.blob.height, scene["field"].representation.blob.radius) == (-10.0, 2.5)


def test_what_holds_for_all_stages_is_passed_on_and_the_rest_is_refused():
    stages = ProlificDreamer().stages(PROMPT)
    first = stages["field"]
    chosen = replace(first, prompts=("a red mug",), seed=3, particles=2)
    later = shared(first, chosen, stages["texture"])
    assert (later.prompts, later.seed, later.particles, later.steps) == (("a red mug",), 3, 2, stages["texture"].steps)
    with pytest.raises(ValueError, match=r"--steps would change one stage of several: choose it with --preset\.only"):
        shared(first, replace(first, steps=5), stages["texture"])


def test_three_stages_hand_over(tmp_path):
    """Each stage begins with what the one before left, and the last leaves the geometry as it was."""
    prior = load_prior("world", "cpu", "bfloat16")
    before, made = None, {}
    for name, stage in ProlificDreamer().stages(PROMPT).items():
        small = replace(stage, steps=1)
        if isinstance(stage.representation, Mesh):
            small = replace(small, representation=replace(stage.representation, cells=12, fit=2))
        else:
            small = replace(small, representation=replace(stage.representation, late=0, resolution=16, samples=24))
        small = small if before is None else begun(small, before)
        before = tmp_path / name
        record(small, prior, before)
        made[name] = (before / "checkpoint.safetensors", small)
    assert made["geometry"][1].representation.start == tmp_path / "field"
    assert made["texture"][1].representation.start == tmp_path / "geometry"


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
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_options_of_a_single_stage_are_changed_one_by_one(tmp_path):
    out = tmp_path / "run"
    done = cli("a red mug", "--preset", "dreamfusion", "--steps", "1", "--representation.resolution", "8", "--out", str(out))
    assert done.returncode == 0, done.stderr
    kept = load((out / "run.yaml").read_text())
    assert (kept.steps, kept.representation.resolution, kept.method.guidance) == (1, 8, 15.0)
    assert Path(done.stdout.strip()) == out / "report.html"

"""The Python API: names offered on Tab, options as on the command line, results, types."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from html_page import HtmlPage

import limbeck as lb
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.representations.generator import Generator
from limbeck.training.presets.base import Preset

ROOT = Path(__file__).parents[1]
MODULES = (
    "critics",
    "methods",
    "noise",
    "optimizers",
    "presets",
    "priors",
    "representations",
    "timesteps",
    "weights",
)


def same_parameters(a: lb.Run, b: lb.Run) -> bool:
    pairs = zip(a.representation.parameters(), b.representation.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# Names


def test_dir_offers_the_public_names_and_they_exist():
    classes = {"Experiment", "ImageReference", "ParallelSteps", "Run", "Sampling"}
    classes |= {"ScheduledNumber"}
    functions = {"distill", "edit", "load", "sample", "steps"}
    assert set(dir(lb)) == classes | functions | set(MODULES)
    assert all(callable(getattr(lb, name)) for name in classes | functions)


def test_importing_limbeck_does_not_import_torch():
    code = "import sys, limbeck; dir(limbeck); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MODULES)
def test_dir_of_a_module_offers_its_public_classes_only(name):
    module = getattr(lb, name)
    names = dir(module)
    assert names and not any(name.startswith("_") for name in names)
    assert all(isinstance(getattr(module, name), type) for name in names)


def test_the_classes_are_those_of_the_package():
    assert {"SDS", "VSD"} <= set(dir(lb.methods)) and "TwoStageTimesteps" in dir(lb.timesteps)
    assert {"Adam", "SGD"} < set(dir(lb.optimizers)) and "LambdaWeight" in dir(lb.weights)
    assert "FixedPerParticleNoise" in dir(lb.noise) and "LoRACritic" in dir(lb.critics)
    assert lb.priors.GaussianMixture is GaussianMixture


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        lb.distil  # noqa: B018
    with pytest.raises(AttributeError, match="SDS"):
        lb.methods.SDSS  # noqa: B018


# distill


def test_distill_has_images_particles_metrics_scores_and_a_report(tmp_path):
    prompts = ["a red disc", "a blue ring"]
    method = lb.methods.SDS(guidance=7.5)
    result = lb.distill(prompts, "gaussians", method=method, particles=2, steps=12)
    assert result.images.shape == (4, 3, 24, 24) == result.particles.shape
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert [line["step"] for line in result.metrics] == list(range(1, 13))
    assert result.scores["saturation"] > 0
    assert result.report().read_text().startswith("<!doctype html>")
    copy = result.save(tmp_path / "copy")
    assert (copy / "run.yaml").read_text() == (result.folder / "run.yaml").read_text()
    with pytest.raises(FileExistsError):
        result.save(tmp_path / "copy")


def test_components_are_objects_or_names():
    objects = lb.distill(
        "a red disc",
        "gaussians",
        method=lb.methods.VSD(guidance=1.0, critic=lb.critics.ExactCritic()),
        timesteps=lb.timesteps.TwoStageTimesteps(),
        weight=lb.weights.UniformWeight(),
        steps=3,
    )
    names = lb.distill(
        "a red disc",
        "gaussians",
        method={"name": "vsd", "critic": "exact"},
        timesteps="two-stage",
        weight="uniform",
        steps=3,
    )
    assert names.experiment == objects.experiment
    assert same_parameters(names.run, objects.run)


def test_distill_resumes_in_its_folder_and_refuses_another_experiment(tmp_path):
    out = tmp_path / "run"
    first = lb.distill("a red disc", "gaussians", steps=4, out=out)
    second = lb.distill("a red disc", "gaussians", steps=4, out=str(out))
    assert first.folder == second.folder == out
    with pytest.raises(ValueError, match="holds another run: seed: 0 -> 1"):
        lb.distill("a red disc", "gaussians", steps=4, out=out, seed=1)


def test_a_folder_knows_the_prior_that_it_was_made_with(tmp_path):
    run = lb.distill("a red disc", lb.load("gaussians"), steps=1, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"model: .*made in Python"):
        lb.distill("a red disc", lb.load("gaussians-flow"), steps=1, out=tmp_path / "run")
    again = lb.distill("a red disc", lb.load("gaussians"), steps=2, out=tmp_path / "run")
    assert again.experiment.model == run.experiment.model


def test_the_default_model_is_the_embedded_one():
    result = lb.distill("a red mug", steps=1)
    assert str(result.experiment.model) == "world" and result.images.shape == (1, 3, 64, 64)


def test_the_loop_gives_the_same_particles_as_distill():
    prior = colored_shapes(8)
    settings = {"method": lb.methods.SDS(guidance=3.0), "particles": 2, "steps": 6, "seed": 3}
    result = lb.distill("a red disc", prior, **settings)
    loop = lb.Run(lb.Experiment(("a red disc",), **settings), prior)
    for _ in range(6):
        loop.advance()
    assert same_parameters(loop, result.run)


def test_particles_of_a_point_prior_are_the_points():
    toy = lb.priors.GaussianMixture(torch.tensor([[4.0, 0.0]]), torch.tensor([0.1]))
    result = lb.distill("all", toy, method=lb.methods.SDS(1.0), particles=3, steps=400)
    assert result.particles.shape == (3, 2)
    assert (result.particles - torch.tensor([4.0, 0.0])).abs().max() < 0.5
    assert result.scores == {}
    with pytest.raises(ValueError, match=r"use result\.particles"):
        result.images  # noqa: B018


def test_particles_of_latents_are_the_latents():
    result = lb.distill("a red mug", "world", particles=2, steps=1)
    parameters = torch.stack([p.detach() for p in result.run.representation.parameters()])
    assert torch.equal(result.particles, parameters.reshape(2, 4, 16, 16))


class TinyPreset(Preset):
    """Two short stages of 3D balls."""

    def world(self, prompts):
        from ball_representation import Ball

        cameras = Orbit(view_prompts=("", "", "", ""))
        stage = lb.Experiment(
            prompts, model="gaussians", representation=Ball(), cameras=cameras, steps=2
        )
        return {"one": stage, "two": stage}

    full = world


def test_distill_runs_the_stages_of_a_preset(tmp_path, monkeypatch):
    starts = []

    def start_stage_from(stage, folder):
        starts.append(folder)
        return stage

    monkeypatch.setattr("limbeck.api.start_stage_from", start_stage_from)
    result = lb.distill("a red disc", preset=TinyPreset(), out=tmp_path, seed=3)
    assert [stage.folder.name for stage in result.stages] == ["1-one", "2-two"]
    assert result.folder == tmp_path / "2-two" and starts == [tmp_path / "1-one"]
    assert "2-two/report.html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(stage.experiment.seed == 3 for stage in result.stages)
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "run.yaml").touch()
    with pytest.raises(ValueError, match="holds a run of one stage"):
        lb.distill("a red disc", preset=TinyPreset(), out=tmp_path / "single")
    with pytest.raises(ValueError, match="--steps would change one stage of several"):
        lb.distill("a red disc", preset=TinyPreset(), steps=3)
    with pytest.raises(ValueError, match=r"3D.*representation"):
        result.particles  # noqa: B018
    assert result.images.shape == (4, 3, 24, 24)
    page = tmp_path / "cell.html"
    page.write_text(result._repr_html_())
    assert any(source.startswith("data:") for source in HtmlPage(page).sources)


def test_a_preset_by_name_gives_the_defaults(monkeypatch):
    class Recorded(Exception):
        pass

    def record(experiment, prior, folder, **options):
        raise Recorded(experiment)

    monkeypatch.setattr("limbeck.api.record", record)
    with pytest.raises(Recorded) as info:
        lb.distill("a duck", preset="dreamfusion", seed=2)
    (experiment,) = info.value.args
    (recipe,) = lb.presets.DreamFusionPreset().stages(("a duck",)).values()
    assert experiment.seed == 2 and experiment.representation == recipe.representation
    with pytest.raises(Recorded) as info:
        lb.distill("a duck", preset="dreamfusion", method="sds")
    assert info.value.args[0].method == recipe.method, "the options of the preset are kept"


def test_lr_is_that_of_the_representation():
    result = lb.distill("a red disc", "gaussians", steps=1, lr=0.5)
    assert result.experiment.representation == lb.representations.Latents(lr=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sdss"}, "no method is called 'sdss'. Did you mean sds?"),
        ({"stps": 3}, "no option of Experiment is called 'stps'. Did you mean steps?"),
        ({"batch": 3}, "batch is now batch_size"),
        ({"preset": "dreamfussion"}, "Did you mean dreamfusion?"),
        ({"logger": "wandbb"}, "Did you mean wandb?"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"image_every": -1}, "image_every must be at least 0, not -1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0, not -1"),
        ({"image_every": 1.5}, "image_every must be an integer, not 1.5"),
        ({"lr": "0.1"}, "lr must be a number, not"),
        (
            {"lr": 0.1, "representation": {"name": "latents", "lr": 0.2}},
            "lr is short for the lr of the representation: give one of them",
        ),
        ({"prompts": None}, "prompts must be a text or a list, not None"),
        ({"prompts": ["a red disc", 3]}, "prompts must be a text or several, not 3"),
        ({"out": __file__}, "test_api.py is a file; give another out"),
    ],
)
def test_wrong_options_are_answered(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lb.distill(**{"prompts": "a red disc", "model": "gaussians"} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic": "nowhere"}, "critic nowhere is not a run folder"),
        ({"generator": "nowhere"}, "there is no folder nowhere"),
        ({"critic": ""}, "critic must be a path, not ''"),
        ({"critic": 3}, "critic must be a path or none, not 3"),
        ({"views": 4, "num_images": 4, "image": 3}, "image must be a path or none, not 3"),
        ({"out": ""}, "out must be a path, not ''"),
    ],
)
def test_a_path_may_be_text(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lb.sample("a red disc", "gaussians", **options)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give another out"):
        lb.sample("a red disc", "gaussians", steps=1, num_images=1, out="~/file")


def test_samples_are_not_written_over_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give another out"):
        lb.sample("a red disc", "gaussians", out=tmp_path / "file" / "samples")


# Display


def test_a_result_displays_itself_in_a_notebook(tmp_path):
    result = lb.distill(
        'red <script>"&', colored_shapes(8), steps=2, particles=2, out=tmp_path / "run"
    )
    page = tmp_path / "cell.html"
    page.write_text(result._repr_html_())
    cell = HtmlPage(page)
    assert "script" not in cell.tags and 'red <script>"&' in cell.text
    assert len(cell.sources) == 1 and cell.sources[0].startswith("data:image/")
    assert "saturation" in cell.text and str(tmp_path / "run" / "report.html") in cell.text
    assert repr(result).startswith("<DistillResult: ") and str(tmp_path / "run") in repr(result)


def test_samples_have_images_scores_and_a_report(tmp_path):
    result = lb.sample(["red disc", "blue ring"], "gaussians", num_images=2, steps=4, out=tmp_path)
    assert result.images.shape == (4, 3, 24, 24) and result.folder == tmp_path
    assert "saturation" in result.scores and result.report().is_file()
    assert "data:image" in result._repr_html_()


def test_samples_of_a_generator_have_its_size(tmp_path):
    representation = Generator(network="small-unet", channels=8, size=(64, 96), critic_warmup=0)
    run = lb.distill("red mug", representation=representation, steps=1, out=tmp_path / "run")
    result = lb.sample("red mug", generator=run.folder, num_images=2, out=tmp_path / "samples")
    assert result.images.shape == (2, 3, 64, 96)


# Types


def check_types(tmp_path: Path, script: str) -> str:
    """Output of mypy on a user's script; uses the cache of the project."""
    flags = "disallow-untyped-calls, disallow-untyped-defs, warn-return-any, strict-equality"
    path = tmp_path / "script.py"
    path.write_text(f"# mypy: {flags}, no-implicit-reexport, disallow-any-generics\n{script}")
    process = subprocess.run(
        [sys.executable, "-m", "mypy", str(path)],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": "src"},
        capture_output=True,
        text=True,
    )
    return process.stdout + process.stderr


def test_the_package_is_typed():
    assert (Path(lb.__file__).parent / "py.typed").is_file()


def test_the_python_example_of_the_readme_passes_a_type_checker(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks and "Success" in check_types(tmp_path, "\n".join(blocks))


def test_a_type_checker_sees_the_types_of_results_and_arguments(tmp_path):
    script = """
import limbeck as lb

result = lb.distill("a mug", "world", method="vsd", preset="dreamfusion", out="runs/mug")
reveal_type(result.folder)
reveal_type(result.scores)
reveal_type(lb.edit("a.png", "a blue mug").runs)
reveal_type(lb.load("world"))
for step in lb.steps(lb.Experiment(("a mug",)), lb.load()):
    reveal_type(step.step)
lb.distill(3)
lb.distill("a mug", steps="3")
"""
    output = check_types(tmp_path, script)
    types = re.findall(r'Revealed type is "(.*?)"', output)
    expected = ("Path", "dict[", "DistillResult", "Prior", "int")
    assert all(part in text for part, text in zip(expected, types, strict=True)), output
    assert len(re.findall("error:", output)) == 2

"""Examples of own components: short, in no package, used by FILE.py:Class."""

import ast
import importlib.util
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from own_meshes import mapped_box
from safetensors.torch import load_file

import limbeck as lb
from limbeck.cli.main import main
from limbeck.config.comparison import differences
from limbeck.config.discovery import find
from limbeck.config.yaml import read_yaml
from limbeck.distillation.state import Stateless
from limbeck.distillation.weights import Weight
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.priors.loading import load
from limbeck.representations.base import RepresentationConfig
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.trainer import Run

EXAMPLES = Path(__file__).parents[1] / "examples"
OWN = {
    "method": ("own_method.py", "AveragedSDS", "a red disc", 27),
    "weight": ("own_weight.py", "AlphaWeight", "a red disc", 13),
    "representation": ("own_representation.py", "LowRank", "a red disc", 18),
    "model": ("own_prior.py", "GaussianImages", "anything", 17),
}
TOY = ("--model", "gaussians")


def code_lines(path: Path) -> int:
    """Lines of the classes of a file, without docstrings and blank lines."""
    source = path.read_text()
    docstrings: set[int] = set()
    classes: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        classes |= set(
            range(min(d.lineno for d in node.decorator_list or [node]), node.end_lineno + 1)
        )
        if ast.get_docstring(node):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = source.splitlines()
    return sum(bool(lines[i - 1].strip()) for i in classes - docstrings)


@pytest.mark.parametrize("kind", OWN)
def test_an_own_component_is_short_and_runs_from_the_command_line(kind, tmp_path):
    file, name, prompt, max_lines = OWN[kind]
    assert code_lines(EXAMPLES / file) <= max_lines
    out = tmp_path / "run"
    model = () if kind == "model" else TOY
    component = f"{EXAMPLES / file}:{name}"
    argv = ["run", prompt, *model, f"--{kind}", component, "--steps", "4", "--out", str(out)]
    assert main(argv) == 0
    assert (out / "report.html").is_file()
    experiment = read_yaml(Experiment, out / "run.yaml")
    assert type(getattr(experiment, kind)).__name__ == name


def test_an_own_prior_runs_from_python(tmp_path):
    model = f"{EXAMPLES / 'own_prior.py'}:GaussianImages"
    by_name = lb.distill("anything", model, steps=2, seed=1)
    prior = lb.load(model)
    by_object = lb.distill("anything", prior, steps=2, seed=1, out=tmp_path / "run")
    assert torch.equal(by_name.particles, by_object.particles)
    recorded = read_yaml(Experiment, tmp_path / "run" / "run.yaml")
    assert differences(recorded, by_object.experiment) == []


def experiment(**changes) -> Experiment:
    settings = {"model": "gaussians", "method": SDS(7.5), "steps": 6, "particles": 2}
    return Experiment(("a red disc",), **settings | changes)


def trained(e: Experiment, steps: int) -> Run:
    run = Run(e, load("gaussians"))
    for _ in range(steps):
        run.advance()
    return run


def same_tensors(a: Run, b: Run) -> bool:
    pairs = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_method_of_the_page_is_the_mean_of_two_steps_of_sds(tmp_path):
    page = (EXAMPLES.parent / "docs" / "own-method.md").read_text(encoding="utf-8")
    own = tmp_path / "mine.py"
    own.write_text(re.search(r"```python\n(.*?)```", page, re.S)[1], encoding="utf-8")
    method = find(Method, f"{own}:TwoNoises")(guidance=3.0)
    prior = load("gaussians")
    count = count_network_calls(method, prior, "red disc", "blue ring")
    assert (count.calls, count.rows) == ((2, 2), (4, 4))
    seen = {}

    class Watched(type(method)):
        def __call__(self, prior, inputs, state):
            seen["inputs"], seen["direction"] = inputs, super().__call__(prior, inputs, state)
            return seen["direction"]

    Run(experiment(method=Watched(guidance=3.0)), prior).advance()
    inputs, sds = seen["inputs"], SDS(3.0)
    other = inputs.rng.normal("second noise", *inputs.x0.shape[1:]).to(inputs.x0)
    assert float((other - inputs.eps).abs().mean()) > 0.5
    directions = [sds(prior, replace(inputs, eps=eps), Stateless()) for eps in (inputs.eps, other)]
    assert torch.allclose(seen["direction"], sum(directions) / 2, atol=1e-6)


def test_the_own_method_without_decay_is_sds_and_resumes():
    method = find(Method, f"{EXAMPLES / 'own_method.py'}:AveragedSDS")
    plain, own = trained(experiment(), 6), trained(experiment(method=method(decay=0.0)), 6)
    pairs = zip(plain.representation.parameters(), own.representation.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    e = experiment(method=method(decay=0.5), batch_size=1)
    whole, first, resumed = trained(e, 6), trained(e, 3), Run(e, load("gaussians"))
    resumed.load(first.tensors(), 3)
    for _ in range(3):
        resumed.advance()
    assert same_tensors(whole, resumed)


def test_the_own_weight_is_one_without_noise_and_falls():
    weight = find(Weight, f"{EXAMPLES / 'own_weight.py'}:AlphaWeight")()
    schedule = load("gaussians").schedule
    values = weight(schedule, torch.linspace(0, 1, 11))
    assert abs(float(values[0]) - 1) < 1e-2 and bool((values.diff() < 0).all())


def test_the_own_representation_has_low_rank():
    config = find(RepresentationConfig, f"{EXAMPLES / 'own_representation.py'}:LowRank")
    run = trained(experiment(representation=config(rank=2)), 3)
    request = run.eval_request(1)
    logits = run.representation.render(request).image.detach().double().logit()
    assert logits.shape == (2, 3, 24, 24)
    assert torch.linalg.matrix_rank(logits, tol=1e-3).max() == 2


def test_the_plane_prior_runs_with_many_particles(tmp_path, capsys):
    plane = f"{EXAMPLES / 'plane_prior.py'}:Plane"
    argv = ["all", "--model", plane, "--method", "vsd", "--method.critic", "exact"]
    folder = tmp_path / "run"
    assert main(["run", *argv, "--particles", "64", "--steps", "2", "--out", str(folder)]) == 0
    x = load_file(folder / "checkpoint.safetensors")
    assert (64, 2) in {tuple(value.shape) for value in x.values()}
    assert main(["sample", "all", "--model", plane, "--out", str(tmp_path / "samples")]) == 2
    assert "this model has no images" in capsys.readouterr().err


def load_example(name):
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generators_of_a_known_law_are_compared_with_true_draws(monkeypatch, capsys):
    example = load_example("one_step_exact.py")
    methods = {"dmd2": example.METHODS["dmd2"], "sds": SDS(1.0)}
    monkeypatch.setattr(example, "METHODS", methods)
    monkeypatch.setattr(example, "COUNT", 512)
    monkeypatch.setattr("sys.argv", ["one_step_exact.py", "--seeds", "2", "--steps", "3"])
    example.main()
    rows = {
        line.split(" | ")[0]: line.split(" | ") for line in capsys.readouterr().out.splitlines()
    }
    assert rows["| dmd2"][3] == "" and rows["| sds"][3].strip("*")[0] in "+-"
    energy = {name: float(rows[f"| {name}"][2].split()[0]) for name in ("true draws", "dmd2")}
    assert abs(energy["true draws"]) < 0.1 < energy["dmd2"]


def test_images_of_generators_are_pooled_over_their_trainings(tmp_path, monkeypatch):
    example, drawn = load_example("one_step_study.py"), []
    for seed, name in enumerate("cab"):  # the order is that of the seeds
        (tmp_path / f"run-{name}").mkdir()
        (tmp_path / f"run-{name}" / "run.yaml").write_text(f"seed: {seed}\n")
    monkeypatch.chdir(tmp_path)

    def sample(captions, num_images, seed, **options):
        folder = tmp_path / f"drawn-{len(drawn)}"
        (folder / "final").mkdir(parents=True)
        for i in range(len(captions) * num_images):
            text = f"{captions[i // num_images]} {seed} {options}"
            (folder / "final" / f"{i // num_images}-{i % num_images}.png").write_text(text)
        drawn.append(options)
        return SimpleNamespace(folder=folder)

    monkeypatch.setattr(lb, "sample", sample)
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "images"), "dmd2=run-*"])
    example.main()
    runs = [job["generator"].name for job in drawn if "generator" in job]
    assert runs == ["run-c", "run-a", "run-b"] * 2
    for name, count in (("captions", 3 * 234), ("noises", 42 * 8)):
        prompts = json.loads((tmp_path / "images" / f"{name}.json").read_text())
        assert len(prompts) == count
        for method in ("dmd2", "ddim-10", "step-0"):
            folder = tmp_path / "images" / name / method
            assert {file.name for file in folder.iterdir()} == set(prompts)
            for file, prompt in prompts.items():
                assert (folder / file).read_text().startswith(f"{prompt} {file[0]} ")
    example.main()
    assert len(drawn) == 2 * 3 * 6  # nothing is drawn again
    drawn.clear()
    monkeypatch.setattr("sys.argv", ["x", "again", "one=run-a", "--ddim", "2", "--repeats", "2"])
    example.main()  # 2 sets of images, 2 noises, by the generator, DDIM and the start
    assert len(drawn) == 2 * 2 * 3 and {job.get("steps") for job in drawn} == {None, 1, 2}
    for names, message in (
        (["dmd2=run-*", "vsd=run-a"], "different numbers of trainings"),
        (["vsd=nothing-*"], "no run folder fits"),
    ):
        monkeypatch.setattr("sys.argv", ["x", "images", *names])
        with pytest.raises(SystemExit, match=message):
            example.main()


def test_exported_files_are_checked_as_another_program_reads_them(tmp_path, capsys, monkeypatch):
    path = tmp_path / "box.glb"
    mapped_box().export(path)
    monkeypatch.setattr("sys.argv", ["check_assets.py", str(path)])
    runpy.run_path(str(EXAMPLES / "check_assets.py"), run_name="__main__")
    cells = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert cells[:5] == ["| box", "12", "6", "1", "yes"]

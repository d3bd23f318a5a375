"""Runs with a ControlNet: what it is given of the renders, methods, and the command line."""

from pathlib import Path

import pytest
import torch
from own_meshes import write_own_meshes
from refusals import refused
from tiny_controls import write_control_image, write_control_net
from tiny_pipeline import max_difference

from limbeck.cli.main import main
from limbeck.config.yaml import to_yaml
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.rendering.control_images import depth_image, normal_image
from limbeck.methods.base import Method
from limbeck.methods.dds import DDS
from limbeck.methods.ism import ISM
from limbeck.methods.nfsd import NFSD
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.mesh import Mesh
from limbeck.representations.nerf import NeRF
from limbeck.representations.pixels import Pixels
from limbeck.runs.sample_recorder import refuse_other_model
from limbeck.training.experiment import Experiment
from limbeck.training.resources import trace_step
from limbeck.training.trainer import Run

CRITIC = CriticTraining(unconditional_prob=0.5, batch_size=2)
METHODS = {
    "sds": SDS(4.0),
    "nfsd": NFSD(),
    "ism": ISM(),
    "vsd": VSD(critic=LoRACritic(2, CRITIC)),
    "vsd with cameras": VSD(critic=LoRACritic(2, CRITIC, camera=True)),
    "vsd with a learned text": VSD(critic=NullTextCritic()),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_own_meshes(tmp_path_factory.mktemp("meshes"))


@pytest.fixture(scope="module")
def control(eps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    write_control_image(folder / "image.png")
    return write_control_net(eps_folder, folder / "tiny-depth")


def model_of(eps_folder: Path, control: Path, **options) -> Model:
    return Model(str(eps_folder), control=str(control), **options)


def textured(files: dict[str, Path], name: str = "uvs.glb") -> Mesh:
    return Mesh(from_=files[name], encoding=DenseGridEncoding(resolutions=(4, 8)))


def run_on(model: Model, representation, method: Method | None = None, **options) -> Run:
    e = Experiment(
        ("a red mug",),
        model=model,
        representation=representation,
        method=method or SDS(4.0),
        cameras=Orbit(per_particle=2, view_prompts=("",) * 4),
        steps=2,
        precision="float32",
        **options,
    )
    return Run(e, load(model, "cpu", "float32"))


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_a_mesh_is_seen_as_depths_or_normals(kind, eps_folder, control, files) -> None:
    run = run_on(model_of(eps_folder, control, control_kind=kind), textured(files))
    renders = []
    render = run.representation.render
    run.representation.render = lambda request: renders.append(render(request)) or renders[-1]
    inputs = run.advance().inputs
    found = renders[-1]
    expected = depth_image(found.depth, found.alpha)
    if kind == "normal":
        expected = normal_image(found.normal, found.alpha, inputs.camera)
    for condition in (inputs.conditions.pos, inputs.conditions.null):
        assert torch.equal(condition.control, expected.detach())
        assert not condition.control.requires_grad
    assert float(expected.std()) > 0.1 and max_difference(expected[:1], expected[1:]) > 0.1


def test_the_control_changes_the_gradient_and_scale_0_does_not(eps_folder, control, files) -> None:
    gradients = []
    for model in (
        Model(str(eps_folder)),
        model_of(eps_folder, control, control_scale=0.0),
        model_of(eps_folder, control),
    ):
        gradients.append(run_on(model, textured(files)).advance().gradient)
    assert torch.equal(gradients[0], gradients[1])
    assert max_difference(gradients[0], gradients[2]) > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_two_steps_of_methods(name, eps_folder, control, files) -> None:
    run = run_on(model_of(eps_folder, control), textured(files, "ball.ply"), METHODS[name])
    before = [p.detach().clone() for p in run.representation.parameters()]
    steps = [run.advance() for _ in range(2)]
    assert all(bool(step.gradient.isfinite().all()) for step in steps)
    assert float(steps[1].gradient.abs().max()) > 0
    after = list(run.representation.parameters())
    assert any(max_difference(a, b) > 0 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_fields_and_splats_are_seen_too(kind, eps_folder, control) -> None:
    """A field in its own render size, without normals unless the shading needs them."""
    model = model_of(eps_folder, control, control_kind=kind)
    for representation in (
        NeRF(samples=12, resolution=8, occupancy_resolution=8),
        GaussianSplats(num_gaussians=64),
    ):
        step = run_on(model, representation).advance()
        control_images = step.inputs.conditions.pos.control
        assert control_images.shape[:2] == (2, 3) and bool(step.gradient.isfinite().all())
        assert 0 <= float(control_images.min()) < float(control_images.max()) <= 1


def test_a_trial_step_is_counted(eps_folder, control, files) -> None:
    plain, controlled = (
        trace_step(run_on(model, textured(files))).flops["method"]
        for model in (Model(str(eps_folder)), model_of(eps_folder, control))
    )
    assert 1.2 * plain < controlled < 2 * plain  # an encoder more


def test_an_edit_in_2d_has_the_image_of_the_options(eps_folder, control) -> None:
    model = model_of(eps_folder, control, control_image=control.parent / "image.png")
    gradients = []
    for one in (model, str(eps_folder)):
        e = Experiment(
            ("a red mug",),
            source_prompt=("a blue chair, on grey",),
            method=DDS(),
            representation=Pixels(),
            steps=2,
        )
        run = Run(e, load(one, "cpu", "float32"))
        gradients.append([run.advance().gradient for _ in range(2)][1])
    assert max_difference(*gradients) > 1e-3


def test_a_critic_is_sampled_with_an_image_or_without(eps_folder, control, tmp_path) -> None:
    """In 3D its run has no image to sample with. Weights of another model are refused."""
    model = model_of(eps_folder, control)
    run = Experiment(("a red mug",), model=model, representation=NeRF(), method=VSD())
    (tmp_path / "run.yaml").write_text(to_yaml(run), encoding="utf-8")
    image = control.parent / "image.png"
    for other in (Model(str(eps_folder)), model_of(eps_folder, control, control_image=image)):
        refuse_other_model(Sampling(("a red mug",), model=other, critic=tmp_path))
    with pytest.raises(ValueError, match="belongs to the model of its run"):
        refuse_other_model(Sampling(("a red mug",), model="world", critic=tmp_path))


# command line


def line(model: Path, control: Path, *more: str) -> list[str]:
    start = ["run", "a red mug", "--model", str(model), "--model.control", str(control)]
    return [*start, "--device", "cpu", "--steps", "2", *more]


@pytest.mark.slow  # of a whole run, most of it for the film
def test_a_mesh_of_ones_own_from_the_command_line(
    eps_folder, control, files, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    mesh = ["--representation", "mesh", "--representation.from", str(files["uvs.glb"])]
    small = ["--representation.encoding.resolutions", "4", "8", "--cameras", "orbit"]
    small += ["--cameras.per-particle", "2", "--cameras.view-prompts", "", "", "", ""]
    code = main([*line(eps_folder, control, *mesh, *small), "--out", "mug"])
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / "mug" / "report.html").is_file()
    text = (tmp_path / "mug" / "run.yaml").read_text(encoding="utf-8")
    assert "tiny-depth" in text and "control_kind: auto" in text


def test_wrong_options_are_refused_in_one_line(
    eps_folder, control, files, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    image = str(control.parent / "image.png")
    mesh = ("--representation", "mesh", "--representation.from", str(files["uvs.glb"]))
    for argv, expected in (
        (line(eps_folder, control), "images in 2D have no depth and no normals"),
        (line(eps_folder, control, *mesh, "--model.control-image", image), "leave it out"),
        (line(eps_folder, tmp_path / "none-depth", *mesh), "no ControlNet"),
        (line(eps_folder, eps_folder / "unet", *mesh), "does not say whether it takes depths"),
        (line(eps_folder, control, "--model.control-image", "none.png"), "no image file none.png"),
        (["sample", *line(eps_folder, control)[1:6]], "give its image with"),
    ):
        assert expected in refused(capsys, *argv)
    assert not any(tmp_path.iterdir())

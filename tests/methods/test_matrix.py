"""Every method with every representation, on an exact and on a tiny learned prior; and what each method's step costs."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.graphics.cameras.samplers import NoCamera, Orbit
from limbeck.methods.base import Method
from limbeck.methods.lmc import LMC
from limbeck.priors.exact import colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.trainer import Run

#: per particle and step with default options: calls, rows without a graph, rows with one (the table of the methods' minimum)
COSTS = {
    "asd": (2, 3, 0),
    "bridge": (1, 2, 0),
    "cds": (2, 4, 1),
    "csd": (1, 2, 0),
    "dds": (1, 4, 0),
    "dsd": (7, 13, 0),
    "esd": (2, 4, 1),
    "hifa": (4, 8, 0),
    "irfds": (1, 1, 0),
    "ism": (5, 6, 0),
    "lmc": (1, 2, 0),
    "nfsd": (1, 3, 0),
    "pds": (1, 4, 0),
    "repulsive": (1, 2, 0),
    "reward-sds": (1, 16, 0),
    "rfds": (1, 2, 0),
    "rfds-rev": (2, 3, 0),
    "sdedit": (30, 60, 0),
    "sdi": (7, 14, 0),
    "sds": (1, 2, 0),
    "sjc": (1, 2, 0),
    "stable-sd": (1, 2, 0),
    "stein": (1, 2, 0),
    "svgd": (1, 2, 0),
    "vsd": (2, 3, 1),
}


@pytest.fixture(scope="module")
def image_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("image_path") / "noise.png"
    Image.fromarray(
        (torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    ).save(path)
    return path


@pytest.fixture(scope="module")
def tiny(v_folder):
    return StableDiffusion(str(v_folder))


def test_table_has_every_method():
    assert set(COSTS) == set(choices(Method))


@pytest.mark.parametrize("name", COSTS)
def test_network_passes_of_a_step(name, tiny):
    count = count_network_calls(choices(Method)[name](), tiny, "a red mug", "a blue chair")
    assert (count.calls, count.rows, count.grad_rows) == tuple((n, n) for n in COSTS[name])


def small_representations(image_path) -> dict[str, RepresentationConfig]:
    """Every representation, small; those that begin with a image_path are given one."""
    made = {}
    for name, cls in choices(RepresentationConfig).items():
        names = cls.__dataclass_fields__
        if "inner" in names:
            made[name] = cls(Latents(images=(image_path,)), (image_path,))
            continue
        made[name] = cls(images=(image_path,)) if name == "noise-map" else cls()
        small = {
            "num_gaussians": 12,
            "num_strokes": 12,
            "width": 8,
            "num_frequencies": 8,
            "samples": 12,
            "occupancy_resolution": 8,
            "grid_resolution": 8,
            "resolution": 8,
            "init_steps": 0,
        }
        made[name] = replace(
            made[name],
            **{k: v for k, v in small.items() if k in names and isinstance(names[k].default, int)},
        )
    return made


#: what a pair that makes no sense says; all others run
REFUSED = {
    ("cds", "exact"): "CDS compares a network's attention",
    ("nfsd", "exact"): "a text of the method: .* change the method's own text, or leave it empty",
}


EDITS = {"dds", "pds", "cds"}  #: of pictures; what has sides has no source


@pytest.mark.parametrize("kind", ["exact", "tiny"])
@pytest.mark.parametrize("name", COSTS)
def test_each_method_runs_on_each_representation_or_is_rejected(name, kind, tiny, image_path):
    prior = colored_shapes(16) if kind == "exact" else tiny
    texts = ("red disc", "blue ring") if kind == "exact" else ("a red mug", "two striped cats")
    method = (
        LMC(projection=LearnedProjection(num_images=0))
        if name == "lmc"
        else choices(Method)[name]()
    )
    for shown, spec in small_representations(image_path).items():
        is_3d = not isinstance(spec.cameras, NoCamera)
        source, views = (
            ((), Orbit(per_particle=2, view_prompts=("", "", "", "")))
            if is_3d
            else (texts[1:], NoCamera())
        )
        make = partial(
            Experiment,
            texts[:1],
            source_prompt=source,
            method=method,
            representation=spec,
            cameras=views,
            particles=2,
            steps=2,
        )
        if name == "irfds" and shown != "noise-map":
            with pytest.raises(
                ValueError, match=f"irfds moves the noise of a image_path, and {shown} holds none"
            ):
                make()
            continue
        experiment = make()
        says = REFUSED.get((name, kind)) or (
            "this method edits" if is_3d and name in EDITS else None
        )
        if says is not None:
            with pytest.raises(ValueError, match=says):
                Run(experiment, prior).advance()
            continue
        run = Run(experiment, prior)
        before = {k: v.clone() for k, v in run.representation.state_dict().items()}
        for _ in range(2):
            step = run.advance()
        assert bool(step.gradient.isfinite().all()), (name, shown)
        after = run.representation.state_dict()
        assert any(not torch.equal(before[k], after[k]) for k in before), (
            f"{name} moves nothing of {shown}"
        )


def test_methods_command_lists_every_method(capsys, monkeypatch, tiny):
    import limbeck.priors.loading

    monkeypatch.setattr(limbeck.priors.loading, "load", lambda *a: tiny)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["methods"]) == 0
    conditions = capsys.readouterr().out
    for name, (calls, rows, trained) in COSTS.items():
        line = next(line for line in conditions.splitlines() if line.startswith(name + " "))
        assert line.split()[1:4] == [str(calls), str(rows), str(trained)]
    assert "Poole 2022" in conditions

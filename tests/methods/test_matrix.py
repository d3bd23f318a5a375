"""Every method on every representation, with an exact prior and a tiny network; network passes."""

import subprocess
import sys

import pytest
import torch
from own_meshes import mapped_box
from short_methods import short

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.graphics.cameras.samplers import NoCamera, Orbit
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.lmc import LMC
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.trainer import Run

#: Of each method with default options, per particle and step: network calls, rows without
#: gradients and rows with gradients.
COSTS = {
    "asd": (2, 3, 0),
    "bridge": (1, 2, 0),
    "cds": (2, 4, 1),
    "cfd": (1, 2, 0),
    "consistent3d": (2, 4, 0),
    "csd": (1, 2, 0),
    "csd-edit": (1, 4, 0),
    "dds": (1, 4, 0),
    "denoising-student": (10, 20, 0),
    "dmd2": (3, 3, 1),
    "dsd": (7, 13, 0),
    "dvrf": (2, 4, 0),
    "esd": (1, 2, 0),  # and 2 + 1 of the small U-Net that a small model gets as its critic
    "f-distill": (15, 25, 2),  # 10 calls and 20 rows are samples for the discriminator
    "flow-align": (2, 3, 0),
    "flow-edit": (2, 4, 0),
    "hifa": (4, 8, 0),
    "ids": (4, 4, 6),
    "irfds": (1, 1, 0),
    "ism": (5, 6, 0),
    "jsd": (8, 16, 0),
    "lmc": (1, 2, 0),
    "msd": (1, 2, 0),
    "lusd": (1, 2, 0),
    "nfsd": (1, 2, 0),  # a small model cannot read the paper's negative prompt, a third row
    "pds": (1, 4, 0),
    "repulsive": (1, 2, 0),
    "reward-bridge": (2, 16, 0),
    "reward-sds": (1, 16, 0),
    "reward-vsd": (2, 16, 0),  # and 4 + 1 of the small U-Net that a small model gets
    "rfds": (1, 2, 0),
    "rfds-rev": (2, 3, 0),
    "sdedit": (30, 60, 0),
    "sdi": (7, 14, 0),
    "sds": (1, 2, 0),
    "sid": (3, 0, 4),
    "sim": (3, 0, 4),
    "sjc": (1, 2, 0),
    "segment-dreamer": (4, 5, 0),
    "ssd-edit": (2, 4, 0),
    "stable-sd": (1, 2, 0),
    "stein": (1, 2, 0),
    "svgd": (1, 2, 0),
    "trace": (1, 2, 0),  # and 1 + 1 of the small U-Net that a small model gets
    "vsd": (1, 2, 0),
}


def test_table_has_every_method():
    assert set(COSTS) == set(choices(Method))


@pytest.mark.parametrize("name", COSTS)
def test_network_passes_of_a_step(name, tiny):
    count = count_network_calls(choices(Method)[name](), tiny, "a red mug", "a blue chair")
    assert (count.calls, count.rows, count.grad_rows) == tuple((n, n) for n in COSTS[name])


#: Options that make a representation small.
SMALL = {
    "num_gaussians": 12,
    "num_strokes": 12,
    "num_paths": 12,
    "width": 8,
    "num_frequencies": 8,
    "samples": 12,
    "occupancy_resolution": 8,
    "grid_resolution": 8,
    "resolution": 8,
    "init_steps": 0,
    "critic_warmup": 0,
}


def small_representations(image_path) -> dict[str, RepresentationConfig]:
    """Every representation by name, small; with an image or mesh to start from if it needs one."""
    found = {}
    for name, cls in choices(RepresentationConfig).items():
        fields = cls.__dataclass_fields__
        if "inner" in fields:
            found[name] = cls(Latents(images=(image_path,)), (image_path,))
            continue
        options = {k: v for k, v in SMALL.items() if isinstance(default_of(fields, k), int)}
        if cls.fresh_samples:
            options = {}  # the network of the model, or a small MLP
        if "init_from" not in fields:  # the steps fit images, of which there are none
            options.pop("init_steps", None)
        if name == "noise-map":
            options["images"] = (image_path,)
        if name == "mesh":
            options["from_"] = image_path.with_name("box.glb")
            mapped_box().export(options["from_"])
        found[name] = cls(**options)
    return found


def default_of(fields, name):
    return fields[name].default if name in fields else None


#: Errors of method and prior that do not fit; all others run.
REJECTED = {
    ("cds", "exact"): "CDS reads attention features",
}


#: Methods that edit images and so reject 3D representations and generators.
EDITS = {name for name, cls in choices(EditMethod).items() if cls.needs_source}
#: Methods that keep something of each particle, which no generator has.
OF_PARTICLES = {"sdi"}


#: One representation of each kind, for the tiny network in the normal run: the exact prior is run
#: on all, and what a representation does is the same for both.
OF_EACH_KIND = {"latents", "pixels", "noise-map", "nerf", "generator"}


@pytest.mark.parametrize("kind", ["exact", "tiny", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COSTS)
def test_each_method_runs_on_each_representation_or_is_rejected(name, kind, tiny, image_path):
    prior = colored_shapes(16) if kind == "exact" else tiny
    prompt, source = (
        ("red disc", "blue ring") if kind == "exact" else ("a red mug", "two striped cats")
    )
    method = short(choices(Method)[name])
    if name == "lmc":
        method = LMC(projection=LearnedProjection(num_images=0))
    for representation_name, representation in small_representations(image_path).items():
        if kind == "tiny" and representation_name not in OF_EACH_KIND:
            continue
        is_3d = not isinstance(representation.cameras, NoCamera)
        has_source = not (is_3d or representation.fresh_samples)
        orbit = Orbit(per_particle=2, view_prompts=("", "", "", ""))
        options = {
            "source_prompt": (source,) if has_source else (),
            "method": method,
            "representation": representation,
            "cameras": orbit if is_3d else NoCamera(),
            "particles": 2,
            "steps": 2,
        }
        if method.needs_shared_times:
            options["timesteps"] = UniformTimesteps(per_row=False)
        if name == "irfds" and representation_name != "noise-map":
            message = f"method irfds optimizes the noise .* {representation_name} does not hold"
            with pytest.raises(ValueError, match=message):
                Experiment((prompt,), **options)
            continue
        if name != "irfds" and representation_name == "noise-map":
            message = f"noise-map holds the noise of images, which method {name} does not optimize"
            with pytest.raises(ValueError, match=message):
                Experiment((prompt,), **options)
            continue
        experiment = Experiment((prompt,), **options)
        message = REJECTED.get((name, kind))
        if message is None and not has_source and name in EDITS:
            message = "this method edits images"
        if representation.fresh_samples and name in OF_PARTICLES:
            message = "of each particle, but a generator renders new samples"
        if representation.fresh_samples and name == "trace":
            message = "bridges of its own steps, but a generator trains"
        if message is None and is_3d and name == "esd":
            message = "this method needs a critic that gets the view"
        if message is not None:
            with pytest.raises(ValueError, match=message):
                Run(experiment, prior).advance()
            continue
        check_two_steps(Run(experiment, prior), f"{name} on {representation_name}")


def check_two_steps(run: Run, case: str) -> None:
    """Assert that two steps have a finite gradient and change the representation."""
    before = {k: v.clone() for k, v in run.representation.state_dict().items()}
    for _ in range(2):
        step = run.advance()
    assert bool(step.gradient.isfinite().all()), case
    after = run.representation.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before), case


def test_methods_command_lists_every_method_in_80_columns(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 80
    titles = ("From a prompt", "With a critic", "Of an image and its description")
    sds, vsd, dds = (lines.index(title) for title in titles)
    first_words = [line.split(" ")[0] for line in lines]
    assert set(COSTS) <= set(first_words)
    assert sds < first_words.index("sds") < vsd < first_words.index("vsd") < dds
    assert dds < first_words.index("dds")
    assert any("2 (1 at guidance 1) [Poole 2022]" in line for line in lines)


def test_methods_command_counts(capsys, monkeypatch, tiny):
    """All are counted above."""
    some = {name: choices(Method)[name] for name in ("sds", "vsd", "segment-dreamer", "cds")}
    monkeypatch.setattr("limbeck.config.discovery.choices", lambda base: some)
    monkeypatch.setattr("limbeck.priors.loading.load", lambda *a: tiny)
    assert main(["methods", "--count"]) == 0
    table = capsys.readouterr().out.split("counted")[1].splitlines()
    for name, costs in ((name, COSTS[name]) for name in some):
        line = next(line for line in table if line.startswith(name + " "))
        assert line.split()[1:4] == [str(cost) for cost in costs]


def test_methods_are_listed_without_a_model():
    """Within two seconds: no network library is imported."""
    code = "import sys; from limbeck.cli.main import main; main(['methods']); " + (
        "assert not {'diffusers', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

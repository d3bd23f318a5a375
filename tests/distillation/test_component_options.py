"""Components of a step as options, timesteps to augmentations: configuration, help and docs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from limbeck.config.command_line import documentation, parse
from limbeck.config.comparison import fingerprint
from limbeck.config.discovery import choices, component_name
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.distillation.augmentations import Augmentation
from limbeck.distillation.gradient_transforms import GradientTransform
from limbeck.distillation.noise import AntitheticNoise, Noise
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.deterministic import (
    PiecewiseConstantTimesteps,
    PiecewiseLinearTimesteps,
    PolynomialTimesteps,
)
from limbeck.distillation.timesteps.dreamtime import DreamTimeTimesteps
from limbeck.distillation.timesteps.random import (
    RandomDecayTimesteps,
    TwoStageTimesteps,
    UniformTimesteps,
)
from limbeck.distillation.weights import MinSNRWeight, Weight
from limbeck.representations.nerf import NeRF
from limbeck.representations.strokes import Strokes
from limbeck.training.experiment import Experiment

DOCS = Path(__file__).parents[2] / "docs"
BASES = [
    ("timesteps", Timesteps),
    ("weight", Weight),
    ("noise", Noise),
    ("grad_transform", GradientTransform),
    ("augmentation", Augmentation),
]


def parse_experiment(line: str) -> Experiment:
    (experiment,) = parse([(Experiment, None)], line.split(), "run", "", "prompts")
    return experiment


@pytest.mark.parametrize(("field", "base"), BASES)
def test_every_component_is_read_from_yaml_and_command_line(field: str, base: type) -> None:
    fingerprints = set()
    # some noises lie on a surface, and augmentations are of drawings
    representation = Strokes() if base is Augmentation else NeRF()
    shown = component_name(type(representation))
    for name, cls in choices(base).items():
        experiment = Experiment(("a",), representation=representation, **{field: cls()})
        plain = f"{{prompts: [a], representation: {shown}, {field}: {name}}}"
        line = f"a --representation {shown} --{field.replace('_', '-')} {name}"
        assert from_yaml(Experiment, to_yaml(experiment)) == experiment
        assert from_yaml(Experiment, plain) == experiment
        assert parse_experiment(line) == experiment
        fingerprints.add(fingerprint(experiment))
    assert len(fingerprints) == len(choices(base))


@pytest.mark.parametrize(("field", "base"), BASES)
def test_every_option_is_documented(field: str, base: type) -> None:
    for name, cls in choices(base).items():
        summary, options = documentation(cls)
        assert len(summary) > 3
        assert {f.name for f in fields(cls)} <= options.keys(), name


def test_the_help_of_run_lists_every_component(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_experiment("--help")
    text = "".join(capsys.readouterr().out.split())
    for _, base in BASES:
        assert f"Oneof{','.join(choices(base))},orFILE.py:CLASS." in text


@pytest.mark.parametrize(
    ("page", "base"),
    [
        ("timesteps.md", Timesteps),
        ("weights.md", Weight),
        ("weights.md", Noise),
        ("weights.md", GradientTransform),
        ("representations.md", Augmentation),
    ],
)
def test_the_docs_list_every_component_with_its_options(page: str, base: type) -> None:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    for name, cls in choices(base).items():
        rows = [line for line in lines if line.startswith(f"| `{name}` |")]
        options = {f.name for f in fields(cls)} - {"per_row", "per_group"}
        assert any(all(option in row for option in options) for row in rows), name


@pytest.mark.parametrize(
    "timesteps",
    [
        PiecewiseLinearTimesteps((0.0, 0.5), (0.9, 0.1)),
        PolynomialTimesteps((0.5,)),
        PiecewiseConstantTimesteps((0.0,), (0.3,)),
        TwoStageTimesteps(late_t_min=0.1),
        UniformTimesteps(per_row=False),
        DreamTimeTimesteps(diffusion_weight=False),
        RandomDecayTimesteps(exponential=True),
    ],
    ids=lambda t: type(t).__name__,
)
def test_options_of_every_type_are_read_from_yaml(timesteps: Timesteps) -> None:
    experiment = Experiment(
        ("a",),
        timesteps=timesteps,
        weight=MinSNRWeight(prediction_type="v"),
        noise=AntitheticNoise("rows"),
    )
    assert from_yaml(Experiment, to_yaml(experiment)) == experiment


def test_options_of_every_type_are_read_from_the_command_line() -> None:
    experiment = parse_experiment(
        "a --timesteps piecewise-linear --timesteps.milestones 0 .5 --timesteps.times .9 .1 "
        "--noise antithetic --noise.pairing rows"
    )
    assert experiment.timesteps == PiecewiseLinearTimesteps((0.0, 0.5), (0.9, 0.1))
    assert experiment.noise == AntitheticNoise("rows")
    experiment = parse_experiment(
        "a --timesteps.no-per-row --weight min-snr --weight.prediction-type x0"
    )
    assert experiment.timesteps == UniformTimesteps(per_row=False)
    assert experiment.weight == MinSNRWeight(prediction_type="x0")

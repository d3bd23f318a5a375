"""What a component of one's own returns by mistake is refused, naming it and what is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused

HEAD = """
from dataclasses import dataclass
import torch
from torch import nn
from limbeck.distillation.gradient_transforms import GradientTransform
from limbeck.distillation.noise import Noise
from limbeck.distillation.rewards.base import Reward
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.weights import Weight
from limbeck.methods.base import StatelessMethod
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.training.optimizers import Optimizer

"""


def component(base: str, signature: str, name: str = "__call__", body: str = "") -> str:
    """Source of a component with one method, which returns RESULT."""
    return f"""
@dataclass(frozen=True)
class Mine({base}):
{body}    def {name}(self, {signature}):
        return RESULT
"""


STEP = "prior, inputs, state"
METHOD = component("StatelessMethod", STEP).replace(
    "return RESULT", "x = inputs.x0.detach()\n        return RESULT"
)
FIT = component(
    "StatelessMethod",
    STEP,
    "fit",
    f"    def __call__(self, {STEP}):\n        return inputs.x0.detach()\n",
)
WEIGHT = component("Weight", "schedule, t")
TIMESTEPS = component("Timesteps", "step, steps, rows, schedule, rng")
NOISE = component("Noise", "rng, shape")
TRANSFORM = component("GradientTransform", "gradient, step, steps")
REWARD = component("Reward", "prior, setup", "build")
OPTIMIZER = component("Optimizer", "groups", "build")
REPRESENTATION = """
class Particles(Representation):
    def __init__(self, n, shape):
        super().__init__()
        self.x = nn.Parameter(torch.zeros(n, *shape))
    def render(self, request):
        x = self.x[request.particle]
        return RESULT
    def param_groups(self):
        return [{"params": [self.x], "lr": 0.1}]

@dataclass(frozen=True)
class Mine(RepresentationConfig):
    def build(self, prior, particles, seed):
        return Particles(particles, prior.shape)
"""
GROUPS = REPRESENTATION.replace("RESULT", "Render(x, 'latent')").replace(
    '[{"params": [self.x], "lr": 0.1}]', "RESULT"
)
BUILD = REPRESENTATION.replace("return RESULT", "return None").replace(
    "return Particles(particles, prior.shape)", "return RESULT"
)
SHAPE = "[2, 3, 24, 24]"
NUMBERS = "it must return a tensor of floating-point numbers"
CASES = [
    (METHOD, "None", f"mine.py:Mine returned None; {NUMBERS} {SHAPE}, the shape of inputs.x0"),
    (METHOD, "'x'", "Mine returned str 'x'"),
    (METHOD, "0.5", "Mine returned float '0.5'"),
    (METHOD, "x.long()", f"Mine returned a tensor of int64 {SHAPE}; {NUMBERS}"),
    (METHOD, "x + 1j", f"Mine returned a tensor of complex64 {SHAPE}; {NUMBERS}"),
    (METHOD, "x[..., :2]", "Mine returned a tensor of float32 [2, 3, 24, 2]"),
    (METHOD, "x.sum()", "Mine returned a tensor of float32 []"),
    (METHOD, "x.repeat(3, 1, 1, 1)", "Mine returned a tensor of float32 [6, 3, 24, 24]"),
    (METHOD, "(x, x)", "Mine returned tuple"),
    (METHOD, "x.numpy()", "Mine returned ndarray"),
    (FIT, "0.5", "mine.py:Mine.fit returned float '0.5'; it must return a dict of scalar tensors"),
    (FIT, "None", "mine.py:Mine.fit returned None; it must return a dict of scalar tensors"),
    (FIT, "{'loss': 0.5}", "Mine.fit returned {'loss': float '0.5'}; it must return a dict"),
    (FIT, "{'loss': inputs.x0}", "Mine.fit returned {'loss': a tensor of float32"),
    (WEIGHT, "None", f"mine.py:Mine returned None; {NUMBERS} [2], a weight for each row"),
    (WEIGHT, "1.0", "Mine returned float '1.0'"),
    (WEIGHT, "t[:1]", "Mine returned a tensor of float32 [1]"),
    (WEIGHT, "t.long()", "Mine returned a tensor of int64 [2]"),
    (TIMESTEPS, "0.5", f"Mine returned float '0.5'; {NUMBERS} [2], a time in [0, 1] for each row"),
    (TIMESTEPS, "torch.rand(1)", "Mine returned a tensor of float32 [1]"),
    (TIMESTEPS, "torch.randint(0, 1000, (rows,))", "Mine returned a tensor of int64 [2]"),
    (TIMESTEPS, "torch.full((rows,), 500.0)", "it must return times in [0, 1] on the CPU"),
    (TIMESTEPS, "torch.full((rows,), float('nan'))", "it must return times in [0, 1] on the CPU"),
    (NOISE, "torch.randn(shape)", f"float32 [3, 24, 24]; {NUMBERS} {SHAPE}, noise of the shape"),
    (NOISE, "None", "mine.py:Mine returned None"),
    (TRANSFORM, "gradient.sum()", "float32 []; it must return"),
    (TRANSFORM, "None", "mine.py:Mine returned None"),
    (REWARD, "None", "mine.py:Mine.build returned None; it must return an object with __call__"),
    (REWARD, "lambda x0, c, p: None", "returned None; it must return a tensor of floating-point"),
    (REWARD, "lambda x0, c, p: x0.mean()", "returned a tensor of float32 []; it must return"),
    (OPTIMIZER, "None", "Mine.build returned None; it must return an object with param_groups"),
    (REPRESENTATION, "x", "mine.py:Particles.render returned a tensor of float32"),
    (REPRESENTATION, "None", "mine.py:Particles.render returned None; it must return limbeck."),
    (REPRESENTATION, "Render(x, 'pixel')", "a Render whose space is image or latent"),
    (REPRESENTATION, "Render(x[:1], 'latent')", f"float32 [1, 3, 24, 24]; {NUMBERS} {SHAPE}"),
    (REPRESENTATION, "Render(x[:, :1], 'latent')", f"[2, 1, 24, 24]; {NUMBERS} {SHAPE}, latents"),
    (REPRESENTATION, "Render(x.detach(), 'latent')", "returned an image without gradient"),
    (GROUPS, "None", "mine.py:Particles.param_groups returned None; it must return at least one"),
    (GROUPS, "[]", "param_groups returned list '[]'; it must return at least one dict"),
    (GROUPS, "[self.x]", "param_groups returned a tensor of float32"),
    (GROUPS, "[{'params': [self.x]}]", "it must return at least one dict such as"),
    (BUILD, "None", "mine.py:Mine.build returned None; it must return an object with render"),
]
FLAGS = {
    METHOD: ("--method",),
    FIT: ("--method",),
    WEIGHT: ("--weight",),
    TIMESTEPS: ("--timesteps",),
    NOISE: ("--noise",),
    TRANSFORM: ("--grad-transform",),
    REWARD: ("--method", "reward-sds", "--method.reward-model"),
    OPTIMIZER: ("--optimizer",),
    REPRESENTATION: ("--representation",),
    GROUPS: ("--representation",),
    BUILD: ("--representation",),
}


@pytest.mark.parametrize(("source", "result", "message"), CASES)
def test_a_result_of_the_wrong_kind_is_refused(
    source: str, result: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + source.replace("RESULT", result))
    argv = ["run", "red disc", "--model", "gaussians", "--particles", "2", "--dry-run"]
    assert message in refused(capsys, *argv, *FLAGS[source], f"{file}:Mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nsys.exit(0)", "mine.py:2 cannot be imported: SystemExit: 0"),
        ("x = 1\nx / 0", "mine.py:2 cannot be imported: ZeroDivisionError: division by zero"),
        ("def (", "mine.py cannot be imported: SyntaxError"),
        (
            HEAD + WEIGHT.replace("    def", "    scales: list[float] = ()\n    def", 1),
            "Mine in FILE has the option scales of type list[float]; use bool, int, float, str",
        ),
        (
            HEAD + WEIGHT.replace("    def", "    scale: 'Nope' = 1\n    def", 1),
            "has options that cannot be read: NameError: name 'Nope' is not defined",
        ),
        (
            HEAD + WEIGHT + "    def __post_init__(self):\n        self.x = 1\n",
            "mine.py:Mine cannot be made: FrozenInstanceError: cannot assign to field 'x'",
        ),
        (
            HEAD + WEIGHT + "    def __post_init__(self):\n        assert False, 'too small'\n",
            "mine.py:Mine cannot be made: AssertionError: too small",
        ),
        (
            HEAD + WEIGHT.replace("(frozen=True)", ""),
            "cannot be imported: TypeError: cannot inherit non-frozen dataclass from a frozen one",
        ),
        (
            HEAD + WEIGHT.replace("    def", "    scale: dict = {}\n    def", 1),
            "cannot be imported: ValueError: mutable default <class 'dict'> for field scale",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    argv = ["run", "red disc", "--model", "gaussians", "--steps", "1"]
    error = refused(capsys, *argv, "--out", str(tmp_path / "run"), "--weight", f"{file}:Mine")
    assert message.replace("FILE", str(file)) in error
    assert not (tmp_path / "run").exists()

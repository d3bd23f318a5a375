"""A prior of one's own: --model FILE.py:CLASS in run, sample and resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from refusals import refused

from limbeck.cli.main import main
from limbeck.config.comparison import differences
from limbeck.config.yaml import from_yaml, read_yaml, to_yaml
from limbeck.diffusion.prior import Prior
from limbeck.priors.loading import load
from limbeck.training.experiment import Experiment

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_prior.py"
MODEL = f"{EXAMPLE}:GaussianImages"


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_example_is_short_and_is_a_prior() -> None:
    lines = EXAMPLE.read_text().split("@dataclass\n")[1].split('"""')
    code = [line for line in (lines[0] + lines[2]).splitlines() if line.strip()]
    assert len(code) + 1 <= 17, "with the decorator"
    prior = load(MODEL)
    assert isinstance(prior, Prior) and prior.std == 0.5  # type: ignore[attr-defined]


def test_run_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", "a", "--model", MODEL, "--model.std", "0.2", "--steps", "3", "--out", "x"]
    assert main(argv) == 0
    experiment = read_yaml(Experiment, tmp_path / "x" / "run.yaml")
    assert experiment.model == type(experiment.model)(std=0.2)  # type: ignore[call-arg, arg-type]
    assert yaml.safe_load(to_yaml(experiment))["model"] == {"name": MODEL, "std": 0.2}
    capsys.readouterr()
    assert main(["run", "--config", "x/run.yaml", "--out", "x"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    message = refused(capsys, *("0.5" if word == "0.2" else word for word in argv))
    assert "model.std: 0.2 -> 0.5" in message
    assert main(["run", "--config", "x/run.yaml", "--model.std", "0.5", "--out", "y"]) == 0
    changed = read_yaml(Experiment, tmp_path / "y" / "run.yaml")
    assert differences(experiment, changed) == ["model.std: 0.2 -> 0.5"]
    assert main(["report", "x", "y"]) == 0


def test_sample(tmp_path: Path) -> None:
    argv = ["sample", "a", "--model", MODEL, "--model.std", "0.2", "--steps", "2", "--out", "s"]
    assert main(argv) == 0
    recorded = yaml.safe_load((tmp_path / "s" / "sample.yaml").read_text())["model"]
    assert recorded == {"name": MODEL, "std": 0.2}


def test_yaml_round_trip_of_a_class_that_is_not_a_dataclass(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from limbeck.diffusion.prior import PriorWrapper\n"
        "from limbeck.priors.loading import load\n"
        "class Plain(PriorWrapper):\n"
        "    def __init__(self):\n"
        "        super().__init__(load('gaussians'))\n"
        "    def __call__(self, xt, t, *conditions): ...\n"
        "    def encode(self, image): ...\n"
        "    def decode(self, x0): ...\n"
        "    def condition(self, prompts): ...\n"
    )
    text = f"prompts: [a]\nmodel: {tmp_path}/plain.py:Plain\n"
    experiment = from_yaml(Experiment, text)
    assert isinstance(experiment.model, Prior)
    again = from_yaml(Experiment, to_yaml(experiment))
    assert type(again.model) is type(experiment.model)
    assert differences(experiment, again) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{EXAMPLE}:GausImages", "is called 'GausImages'. Did you mean GaussianImages?"),
        (f"{EXAMPLE}:Condition", "lacks __call__, condition, decode, encode"),
        (f"{MODEL} --model.sdt 1", "is called 'sdt'. Did you mean std? Accepted: std"),
        (f"{MODEL} --model.std big", "--model.std must be a number, not 'big'"),
        (f"{MODEL} --model.lora x", "is called 'lora'. Accepted: std"),
        (f"{MODEL} --runtime.compile on", "--runtime has no effect on GaussianImages"),
    ],
)
def test_refused(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, "run", "a", "--model", *words.split())


def test_a_class_without_the_attributes_of_a_prior(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("__call__", "encode", "decode", "condition")
    methods = "\n".join(f"    def {name}(self): ..." for name in names)
    (tmp_path / "partial.py").write_text(f"class Partial:\n    device = 'cpu'\n{methods}")
    message = refused(capsys, "run", "a", "--model", "partial.py")
    assert "Partial is not a prior: it lacks call_counter, image_size, prediction_type" in message

"""Former names of options and components are answered with the names that are valid now."""

from __future__ import annotations

import pytest
from all_options import option_classes
from refusals import refused

from limbeck.config.command_line import parse
from limbeck.config.discovery import choices, find, options_of
from limbeck.config.renamed import COMPONENTS, OPTIONS, SEARCH_NAMES
from limbeck.config.yaml import from_yaml
from limbeck.distillation.critics.base import CriticConfig
from limbeck.distillation.features.base import Features
from limbeck.distillation.gradient_transforms import GradientTransform
from limbeck.distillation.noise import Noise
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.graphics.cameras.samplers import CameraSampler
from limbeck.graphics.fields.decoders import Decoder
from limbeck.graphics.fields.density_init import DensityInit
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.representations.base import RepresentationConfig
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--parts.lora x", "--parts.lora is now --model.lora"),
        ("--parts.distilled 3", "--parts.distilled is now --model.guidance-embedding"),
        ("--running.layout plain", "--running.layout is now --runtime.memory-format"),
        ("--negative b", "--negative is now --negative-prompt"),
        ("--no-diagnose", "--no-diagnose is now --no-stop-on-collapse"),
        ("--views.each 4", "--views.each is now --cameras.per-particle"),
        ("--representation field", "representation 'field' is now 'nerf'"),
        ("--representation Splats", "representation 'Splats' is now 'gaussian-splats'"),
        ("--method vsd --method.critic low-rank", "critic 'low-rank' is now 'lora'"),
        ("--grad-transform clipped", "gradient transform 'clipped' is now 'clip'"),
        ("--method rsd", "method 'rsd': use --method repulsive"),
        ("--method collaborative", "method 'collaborative': use --method svgd"),
        ("--method fsd", "use --method cfd"),
        ("--method debiased-sds", "use --method sds --grad-transform clip"),
    ],
)
def test_former_names_on_the_command_line(
    argv: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "run", "a", *argv.split()).endswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{prompts: [a], negative: b}", "negative is now negative_prompt"),
        ("{prompts: [a], parts: {scale: 1}}", "parts is now model"),
        ("{prompts: [a], runtime: {layout: auto}}", "runtime.layout is now runtime.memory_format"),
    ],
)
def test_former_names_in_yaml(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_yaml(Experiment, text)


BASES = {
    "camera sampler": CameraSampler,
    "critic": CriticConfig,
    "decoder": Decoder,
    "density init": DensityInit,
    "encoding": Encoding,
    "features": Features,
    "gradient transform": GradientTransform,
    "noise": Noise,
    "representation": RepresentationConfig,
    "study": Study,
    "timesteps": Timesteps,
}


@pytest.mark.parametrize("noun", COMPONENTS)
def test_new_names_of_components_exist_and_former_ones_do_not(noun: str) -> None:
    for old, new in COMPONENTS[noun].items():
        assert new in choices(BASES[noun])
        with pytest.raises(ValueError, match=f"{noun} '{old}' is now '{new}'"):
            find(BASES[noun], old)


@pytest.mark.parametrize("name", OPTIONS)
def test_new_names_of_options_exist_and_former_ones_do_not(name: str) -> None:
    classes = [c for c in option_classes() if name in {part.__name__ for part in c.__mro__}]
    assert classes
    for pair in OPTIONS[name].split():
        old, new = pair.removeprefix("no_").split("=")
        # some of a kind have no use for an option and leave it out
        assert any(new.removeprefix("no_") in options_of(cls) for cls in classes), new
        assert not [cls for cls in classes if old in options_of(cls)]


@pytest.mark.parametrize("name", SEARCH_NAMES)
def test_search_names_are_answered_with_valid_options(name: str) -> None:
    words = SEARCH_NAMES[name].split()
    (experiment,) = parse([(Experiment, None)], ["a", *words], positional="prompts")
    assert experiment != Experiment(("a",))

"""The source of an edit: the first render and the source prompt of each particle."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_pipeline import f64, max_difference, rng

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.base import StatelessMethod, edit_source
from limbeck.methods.sdedit import SDEdit
from limbeck.methods.sds import SDS
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.representations.dmtet import DMTet
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.source_images import check_edit_source
from limbeck.training.trainer import Run

PROMPTS = ("red disc", "blue ring")


@dataclass(frozen=True)
class ReturnToSource(StatelessMethod):
    """Descends to the source."""

    def __call__(self, prior, inputs, state):
        return inputs.x0.detach() - edit_source(inputs).x0


@pytest.fixture
def images(tmp_path):
    paths = []
    for i in range(2):
        values = torch.rand(8, 8, 3, generator=rng(i)) * 0.9 + 0.05
        Image.fromarray((values * 255).to(torch.uint8).numpy()).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    return tuple(paths)


@pytest.mark.parametrize("representation", [Latents, Pixels], ids=["latents", "pixels"])
@pytest.mark.parametrize("batch_size", [0, 2])
def test_the_source_is_the_first_render_of_each_particle(representation, batch_size, images):
    experiment = Experiment(
        PROMPTS,
        source_prompt=("green disc", "yellow ring"),
        method=ReturnToSource(),
        batch_size=batch_size,
        particles=2,
        representation=representation(images=images),
        steps=6,
    )
    run = Run(experiment, colored_shapes(8))
    with torch.no_grad():
        first = run.encode(run.representation.render(RenderRequest(torch.arange(4)))).clone()
    texts = run.prior.condition(["green disc", "green disc", "yellow ring", "yellow ring"])
    for _ in range(6):
        with torch.no_grad():
            for p in run.representation.parameters():
                p.add_(0.01)  # the particles move, the source does not
        s = run.advance().inputs
        empty = run.prior.condition([""] * len(s.particle))
        assert torch.equal(s.source.x0, first[s.particle])
        assert torch.equal(s.source.conditions.pos.data, texts.data[s.particle])
        assert torch.equal(s.source.conditions.null.data, empty.data)
        assert max_difference(s.x0, s.source.x0) > 0 and not s.source.x0.requires_grad


@pytest.mark.parametrize("representation", [Latents, Pixels], ids=["latents", "pixels"])
def test_a_resumed_edit_has_the_same_source(representation, images):
    experiment = Experiment(
        PROMPTS,
        source_prompt=("disc",),
        method=ReturnToSource(),
        batch_size=3,
        particles=2,
        representation=representation(0.1, images=images),
        steps=6,
    )
    whole, resumed = (Run(experiment, colored_shapes(8)) for _ in range(2))
    for _ in range(3):
        whole.advance()
    resumed.load({k: v.detach().clone() for k, v in whole.tensors().items()}, 3)
    for _ in range(3):
        a, b = whole.advance(), resumed.advance()
        assert torch.equal(a.inputs.source.x0, b.inputs.source.x0)
        assert torch.equal(a.gradient, b.gradient)
        assert torch.equal(a.inputs.x0, b.inputs.x0)


def test_one_source_prompt_serves_all_prompts_with_the_same_perp_neg():
    experiment = Experiment(
        PROMPTS,
        source_prompt=("disc",),
        negative_prompt="green",
        perp_neg=0.5,
        denoise_steps=2,
        method=ReturnToSource(),
        steps=1,
    )
    run = Run(experiment, colored_shapes(8))
    conditions = run.advance().inputs.source.conditions
    negative, weight = conditions.perp_neg[0]
    assert torch.equal(conditions.pos.data, run.prior.condition(["disc"] * 2).data)
    assert conditions.denoise_steps == 2
    assert torch.equal(negative.data, run.prior.condition(["green"] * 2).data)
    assert max_difference(weight, f64([0.5, 0.5])) == 0


def test_without_a_source_prompt_there_is_no_source():
    run = Run(Experiment(("red disc",), method=SDS(5.0), steps=1), colored_shapes(8))
    assert run.source is None and run.advance().inputs.source is None
    experiment = Experiment(("red disc",), method=ReturnToSource(), steps=1)
    with pytest.raises(ValueError, match="this method edits images: use limbeck edit IMAGE, or"):
        Run(experiment, colored_shapes(8)).advance()
    message = "source_prompt must be one text for all or one for each of the 3 prompts"
    with pytest.raises(ValueError, match=message):
        Experiment(("a", "b", "c"), source_prompt=("x", "y"))


@pytest.mark.parametrize("representation", [Latents(), NeRF(), DMTet(init_from=Path("run"))])
def test_images_are_needed_for_2d_edits_of_images_alone(representation):
    experiment = Experiment(("red disc",), method=SDEdit(), representation=representation)
    vectors = GaussianMixture(torch.zeros(1, 2), torch.ones(1))
    check_edit_source(experiment, vectors)
    if not isinstance(representation, Latents):
        check_edit_source(experiment, "gaussians")
        return
    with pytest.raises(ValueError, match="latents has none: use limbeck edit IMAGE"):
        check_edit_source(experiment, "gaussians")

"""The procedural world: what is drawn is what is said, by seed; what ships loads and is small; training goes on after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.world.pretrained import WEIGHTS, load_evaluator
from limbeck.world.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    OBJECTS,
    PATTERNS,
    VIEWS,
    caption,
    captions,
    held_out,
    random_scenes,
    render,
)
from limbeck.world.trainer import Budget, Task, fit, rate_at


def scenes(n: int, seed: int = 0, unseen: bool = False):
    return random_scenes(n, np.random.default_rng(seed), unseen)


def test_the_same_seed_draws_the_same_pictures():
    a, b = scenes(6), scenes(6)
    assert np.array_equal(render(a), render(b))
    assert not np.array_equal(render(a), render(scenes(6, 1)))
    assert captions(a, np.random.default_rng(3)) == captions(b, np.random.default_rng(3))


def test_drawing_leaves_torch_its_threads():
    """Both use OpenMP; numba would leave it with all cores, and every test after this one spinning on a busy machine."""
    before = torch.get_num_threads()
    render(random_scenes(2, np.random.default_rng(0)), 16)
    assert torch.get_num_threads() == before == 1


def test_held_out_combinations_are_never_drawn_for_training():
    seen, unseen = scenes(5000), scenes(500, unseen=True)
    assert not held_out(seen.object, seen.colour, seen.pattern).any()
    assert held_out(unseen.object, unseen.colour, unseen.pattern).all()
    assert set(seen.object) == set(unseen.object) == set(range(len(OBJECTS)))


def at(azimuth: float, elevation: float, name: str, colour: str = "red"):
    one = scenes(1)
    values = {
        "object": OBJECTS.index(name),
        "colour": COLOURS.index(colour),
        "pattern": 0,
        "background": 0,
    }
    values |= {
        "azimuth": np.radians(azimuth),
        "elevation": np.radians(elevation),
        "distance": 3.6,
        "tint": 1.0,
    }
    return dataclasses.replace(one, **{k: np.array([v]) for k, v in values.items()})


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [(0, 10, "front"), (44, 0, "front"), (46, 0, "side"), (-90, 20, "side"), (134, 0, "side"), (136, 0, "back"), (180, 5, "back"),
     (0, 60, "overhead")],
)  # fmt: skip
def test_view_words_follow_the_camera(azimuth, elevation, view):
    assert VIEWS[at(azimuth, elevation, "duck").view[0]] == view


def yellow(picture: np.ndarray) -> int:
    r, g, b = picture.astype(int).transpose(2, 0, 1)
    return int(((r > 150) & (g > 130) & (b < 130)).sum())


def test_front_is_where_the_face_is():
    """A car's yellow lamps are in front, so many more yellow pixels are seen from there than from behind."""
    front, back = (render(at(azimuth, 10, "car", "blue"))[0] for azimuth in (0, 180))
    assert yellow(front) > 4 * (yellow(back) + 5)


def test_a_handle_changes_sides_between_front_and_back():
    front, back = (render(at(azimuth, 0, "mug"))[0].astype(int) for azimuth in (0, 180))
    red = lambda p: p[..., 0] - p[..., 2] > 40  # noqa: E731
    middle = [np.nonzero(red(p))[1].mean() for p in (front, back)]
    assert abs(middle[0] - middle[1]) > 1
    assert abs((middle[0] - 31.5) + (middle[1] - 31.5)) < 2


def test_captions_name_only_what_is_there_and_drop_some_of_it():
    drawn = scenes(2000)
    texts = captions(drawn, np.random.default_rng(0))
    for text, (o, c, _p, _b, v) in zip(texts, drawn.labels(), strict=True):
        words = text.replace(",", "").split()
        assert OBJECTS[o] in words
        assert not (set(COLOURS) - {COLOURS[c]}) & set(words)
        assert not (set(VIEWS) - {VIEWS[v]}) & set(words)
    with_pattern = sum(any(p in t for p in PATTERNS) for t in texts)
    assert 0.6 < with_pattern / 2000 < 0.95
    assert any(not any(c in t.split() for c in COLOURS) for t in texts)


def test_articles_agree_with_their_word():
    assert caption("duck", "orange") == "an orange duck"
    assert (
        caption("mug", "red", "striped", "grass", "side") == "a striped red mug on grass, side view"
    )


def test_what_ships_is_small_and_holds_no_pickle():
    files = [p for p in WEIGHTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 30e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt", ".png"}


def test_the_pipeline_is_plain_diffusers():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red sphere", num_inference_steps=4, guidance_scale=3.0, output_type="pt").images
    assert image.shape == (1, 3, 64, 64) and bool(image.isfinite().all())


@pytest.mark.slow
def test_the_evaluator_reads_fresh_renders():
    from limbeck.world.render_cache import as_images

    drawn = scenes(2000, 11)
    said = load_evaluator().judge(as_images(render(drawn)))
    right = (said == torch.from_numpy(drawn.labels())).float()
    least = {"object": 0.97, "colour": 0.95, "pattern": 0.95, "background": 0.98}
    for i, name in enumerate(ATTRIBUTES):
        if name in least:
            assert right[:, i].mean() >= least[name], name
    assert right[torch.from_numpy(drawn.asymmetric), 4].mean() >= 0.80


def test_the_evaluator_rejects_what_is_no_object():
    from limbeck.world.evaluator import REJECT, spoil
    from limbeck.world.render_cache import as_images

    a, b = as_images(render(scenes(60, 5))), as_images(render(scenes(60, 6)))
    said = load_evaluator().judge(spoil(a, b, torch.Generator().manual_seed(0)))[:, 0]
    kept = load_evaluator().judge(a)[:, 0]
    assert (said == REJECT).float().mean() > 0.7 and (kept == REJECT).float().mean() < 0.05


def test_background_words_are_read():
    said = load_evaluator().judge(
        torch.from_numpy(render(scenes(100, 9))).permute(0, 3, 1, 2).float() / 255
    )
    assert (said[:, 3].numpy() == scenes(100, 9).background).mean() > 0.97
    assert len(BACKGROUNDS) == 6


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.slope.float() * x - 3 * x).square().mean()}


class Slope(Task[Line]):
    name, rate, warmup, average = "slope", 0.05, 5, 0.9

    def build(self) -> Line:
        return Line()

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        time.sleep(0.002)
        return (torch.randn(8, generator=rng),)


def test_training_learns_shares_the_gradient_and_knows_when_it_is_done(tmp_path):
    model = fit(Slope(), tmp_path, Budget(0.05, workers=2, every=1))
    assert abs(model.slope.item() - 3) < 0.2
    lines = [json.loads(line) for line in (tmp_path / "slope.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    start = time.monotonic()
    again = fit(Slope(), tmp_path, Budget(0.05, every=1))
    assert time.monotonic() - start < 1 and torch.equal(model.slope, again.slope)


def test_a_killed_training_goes_on(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_world import *\n"
    code += f"fit(Slope(), Path({str(tmp_path)!r}), Budget(10, every=0.2))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, start_new_session=True
    )
    log = tmp_path / "slope.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= 2):
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = json.loads(log.read_text().splitlines()[-1])
    fit(Slope(), tmp_path, Budget(before["minute"] + 0.02, every=0.2))
    after = json.loads(log.read_text().splitlines()[-1])
    assert after["step"] > before["step"] and after["minute"] >= before["minute"]


def test_the_rate_warms_up_holds_and_falls_to_zero():
    assert rate_at(Slope(), 0, 0.0) == pytest.approx(0.01)
    assert rate_at(Slope(), 100, 0.39) == 0.05
    assert rate_at(Slope(), 100, 0.7) == pytest.approx(0.025)
    assert rate_at(Slope(), 100, 1.0) == 0.0

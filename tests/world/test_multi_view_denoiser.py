"""Training of a multi-view model: groups, captions, the network, its schedule and resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_pipeline import max_difference, normal, write_pipeline

from limbeck.diffusion.camera_input import camera_labels
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.world import multi_view_data
from limbeck.world.group_judge import judge_groups, judged_groups
from limbeck.world.multi_view_data import (
    load_groups,
    prepare_groups,
    random_groups,
    scene_cameras,
)
from limbeck.world.multi_view_denoiser import MultiViewTask, add_camera_layers
from limbeck.world.pretrained import WEIGHTS, load_evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import (
    BACKGROUNDS,
    VIEWS,
    Scenes,
    group_captions,
    is_held_out,
    render_scenes,
)
from limbeck.world.trainer import Budget, fit, lr_at


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> MultiViewTask:
    """A tiny network, and six groups on disk."""
    folder = tmp_path_factory.mktemp("multi-view")
    pipeline = write_pipeline(folder / "tiny", "v_prediction")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_view_data, "_SHARD_SIZE", 3)
        prepare_groups(folder / "groups", 6, WEIGHTS / "vae")
        load_groups(folder / "groups", 6)  # cached
    return MultiViewTask(folder, pipeline, num_groups=6, batch_size=2)


def test_a_group_is_four_orthogonal_views_of_one_scene_and_never_of_a_held_out_one():
    scenes = random_groups(300, np.random.default_rng(0))
    groups = {name: value.reshape(-1, 4) for name, value in vars(scenes).items()}
    for name, value in groups.items():
        assert name == "azimuth" or (value == value[:, :1]).all(), name
    quarter = np.exp(1j * np.diff(groups["azimuth"], axis=1))
    assert np.abs(quarter - 1j).max() < 1e-9
    assert "overhead" not in {VIEWS[i] for i in scenes.view}
    start = np.degrees(np.abs(groups["azimuth"][:, 0]))
    assert 0.45 < (start <= 10).mean() < 0.65  # half, and 1 in 18 of the rest
    assert not is_held_out(scenes.object, scenes.color, scenes.pattern).any()
    judged = judged_groups(12)
    assert is_held_out(judged.object, judged.color, judged.pattern).all()
    assert judged.asymmetric.all() and (judged.view.reshape(-1, 4) == [0, 1, 2, 1]).all()


def test_learned_cameras_are_kept(task: MultiViewTask, tmp_path):
    net = add_camera_layers(task.pipeline)
    assert not net.class_embedding.linear_2.weight.any()
    torch.nn.init.ones_(net.class_embedding.linear_2.weight)
    net.save_pretrained(tmp_path / "unet")
    assert (add_camera_layers(tmp_path).class_embedding.linear_2.weight == 1).all()


def test_the_network_is_told_the_camera_that_a_model_for_3d_is_told_at_the_same_place():
    expected = camera_labels(turntable_cameras(4, 15.0, 3.0, 40.0).pose)
    assert max_difference(scene_cameras(judged_groups(1)), expected) < 1e-6


def test_groups_are_cached_and_more_are_added(task: MultiViewTask, monkeypatch):
    latents, scenes = load_groups(task.folder / "groups", 6)
    assert latents.shape == (24, 4, 16, 16) and latents.dtype == np.float16 and len(scenes) == 24
    monkeypatch.setattr(multi_view_data, "_SHARD_SIZE", 3)
    monkeypatch.setattr(multi_view_data, "render_scenes", lambda scenes: pytest.fail("rendered"))
    prepare_groups(task.folder / "groups", 5, WEIGHTS / "vae")
    with pytest.raises(pytest.fail.Exception, match="rendered"):
        prepare_groups(task.folder / "groups", 7, WEIGHTS / "vae")


def test_captions_of_a_group_name_the_same_and_views_in_their_share():
    scenes = random_groups(400, np.random.default_rng(1))
    texts = group_captions(scenes, 4, np.random.default_rng(2), view_words=0.5)
    stripped = [text.rpartition(", ")[0] if " view" in text else text for text in texts]
    groups = np.array(stripped).reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
    named = np.array([" view" in text for text in texts]).reshape(-1, 4)
    assert (named == named[:, :1]).all()
    asymmetric = scenes.asymmetric.reshape(-1, 4)[:, 0]
    assert 0.4 < named[asymmetric, 0].mean() < 0.6 and named[~asymmetric, 0].mean() < 0.2
    for text, view in zip(texts, scenes.view, strict=True):
        assert " view" not in text or text.endswith(f"{VIEWS[view]} view")
    assert not any(" view" in t for t in group_captions(scenes, 4, np.random.default_rng(2), 0.0))


def test_view_words_leave_while_the_rate_falls(task: MultiViewTask):
    shares = [task.view_words_at(progress) for progress in (0.0, 0.7, 0.85, 1.0)]
    assert shares == pytest.approx([0.5, 0.5, 0.35, 0.2])
    rates = [lr_at(task, 1000, progress) for progress in (0.0, 0.7, 0.85, 1.0)]
    assert rates == pytest.approx([1.5e-4, 1.5e-4, 0.75e-4, 0.0])


def test_the_layers_of_the_camera_learn_ten_times_as_fast_and_the_text_encoder_does_not(
    task: MultiViewTask,
):
    model = task.build()
    groups = task.parameter_groups(model)
    counts = [sum(p.numel() for p in group["params"]) for group in groups]
    assert sum(counts) == sum(p.numel() for p in model.unet.parameters())
    assert counts[-1] == sum(p.numel() for p in model.unet.class_embedding.parameters())
    assert [group["lr_factor"] for group in groups] == [1.0, 1.0, 10.0]


@torch.no_grad()
def test_it_starts_as_the_model_it_comes_from(task: MultiViewTask):
    model = task.build()
    plain = model.unet.from_pretrained(task.pipeline / "unet").eval()
    z, text = normal(4, 4, 8, 8, dtype=torch.float32), normal(4, 6, 32, dtype=torch.float32)
    t, cameras = torch.full((4,), 500), scene_cameras(judged_groups(1))
    out = plain(z, t, text).sample
    assert max_difference(model._predict(z, t, text, torch.zeros(0, 16)), out) < 1e-5
    model.unet.class_embedding.linear_2.bias.normal_()
    single = model._predict(z, t, text, torch.zeros(0, 16))  # no camera: no camera layers
    assert max_difference(single, out) < 1e-5
    assert max_difference(model._predict(z, t, text, cameras), out) > 1e-2


@torch.no_grad()
def test_permuted_views_of_a_group_give_permuted_outputs(task: MultiViewTask):
    model = task.build()
    for parameter in model.unet.class_embedding.parameters():
        parameter.normal_()
    z, text = normal(8, 4, 8, 8, dtype=torch.float32), normal(8, 6, 32, dtype=torch.float32)
    t, cameras = torch.tensor([300] * 4 + [800] * 4), scene_cameras(random_groups(2, _rng()))
    order = torch.tensor([2, 0, 3, 1, 5, 4, 7, 6])
    out = model._predict(z, t, text, cameras)
    permuted = model._predict(z[order], t[order], text[order], cameras[order])
    assert max_difference(permuted, out[order]) < 1e-4
    turned = model._predict(z, t, text, cameras.roll(1, 0))
    assert max_difference(turned, out) > 1e-2


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def batches(task: MultiViewTask, count: int = 60):
    for seed in range(count):
        yield task.batch(torch.Generator().manual_seed(seed), 0.5)


def test_a_batch_has_one_time_per_group_and_single_views_have_no_camera(task: MultiViewTask):
    singles = known_share = 0.0
    for z, ids, t, noise, known, cameras in batches(task):
        assert len(z) == len(ids) == len(t) == len(noise) == len(known) == 8
        if not len(cameras):
            singles += 1
            assert not known.any()
            continue
        times = t.view(2, 4)
        assert (times == times[:, :1]).all()
        assert times[:, 0].min() < 500 <= times[:, 0].max()  # stratified
        assert known.view(2, 4).sum(1).max() <= 1
        known_share += known.view(2, 4).any(1).float().mean().item()
    assert 4 <= singles <= 22
    assert 0.15 < known_share / (60 - singles) < 0.45


def test_a_view_that_is_given_has_no_loss_and_helps_the_others(task: MultiViewTask):
    model = task.build()
    z, ids, t, noise, _, cameras = next(b for b in batches(task) if len(b[-1]))
    known = torch.tensor([True, False, False, False] * 2)
    loss = model(z, ids, t, noise, known, cameras)["loss"]
    other = noise.clone()
    other[known] = 7.0  # of a clean row neither noise nor error is seen
    assert torch.equal(model(z, ids, t, other, known, cameras)["loss"], loss)
    other[1] += 1.0
    assert not torch.equal(model(z, ids, t, other, known, cameras)["loss"], loss)


def test_a_stopped_training_goes_on_bit_for_bit(task: MultiViewTask):
    steps = Budget(0.0, last_preview=False, steps=4)
    for part, budgets in (("whole", [steps]), ("parts", [replace(steps, steps=2), steps])):
        for budget in budgets:
            # a constant rate: that of the last steps depends on the number of steps
            fit(replace(task, decay_start=1.0), task.folder / part, budget)
    whole, parts = (
        load_file(task.folder / part / "multi-view.checkpoint.safetensors")
        for part in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and "optimizer.0.exp_avg" in whole
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    key = "class_embedding.linear_2.weight"
    assert whole[f"model.unet.{key}"].abs().max() > 0


def test_the_judge_finds_nothing_wrong_with_renders_and_sees_views_and_sides_exchanged():
    scenes, evaluator = judged_groups(12), load_evaluator()
    images = images_to_tensor(render_scenes(scenes))
    verdicts = _means(images, scenes)
    assert verdicts.pop("back_as_front") == verdicts.pop("rejected") == 0
    assert min(verdicts.values()) >= 0.95
    turned = _means(images.unflatten(0, (-1, 4))[:, [0, 3, 2, 1]].flatten(0, 1), scenes)
    assert turned["facing"] == 0 and turned["all_views"] == verdicts["all_views"]
    fronts = images.unflatten(0, (-1, 4))[:, :1].expand(-1, 4, -1, -1, -1).flatten(0, 1)
    stuck = _means(fronts, scenes)
    assert stuck["back_as_front"] > 0.9 and stuck["view"] < 0.3 and stuck["same"] == 1
    other = replace(scenes, background=(scenes.background + np.arange(48) % 2) % len(BACKGROUNDS))
    changed = judge_groups(images_to_tensor(render_scenes(other)), scenes, evaluator)
    assert changed["same_background"].mean() == 0 and changed["same_color"].mean() > 0.9


def _means(images: torch.Tensor, scenes: Scenes) -> dict[str, float]:
    verdicts = judge_groups(images, scenes, load_evaluator())
    return {name: x.nanmean().item() for name, x in verdicts.items()}

"""The command that trains a multi-view model: its folder, options and pipeline."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_pipeline import write_pipeline

from limbeck.cli.main import main
from limbeck.metrics import multi_view_card
from limbeck.priors.loading import load
from limbeck.priors.mvdream import MVDream
from limbeck.world import multi_view_data
from limbeck.world.multi_view_options import MultiViewTraining, open_multi_view_training
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import render_scenes
from limbeck.world.training_options import WorldTraining, open_training


def test_a_trained_model_is_loaded_as_one_of_four_views(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(multi_view_data, "_SHARD_SIZE", 2)
    monkeypatch.setattr("limbeck.world.multi_view_denoiser.MultiViewTask.preview", lambda *a: {})
    cards = write_short_cards(monkeypatch)
    pipeline = write_pipeline(tmp_path / "tiny", "v_prediction")
    out = tmp_path / "out"
    command = [
        *["train-world", "--multi-view", f"--out={out}", f"--init-from={pipeline}"],
        *["--num-groups=2", "--batch-size=1", "--workers=1"],
    ]
    main([*command, "--steps=1"])
    main([*command, "--steps=2"])  # the number of steps may change
    assert len(cards) == 2
    main([*command, "--steps=2"])  # finished is finished
    assert len(cards) == 2
    output = capfd.readouterr()
    assert f"--model {out / 'pipeline'}" in output.out and "arning" not in output.err
    prior = load(str(out / "pipeline"), device="cpu")
    assert isinstance(prior, MVDream) and prior.group_size == 4
    assert "everything named: trained, cameras" in output.out
    shares = json.loads((out / "pipeline" / "card.json").read_text())["shares"]
    assert len(shares) == 8
    for label, row in shares.items():
        # the trained model was given true renders and the other one noise, see below
        is_true = ": trained" in label
        assert (row["object"][0], row["rejected"][0]) == (is_true, not is_true), label
    assert json.loads((out / "pipeline" / "training.json").read_text())["steps"] == 2
    assert str(tmp_path) not in (out / "pipeline" / "unet" / "config.json").read_text()
    rows = (out / "multi-view.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


def write_short_cards(monkeypatch) -> list[dict]:
    """Let cards be of two groups and one step; return those that are written.

    What trained models draw is replaced by true renders, and what others draw by noise.
    """
    written = []

    def draw(prior, scenes, *args):
        if isinstance(prior, MVDream):
            return images_to_tensor(render_scenes(scenes))
        return torch.rand(len(scenes), 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def short(folder, start):
        monkeypatch.setattr(multi_view_card, "sample_groups", draw)
        written.append(write_card(folder, start, count=2, steps=1))
        return written[-1]

    write_card = multi_view_card.write_multi_view_card
    monkeypatch.setattr(multi_view_card, "write_multi_view_card", short)
    return written


def test_another_training_is_not_continued(tmp_path):
    out = tmp_path / "out"
    open_multi_view_training(MultiViewTraining(out=out))
    open_multi_view_training(MultiViewTraining(out=out, steps=9, num_groups=5))
    with pytest.raises(ValueError, match=r"lr was 0\.00015"):
        open_multi_view_training(MultiViewTraining(out=out, lr=1e-3))
    with pytest.raises(ValueError, match="multi_view was True"):
        open_training(WorldTraining(out=out))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--steps=0", "steps must be at least 1, not 0"),
        ("--view-words=1.5", "--view-words must be in"),
        ("--init-from=nowhere", "nowhere is not a pipeline: it has no vae/"),
        ("--minutes=3", "no option is called '--minutes'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    option, message, tmp_path, capsys
):
    assert main(["train-world", "--multi-view", f"--out={tmp_path / 'out'}", option]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_device_cuda_is_refused_without_one(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        open_multi_view_training(MultiViewTraining(out=tmp_path / "out", device="cuda"))

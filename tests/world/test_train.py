"""Training of a small model: folders, time, and a whole training on own images."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTokenizer

from limbeck.cli.main import main
from limbeck.world.autoencoder import AutoencoderTask
from limbeck.world.denoiser import build_scheduler
from limbeck.world.render_cache import prepare_renders
from limbeck.world.scene import full_captions, random_scenes, render_scenes
from limbeck.world.timetable import Timetable
from limbeck.world.train import write_autoencoder
from limbeck.world.training_options import WorldTraining, open_training


def test_a_part_keeps_the_time_of_its_first_run(tmp_path):
    times = Timetable(tmp_path / "times.json")
    with times.measure("renders"):
        time.sleep(0.02)
    spent = times.total
    assert spent >= 0.02
    again = Timetable(tmp_path / "times.json")
    with again.measure("renders"):
        pass
    assert again.total == spent and again.decide("denoiser", 5.0) == 5.0
    assert again.decide("denoiser", 9.0) == 5.0


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_diffusers_has_nothing_to_say_about_the_scheduler_of_a_trained_model(prediction_type):
    config = build_scheduler(prediction_type).config
    assert config.steps_offset == 1 and config.clip_sample is False  # it warns of other values


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files that are no training"):
        open_training(WorldTraining(out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_training_with_other_options_is_not_continued(tmp_path):
    open_training(WorldTraining(out=tmp_path / "new", minutes=2.0))
    open_training(WorldTraining(out=tmp_path / "new", minutes=2.0, workers=1))
    with pytest.raises(ValueError, match=r"minutes was 2\.0.*--init-from .*pipeline"):
        open_training(WorldTraining(out=tmp_path / "new", minutes=3.0))


def test_a_training_killed_while_it_writes_the_autoencoder_goes_on(tmp_path, monkeypatch):
    prepare_renders(tmp_path / "train", 8, 1)
    net = AutoencoderTask(tmp_path / "train", tmp_path / "train").build().net

    def killed(folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(net, "save_pretrained", killed)
        write_autoencoder(net, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"train", "tokenizer"}
    write_autoencoder(net, tmp_path)
    assert len(CLIPTokenizer.from_pretrained(str(tmp_path / "tokenizer"))) > 512
    latents = AutoencoderKL.from_pretrained(tmp_path / "vae").encode(torch.zeros(1, 3, 64, 64))
    assert latents.latent_dist.mean.isfinite().all()
    assert ".part" not in (tmp_path / "tokenizer" / "tokenizer_config.json").read_text()


@pytest.mark.slow
def test_a_model_of_own_images_is_trained_within_its_time(tmp_path, capsys):
    scenes = random_scenes(200, np.random.default_rng(5))
    images, captions = render_scenes(scenes, 80), full_captions(scenes)
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for i, (image, text) in enumerate(zip(images, captions, strict=True)):
        Image.fromarray(image).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "out"
    command = ["train-world", f"--images={folder}", f"--out={out}", "--minutes=1.5", "--workers=1"]
    start = time.monotonic()
    main(command)
    assert 75 < time.monotonic() - start < 104  # 90 s and 15 %
    card = json.loads((out / "pipeline" / "card.json").read_text())
    assert card["train_images"] == 190 and card["held_out_images"] == 10
    assert card["psnr"] > 12 and card["count"] >= 28
    output = capsys.readouterr()
    assert "arning" not in output.out + output.err
    start = time.monotonic()
    main(command)
    assert time.monotonic() - start < 1  # finished is finished

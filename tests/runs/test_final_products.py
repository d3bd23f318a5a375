"""One product of a run that cannot be written costs none of the others."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import experiment, metrics_lines, record_run

from limbeck.cli.main import main
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.representations.latents import LatentParticles
from limbeck.runs import contact_sheets, images, results
from limbeck.runs.images import WEBP_MAX_SIDE, animation_size, save_animation
from limbeck.runs.loggers import TensorBoard
from limbeck.runs.recorder import is_finished
from limbeck.runs.report import pages
from limbeck.runs.report.page_images import embed_image
from limbeck.system.checkpoint import read_checkpoint, read_metadata
from limbeck.system.notices import collect_notices, display_notices

TOY = ["run", "red disc", "--model", "gaussians", "--device", "cpu", "--steps", "4"]

#: each product: where it is written from, and the files that are there without it
PRODUCTS = {
    "final images": (images, "save_final_images", {"final.png"}),
    "scores.json": (results, "score_run", {"scores.json"}),
    "progress.webp": (images, "save_animation", {"progress.webp"}),
    "turntable": (contact_sheets, "save_turntables", set()),
    "report.html": (pages, "write_report", {"report.html"}),
}
FILES = {
    "final.png",
    "scores.json",
    "progress.webp",
    "profile.json",
    "references.bib",
    "report.html",
    "checkpoint.safetensors",
}


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("no\nluck")


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_that_fails_costs_no_other_and_is_tried_again(
    product: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, name, missing = PRODUCTS[product]
    folder = tmp_path / "run"
    argv = [*TOY, "--out", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        assert main(argv) == 1
    messages = [line for line in capsys.readouterr().err.splitlines() if "could not be" in line]
    assert len(messages) == 1 and f"{product} could not be written (no luck)" in messages[0]
    assert FILES - {path.name for path in folder.iterdir()} == missing
    assert json.loads((folder / "failures.json").read_text()) == {product: "no luck"}
    if product != "report.html":
        assert f"{product} could not be written: no luck" in (folder / "report.html").read_text()
    assert main(argv) == 0
    assert {path.name for path in folder.iterdir()} >= FILES
    assert not (folder / "failures.json").exists()
    assert "could not be written" not in (folder / "report.html").read_text()
    assert [line["step"] for line in metrics_lines(folder)] == [1, 2, 3, 4]


def test_a_critic_and_files_that_fail_are_isolated_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = experiment(method=VSD(7.5, critic=SmallUNetCritic(width=8)), steps=2)
    with monkeypatch.context() as patch, collect_notices() as notices:
        patch.setattr(VSD, "save_critic", fail)
        patch.setattr(LatentParticles, "save", fail)
        with display_notices(lambda text: None):
            record_run(e, tmp_path)
    failed = json.loads((tmp_path / "failures.json").read_text())
    assert failed == {"the critic": "no luck", "the files of latents": "no luck"}
    assert len([text for text in notices if "could not be written" in text]) == 2
    assert (tmp_path / "references.bib").exists() and not is_finished(tmp_path, e)
    record_run(e, tmp_path)
    assert is_finished(tmp_path, e) and list((tmp_path / "critic").iterdir())


class BrokenLog:
    def log_metrics(self, lines: object) -> None:
        raise ConnectionError("the network is gone")

    def log_image(self, name: str, image: object, step: int) -> None:
        raise ConnectionError("the network is gone")

    def close(self) -> None:
        raise ConnectionError("the network is gone")


def test_a_log_that_fails_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorBoard, "open", lambda *_: BrokenLog())
    with display_notices(lambda text: None), collect_notices() as notices:
        record_run(experiment(), tmp_path, logger=TensorBoard())
    assert metrics_lines(tmp_path)[-1]["step"] == 12 and (tmp_path / "final.png").exists()
    stopped = [text for text in notices if "stopped working" in text]
    assert stopped == ["--logger stopped working, the run goes on without it: the network is gone"]
    assert "the log of --logger" in json.loads((tmp_path / "failures.json").read_text())


def test_a_film_wider_than_webp_is_shrunk_with_a_notice(tmp_path: Path) -> None:
    frames = []
    for i in range(2):
        frames.append(tmp_path / f"step-{i}.png")
        Image.fromarray(np.full((64, 256 * 66 - 2, 3), 100 * i, np.uint8)).save(frames[-1])
    path = tmp_path / "progress.webp"
    with display_notices(lambda text: None), collect_notices() as notices:
        save_animation(frames, path)
    (text,) = notices
    assert "shrunk from 16894 x 64 to 16383 x 62 pixels" in text
    with Image.open(path) as film:
        assert film.size == (16383, 62) and film.n_frames == 2


def test_the_frames_of_a_long_run_are_in_the_order_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    for name in ("step-100000", "step-99990", "step-00000", "step-00000-x0", "step-1000000"):
        (tmp_path / "images" / f"{name}.png").touch()
    frames: list[Path] = []
    monkeypatch.setattr(images, "save_animation", lambda paths, _: frames.extend(paths))
    results._save_animation(tmp_path)
    names = ["step-00000", "step-99990", "step-100000", "step-1000000"]
    assert [path.stem for path in frames] == names


@pytest.mark.parametrize(
    ("size", "num_frames", "expected"),
    [
        ((64, 64), 10, (256, 256)),  # enlarged by whole factors
        ((100, 100), 10, (300, 300)),
        ((16383, 100), 10, (16383, 100)),  # the largest width that WebP holds
        ((32766, 100), 10, (16383, 50)),
        ((200, 16383), 10, (200, 16383)),  # enlarging by 2 would be too high
        ((8192, 8192), 16, (4096, 4096)),  # 2**30 pixels of which 2**28 are kept
    ],
)
def test_size_of_an_animation(
    size: tuple[int, int], num_frames: int, expected: tuple[int, int]
) -> None:
    assert animation_size(size, num_frames, 256) == expected


def test_a_sheet_higher_than_webp_is_embedded_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "final.png"
    Image.new("RGB", (64, 256 * 66)).save(path)
    image = embed_image(path, 1200, False)
    assert (image.width, image.height) == (62, WEBP_MAX_SIDE)


@pytest.mark.slow
def test_1200_particles_end_with_everything(tmp_path: Path) -> None:
    with display_notices(lambda text: None), collect_notices() as notices:
        e = experiment(prompts=("a red disc",), particles=1200, steps=2, method=SDS(1.5))
        record_run(e, tmp_path)
    assert [text for text in notices if "progress.webp is shrunk from 16798 x 12" in text]
    assert {path.name for path in tmp_path.iterdir()} >= FILES
    assert not (tmp_path / "failures.json").exists()


def test_a_full_disk_during_a_run_keeps_the_last_checkpoint_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    argv = [*TOY, "--checkpoint-every", "1", "--out"]
    sync, count = os.fsync, [0]

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part"):
            count[0] += 1
            if count[0] == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main([*argv, str(folder)]) == 2
    messages = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("limbeck:")
    ]
    assert len(messages) == 1 and "error: the disk is full: cannot write " in messages[0]
    assert "the same command resumes from the last checkpoint" in messages[0]
    assert read_metadata(folder / "checkpoint.safetensors")["step"] == 2
    assert not list(folder.rglob("*.part"))
    assert main([*argv, str(folder)]) == main([*argv, str(whole)]) == 0
    one, two = (read_checkpoint(f / "checkpoint.safetensors")[0] for f in (folder, whole))
    assert all((one[name] == two[name]).all() for name in one)

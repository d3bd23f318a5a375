"""Own images: the two layouts of captions, the held-out part, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limbeck.world import image_folder
from limbeck.world.image_folder import find_captioned_images, prepare_images
from limbeck.world.render_cache import load_captions, load_images


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(image_folder, "_MIN_IMAGES", 20)


def write_images(folder, count=20, suffix=".png"):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        color = np.full((40, 60, 3), 10 * i, np.uint8)
        Image.fromarray(color).save(folder / f"{i:02d}{suffix}")
    return folder


@pytest.fixture
def folder(tmp_path):
    folder = write_images(tmp_path / "images")
    for i in range(20):
        (folder / f"{i:02d}.txt").write_text(f"gray {i}\nshade {i}\n", encoding="utf-8")
    return folder


def test_captions_stand_beside_the_images(folder):
    images = find_captioned_images(folder)
    assert [image.path.name for image in images] == [f"{i:02d}.png" for i in range(20)]
    assert images[3].captions == ("gray 3", "shade 3")


def test_captions_are_listed_as_for_diffusers(tmp_path):
    folder = write_images(tmp_path / "images")
    rows = [{"file_name": f"{i:02d}.png", "text": f"Grau {i}\u2028\u00fc"} for i in range(20)]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    assert find_captioned_images(folder)[4].captions == ("Grau 4\u2028\u00fc",)


def test_a_twentieth_is_held_out_and_all_images_are_squares_of_64(folder, tmp_path):
    prepare_images(folder, tmp_path)
    train, test = (load_images(tmp_path / part) for part in ("train", "test"))
    assert train.shape == (19, 64, 64, 3) and test.shape == (1, 64, 64, 3)
    shades = sorted([*train[:, 0, 0, 0].tolist(), *test[:, 0, 0, 0].tolist()])
    assert shades == list(range(0, 200, 10))
    first, second, third = load_captions(tmp_path / "train", 0, 3)
    assert first == third and first[0].startswith("gray") and second[0].startswith("shade")
    assert int(first[0].split()[1]) * 10 == train[0, 0, 0, 0]  # the caption is of its image


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "07.txt").unlink(), r"1 of 20 images have no caption, first .*07\.png"),
        (lambda f: (f / "07.txt").write_text(" \n"), r"the caption of .*07\.png is empty"),
        (lambda f: (f / "07.png").unlink(), "has 19 images with captions; training needs 20"),
        (
            lambda f: (f / "metadata.jsonl").write_text('{"file_name": "no.png", "text": "x"}'),
            r"line 1 of .*metadata\.jsonl names .*no\.png, which is no file",
        ),
        (
            lambda f: (f / "metadata.jsonl").write_text('{"file_name": "07.png"}'),
            "line 1 of .* has no text",
        ),
        (lambda f: (f / "metadata.jsonl").write_text("{"), "line 1 of .* is not JSON"),
        (
            lambda f: (f / "metadata.jsonl").write_text('{"file_name": "../a.png", "text": "x"}'),
            "line 1 of .* names .*: file_name must be a path below",
        ),
        (
            lambda f: (f / "07.txt").write_bytes(b"a caf\xe9\n"),
            r"07\.txt is not text in UTF-8: byte 5 is invalid",
        ),
    ],
)
def test_what_is_missing_is_named(folder, break_it, message):
    break_it(folder)
    with pytest.raises(ValueError, match=message):
        find_captioned_images(folder)


def test_a_byte_order_mark_is_no_part_of_a_caption(folder):
    (folder / "00.txt").write_text("a red mug\n", encoding="utf-8-sig")
    assert find_captioned_images(folder)[0].captions == ("a red mug",)
    rows = [json.dumps({"file_name": f"{i:02d}.png", "text": "a"}) for i in range(20)]
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8-sig")
    assert len(find_captioned_images(folder)) == 20


def test_an_unreadable_image_is_named_and_nothing_is_written(folder, tmp_path):
    (folder / "11.png").write_text("no image")
    with pytest.raises(ValueError, match=r"11\.png is not an image"):
        prepare_images(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "train" / "images.npy").exists()


def stop(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def stop_halfway(self: Path, text: str, **options: object) -> None:
    """Write half of a text and stop, as a kill does."""
    self.write_bytes(text.encode()[: len(text) // 2])
    raise KeyboardInterrupt


def test_captions_are_cached_wholly_or_not_at_all(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "write_text", stop_halfway)
        prepare_images(folder, tmp_path)
    prepare_images(folder, tmp_path)
    assert len(load_captions(tmp_path / "train", 0, 1)[0]) == len(load_images(tmp_path / "train"))
    assert not list(tmp_path.rglob("*.part"))


def test_images_of_other_captions_do_not_pass_for_these(folder, tmp_path, monkeypatch):
    prepare_images(folder, tmp_path)
    before = np.array(load_images(tmp_path / "train"))
    other = write_images(tmp_path / "other")
    for i in range(20):
        (other / f"{i:02d}.txt").write_text("other", encoding="utf-8")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(image_folder, "write_text", stop)
        patched.setattr(image_folder, "_read_square", lambda path: np.zeros((64, 64, 3), np.uint8))
        prepare_images(other, tmp_path)
    prepare_images(folder, tmp_path)
    assert np.array_equal(load_images(tmp_path / "train"), before)

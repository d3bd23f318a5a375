"""Which prompt belongs to which image of a folder."""

import json

import pytest
from PIL import Image

from limbeck.evaluation.image_sets import list_images, match_prompts, numbered_keys, read_prompts
from limbeck.system.text_lines import read_text_lines


def write_images(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def test_images_are_in_the_order_of_the_numbers_in_their_names(tmp_path):
    folder = write_images(tmp_path / "a", "img-10.png", "img-9.png", "img-1.jpg")
    (folder / "notes.txt").write_text("no image")
    assert [p.name for p in list_images(folder)] == ["img-1.jpg", "img-9.png", "img-10.png"]
    # of a run the final images, not its contact sheets
    run = write_images(tmp_path / "run", "final.png")
    write_images(run / "final", "00-00.png")
    assert [p.name for p in list_images(run)] == ["00-00.png"]


def test_equal_numbers_in_names_have_one_order(tmp_path, monkeypatch):
    folder = write_images(tmp_path, "1.png", "01.png", "2.png")
    given = [folder / name for name in ("1.png", "01.png", "2.png")]
    for listed in (given, given[::-1]):  # in what order a system lists files is not defined
        monkeypatch.setattr(type(folder), "iterdir", lambda self, listed=listed: iter(listed))
        assert [p.name for p in list_images(folder)] == ["01.png", "1.png", "2.png"]


def test_a_prompt_per_image_or_equally_many_images_per_prompt(tmp_path):
    folder = write_images(tmp_path, *(f"{i}.png" for i in range(4)))
    each = match_prompts(folder, ["duck", "mug", "duck", "car"])
    assert each.keys == (("duck", (0, 0)), ("mug", (0, 0)), ("duck", (0, 1)), ("car", (0, 0)))
    pairs = match_prompts(folder, ["duck", "mug"])
    assert pairs.keys == (("duck", (0, 0)), ("duck", (0, 1)), ("mug", (0, 0)), ("mug", (0, 1)))
    with pytest.raises(ValueError, match="4 images for 3 prompts"):
        match_prompts(folder, ["a", "b", "c"])


def test_a_prompt_given_twice_keeps_all_of_its_images(tmp_path):
    write_images(tmp_path, *(f"{i}.png" for i in range(4)))
    keys = match_prompts(tmp_path, ["duck", "duck"]).keys
    assert keys == tuple(("duck", (0, i)) for i in range(4))
    assert numbered_keys(["duck", "mug", "duck"], 2, seed=7) == (
        ("duck", (7, 0)),
        ("duck", (7, 1)),
        ("mug", (7, 0)),
        ("mug", (7, 1)),
        ("duck", (7, 2)),
        ("duck", (7, 3)),
    )


def test_prompts_by_file_name(tmp_path):
    folder = write_images(tmp_path, "b.png", "a.png")
    found = match_prompts(folder, {"b.png": "duck", "a": "mug"})
    assert [(p.name, key[0]) for p, key in zip(found.paths, found.keys, strict=True)] == [
        ("a.png", "mug"),
        ("b.png", "duck"),
    ]
    with pytest.raises(ValueError, match=r"b\.png has no prompt"):
        match_prompts(folder, {"a": "mug"})
    with pytest.raises(ValueError, match=r"no image 'c\.png'"):
        match_prompts(folder, {"a": "mug", "b": "duck", "c.png": "car"})


def test_prompt_files(tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("\ufeff# the world\na red mug\n\n  a duck \n", encoding="utf-8")
    assert read_prompts(text) == ["a red mug", "a duck"]
    for value in (["a", "b"], {"x.png": "a"}):
        path = tmp_path / "prompts.json"
        path.write_text(json.dumps(value))
        assert read_prompts(path) == value
    path.write_text('{"dreamfusion": ["a mug", "a duck"]}')  # threestudio's library
    assert read_prompts(path) == ["a mug", "a duck"]
    for content in ("[]", "{}", "[1]", '{"a": []}', '{"a": ["b"], "c": ["d"]}', "3", "{"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"prompts\.json"):
            read_prompts(path)
    table = tmp_path / "prompts.tsv"
    table.write_text('Prompt\tCategory\n42\tAbstract\na "red" mug, # 1\tArts\n')
    assert read_prompts(table) == ["42", 'a "red" mug, # 1']
    table = tmp_path / "prompts.csv"
    table.write_text('id,prompt\n1,"a mug, red"\n\n,\n')
    assert read_prompts(table) == ["a mug, red"]
    table.write_text("Prompts,Category\nA red colored car.,Colors\n")  # as DrawBench
    assert read_prompts(table) == ["A red colored car."]
    table.write_text('id,prompt\n1,"a mug, red"\n2,\n3,a duck\n')  # a duck is the third image
    with pytest.raises(ValueError, match="the prompt of row 2 is empty"):
        read_prompts(table)
    text.write_text("a duck\u2028on grass\na cat\x85here\r\n", encoding="utf-8")
    assert read_prompts(text) == read_text_lines(text) == ["a duck\u2028on grass", "a cat\x85here"]
    table.write_text("id,text\n1,a\n")
    with pytest.raises(ValueError, match="no column Prompt or Prompts, only: id, text"):
        read_prompts(table)
    text.write_text("# nothing\n")
    with pytest.raises(ValueError, match="must hold prompts"):
        read_prompts(text)
    with pytest.raises(ValueError, match="no such file"):
        read_prompts(tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "Prompt\na mug, on grass\na duck\n", "row 1 has 2 cells for 1 columns"),
        ("p.csv", 'Prompt\na duck\n"a mug\na car\n', "not a valid table: unexpected end of data"),
        ("p.jsonl", '{"tag": 1, "prompt": "a mug"}\n', "give a .txt file with one prompt per line"),
    ],
)
def test_files_that_would_give_other_prompts_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(path)


def test_empty_cells_behind_the_last_column_are_no_text(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("Prompt,note\na mug,,\na duck\n")
    assert read_prompts(path) == ["a mug", "a duck"]

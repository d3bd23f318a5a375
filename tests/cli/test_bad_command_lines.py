"""Command lines that cannot be obeyed: exit code 2, one line that says why, nothing written.

Others stand beside what they are about: ``test_main``, ``test_refused_early``, and for sweeps
``tests/sweeps/test_refusals``.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image
from refusals import refused

from limbeck.cli.main import main

TOY = "'red disc' --model gaussians"
EDIT = "edit photo.png --target-prompt b --source-prompt a"

RUN = [
    ("run ''", "a prompt is missing"),
    ("run '  '", "a prompt is missing"),
    ("run --prompts a", "--prompts has no name on the command line: limbeck run PROMPT"),
    ("run --prompt a", "--prompt has no name on the command line: limbeck run PROMPT"),
    (f"run {TOY} --particles 0", "particles must be at least 1, not 0"),
    (f"run {TOY} --lr -1", "--lr must be at least 0, not -1.0"),
    (f"run {TOY} --lr 0", "--lr must be positive, not 0.0"),
    (
        f"run {TOY} --lr 0.1 --representation.lr 0.2",
        "--lr is short for --representation.lr: give one of them",
    ),
    (
        f"run {TOY} --image a.png --reference.image b.png",
        "--image is short for --reference.image: give one of them",
    ),
    (f"run {TOY} --lr nan", "--lr must be a finite number or none, not 'nan'"),
    (f"run {TOY} --lr 1e400", "--lr must be a finite number or none, not '1e400'"),
    (f"run {TOY} --seed -1", "--seed must be at least 0, not -1"),
    (f"run {TOY} --seed 99999999999999999999", "--seed must be an integer of at most 64 bits"),
    (f"run {TOY} --precision float8", "--precision must be one of auto, float32"),
    (f"run {TOY} --particles 100000000", "100,000,000 particles"),
    (f"run {TOY} --source-prompt a b c", "--source-prompt must be one text for all"),
    (
        f"run {TOY} --method.guidance 2 --negative-prompt zebra",
        "prompt 'zebra' names nothing of this model",
    ),
    (f"run {TOY} --method dds", "this method edits images"),
    (
        f"run {TOY} --method dds --source-prompt 'blue disc'",
        "method dds edits images, and the representation latents has none: use limbeck edit IMAGE, "
        "or add --representation.images IMAGE",
    ),
    (
        f"run {TOY} --method.guidance 0 --cameras orbit --cameras.perp-neg 2 --representation nerf",
        "does not use --cameras.perp-neg: use a guidance scale other than 0",
    ),
    (f"run {TOY} --image photo.png", "--reference.image is seen by a camera"),
    (f"run {TOY} --viewer", "latents are 2D"),
    (f"run {TOY} --logger wandbb", "Did you mean wandb?"),
    (
        f"run {TOY} --timesteps.t-min 0.9 --timesteps.t-max 0.1",
        "0 <= --timesteps.t-min <= --timesteps.t-max <= 1",
    ),
    (f"run {TOY} --timesteps.low 0.9", "--timesteps.low is now --timesteps.t-min"),
    (f"run {TOY} --optimizer.decay-start 2", "--optimizer.decay-start must be in [0, 1], not 2.0"),
    (f"run {TOY} --method.guidance -- 3", "--method.guidance needs a value, a number"),
    (f"run {TOY} --device cuda:99", "device cuda:99"),
    (f"run {TOY} --out one.txt", "one.txt is a file"),
    (f"run {TOY} --out images", "images holds files already"),
    (f"run {TOY} --model.lora x.safetensors", "model 'gaussians' has no network"),
    (f"run {TOY} --runtime.compile on", "--runtime has no effect"),
    (f"run {TOY} --representation pixels --representation.images text.png", "is not an image"),
    (f"run {TOY} --representation strokes --representation.num-strokes 0", "at least 1, not 0"),
    ("run red --model dataset:empty", "empty has no images"),
    ("run red --model dataset:photo.png", "photo.png is not a folder"),
    ("run red --model mine.py:Mine", "Mine in mine.py lacks __call__, condition"),
    ("run red --model mine.py:Other", "no prior in mine.py is called 'Other'"),
    ("run red --model broken.py:Mine", "broken.py cannot be imported: SyntaxError"),
    ("run red --model raises.py:Mine", "raises.py:1 cannot be imported: RuntimeError: no"),
    ("run red --method mine.py:Mine", "Mine in mine.py is not a method"),
    ("run red --method mine.py", "mine.py must be followed by :ClassName"),
    ("run --config done --preset dreamfusion", "--config must be left out where a preset is given"),
    ("run --config bad.yaml", "bad.yaml: this is not YAML: while parsing a flow sequence"),
    ("run --config steps.yaml", "steps.yaml: steps must be an integer, not 'many'"),
    ("run --config empty", "no configuration file empty/run.yaml"),
    ("run red --preset dreamfuson", "Did you mean dreamfusion?"),
]
SAMPLE = [
    ("sample ''", "a prompt is missing"),
    (f"sample {TOY} --num-images 0", "--num-images must be at least 1, not 0"),
    (f"sample {TOY} --steps 0", "steps must be at least 1, not 0"),
    (f"sample {TOY} --guidance nan", "--guidance must be a finite number, not 'nan'"),
    (f"sample {TOY} --out done", "done holds files already"),
    ("sample zebra --model gaussians", "prompt 'zebra' names nothing of this model"),
    ("sample red --model no/such/model", "no model 'no/such/model'"),
    ("sample red --critic damaged", "damaged/run.yaml: this is not YAML"),
    ("sample red --critic done", "the critic of done belongs to the model of its run"),
]
EDITS = [
    ("edit", "an image is missing"),
    ("edit photo.png", "--target-prompt is missing"),
    ("edit photo.png --target-prompt b", "--source-prompt is missing"),
    (f"{EDIT} --mask", "--mask needs a value"),
    ("edit nowhere.png --target-prompt b --source-prompt a", "no image file nowhere.png"),
    ("edit text.png --target-prompt b --source-prompt a", "text.png is not an image"),
    ("edit empty --target-prompt b --source-prompt a", "no image file empty"),
    ("edit photo.png --target-prompt '' --source-prompt a", "--target-prompt is missing"),
    (f"{EDIT} --mask nowhere.png", "no image file nowhere.png"),
    (f"{EDIT} --mask tall.png", "a mask must have the size of its image"),
    (f"{EDIT} --method sds", "no edit method is called 'sds'"),
    (f"{EDIT} --steps 0", "--steps must be at least 1, not 0"),
    (f"{EDIT} --out images", "images holds files already"),
    (f"{EDIT} --out one.txt", "one.txt is a file"),
    (f"{EDIT} --images photo.png", "--images has no name on the command line: limbeck edit IMAGE"),
    (
        f"{EDIT} --method lusd --negative-prompt c",
        "method lusd does not use --negative-prompt c: leave it out",
    ),
    (f"{EDIT} --method.num-noises 0", "--method.num-noises must be at least 1, not 0"),
    (
        f"{EDIT} --steps 3 --method.sampling-steps 4",
        "--method.sampling-steps must be at most 3, the steps of the run, not 4",
    ),
    (
        "edit photo.png tall.png --target-prompt b --source-prompt a --mask a.png b.png c.png",
        "2 of images for 3 edits",
    ),
]
STUDIES = [
    ("study nosuch", "no study is called 'nosuch'"),
    ("study guidance more", "'more' belongs to no option"),
    ("study guidance --out images", "images holds files already"),
    ("study guidance --prompts zebra --model gaussians", "prompt 'zebra' names nothing"),
    ("study guidance --seed -1", "--seed must be at least 0, not -1"),
]
FOLDERS = [
    ("report empty", "empty is not a run folder"),
    ("report damaged", "damaged/run.yaml: this is not YAML"),
    ("report done ./done", "done is given twice: name each folder once"),
    ("report done --out images", "images is a folder"),
    ("report --folders done", "--folders has no name on the command line: limbeck report FOLDER"),
    ("plot weights uniform --out photo.png", "was not written by limbeck"),
    ("plot weights min-snr.gamma=-1", "Did you mean min-snr?"),
    ("export nowhere", "there is no folder nowhere"),
    ("export damaged", "damaged/run.yaml: this is not YAML"),
    ("export done", "latents are 2D"),
    ("export drawn", "drawn is not a run folder"),
    ("export done --format stl", "--format must be one of glb, obj, ply"),
    ("export done --particle nine", "--particle must be an integer or one of all"),
    ("export done --texture-size 3", "--texture-size must be in [16, 8192], not 3"),
    ("export done --max-faces -1", "--max-faces must be at least 4, or 0 for all, not -1"),
    ("export done --benchmark nosuch", "no benchmark is called 'nosuch'"),
    ("export done --out x.stl", "--out x.stl must end in .glb, .obj or .ply"),
    ("view done", "latents are 2D"),
    ("view empty", "empty is not a run folder"),
    ("view done --port 99999", "port must be 1 to 65535, not 99999"),
    ("ui --port 0", "port must be 1 to 65535, not 0"),
    ("ui done empty", "give one folder of runs, not 2: limbeck ui runs"),
    ("ui done/run.yaml", "is a file: give the folder that contains the runs"),
    ("list photo.png", "there is no folder photo.png"),
    ("models nosuch", "no known model has 'nosuch' in its name"),
]
EVALUATIONS = [
    ("eval", "a run folder is missing"),
    ("eval nowhere", "there is no folder nowhere"),
    ("eval images", "name their prompts with --prompts FILE"),
    ("eval damaged", "damaged/run.yaml: this is not YAML"),
    ("eval unfinished", "unfinished is unfinished, 0 of 3 steps"),
    ("eval done done", "done is given twice: name each folder once"),
    ("eval done ./done/", "done is given twice: name each folder once"),
    ("eval done linked", "linked is given twice, also as done: name each folder once"),
    ("eval images images --prompts one.txt", "images is given twice: name each folder once"),
    ("eval done --texts one.txt", "--texts needs --clip FOLDER"),
    ("eval done --out x.json", "--out needs --prompts FILE"),
    ("eval done --clip empty", "empty holds no CLIP model"),
    ("eval done --reference nowhere", "nowhere does not exist"),
    ("eval done --masks photo.png", "none of these images has a source image"),
    ("eval images --prompts nowhere.txt", "--prompts nowhere.txt: there is no such file"),
    ("eval images --prompts two.txt", "images has 1 images for 2 prompts"),
    ("eval images --prompts broken.json", "broken.json is not valid JSON"),
    ("eval images --prompts list.json", "list.json must hold prompts"),
    ("eval images --prompts latin.txt", "latin.txt is not text in UTF-8: byte 3 is invalid"),
    ("eval images --prompts none.txt", "none.txt must hold prompts"),
    ("eval empty --prompts one.txt", "empty has no images"),
    ("eval images --prompts one.txt --out one.txt", "one.txt exists and is not overwritten"),
    ("eval images --prompts one.txt --inception nowhere.pt", "there is no such file"),
]
OTHERS = [
    ("bench more", "'more' belongs to no option"),
    ("bench --methods nosuch", "no method is called 'nosuch'"),
    ("bench --edits --methods sds", "no edit method is called 'sds'"),
    ("bench --seeds 0", "--seeds must be at least 1, not 0"),
    ("bench --passes 0", "--passes must be at least 1, not 0"),
    ("bench --tuning-prompts -1", "--tuning-prompts must be at least 0, not -1"),
    (
        "bench --lr-candidates 0",
        "--lr-candidates must be positive numbers, at least one, not",
    ),
    ("bench --guidance-candidates nan", "each a finite number, not ['nan']"),
    ("bench --num-prompts 100000000", "--num-prompts must be at most 1000, not 100000000"),
    ("train-world --minutes 0", "minutes must be positive, not 0.0"),
    ("train-world --out images", "images holds files that are no training"),
    ("train-world --images images", "1 of 1 images have no caption, first images/a.png"),
    ("train-world --images empty", "empty has 0 images with captions; training needs 200"),
    (f"sweep {TOY} --out done --steps 1 2", "done holds files already"),
    ("sweep bad.yaml", "bad.yaml: this is not YAML: while parsing a flow sequence"),
    ("sweep steps.yaml", "steps.yaml: steps must be an integer, not 'many'"),
    ("--foo", "no command is called '--foo'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished, unfinished and damaged things that the command lines name."""
    folder = tmp_path_factory.mktemp("bad")
    common = ["red disc", "--model", "gaussians", "--device", "cpu"]
    assert main(["run", *common, "--steps", "1", "--out", str(folder / "done")]) == 0
    argv = [*common, "--num-images", "1", "--steps", "2"]
    assert main(["sample", *argv, "--out", str(folder / "drawn")]) == 0
    (folder / "linked").symlink_to("done")
    for name in ("empty", "images", "damaged", "unfinished"):
        (folder / name).mkdir()
    for name, size in {"photo": (32, 32), "tall": (16, 32), "images/a": (32, 32)}.items():
        Image.new("RGB", size, "red").save(folder / f"{name}.png")
    texts = {
        "text.png": "no image",
        "one.txt": "a red disc\n",
        "two.txt": "a\nb\n",
        "none.txt": "\n\n",
        "list.json": "[1, 2]",
        "broken.json": "{",
        "mine.py": "class Mine:\n    pass\n",
        "broken.py": "def (\n",
        "raises.py": "raise RuntimeError('no')\n",
        "bad.yaml": "prompts: [a\n",
        "steps.yaml": "prompts: [a]\nsteps: many\n",
        "damaged/run.yaml": "prompts: [",
        "unfinished/run.yaml": "prompts: [red disc]\nmodel: gaussians\nsteps: 3\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    return folder


@pytest.mark.parametrize("flag", ["--in-3d", "--in_3d", "--in-3d=true", "--in-3d True"])
def test_a_flag_that_chooses_the_comparison_is_read_as_any_other(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "bench", "--edits", *flag.split())
    assert message.endswith("--in-3d and --edits exclude each other: give one of them")
    assert main(["bench", "--in-3d=false", "--edits", "false", "--help"]) == 0
    assert "Compare all methods on the embedded model" in capsys.readouterr().out


def contents(folder: Path) -> dict[str, int]:
    """Every file with the time of its last change; Python's own caches of modules aside."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path): path.stat().st_mtime_ns for path in paths}


@pytest.mark.parametrize(
    ("line", "message"),
    [*RUN, *SAMPLE, *EDITS, *STUDIES, *FOLDERS, *EVALUATIONS, *OTHERS],
    ids=lambda value: value if " " in value else None,
)
def test_it_is_refused_in_one_line_and_nothing_is_written(
    line: str,
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert message in refused(capsys, *shlex.split(line))
    assert contents(folder) == before


@pytest.mark.parametrize(
    "options", ["--method lusd", "--method flow-align", "--method dds --method.guidance 1"]
)
def test_advice_on_a_negative_prompt_is_a_command_that_runs(
    options: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    edit = "edit photo.png --source-prompt red --target-prompt blue --model gaussians --dry-run"
    words = [*edit.split(), *options.split()]
    message = refused(capsys, *words, "--negative-prompt", "green")
    assert "does not use --negative-prompt green: " in message and "leave it out" in message
    assert "--perp-neg" not in message  # which limbeck edit does not have
    assert main(words) == 0, capsys.readouterr().err
    if "other than 1" in message:
        guided = [*edit.split(), *options.replace("guidance 1", "guidance 2").split()]
        assert main([*guided, "--negative-prompt", "green"]) == 0, capsys.readouterr().err

"""The page without a browser: what is filled in, started, watched, compared and refused."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("nicegui")

from nicegui import app, ui
from nicegui.testing import User
from nicegui.testing.user_simulation import user_simulation

import limbeck as lb
from limbeck.config.yaml import to_yaml
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.runs.folder_state import OUTPUT_FILE
from limbeck.studio.files import ROUTE, file_address
from limbeck.studio.jobs import Jobs
from limbeck.studio.run_output import RunOutput
from limbeck.studio.run_watch import Curve, RunWatch
from limbeck.studio.server import page_of
from limbeck.studio.viewers import Viewers
from limbeck.system.checkpoint import write_checkpoint
from limbeck.system.timing import RepeatedWork
from limbeck.training.experiment import Experiment

Scenario = Callable[[User], Awaitable[None]]


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Jobs]]:
    """The folder of the runs, and the processes of the page."""
    monkeypatch.chdir(tmp_path)
    jobs = Jobs()
    yield Path("runs"), jobs
    jobs.close()


def visit(root: Path, jobs: Jobs, scenario: Scenario, address: str = "/") -> None:
    """Open the page and act on it."""

    async def act() -> None:
        root.mkdir(exist_ok=True)
        async with user_simulation(page_of(root, jobs, Viewers())) as user:
            app.add_static_files(ROUTE, str(root))
            await user.open(address)
            await scenario(user)

    asyncio.run(act())


def text_of(user: User, marker: str) -> str:
    (element,) = user.find(marker=marker).elements
    return str(element.content if isinstance(element, ui.code) else element.text)


async def fill(user: User, marker: str, value: str) -> None:
    """Fill in a field, and wait until the fields that depend on it are there."""
    (element,) = user.find(marker=marker).elements
    element.value = value
    await asyncio.sleep(0.05)


def make_run(folder: Path, steps: int = 4, seed: int = 0) -> None:
    lb.distill(
        "a red disc", "gaussians", method=lb.methods.SDS(), steps=steps, seed=seed, out=folder
    )


def test_a_run_is_started_watched_and_finished(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        await fill(user, "prompts", "a red disc")
        await fill(user, "--model", "gaussians")
        await fill(user, "--method", "vsd")
        await fill(user, "--method.critic", "exact")
        await fill(user, "--steps", "40")
        command = text_of(user, "command")
        assert command.startswith("limbeck run 'a red disc'") and "--method.critic exact" in command
        user.find(marker="start").click()
        await user.should_see(marker="state")
        for _ in range(600):
            if text_of(user, "state") in ("finished", "failed"):
                break
            await asyncio.sleep(0.1)
        assert text_of(user, "state") == "finished", text_of(user, "output")
        assert text_of(user, "progress") == "step 40 of 40"
        assert "VSD · guidance" in text_of(user, "facts")
        (image,) = user.find(marker="image").elements
        assert image.source.partition("?")[0].endswith("/images/step-00040.png")
        (curves,) = user.find(marker="curves").elements
        assert {"residual", "gradient"} <= set(curves.value)
        (kinds,) = user.find(marker="kind").elements
        assert kinds.options[0] == "particles" and "gradient" in kinds.options
        user.find(marker="download").click()
        assert (await user.download.next()).content[:4] == b"\x89PNG"

    root, jobs = studio
    visit(root, jobs, scenario)
    (folder,) = root.iterdir()
    assert len(list((folder / "images").glob("step-?????.png"))) == 41  # every step of forty


def test_what_is_refused_is_said_and_cannot_be_started(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        user.find(marker="start").click()
        assert text_of(user, "message").startswith("a prompt is missing")
        await fill(user, "prompts", "a red disc")
        await fill(user, "--particles", "many")
        assert text_of(user, "message") == "--particles must be an integer, not 'many'"
        (button,) = user.find(marker="start").elements
        assert not button.enabled
        await fill(user, "--particles", "2")
        assert text_of(user, "message") == "" and button.enabled

    root, jobs = studio
    visit(root, jobs, scenario)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"--representation.images": "no.png"}, "no image file no.png"),
        ({"--model.lora": "no.safetensors"}, "no LoRA at no.safetensors: give a .safetensors file"),
        ({"--method": "no.py:Mine"}, "--method: no file no.py: give path/to/file.py:ClassName"),
        (
            {"--representation": "gaussian-splats", "--representation.init-from": "no"},
            "no holds no run to start from: give a run folder",
        ),
    ],
)
def test_missing_files_are_refused_before_anything_is_started(
    studio: tuple[Path, Jobs], fields: dict[str, str], message: str
) -> None:
    async def scenario(user: User) -> None:
        await fill(user, "prompts", "a red mug")
        for flag, value in fields.items():
            await fill(user, flag, value)
        assert text_of(user, "message").startswith(message)
        (button,) = user.find(marker="start").elements
        assert not button.enabled

    root, jobs = studio
    visit(root, jobs, scenario)
    assert list(root.iterdir()) == []


def test_only_the_sections_that_change_are_built_anew(studio: tuple[Path, Jobs]) -> None:
    """A field that is built anew while somebody types into it would lose the text."""

    async def scenario(user: User) -> None:
        def field_of(marker: str) -> ui.element:
            (element,) = user.find(marker=marker).elements
            return element

        size, guidance = field_of("--representation.size"), field_of("--method.guidance")
        await fill(user, "--method", "vsd")
        assert field_of("--representation.size") is size
        assert field_of("--method.guidance") is not guidance
        await fill(user, "--method.guidance", "9")
        guidance = field_of("--method.guidance")
        await fill(user, "--logger", "tensorboard")
        assert field_of("--method.guidance") is guidance and guidance.value == "9"
        assert "--method.guidance 9" in text_of(user, "command")

    visit(*studio, scenario)


def test_words_that_the_model_does_not_know_are_named(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        await fill(user, "prompts", "a purple gnu")
        await user.should_see('"a purple gnu": the model does not know "gnu"')
        (button,) = user.find(marker="start").elements
        assert button.enabled
        await fill(user, "prompts", "a red mug")
        await user.should_not_see("the model does not know")

    visit(*studio, scenario)


def test_a_run_waits_in_line_and_is_removed(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        for prompt in ("a red disc", "--a blue disc", "a green disc"):
            await fill(user, "prompts", prompt)
            user.find(marker="start").click()
            await user.should_see(marker="state")
        assert text_of(user, "state") == "waiting"
        assert text_of(user, "progress") == "waits for 2 other runs"
        await user.should_see("1 running, 2 waiting: the next one waits in line", retries=30)
        await user.should_see("waiting, number 2 in line", retries=50)
        (title,) = [run.folder.name for run in jobs.waiting if "blue" in run.folder.name]
        user.find(marker=f"remove {title}").click()
        await user.should_see("waiting, number 1 in line", retries=50)
        user.find(marker="remove").click()
        await user.should_see("Write a prompt")
        assert jobs.waiting == []
        (workers,) = user.find(marker="workers").elements
        workers.value = 2
        assert jobs.workers == 2

    root, _ = studio
    jobs = Jobs((sys.executable, "-c", "import time; time.sleep(60)"))
    visit(root, jobs, scenario)
    jobs.close()
    (folder,) = root.iterdir()  # nothing is left of those that waited
    assert folder.name.startswith("a-red-disc")


def test_a_run_that_has_failed_says_why_after_a_restart_and_can_be_removed(
    studio: tuple[Path, Jobs],
) -> None:
    async def scenario(user: User) -> None:
        assert text_of(user, "state") == "failed"
        assert text_of(user, "progress") == "limbeck: there is no such model"
        assert "limbeck: there is no such model" in text_of(user, "output")
        await user.should_see("Start again")
        user.find(marker="remove").click()
        await user.should_see("Write a prompt")

    root, jobs = studio
    (root / "disc").mkdir(parents=True)
    output = RunOutput(root / "disc" / OUTPUT_FILE)
    output.begin(["limbeck", "run", "a red disc", "--model", "nothing"])
    with output.path.open("a", encoding="utf-8") as file:
        file.write("limbeck: there is no such model\n")
    output.end(2)
    visit(root, jobs, scenario, "/?run=disc")
    assert list(root.iterdir()) == []


def test_a_run_that_lacks_a_product_is_continued(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        assert text_of(user, "state") == "failed"
        await user.should_see("progress.webp could not be written: no luck")
        await user.should_see("Continue")

    root, jobs = studio
    make_run(root / "disc")
    text = '{"progress.webp": "no luck"}'
    (root / "disc" / "failures.json").write_text(text, encoding="utf-8")
    visit(root, jobs, scenario, "/?run=disc")


def test_a_finished_run_is_looked_at_by_its_address(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        assert text_of(user, "state") == "finished"
        await user.should_not_see("Continue")
        await fill(user, "kind", "gradient")
        (image,) = user.find(marker="image").elements
        assert "-gradient.png" in image.source

    root, jobs = studio
    make_run(root / "disc")
    visit(root, jobs, scenario, "/?run=disc")


def test_an_export_is_repeated_for_a_newer_checkpoint_only(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        for exports in (1, 1, 2):
            if exports == 2:
                later = file.stat().st_mtime + 1
                os.utime(checkpoint, (later, later))
            user.find(marker="export").click()
            assert (await user.download.next(timeout=60)).content == b"x" * exports
        assert [path.name for path in file.parent.iterdir()] == ["step-00003.glb"]

    root, _ = studio
    folder, checkpoint = root / "disc", root / "disc" / "checkpoint.safetensors"
    file = folder / "export" / "step-00003.glb"
    folder.mkdir(parents=True)
    e = Experiment(("a red disc",), model="gaussians", representation=GaussianSplats(), steps=9)
    (folder / "run.yaml").write_text(to_yaml(e), encoding="utf-8")
    (folder / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n', encoding="utf-8")
    write_checkpoint(checkpoint, {}, {"step": 3})
    old = time.time() - 300  # it runs no longer
    for path in folder.iterdir():
        os.utime(path, (old, old))
    exporter = (  # writes one byte more each time
        "import pathlib, sys\n"
        "out, count = pathlib.Path(sys.argv[-1]), pathlib.Path('count')\n"
        "text = (count.read_text() if count.exists() else '') + 'x'\n"
        "out.parent.mkdir(exist_ok=True)\n"
        "assert not out.exists()\n"
        "for path in (count, out): path.write_text(text)\n"
    )
    jobs = Jobs((sys.executable, "-c", exporter))
    visit(root, jobs, scenario, "/?run=disc")
    jobs.close()


def test_curves_are_drawn_at_intervals_in_proportion_to_their_cost(
    studio: tuple[Path, Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, curves, is_due = [], RunWatch.curves, True

    def noted(watch: RunWatch) -> dict[str, Curve]:
        drawn.append(watch.step)
        return curves(watch)

    async def scenario(user: User) -> None:
        nonlocal is_due
        is_due = False
        with metrics.open("a", encoding="utf-8") as file:
            file.write('{"step": 2, "loss": 1.0}\n')
        await user.should_see("step 2 of", retries=100)
        assert drawn == [1]
        is_due = True
        for _ in range(100):  # no new metrics are needed for it
            if len(drawn) == 2:
                break
            await asyncio.sleep(0.1)
        assert drawn == [1, 2]

    root, jobs = studio
    metrics = root / "disc" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    (root / "disc" / "run.yaml").write_text("prompts: [a red disc]\n", encoding="utf-8")
    metrics.write_text('{"step": 1, "loss": 1.0}\n', encoding="utf-8")
    monkeypatch.setattr(RunWatch, "curves", noted)
    monkeypatch.setattr(RepeatedWork, "is_due", property(lambda _: is_due))
    visit(root, jobs, scenario, "/?run=disc")


def test_a_run_folder_that_is_a_link_is_looked_at_by_its_own_name(
    studio: tuple[Path, Jobs],
) -> None:
    async def scenario(user: User) -> None:
        assert text_of(user, "state") == "finished"
        (image,) = user.find(marker="image").elements
        assert image.source.startswith("/files/100%25%20%231/")

    root, jobs = studio
    make_run(root.parent / "disk" / "disc")
    root.mkdir()
    (root / "100% #1").symlink_to(root.parent.absolute() / "disk" / "disc")
    visit(root, jobs, scenario, f"/?run={quote('100% #1')}")


def test_a_page_that_is_loaded_again_has_what_was_filled_in(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        await fill(user, "prompts", "a red disc")
        await fill(user, "--steps", "40")
        command = text_of(user, "command")
        await user.open("/")
        assert text_of(user, "command") == command
        (prompts,) = user.find(marker="prompts").elements
        assert prompts.value == "a red disc"

    visit(*studio, scenario)


def test_the_options_of_a_run_fill_the_form(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        user.find(marker="use options").click()
        await asyncio.sleep(0.2)
        words = "limbeck run 'a red disc' --model gaussians --method vsd --seed 5"
        assert text_of(user, "command") == words

    root, jobs = studio
    make_run(root / "disc")
    command = "limbeck run 'a red disc' --model gaussians --method vsd --seed 5 --out runs/disc"
    (root / "disc" / "command.txt").write_text(f"{command}\n", encoding="utf-8")
    visit(root, jobs, scenario, "/?run=disc")


def test_names_of_folders_are_quoted_in_addresses(tmp_path: Path) -> None:
    path = tmp_path / "100% gut #1 ?" / "final.png"
    path.parent.mkdir()
    path.touch()
    address = file_address(tmp_path, path)
    assert address.startswith("/files/100%25%20gut%20%231%20%3F/final.png?")


@pytest.mark.parametrize("name", ["absent", "..", "../elsewhere", "/etc", "no-run"])
def test_only_runs_below_the_folder_are_looked_at(studio: tuple[Path, Jobs], name: str) -> None:
    async def scenario(user: User) -> None:
        await user.should_see("Write a prompt")
        await user.should_not_see(marker="state")

    root, jobs = studio
    (root.parent / "elsewhere").mkdir()
    (root / "no-run").mkdir(parents=True)
    visit(root, jobs, scenario, f"/?run={name}")


def test_a_damaged_run_is_said_and_costs_no_other(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        assert "run.yaml" in text_of(user, "facts")
        await user.should_see("“a red disc”")  # in the list
        await user.should_see("unreadable")

    root, jobs = studio
    make_run(root / "disc")
    (root / "damaged").mkdir()
    (root / "damaged" / "run.yaml").write_text("prompts: [", encoding="utf-8")
    visit(root, jobs, scenario, "/?run=damaged")


def test_two_runs_are_compared_on_the_page_of_the_report(studio: tuple[Path, Jobs]) -> None:
    async def scenario(user: User) -> None:
        (button,) = user.find(marker="compare").elements
        for name in ("one", "two"):
            assert not button.enabled
            user.find(marker=f"mark {name}").click()
        assert button.enabled and button.text == "Compare 2 runs"
        user.find(marker="compare").click()
        await user.should_see(marker="comparison", retries=100)
        (frame,) = user.find(marker="comparison").elements
        assert frame.props["src"].startswith("/files/comparison.html?")
        assert "allow-scripts" not in frame.props["sandbox"]
        await fill(user, "filter", "three")
        await user.should_see("no run fits the filter", retries=20)

    root, jobs = studio
    make_run(root / "one")
    make_run(root / "two", seed=1)
    visit(root, jobs, scenario)
    assert "Comparison of 2 runs" in (root / "comparison.html").read_text(encoding="utf-8")

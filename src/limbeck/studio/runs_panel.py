"""The list of runs: one is looked at, several are compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from nicegui import ui

from limbeck.runs.find_runs import find_runs
from limbeck.runs.folder_state import OUTPUT_FILE
from limbeck.runs.images import recorded_images
from limbeck.runs.reopen import last_stage
from limbeck.runs.report.run_data import read_run_data
from limbeck.studio.files import file_address
from limbeck.studio.jobs import Jobs, whole_run
from limbeck.studio.run_output import RunOutput
from limbeck.studio.run_states import run_state, setting_of, title_of, unstarted_runs

_MAX_RUNS = 60  #: the newest runs that fit the filter


@dataclass(frozen=True)
class ListedRun:
    """A run in the list.

    Attributes:
        folder: run folder, or the parent of the stages of a preset.
        title: prompts.
        setting: method, representation, model and steps.
        state: finished, running, waiting with its place, failed or stopped.
        image: its newest image; None before the first.
        has_started: whether its folder holds what can be compared.
    """

    folder: Path
    title: str
    setting: str
    state: str
    image: Path | None = None
    has_started: bool = True


def list_runs(root: Path, jobs: Jobs, wanted: str = "", limit: int = _MAX_RUNS) -> list[ListedRun]:
    """The runs that wait, the next one first, and the newest runs below a folder.

    Args:
        root: the folder.
        jobs: processes started by the Studio, and the runs that wait.
        wanted: words, all of which the name, prompts or setting contain.
        limit: at most so many.
    """
    listed, folders = list[ListedRun](), set[Path]()
    for item in _items(root, jobs):
        if len(listed) >= limit:
            break
        if item.folder.resolve() in folders:  # an earlier stage
            continue
        folders.add(item.folder.resolve())
        text = f"{item.folder} {item.title} {item.setting} {item.state}".lower()
        if all(word in text for word in wanted.lower().split()):
            listed.append(item)
    return listed


def _items(root: Path, jobs: Jobs) -> Iterator[ListedRun]:
    for waiting in jobs.waiting:
        stage = last_stage(waiting.folder)
        has_started = (stage / "run.yaml").is_file()
        item = _listed(stage, jobs) if has_started else _unstarted(waiting.folder, jobs)
        place = f"waiting, number {jobs.place(waiting.folder)} in line"
        title, setting = title_of(waiting.words[1:]), setting_of(waiting.words[1:])
        yield replace(item, title=item.title or title, setting=item.setting or setting, state=place)
    runs = [(run.changed_at, run.folder) for run in find_runs(root)]
    runs += [(_written(folder), folder) for folder in unstarted_runs(root)]
    for _, folder in sorted(runs, reverse=True):
        is_run = (folder / "run.yaml").is_file()
        yield _listed(folder, jobs) if is_run else _unstarted(folder, jobs)


def _written(folder: Path) -> float:
    return (folder / OUTPUT_FILE).stat().st_mtime


def _unstarted(folder: Path, jobs: Jobs) -> ListedRun:
    words = RunOutput(folder / OUTPUT_FILE).words[2:]
    state = run_state(folder, jobs)
    return ListedRun(folder, title_of(words), setting_of(words), state, has_started=False)


def _listed(folder: Path, jobs: Jobs) -> ListedRun:
    written = (folder / "run.yaml").stat().st_mtime_ns
    whole, title, setting = _described(folder, written)
    images = [*recorded_images(folder).get("", {}).values(), folder / "final.png"]
    image = next((path for path in reversed(images) if path.is_file()), None)
    return ListedRun(whole, title, setting, run_state(whole, jobs), image)


@lru_cache(maxsize=1000)
def _described(folder: Path, written: int) -> tuple[Path, str, str]:
    """Folder of the whole run, prompts and setting, of a folder whose options were written then."""
    try:
        data = read_run_data(folder)
        steps = "" if data.is_sampling else f"{data.config['steps']} steps"
        seed = "" if data.is_sampling else f"seed {data.config['seed']}"
        setting = [text for text in (*data.setting, steps, seed) if text]
        return whole_run(folder), data.title, ", ".join(setting)
    except (ValueError, TypeError, KeyError):
        return folder, folder.name, "unreadable"


class RunsPanel:
    """The list on the page.

    Args:
        root: folder of the runs.
        jobs: processes started by the Studio.
        look: called with the folder of the run to look at.
        compare: called with the folders of the runs to compare.
    """

    def __init__(
        self,
        root: Path,
        jobs: Jobs,
        look: Callable[[Path], None],
        compare: Callable[[Sequence[Path]], Awaitable[None]],
    ):
        self.root, self.jobs, self.look, self.compare = root, jobs, look, compare
        self.wanted = ""
        self.marked: dict[Path, None] = {}
        self.shown: list[ListedRun] = []
        workers = ui.number("Runs at the same time", value=jobs.workers, min=1, precision=0)
        workers.props("dense outlined").classes("w-full").mark("workers")
        workers.tooltip("others wait in line, and start as soon as one ends")
        workers.on_value_change(lambda event: self._set_workers(event.value))
        field = ui.input("Filter", on_change=lambda event: self._filter(event.value or ""))
        field.props("dense outlined clearable debounce=300").classes("w-full").mark("filter")
        self.button = ui.button("Compare", icon="compare", on_click=self._compare)
        self.button.props("outline").classes("w-full").mark("compare")
        self.rows()
        ui.timer(2.0, self._poll)

    @ui.refreshable_method
    def rows(self) -> None:
        """One row per run, the newest first."""
        runs = self.shown = list_runs(self.root, self.jobs, self.wanted)
        self._show_button()
        if not runs:
            text = "no run fits the filter" if self.wanted else f"no runs in {self.root} yet"
            ui.label(text).classes("text-sm text-gray-500")
        for run in runs:
            self._add_row(run)

    def _add_row(self, run: ListedRun) -> None:
        with ui.row().classes("w-full items-center no-wrap gap-1"):
            box = ui.checkbox(value=run.folder in self.marked).props("dense")
            box.mark(f"mark {run.folder.name}").tooltip("compare")
            box.classes("" if run.has_started else "invisible")
            box.on_value_change(lambda event: self._mark(run.folder, event.value))
            item = ui.item(on_click=lambda: self.look(run.folder)).classes("grow px-1 min-w-0")
            if run.image is not None:
                with item, ui.item_section().props("avatar").classes("pr-2"):
                    picture = ui.image(file_address(self.root, run.image)).classes("w-12 h-12")
                    picture.props("no-spinner no-transition fit=cover position='0 0'")
            with item, ui.item_section().classes("min-w-0"):
                ui.label(run.title).classes("text-sm break-words")
                text = f"{run.setting} · {run.state}" if run.setting else run.state
                ui.label(text).classes("text-xs text-gray-500 break-words")
                ui.label(run.folder.name).classes("text-xs text-gray-400 break-all")
            if self.jobs.place(run.folder):
                remove = ui.button(icon="close", on_click=lambda: self._remove(run.folder))
                remove.props("flat dense size=sm aria-label=remove").mark(
                    f"remove {run.folder.name}"
                )
                remove.tooltip("remove from the line")

    def _remove(self, folder: Path) -> None:
        self.jobs.remove(folder)
        self.rows.refresh()

    def _set_workers(self, count: float | None) -> None:
        """Change how many runs go on at the same time; an empty field changes nothing."""
        if count is not None and count >= 1:
            self.jobs.workers = int(count)

    def _poll(self) -> None:
        """Draw the list again if it has changed."""
        if list_runs(self.root, self.jobs, self.wanted) != self.shown:
            self.rows.refresh()

    def _filter(self, wanted: str) -> None:
        self.wanted = wanted
        self.rows.refresh()

    def _mark(self, folder: Path, is_marked: bool) -> None:
        if is_marked:
            self.marked[folder] = None
        else:
            self.marked.pop(folder, None)
        self._show_button()

    def _show_button(self) -> None:
        count = len(self.marked)
        self.button.text = f"Compare {count} runs" if count > 1 else "Compare: mark two runs"
        self.button.set_enabled(count > 1)

    async def _compare(self) -> None:
        await self.compare(list(self.marked))

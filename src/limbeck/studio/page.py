"""The page: the form and the list of runs at the left, the run that is looked at beside them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from nicegui import ui
from nicegui.events import GenericEventArguments

from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.runs.reopen import best_stage, last_stage
from limbeck.runs.report.pages import write_report
from limbeck.runs.run_command import RunCommand
from limbeck.studio.files import file_address, name_below
from limbeck.studio.jobs import Jobs
from limbeck.studio.new_run_panel import Draft, NewRunPanel
from limbeck.studio.options_form import OptionsForm
from limbeck.studio.run_panel import FRAME, RunPanel
from limbeck.studio.run_states import is_unstarted, run_state
from limbeck.studio.runs_panel import RunsPanel
from limbeck.studio.viewers import Viewers

_WELCOME = (
    "Write a prompt, choose a recipe or a method, and press Start. The run appears here while it "
    "goes on: its images or its 3D asset, and its curves. It is an ordinary run folder, made by "
    "the command that the form shows."
)


#: long lines of code are wrapped, the icon that copies them is not pale, and tooltips are narrow
_CSS = """.nicegui-code :is(pre, code) {
  white-space: pre-wrap; word-break: keep-all; overflow-wrap: anywhere; padding-right: 36px;
}
.nicegui-code-copy { opacity: 1 !important; }
.q-tooltip { max-width: min(360px, 90vw) !important; white-space: normal; font-size: 12px; }"""
_IMAGES = 25  #: recorded images of a 2D run


def often(command: RunCommand) -> list[str]:
    """The words that let a 2D run record more images than otherwise, to be watched.

    In 3D an image has meshes with it, which take longer.
    """
    is_3d = not isinstance(command.experiment.camera_sampler, NoCamera)
    if is_3d or command.options.image_every:
        return []
    return ["--image-every", str(max(command.experiment.steps // _IMAGES, 1))]


class StudioPage:
    """What one browser window shows.

    Args:
        root: folder of the runs.
        jobs: processes started by the Studio.
        viewers: 3D viewers.
        draft: what was filled in last, in any window.
        shown: name of the run below ``root`` to look at first; empty for none.
    """

    def __init__(
        self, root: Path, jobs: Jobs, viewers: Viewers, draft: Draft, shown: str = ""
    ) -> None:
        self.root, self.jobs, self.viewers, self.draft = root, jobs, viewers, draft
        ui.colors(primary="#b83b4d")
        ui.add_css(_CSS)
        with ui.header().classes(
            "items-center py-1 px-3 bg-white text-black border-b border-gray-300"
        ):
            menu = ui.button(icon="menu").props("flat dense color=black aria-label=menu")
            ui.label("Limbeck Studio").classes("text-lg font-medium")
            ui.label(str(root)).classes("text-sm text-gray-500 break-all max-sm:hidden")
        with ui.left_drawer(value=False, bordered=True) as self.drawer:
            self._add_left()
        self.drawer.props("show-if-above width=360 breakpoint=900")
        self.is_beside = True  # on a narrow screen the drawer covers the run
        self.drawer.on("on-layout", self._note_layout)
        menu.on_click(self.drawer.toggle)
        self.main = ui.column().classes("w-full max-w-screen-2xl p-2 gap-2")
        folder = self._find(shown)
        if folder is not None:
            self.look(folder)
        else:
            self.welcome()

    def welcome(self) -> None:
        """Show no run."""
        self.main.clear()
        with self.main:
            button = ui.button("New run", icon="add", on_click=self.drawer.show)
            button.classes("min-[900px]:hidden")  # on a narrow screen the form is hidden
            ui.label(_WELCOME).classes("text-gray-600 max-w-prose")

    def leave(self) -> None:
        """Show no run, as there is nothing left of the one that was looked at."""
        ui.navigate.history.replace("/")  # before the button that was pressed is gone
        self.welcome()

    def _add_left(self) -> None:
        with ui.tabs().props("dense").classes("w-full") as tabs:
            new, runs = ui.tab("New run"), ui.tab("Runs")
        with ui.tab_panels(tabs, value=new).classes("w-full") as self.left:
            with ui.tab_panel(new).classes("p-0 pt-3 gap-3"):
                self.form()
            with ui.tab_panel(runs).classes("p-0 pt-3 gap-2"):
                RunsPanel(self.root, self.jobs, self.look, self.compare)

    @ui.refreshable_method
    def form(self) -> None:
        """The form of a new run."""
        NewRunPanel(self.start, self.draft, self.line_text)

    def use_options(self, words: Sequence[str]) -> None:
        """Fill the form in with the options of a run.

        Args:
            words: what stood behind ``limbeck run``.
        """
        try:
            self.draft.form = OptionsForm.of(words)
        except ValueError as error:
            ui.notify(str(error), type="warning")
            return
        self.form.refresh()
        self.left.value = "New run"
        if not self.is_beside:
            self.drawer.show()

    def _find(self, name: str) -> Path | None:
        """The run folder of a name below the root, also a link; None if it is none."""
        root = self.root.absolute()
        folder = Path(os.path.normpath(root / name))  # of a name with .. it lies elsewhere
        is_below = bool(name) and Path(os.path.normpath(root)) in folder.parents
        if is_below and (last_stage(folder) / "run.yaml").is_file():
            return folder
        if not is_below:
            return None
        is_known = self.jobs.place(folder) or self.jobs.find("run", folder) is not None
        return folder if is_known or is_unstarted(folder) else None

    def _note_layout(self, event: GenericEventArguments) -> None:
        self.is_beside = bool(event.args)

    def start(self, command: RunCommand, words: list[str]) -> None:
        """Start a run or let it wait in line; show it if it goes on, waits or has finished."""
        folder = self.root / command.folder.name
        if run_state(folder, self.jobs) in ("stopped", "failed"):
            try:
                self.jobs.start_run(words, folder, often(command))
            except (ValueError, OSError) as error:
                ui.notify(str(error), type="negative")
                return
        self.look(folder)

    def line_text(self) -> str:
        """How many runs go on and wait, for the form; empty if a run starts at once."""
        running, waiting = self.jobs.running, len(self.jobs.waiting)
        if running < self.jobs.workers:
            return ""
        texts = [f"{running} running", f"{waiting} waiting"] if waiting else [f"{running} running"]
        return f"{', '.join(texts)}: the next one waits in line"

    def look(self, folder: Path) -> None:
        """Show a run."""
        self.main.clear()
        with self.main:
            RunPanel(self.root, folder, self.jobs, self.viewers, self.use_options, self.leave)
        name = name_below(self.root, folder)
        ui.navigate.history.replace(f"/?run={quote(name)}")
        self._uncover()

    def _uncover(self) -> None:
        if not self.is_beside:
            self.drawer.hide()

    async def compare(self, folders: Sequence[Path]) -> None:
        """Show the comparison of several runs, the page of ``limbeck report``."""
        try:
            page = await asyncio.to_thread(write_report, [best_stage(f) for f in folders])
        except ValueError as error:
            ui.notify(str(error), type="negative")
            return
        self._uncover()
        self.main.clear()
        with self.main:
            frame = ui.element("iframe").classes(FRAME).style("height: 85vh")
            frame.props("sandbox='allow-same-origin allow-popups'").mark("comparison")
            frame.props["src"] = file_address(self.root, page)

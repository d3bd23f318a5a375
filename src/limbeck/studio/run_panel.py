"""The run that is looked at: its state, images or 3D asset, curves, report and output, live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from nicegui import ui

from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.runs.folder_state import OUTPUT_FILE
from limbeck.runs.reopen import read_experiment
from limbeck.runs.report.tables import seconds_text
from limbeck.runs.snapshots_3d import SnapshotFolder
from limbeck.studio.curve_charts import CurveCharts
from limbeck.studio.files import file_address
from limbeck.studio.jobs import Jobs, continuing_words
from limbeck.studio.run_output import RunOutput
from limbeck.studio.run_states import is_unstarted, remove_unstarted, run_state, title_of
from limbeck.studio.run_watch import RunWatch
from limbeck.studio.viewers import Viewers
from limbeck.system.timing import RepeatedWork

_COLORS = {
    "finished": "positive",
    "running": "primary",
    "starting": "primary",
    "waiting": "blue-grey",
    "failed": "negative",
}
FRAME = "w-full border border-gray-300 rounded"  #: classes of what shows another page
_MAX_SHARE = 0.05  #: of the time, spent on the curves: their cost grows with the steps
_IN_3D = "3D"  #: the view that is a viewer and no image
_NEWEST = -1
_NO_OUTPUT = f"What a run that the Studio has started prints, in {OUTPUT_FILE} of its folder."


class RunPanel:
    """The panel of one run.

    Args:
        root: folder of the runs, whose files the page can show.
        folder: run folder, or the parent of the stages of a preset.
        jobs: processes started by the Studio.
        viewers: 3D viewers.
        use_options: called with the words behind ``limbeck run`` that made the run.
        leave: called once there is nothing more to look at.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        jobs: Jobs,
        viewers: Viewers,
        use_options: Callable[[Sequence[str]], None],
        leave: Callable[[], None],
    ) -> None:
        self.root, self.jobs, self.viewers = root, jobs, viewers
        self.use_options, self.leave = use_options, leave
        self.watch, self.printed = RunWatch(folder), RunOutput(folder / OUTPUT_FILE)
        self.is_3d = self.is_damaged = self.has_shown_failure = self.has_new_metrics = False
        self.drawing = RepeatedWork(_MAX_SHARE)
        self.described: Path | None = None  # the stage whose settings are shown
        self.steps, self.shown_step = 0, _NEWEST
        self._add_head()
        with ui.tabs().props("dense align=left inline-label").classes("w-full") as self.tabs:
            live = ui.tab("Live", icon="visibility")
            report = ui.tab("Report", icon="description")
            ui.tab("Output", icon="terminal")
        with ui.tab_panels(self.tabs, value=live).classes("w-full"):
            with ui.tab_panel(live).classes("p-0 pt-2"):
                self._add_live()
            with ui.tab_panel(report).classes("p-0 pt-2"):
                self.report = ui.element("iframe").classes(FRAME)
                # same origin for its films, but no scripts
                self.report.props("sandbox='allow-same-origin allow-popups'").mark("report")
                self.report.style("height: 75vh")
            with ui.tab_panel("Output").classes("p-0 pt-2"):
                self.output = ui.code(_NO_OUTPUT, language="text")
                self.output.classes("w-full text-xs").mark("output")
        self.tabs.on_value_change(self._show_report)
        self.refresh()
        ui.timer(1.0, self.refresh)

    def _add_head(self) -> None:
        with ui.row().classes("w-full items-center gap-3"):
            self.title = ui.label(self.watch.folder.name).classes("text-xl font-medium break-words")
            self.state = ui.badge("starting").mark("state")
            ui.space()
            again = ui.button("Use options", icon="content_copy", on_click=self._use_options)
            again.props("flat").mark("use options").tooltip("fill the form in as for this run")
            self.stop = ui.button("Stop", icon="stop", on_click=self._stop).props("outline")
            self.resume = ui.button("Continue", icon="play_arrow", on_click=self._continue)
            self.resume.props("outline").mark("continue")
            self.remove = ui.button("Remove", icon="close", on_click=self._remove)
            self.remove.props("outline").mark("remove")
            self.export = ui.button("Export .glb", icon="save_alt", on_click=self._export)
            self.export.props("outline").mark("export")
            self.download = ui.button("Images", icon="download", on_click=self._download)
            self.download.props("outline").mark("download")
        self.facts = ui.label().classes("text-sm text-gray-500").mark("facts")
        self.notices = (
            ui.label().classes("text-sm text-amber-800 whitespace-pre-line").mark("notices")
        )
        self.bar = ui.linear_progress(0, show_value=False).props("rounded size=8px")
        self.progress = ui.label("waiting for the first step").classes("text-sm").mark("progress")

    def _add_live(self) -> None:
        with ui.element("div").classes("grid grid-cols-1 xl:grid-cols-2 gap-6 w-full"):
            with ui.column().classes("w-full gap-2"):
                self.kind = ui.toggle(["particles"], value="particles").props("dense no-caps")
                self.kind.mark("kind").on_value_change(self._draw)
                self.image = ui.image().classes("w-full").mark("image")
                self.image.style("max-height: 70vh")
                self.image.props("fit=contain no-spinner no-transition")
                self.viewer = ui.element("iframe").classes(FRAME)
                self.viewer.style("height: 70vh").mark("viewer")
                with ui.row().classes("w-full items-center no-wrap") as self.time:
                    self.slider = ui.slider(min=0, max=1, step=1, value=0).props("snap")
                    # by the user only: the page itself moves it to the newest step
                    self.slider.on("update:model-value", self._pick_step, throttle=0.1)
                    self.at = ui.label().classes("text-sm whitespace-nowrap").mark("at")
            with ui.column().classes("w-full gap-2"):
                self.charts = CurveCharts()

    def refresh(self) -> None:
        """Show what is new in the folder."""
        self.has_new_metrics |= self.watch.refresh()
        self._describe()
        self._show_state()
        if self.has_new_metrics and self.drawing.is_due:
            with self.drawing.measure():
                self.charts.show(self.watch.curves())
            self.has_new_metrics = False
        self._draw()
        self._show_report()

    def _describe(self) -> None:
        """Show the prompts and settings of a stage once they are written."""
        stage = self.watch.stage
        if not self.watch.has_started:
            self.title.text = self._unstarted_title()
            return
        if self.described == stage:
            return
        self.described = stage
        try:
            data, experiment = self.watch.data, read_experiment(stage)
        except ValueError as error:
            self.facts.text, self.is_damaged = str(error), True
            return
        self.title.text = data.title
        self.is_3d = not isinstance(experiment.camera_sampler, NoCamera)
        self.image.style("image-rendering: auto" if self.is_3d else "image-rendering: pixelated")
        prefix = "" if stage == self.watch.folder else f"stage {stage.name} · "
        self.facts.text = prefix + " · ".join([*data.facts, data.representation])
        self.steps = experiment.steps

    def _unstarted_title(self) -> str:
        """The prompts of a run that has not written its options, by its command."""
        place = self.jobs.place(self.watch.folder)
        words = self.jobs.waiting[place - 1].words[1:] if place else self.printed.words[2:]
        return title_of(words) or self.watch.folder.name

    def _show_state(self) -> None:
        watch, folder = self.watch, self.watch.folder
        state = "unreadable" if self.is_damaged else run_state(folder, self.jobs)
        is_running, is_idle = state in ("starting", "running"), state in ("stopped", "failed")
        self.state.text = state
        self.state.props(f"color={_COLORS.get(state, 'grey')}")
        self.stop.set_visibility(self.jobs.is_running(folder))
        self.resume.set_visibility(is_idle)
        self.resume.text = "Continue" if watch.has_started else "Start again"
        self.remove.set_visibility(state == "waiting" or (is_idle and is_unstarted(folder)))
        self.export.set_visibility(self.is_3d and watch.step > 0 and not is_running)
        self.download.set_visibility((watch.stage / "final.png").is_file())
        self.notices.text = "\n".join(watch.notices)
        self.output.content = self.printed.tail or _NO_OUTPUT
        self._show_progress(state)
        if state == "failed" and not self.has_shown_failure and self.printed.tail:
            self.tabs.value = "Output"
        self.has_shown_failure = state == "failed"

    def _show_progress(self, state: str) -> None:
        """Show how far the run is, its place in line, or why it has failed."""
        step, steps, place = self.watch.step, self.steps, self.jobs.place(self.watch.folder)
        text = "" if place else "before the first step"
        if steps:
            self.bar.value = step / steps
            left = self.watch.seconds_left(steps) if state == "running" else 0.0
            more = f", about {seconds_text(left)} left" if left >= 1 else ""
            text = f"step {step} of {steps}{more}"
        if place:
            before = self.jobs.running + place - 1
            waits = f"waits for {before} other {'run' if before == 1 else 'runs'}"
            text = f"{text}; {waits}" if text else waits
        if state == "failed" and self.printed.last_line:
            text = self.printed.last_line
        self.progress.text = text

    def _draw(self) -> None:
        """Show the chosen kind of image, at the chosen step or the newest."""
        images = self.watch.images()
        kinds = list(images) or ["particles"]
        if self.is_3d and SnapshotFolder(self.watch.stage).steps():
            kinds = [_IN_3D, *kinds]
        if kinds != self.kind.options:
            first = _IN_3D in kinds and _IN_3D not in self.kind.options
            self.kind.options = kinds
            self.kind.value = _IN_3D if first else self.kind.value
            self.kind.update()
        self.kind.set_visibility(bool(images) or _IN_3D in kinds)
        is_viewer = self.kind.value == _IN_3D
        if is_viewer and "src" not in self.viewer.props:
            self.viewer.props["src"] = self.viewers.address(self.watch.folder)
        self.viewer.set_visibility(is_viewer)
        steps = list(images.get(self.kind.value, {}))
        self.image.set_visibility(bool(steps) and not is_viewer)
        self.time.set_visibility(len(steps) > 1 and not is_viewer)
        if not steps or is_viewer:
            return
        step = self.shown_step if self.shown_step in steps else steps[-1]
        self.slider.props["max"] = len(steps) - 1
        self.slider.value = steps.index(step)
        self.at.text = f"step {step}"
        url = file_address(self.root, images[self.kind.value][step])
        if self.image.source != url:
            self.image.set_source(url)

    def _pick_step(self) -> None:
        steps = list(self.watch.images().get(self.kind.value, {}))
        if not steps:
            return
        index = min(int(self.slider.value), len(steps) - 1)
        self.shown_step = _NEWEST if index == len(steps) - 1 else steps[index]
        self._draw()

    def _show_report(self) -> None:
        """Load the report, if it is looked at and is not the one that was loaded."""
        pages = (self.watch.folder / "report.html", self.watch.stage / "report.html")
        page = next((page for page in pages if page.is_file()), None)
        if self.tabs.value == "Report" and page is not None:
            self.report.props["src"] = file_address(self.root, page)

    def _use_options(self) -> None:
        try:
            self.use_options(continuing_words(self.watch.folder))
        except ValueError as error:
            ui.notify(str(error), type="warning")

    def _stop(self) -> None:
        self.jobs.stop(self.watch.folder)
        ui.notify("stopping after this step, with a checkpoint")

    def _continue(self) -> None:
        try:
            self.jobs.start_run(continuing_words(self.watch.folder), self.watch.folder)
        except (ValueError, OSError) as error:
            ui.notify(str(error), type="warning")
        self.refresh()

    def _remove(self) -> None:
        """Take the run out of the line; if it has written nothing, nothing is left of it."""
        folder = self.watch.folder
        self.jobs.remove(folder)
        remove_unstarted(folder)
        if folder.exists():
            self.refresh()
        else:
            self.leave()

    async def _export(self) -> None:
        """Export the asset as .glb, unless that was done for this checkpoint, and hand it over."""
        try:
            file = self.watch.export_file()
        except ValueError as error:
            ui.notify(str(error), type="warning")
            return
        if not self.watch.is_exported(file):
            file.unlink(missing_ok=True)  # of an older checkpoint, and never overwritten
            job = self.jobs.start_export(self.watch.folder, file)
            ui.notify("exporting, which takes some seconds")
            while job.is_running:
                await asyncio.sleep(0.2)
            if not file.is_file():
                ui.notify(job.output.last_line or "no file", type="negative")
                return
        self._send(file)

    def _download(self) -> None:
        self._send(self.watch.stage / "final.png")

    def _send(self, path: Path) -> None:
        """Let the browser save a file."""
        name = f"{self.watch.folder.name}{path.suffix}"
        ui.download.from_url(file_address(self.root, path), name)

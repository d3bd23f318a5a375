"""The form that starts a run: prompts, a recipe or a method, and all other options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from limbeck.priors.loading import unknown_word_notices
from limbeck.runs.run_command import RunCommand
from limbeck.studio.options_form import BASICS, FormField, OptionsForm

#: sections that are open at first, by the option that their options belong to
_OPEN = ("--method",)
_SECTION = "w-full border border-gray-300 rounded"
_FIELD = "dense outlined stack-label hide-bottom-space"


@dataclass
class Draft:
    """What was filled in last, from which a window starts that is opened or loaded again.

    Attributes:
        form: the form.
    """

    form: OptionsForm


class Section(NamedTuple):
    """Fields that belong to one option, as they are shown.

    Attributes:
        title: its name, and the component that is chosen.
        fields: the fields.
        values: what they show.
    """

    title: str
    fields: list[FormField]
    values: list[str]


class NewRunPanel:
    """The form on the page.

    Args:
        start: called with the command that the form asks for, and its words.
        draft: what the fields show at first; every change is kept there.
        line_text: says how many runs the next one waits for.
    """

    def __init__(
        self,
        start: Callable[[RunCommand, list[str]], None],
        draft: Draft,
        line_text: Callable[[], str],
    ):
        self.form, self.start, self.draft = deepcopy(draft.form), start, draft
        self.opened = set(_OPEN)
        prompts = ui.textarea("Prompts, one per line", value="\n".join(self.form.prompts))
        prompts.props(f"{_FIELD} autogrow placeholder='a striped red mug'").classes("w-full")
        prompts.mark("prompts").on_value_change(self._set_prompts)
        self.basics: dict[str, ui.element] = {}
        self._add_basics()
        self.message = ui.label().classes("text-negative text-sm").mark("message")
        self.notices = ui.column().classes("text-xs text-amber-800 gap-1").mark("notices")
        self.button = ui.button("Start", icon="play_arrow", on_click=self._start)
        self.button.classes("w-full").mark("start")
        line = ui.label(line_text()).classes("text-xs text-gray-500").mark("line")
        ui.timer(1.0, lambda: line.set_text(line_text()))
        self.command = ui.code("", language="bash").mark("command")
        self.command.classes("w-full text-xs")
        ui.label("All other options").classes("text-sm text-gray-500 mt-2")
        self.container = ui.column().classes("w-full")
        self.sections: dict[str, ui.element] = {}
        self._show_sections({})
        self._show_command()

    def _add_basics(self) -> None:
        """Add the fields that a beginner needs, which stay while others come and go."""
        fields = {field.flag: field for field in self.form.fields()}
        with ui.element("div").classes("grid grid-cols-2 gap-3 w-full"):
            for flag in BASICS:
                self.basics[flag] = self._add_field(fields[flag])

    def _update_basics(self) -> None:
        """Show the defaults that the chosen preset, method and model have."""
        for field in self.form.fields():
            element = self.basics.get(field.flag)
            if isinstance(element, ui.select):
                shown = self._value(field) or None
                if shown is not None and shown not in element.options:
                    element.options.append(shown)
                element.set_value(shown)
                element.props["clearable"] = field.flag in self.form.values
            elif isinstance(element, ui.input):
                element.set_value(self.form.values.get(field.flag, ""))
                element.props["placeholder"] = field.default or "not set"

    def _sections(self) -> dict[str, Section]:
        """The sections, by the option that their options belong to."""
        fields = self.form.fields()
        values = {field.flag: self._value(field) for field in fields}
        groups = dict[str, list[FormField]]()
        for field in fields:
            parent = field.flag.partition(".")[0] if "." in field.flag else ""
            if field.flag not in BASICS:
                groups.setdefault(parent, []).append(field)
        return {
            parent: Section(
                f"{parent.removeprefix('--')}: {values.get(parent, '')}".rstrip(": ") or "more",
                groups[parent],
                [values[field.flag] for field in groups[parent]],
            )
            for parent in sorted(groups, key=lambda group: group not in _OPEN)
        }

    def _show_sections(self, before: dict[str, Section]) -> None:
        """Build the sections that have changed; what is typed into others meanwhile is kept."""
        after = self._sections()
        if list(after) != list(before):
            self.container.clear()
            with self.container:
                self.sections = {parent: ui.element("div").classes("w-full") for parent in after}
            before = {}
        for parent, section in after.items():
            if section != before.get(parent):
                self.sections[parent].clear()
                with self.sections[parent]:
                    self._add_section(parent, section)

    def _add_section(self, parent: str, section: Section) -> None:
        panel = ui.expansion(section.title, value=parent in self.opened).classes(_SECTION)
        with panel, ui.element("div").classes("grid grid-cols-2 gap-3 w-full"):
            for field in section.fields:
                self._add_field(field)
        panel.on_value_change(lambda event: self._note_opened(parent, event))

    def _add_field(self, field: FormField) -> ui.element:
        """Add a field: empty means its default, which it shows."""
        value, label = self.form.values.get(field.flag), field.label
        if "." in field.flag:
            parents = field.flag.removeprefix("--").split(".")[1:]
            label = " ".join(part.replace("-", " ") for part in parents)
        if field.kind == "switch":
            element = ui.switch(label, value=(value or field.default) == "true")
            element.props("dense").classes("text-xs")
        elif field.kind == "choice":
            shown = value or field.default or None
            element = ui.select(
                list(dict.fromkeys([*field.names, *([shown] if shown else [])])),
                label=label,
                value=shown,
                with_input=field.is_open,
                new_value_mode="add-unique" if field.is_open else None,
                clearable=not field.default or value is not None,
            ).props(_FIELD)
        else:
            element = ui.input(label, value=value or "").props(f"{_FIELD} debounce=300")
            element.props["placeholder"] = field.default or "not set"
        element.classes("w-full").mark(field.flag).tooltip(f"{field.flag}: {field.help}")
        element.on_value_change(lambda event: self._set(field, event.value))
        return element

    def _value(self, field: FormField) -> str:
        return self.form.values.get(field.flag, field.default)

    def _note_opened(self, parent: str, event: ValueChangeEventArguments) -> None:
        (self.opened.add if event.value else self.opened.discard)(parent)

    def _set_prompts(self, event: ValueChangeEventArguments) -> None:
        lines = (event.value or "").splitlines()
        self.form.prompts = tuple(line.strip() for line in lines if line.strip())
        self._show_command()

    def _set(self, field: FormField, value: object) -> None:
        """Take the value of a field over; a choice changes what other options there are."""
        text = str(value).lower() if isinstance(value, bool) else str(value or "")
        before = self._sections() if field.kind == "choice" else {}
        try:
            self.form.set(field.flag, text)
        except ValueError as error:  # a class of one's own that cannot be read
            self._show_error(str(error))
            return
        if field.kind == "choice":
            self._update_basics()
            self._show_sections(before)
        self._show_command()

    def _show_command(self) -> None:
        self.draft.form = deepcopy(self.form)
        self.notices.clear()
        try:
            self.command.content = self.form.command
            if self.form.prompts or self.form.values:
                experiment = self.form.read().experiment
                self._show_notices(unknown_word_notices(experiment.model, experiment.all_prompts))
            self._show_error("")
        except ValueError as error:
            self._show_error("" if not self.form.prompts else str(error))

    def _show_notices(self, texts: Sequence[str]) -> None:
        with self.notices:
            for text in texts:
                ui.label(text)

    def _show_error(self, text: str) -> None:
        self.message.text = text
        self.button.set_enabled(not text)

    def _start(self) -> None:
        try:
            command = self.form.read()
        except ValueError as error:
            self.message.text = str(error)
            return
        self.start(command, self.form.words)

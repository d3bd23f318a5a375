"""Writes the table of docs/editing.md from the methods: `python docs/editing_tables.py`."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from limbeck.config.discovery import choices, component_name
from limbeck.methods.base import EditedModel, EditMethod, Method
from limbeck.runs.edit_options import EditOptions, options_for

EDITING = Path(__file__).parent / "editing.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
HEAD = "| method | models | method options | steps | optimizer, lr | timesteps | weight |\n"
RULE = "|---|---|---|---|---|---|---|\n"
TITLES: Mapping[EditedModel, str] = {
    "small": "small",
    "diffusion": "diffusion",
    "flow": "flows",
    "flux": "Flux",
    "instructions": "instructions",
}


def changed(component: Any, *always: str) -> list[str]:
    """The options of a component that are not its defaults, and some always."""
    texts = []
    for f in fields(component):
        value = getattr(component, f.name)
        if f.name in always or value != f.default:
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            texts.append(f"{f.name.replace('_', '-')} {text}")
    return texts


def named(component: Any, *always: str) -> str:
    """The name of a component and its options."""
    return ", ".join([f"`{component_name(type(component))}`", *changed(component, *always)])


def cells(options: EditOptions) -> str:
    """The cells of a row that depend on method and kind of model."""
    optimizer = f"{named(options.optimizer)}, {options.lr:.3g}"
    method = ", ".join(changed(options.method, "guidance", "source_guidance"))
    times = named(options.timesteps, "t_min", "t_max", "t", "t_start")
    parts = method, f"{options.steps:,}", optimizer, times, named(options.weight)
    return " | ".join(parts)


def rows(method: type[EditMethod]) -> list[tuple[str, str]]:
    """Kinds of models, and the cells that they share."""
    kinds: dict[str, list[str]] = {}
    for kind in get_args(EditedModel):
        if kind != "instructions" or not method.needs_source:
            kinds.setdefault(cells(options_for(method, kind)), []).append(TITLES[kind])
    return [(", ".join(found), text) for text, found in kinds.items()]


def table() -> str:
    """A row per setting, with the methods and kinds of models that have it."""
    methods: dict[tuple[str, str], list[str]] = {}
    for name, cls in choices(Method).items():
        if issubclass(cls, EditMethod):
            for row in rows(cls):
                methods.setdefault(row, []).append(f"[{name}](methods/{name}.md)")
    lines = [
        f"| {', '.join(names)} | {kinds} | {text} |" for (kinds, text), names in methods.items()
    ]
    return HEAD + RULE + "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table of today."""
    before, rest = EDITING.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    EDITING.write_text(page(), encoding="utf-8")

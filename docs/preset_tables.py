"""Writes the table of docs/presets/index.md from the presets: `python docs/preset_tables.py`."""

from pathlib import Path

from limbeck.config.discovery import choices, component_name
from limbeck.diffusion.model_options import Model
from limbeck.priors.catalog import KNOWN_MODELS, KnownModel
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset

PRESETS = Path(__file__).parent / "presets"
INDEX = PRESETS / "index.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
HEAD = "| recipe | paper | stages of `world` | stages of `full` | models of `full` |\n"
RULE = "|---|---|---|---|---|\n"


def stages(preset: type[Preset], size: str) -> dict[str, Experiment]:
    """The stages of a size; none if the preset refuses it."""
    try:
        return preset(size=size).stages(("a prompt",))
    except ValueError:
        return {}


def summary(found: dict[str, Experiment]) -> str:
    """Each stage as what is optimized, by which method, in how many steps."""
    cells = []
    for name, e in found.items():
        parts = component_name(type(e.representation)), component_name(type(e.method))
        cells.append(f"{name}: `{parts[0]}` by `{parts[1]}`, {e.steps:,} steps")
    return "; ".join(cells)


def model_name(e: Experiment) -> str:
    """The model of a stage as people call it."""
    assert isinstance(e.model, Model)
    for known in KNOWN_MODELS:
        if e.model.name in (known.repo_id, *known.mirrors):
            return plain_name(known)
    return f"`{e.model.name}`"


def plain_name(known: KnownModel) -> str:
    """The name of a published model without what is said about it."""
    return known.name.partition(" (")[0]


def weights(preset: type[Preset]) -> str:
    """The published models of a preset, its default first; of its own kind all."""
    own = [plain_name(known) for known in KNOWN_MODELS if known.family in preset.model_families]
    default = model_name(next(iter(stages(preset, "full").values())))
    return "; ".join(dict.fromkeys([default, *own]))


def table() -> str:
    """One row per preset."""
    rows = []
    for name, preset in choices(Preset).items():
        page = f"[{name}]({name}.md)" if (PRESETS / f"{name}.md").is_file() else name
        about = (preset.__doc__ or "").strip().splitlines()[0].rstrip(".")
        world = stages(preset, "world")
        embedded = (
            f"{summary(world)}, on {model_name(next(iter(world.values())))}" if world else "-"
        )
        full = summary(stages(preset, "full"))
        rows.append(f"| {page} | {about} | {embedded} | {full} | {weights(preset)} |")
    return HEAD + RULE + "\n".join(rows) + "\n"


def index() -> str:
    """The page with the table of today."""
    before, rest = INDEX.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    INDEX.write_text(index(), encoding="utf-8")

"""The YAML file of a sweep, which ``limbeck sweep`` writes and users do."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from limbeck.config.discovery import union_members
from limbeck.config.option_types import option_type
from limbeck.config.strict_yaml import parse_yaml
from limbeck.sweeps.expansion import (
    SEED,
    Axes,
    Range,
    Search,
    Sweep,
    expand_values,
    flatten,
    nest,
    option_key,
)
from limbeck.sweeps.planned_runs import ExtraOptions
from limbeck.system.files import slug
from limbeck.system.folder_lock import LOCK_FILE
from limbeck.training.experiment import Experiment

SWEEP_FILE = "sweep.yaml"
LOGS = "logs"  #: folder of what the runs print, in the folder of a sweep
_SECTIONS = ("grid", "zip", "random", "seeds", "optuna")


def read_sweep(path: Path) -> Sweep:
    """Read a sweep from a YAML file: options of all runs, and grid, zip, random and seeds.

    Raises:
        ValueError: if it cannot be read; the message names the file.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}: give a YAML file of a sweep, or prompts")
    try:
        plain = parse_yaml(path.read_text(encoding="utf-8-sig"))
        if not isinstance(plain, dict):
            raise ValueError(f"a sweep maps options to values (steps: 500), not {plain!r:.60}")
        return _sweep_of(plain)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: byte {error.start} is invalid") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _sweep_of(plain: Mapping[str, Any]) -> Sweep:
    rest = {str(key): value for key, value in plain.items()}
    if "optuna" in rest and "random" in rest:
        raise ValueError("optuna and random exclude each other: give one of them")
    searches = "optuna" in rest
    if searches:
        rest["random"] = rest.pop("optuna")
    sections = {name: rest.pop(name, None) or {} for name in ("grid", "zip", "random")}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"{name} maps options to lists of values, not {section!r:.60}")
    search = _search_of(sections["random"]) if searches else None
    draws, draw_seed = sections["random"].pop("draws", 0), sections["random"].pop("draw_seed", 0)
    draws_name = "optuna.trials" if searches else "random.draws"
    seed_name = "optuna.draw_seed" if searches else "random.draw_seed"
    for name, value in ((draws_name, draws), (seed_name, draw_seed)):
        if type(value) is not int:
            raise ValueError(f"{name} must be an integer, not {value!r}")
    seeds = rest.pop("seeds", ())
    seeds = expand_values(seeds if isinstance(seeds, list | tuple) else [seeds])
    _check_sections(rest)
    fixed = flatten(rest)
    values = {name: _values(section) for name, section in sections.items()}
    together = values["grid"] | values["zip"] | values["random"]
    axes = {
        name: {
            key: own if _takes_text(key, fixed, together) else expand_values(own)
            for key, own in section.items()
        }
        for name, section in values.items()
    }
    return Sweep(fixed, **axes, draws=draws, draw_seed=draw_seed, seeds=seeds, search=search)


def _check_sections(names: Iterable[str]) -> None:
    """Refuse names that are nearly those of a section; other unknown ones are refused later."""
    options = Experiment.__dataclass_fields__.keys() | ExtraOptions.__dataclass_fields__.keys()
    for name in names:
        nearest = difflib.get_close_matches(name, _SECTIONS, 1)
        if nearest and name.partition(".")[0] not in options:
            raise ValueError(
                f"no option or section is called {name!r}. Did you mean {nearest[0]}? Sections: "
                f"{', '.join(_SECTIONS)}"
            )


def _search_of(section: dict[str, Any]) -> Search:
    """What a section ``optuna`` searches for; taken out of it."""
    words = [word for word in ("maximize", "minimize") if word in section]
    if len(words) != 1:
        raise ValueError("optuna needs one score to search for: write maximize: SCORE, or minimize")
    section["draws"] = section.pop("trials", 0)
    return Search(str(section.pop(words[0])), words[0] == "maximize")


def _values(section: Mapping[str, Any]) -> Axes:
    """The values of each option of a section."""
    return {
        option_key(str(key)): tuple(values) if isinstance(values, list) else (values,)
        for key, values in section.items()
    }


def _takes_text(key: str, fixed: Mapping[str, Any], axes: Axes) -> bool:
    """Whether an option takes no number in any of the components that it may belong to.

    Args:
        key: the option.
        fixed: options of all runs.
        axes: values of the others.
    """
    head = key.partition(".")[0]
    cls: type = ExtraOptions if head in ExtraOptions.__dataclass_fields__ else Experiment
    parents = {name: own for name, own in axes.items() if key.startswith(f"{name}.")}
    hints = []
    for chosen in itertools.product(*parents.values()):
        with suppress(ValueError):  # no such component, which is refused where runs are planned
            plain = nest({**fixed, **dict(zip(parents, chosen, strict=True))})
            hint = option_type(cls, key, plain)
            hints += [] if hint is None else [hint]
    members = {member for hint in hints for member in union_members(hint)}
    return bool(members) and not {int, float} & members


def sweep_to_yaml(sweep: Sweep) -> str:
    """A sweep as a file that ``limbeck sweep`` reads."""
    plain: dict[str, Any] = dict(sweep.fixed)
    for name in ("grid", "zip", "random"):
        axes = {
            key: [_plain_value(v) for v in values] for key, values in getattr(sweep, name).items()
        }
        if axes and name == "random":
            number = "trials" if sweep.search is not None else "draws"
            axes |= {number: sweep.draws, "draw_seed": sweep.draw_seed}  # type: ignore[dict-item]
            if sweep.search is not None:
                name = "optuna"
                axes |= {sweep.search.word: sweep.search.score}  # type: ignore[dict-item]
        if axes:
            plain[name] = axes
    if sweep.seeds:
        plain["seeds"] = list(sweep.seeds)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def _plain_value(value: Any) -> Any:
    return str(value) if isinstance(value, Range) else value


def is_sweep_folder(folder: Path) -> bool:
    """Whether a folder is one of a sweep: beside a file of the user's own there is no lock."""
    return (folder / SWEEP_FILE).is_file() and (folder / LOCK_FILE).is_file()


def default_sweep_folder(sweep: Sweep, file: Path | None) -> Path:
    """``runs/sweep-NAME``: after the file, or after the first prompt and the varied options.

    Values and seeds are not part of it, so that a sweep grows in its folder. The file that a sweep
    wrote stands for its folder.
    """
    if file is not None and file.name == SWEEP_FILE and is_sweep_folder(file.parent):
        return file.parent
    if file is not None:
        return Path("runs") / f"sweep-{slug(file.stem)}"
    prompts = sweep.fixed.get("prompts") or ["prompts"]
    first = prompts if isinstance(prompts, str) else str(prompts[0])
    names = [key.replace("_", "-").replace(".", "-") for key in sweep.varied if key != SEED]
    return Path("runs") / "-".join(["sweep", slug(first), *names])[:120]

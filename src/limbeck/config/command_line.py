"""Dataclasses from the command line: its words become a mapping, which the YAML reader builds."""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from limbeck.config import discovery
from limbeck.config.discovery import base_of, closest_name, hints_of, name_of, union_members
from limbeck.config.renamed import renamed_option
from limbeck.config.yaml import build, component_class, describe_type, join

_METAVARS = {int: "INT", float: "NUM", str: "TEXT", Path: "PATH"}


def documentation(cls: type) -> tuple[str, dict[str, str]]:
    """Summary of a class, and the text of each option in the ``Attributes:`` of its docstring."""
    import docstring_parser

    summary, texts = "", dict[str, str]()
    for part in reversed(cls.__mro__):
        text = (part.__doc__ or "").replace("``", "")
        parsed = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)
        texts |= {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
        summary = parsed.short_description or ""
    return summary, texts


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        flag: such as ``--method.critic.rank``.
        name: of the field.
        hint: type of the value.
        default: value if it is left out; MISSING if it must be given.
        owner: dataclass of the field.
        chosen: class that the value names, if it names a component.
    """

    flag: str
    name: str
    hint: Any
    default: Any
    owner: type
    chosen: type | None = None

    @property
    def negation(self) -> str:
        """Flag that sets it to false."""
        return re.sub(r"(?<=\.)(?=[^.]*$)|(?<=^--)(?=[^.]*$)", "no-", self.flag)

    @property
    def tuple_args(self) -> tuple[Any, ...]:
        """Types of the elements of a tuple, with an Ellipsis for any number; empty if it is none."""
        return typing.get_args(self.hint) if typing.get_origin(self.hint) is tuple else ()

    def take(self, words: list[str]) -> Any:
        """Remove the value from the front of ``words`` and return it as in YAML."""
        count = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        if self.hint is bool:
            count = int(words[:1] != [] and words[0].lower() in ("true", "false"))
        elif self.tuple_args[1:] != (...,):
            count = min(count, len(self.tuple_args) or 1)
        values, words[:count] = words[:count], []
        return self.plain(values)

    def plain(self, values: list[str]) -> Any:
        """The value as in YAML."""
        if self.tuple_args:
            return values
        if not values and self.hint is not bool:
            cure = f"write {self.flag}=VALUE for one that begins with --"
            raise ValueError(f"{self.flag} needs {describe_type(self.hint)}; {cure}")
        if base_of(self.hint) is not None and values != ["none"]:
            return {"name": values[0]}
        return values[0] if values else True

    def add_to(self, parser: Any) -> None:
        """Add the help of the option to an argparse parser."""
        kind = next(h for h in union_members(self.hint) if h is not type(None))
        base, args, default = base_of(kind), typing.get_args(kind), self.default
        text = documentation(self.owner)[1].get(self.name, "")
        layout: dict[str, Any] = {"metavar": _METAVARS.get(args[0] if args else kind, "VALUE")}
        if base is not None and inspect.isabstract(base):
            layout["metavar"] = "NAME"
            text += f" One of {', '.join(discovery.choices(base))}, or FILE.py:CLASS."
            default = None if default is None else name_of(type(default))
        elif base is not None:
            layout["metavar"], text = "NAME", documentation(base)[1]["name"]
        elif typing.get_origin(kind) is Literal:
            layout["metavar"] = f"{{{','.join(map(str, args))}}}"
        elif self.tuple_args:
            layout["nargs"] = "*" if args[1:] == (...,) else len(args)
            default = " ".join(map(str, default)) if isinstance(default, tuple) else default
        elif kind is bool:
            layout = {"action": "store_true"}
        if default not in (None, MISSING, "", False):
            text += f" (default: {default})"
        flags = [self.flag, self.negation] if default is True else [self.flag]
        parser.add_argument(*flags, help=text.replace("%", "%%"), **layout)


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The last value of ``flag VALUE`` or ``flag=VALUE`` in ``argv``; None if there is none."""
    value = None
    for word, following in zip(argv, [*argv[1:], "--"], strict=True):
        name, equals, joined = word.partition("=")
        if word == "--":
            break
        if name.replace("_", "-") == flag:
            value = joined if equals else None if following.startswith("--") else following
    return value


def list_options(
    cls: type, default: Any = None, argv: Sequence[str] = (), parent: str = "--"
) -> Iterator[Option]:
    """The options of a dataclass, and of its components as chosen in ``argv`` or by default."""
    for name, hint in hints_of(cls).items():
        flag, base = join(parent, name), base_of(hint)
        if flag.endswith(".name"):
            continue  # the flag of the component itself
        value, word = discovery.default_of(cls, name, default), value_of(argv, flag)
        chosen = component_class(base, word, flag, value) if base and word != "none" else None
        if base is None or inspect.isabstract(base) or "name" in hints_of(base):
            yield Option(flag, name, hint, value, cls, chosen)
        if chosen is not None:
            yield from list_options(chosen, value, argv, flag)


def _put(mapping: dict[str, Any], flag: str, value: Any) -> None:
    *parents, last = flag.removeprefix("--").replace("-", "_").split(".")
    for key in parents:
        mapping = mapping.setdefault(key, {})
    mapping[last] = value


def parse(
    sections: Sequence[tuple[type, Any]],
    argv: Sequence[str],
    prog: str = "limbeck",
    about: str = "",
    positional: str = "",
    short: Sequence[str] = (),
    lenient: bool = False,
) -> list[Any]:
    """Read dataclasses from a command line.

    Args:
        sections: dataclasses, each with an instance that holds the defaults, or None.
        argv: words of the command line, options in any order.
        prog: the command, for the help.
        about: what the command does, for the help.
        positional: name of the option that collects the words that belong to no flag.
        short: options that ``--help`` lists, beside those of the components named in ``argv``;
            ``--help all`` lists all. Empty: all.
        lenient: ignore ``--help`` and what is not an option of these dataclasses.

    Raises:
        ValueError: if a word is not understood or a value is refused.
        SystemExit: after the help.
    """
    found = [o for cls, default in sections for o in list_options(cls, default, argv)]
    options = {option.flag: option for option in found if option.name != positional}
    negations = {o.negation: o.flag for o in found if o.hint is bool}
    mapping, loose, words = dict[str, Any](), list[str](), list(argv)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if word == "--":
            loose, words = loose + words, []
        elif flag in options:
            option = options[flag]
            _put(mapping, flag, option.plain([value]) if equals else option.take(words))
        elif flag in negations and not equals:
            _put(mapping, negations[flag], "false")
        elif word in ("-h", "--help", "--help-all") and not lenient:
            listed = () if word == "--help-all" or words[:1] == ["all"] else short
            print(_help(found, argv, prog, about, positional, listed), end="")
            raise SystemExit(0)
        elif re.match(r"-(?!\.?\d|$)", word) and not lenient:
            raise _unknown(flag, options, f"{prog} --help{' all' if short else ''} lists all")
        elif not positional and not lenient:
            raise ValueError(f"{word!r} belongs to no option; options are written --NAME VALUE")
        else:
            loose.append(word)
    built = []
    for cls, default in sections:
        own = {key: value for key, value in mapping.items() if key in hints_of(cls)}
        if positional in hints_of(cls) and (loose or type(default) is not cls):
            own[positional] = loose
        built.append(build(cls, own, "--", default))
    return built


def _unknown(flag: str, options: dict[str, Option], advice: str) -> ValueError:
    """The error for an unknown flag."""
    if renamed := renamed_option(flag):
        return renamed
    parent, _, last = flag.rpartition(".")
    chosen = options[parent].chosen if parent in options else None
    prefix = f"{parent}." if chosen else "--"
    names = [known.removeprefix(prefix) for known in options if known.startswith(prefix)]
    guess = closest_name(flag.removeprefix(prefix), names)
    hint = f" Did you mean {prefix}{guess}?" if guess else ""
    if chosen is None:
        return ValueError(f"no option is called {flag!r}.{hint} {advice}")
    component, known = f"{parent} {name_of(chosen)}", ", ".join(names) or "none"
    return ValueError(f"{component} has no option {last!r}.{hint} It takes: {known}")


class _HelpFormatter(argparse.HelpFormatter):
    """Does not break the names of options and components at their hyphens."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def _help(
    options: Sequence[Option],
    argv: Sequence[str],
    prog: str,
    about: str,
    positional: str,
    short: Sequence[str],
) -> str:
    """The help text, at most 100 columns wide."""
    by_flag = {option.flag: option for option in options}
    noun = positional.removesuffix("s").upper()
    epilog = f"{prog} --help all lists all options; with --method NAME, --help those of a method."
    if short:
        named = tuple(f"{flag}." for flag in by_flag if value_of(argv, flag) is not None)
        nested = [option for option in options if option.flag.startswith(named)]
        options = [by_flag[f"--{name}"] for name in short] + nested
    width = min(shutil.get_terminal_size().columns, 100) - 2
    parser = argparse.ArgumentParser(
        usage=f"{prog}{f' [{noun} ...]' if noun else ''} [OPTIONS]",
        description=about,
        epilog=epilog if short else None,
        formatter_class=partial(_HelpFormatter, max_help_position=26, width=width),
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for option in options:
        parent = option.flag.rpartition(".")[0]
        if parent not in groups:
            summary = documentation(option.owner)[0] if parent else None
            chosen = by_flag[parent].chosen if parent in by_flag else None
            title = f"{parent} {name_of(chosen) if chosen else ''}" if parent else "options"
            groups[parent] = parser.add_argument_group(title, summary)
        if option.name == positional:
            text = documentation(option.owner)[1].get(positional, "")
            groups[parent].add_argument(positional, metavar=noun, help=text)
        else:
            option.add_to(groups[parent])
    return parser.format_help()

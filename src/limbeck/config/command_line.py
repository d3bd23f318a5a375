"""Dataclasses from the command line: its words become a mapping, which the YAML reader builds."""

from __future__ import annotations

import inspect
import itertools
import re
import shlex
import shutil
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING
from functools import cache
from typing import Any, Literal, NamedTuple, NoReturn

from limbeck.config.comparison import format_value
from limbeck.config.discovery import (
    base_of,
    choices,
    component_name,
    option_name,
    options_of,
    union_members,
    unknown_name,
)
from limbeck.config.renamed import current_option
from limbeck.config.stray_words import (
    refuse_dash,
    refuse_negated_value,
    refuse_open_schedule,
    refuse_second_value,
    refuse_stray,
)
from limbeck.config.yaml import (
    build,
    component_class,
    describe_type,
    join,
    takes_schedule,
    to_plain,
)


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        flag: option as typed, such as ``--method.critic.rank``.
        name: name of the field.
        hint: type of the value.
        default: value if the option is left out; MISSING if it must be given.
        owner: dataclass of the field.
        chosen: class that the value names, if it names a component.
    """

    flag: str
    name: str
    hint: Any
    default: Any
    owner: type
    chosen: type | None

    @property
    def parent(self) -> str:
        """Flag of the component that the option belongs to; empty if none."""
        return self.flag.rpartition(".")[0]


@cache
def documentation(cls: type) -> tuple[str, dict[str, str]]:
    """Summary of a class, and the text of each option in the ``Attributes:`` of its docstring."""
    import docstring_parser

    summary, texts = "", dict[str, str]()
    for part in reversed(cls.__mro__):
        text = (part.__doc__ or "").replace("``", "")
        parsed = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)
        texts |= {
            option_name(p.arg_name): " ".join((p.description or "").split()) for p in parsed.params
        }
        summary = parsed.short_description or ""
    return summary, texts


def list_options(
    cls: type, default: Any = None, argv: Sequence[str] = (), parent: str = "--"
) -> Iterator[Option]:
    """The options of a dataclass and of its components.

    Args:
        cls: the dataclass.
        default: instance whose values are the defaults if it is a ``cls``.
        argv: words of a command line that choose the components; others are as by default.
        parent: flag that the options belong to.
    """
    for name, (hint, value) in options_of(cls, default).items():
        flag, base = join(parent, name), base_of(hint)
        if flag.endswith(".name"):
            continue  # the value of the component's own flag
        chosen = component_class(base, value_of(argv, flag), flag, value) if base else None
        if base is None or inspect.isabstract(base) or "name" in options_of(base):
            yield Option(flag, name, hint, value, cls, chosen)
        if chosen is not None:
            yield from list_options(chosen, value, argv, flag)


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The last value of ``flag VALUE`` or ``flag=VALUE`` in ``argv``; None if there is none."""
    value = None
    for word, following in itertools.pairwise([*argv, "--"]):
        name, equals, joined = word.partition("=")
        if word == "--":
            break
        if name.replace("_", "-") == flag:
            value = joined if equals else None if following.startswith("--") else following
    return value


def without_options(argv: Sequence[str], *flags: str) -> list[str]:
    """The words of a command line without some options, each of one value."""
    kept, words = list[str](), list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*kept, word, *words]
        flag, equals, _ = word.partition("=")
        if flag.replace("_", "-") not in flags:
            kept.append(word)
        elif not equals:
            del words[:1]
    return kept


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
        positional: option that takes the words that belong to no flag.
        short: options that ``--help`` lists, with those of the components named in ``argv``;
            ``--help all`` lists all. Empty: all.
        lenient: ignore ``--help``, other options, and words that belong to no flag.

    Raises:
        ValueError: if a word is not understood or a value is refused.
        SystemExit: after the help.
    """
    found = [o for cls, default in sections for o in list_options(cls, default, argv)]

    def print_help(is_full: bool) -> NoReturn:
        print(_help(found, argv, prog, about, positional, () if is_full else short))
        raise SystemExit(0)

    mapping, loose = _sort_words(found, argv, prog, positional, lenient, print_help)
    if loose and not (positional or lenient):
        raise ValueError(f"{loose[0]!r} belongs to no option; options are written --NAME VALUE")
    if loose or any(o.name == positional and o.default is MISSING for o in found):
        mapping[positional] = loose
    return [
        build(cls, {k: v for k, v in mapping.items() if k in options_of(cls)}, "--", default)
        for cls, default in sections
    ]


def _sort_words(
    found: Sequence[Option],
    argv: Sequence[str],
    prog: str,
    positional: str,
    lenient: bool,
    print_help: Callable[[bool], NoReturn],
) -> tuple[dict[str, Any], list[str]]:
    """The values of options in nested mappings, and the words that belong to no flag."""
    hints = {o.flag: o.hint for o in found if o.name != positional}
    scheduled = {o.flag for o in found if takes_schedule(o.owner, o.hint)}
    lists = {o.flag for o in found if isinstance(o.default, tuple) and o.default}  # can be emptied
    negations = {_negation(o): o.flag for o in found if o.hint is bool}
    mapping, loose, words = dict[str, Any](), list[str](), list(argv)
    given = dict[str, Any]()
    previous = ""  # the option that the last word belonged to
    while words:
        word = words.pop(0)
        flag, equals, joined = word.partition("=")
        flag = flag.replace("_", "-")
        if word == "--":
            loose, words = loose + words, []
        elif flag in hints:
            value = joined if equals else _take_value(flag, hints[flag], words, flag in lists)
            if flag in scheduled and not lenient:
                refuse_open_schedule(flag, value, words)
            refuse_second_value(given, flag, value)
            _put(mapping, f"{flag}.name" if base_of(hints[flag]) else flag, value)
            previous = flag
        elif flag in negations:
            refuse_negated_value(flag, negations[flag], words, bool(equals))
            refuse_second_value(given, negations[flag], "false")
            _put(mapping, negations[flag], "false")
            previous = flag
        elif lenient:
            continue
        elif word in ("-h", "--help", "--help-all"):
            print_help(word == "--help-all" or words[:1] == ["all"])
        elif re.match(r"-(?!\.?\d|$)", word):
            raise _refused_flag(word, found, prog, positional)
        else:
            refuse_dash(word)
            if previous:
                refuse_stray(word, previous, hints.get(previous, bool), bool(loose), positional)
            loose, previous = [*loose, word], ""
    return mapping, loose


def _take_value(flag: str, hint: Any, words: list[str], can_be_emptied: bool) -> Any:
    """Remove the value of an option from the front of ``words``; a list by default may get none."""
    count = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    args = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    if hint is bool and not (count and words[0].lower() in ("true", "false")):
        return "true"
    if not count and not can_be_emptied:
        cure = f"write {flag}=VALUE for one that begins with --"
        raise ValueError(f"{flag} needs a value, {describe_type(hint)}; {cure}")
    count = count if args[1:] == (...,) else min(count, len(args) or 1)
    values, words[:count] = words[:count], []
    return values if args else values[0]


_MAX_GUESSES = 3  #: options that an error suggests

#: how a number that changes over the run is written
_SCHEDULES = (
    "SCHEDULE: a number that changes over the run, in quotes: 'linear 100 7.5' from the first step "
    "to the last (or cosine, exponential), or parts: '15 until .5 then 7.5'"
)


def _put(mapping: dict[str, Any], flag: str, value: Any) -> None:
    """Set the value of a dotted flag in nested mappings."""
    *parents, last = flag.removeprefix("--").replace("-", "_").split(".")
    for key in parents:
        if not isinstance(mapping.get(key), dict):
            mapping[key] = {}
        mapping = mapping[key]
    mapping[last] = value


def _negation(option: Option) -> str:
    return join(option.parent or "--", f"no-{option.name}")


def _title(parent: str, found: Sequence[Option]) -> str:
    """The flag of a component and the name of its class."""
    chosen = next((o.chosen for o in found if o.flag == parent), None)
    return f"{parent} {component_name(chosen)}" if chosen else parent


def _refused_flag(word: str, found: Sequence[Option], prog: str, positional: str) -> ValueError:
    """The error for a word that begins with - and is no option of the command."""
    flag = word.partition("=")[0].replace("_", "-")
    noun = positional.removesuffix("s")
    if positional and flag in (f"--{positional}", f"--{noun}"):
        return ValueError(f"{flag} has no name on the command line: {prog} {noun.upper()} ...")
    error = unknown_option(flag, [o for o in found if o.name != positional])
    is_text = " " in flag or (word[:2] != "--" and "Did you mean" not in str(error))
    if positional and is_text:
        cure = f"a {noun} that begins with - stands behind --: {prog} -- {shlex.quote(word)}"
        return ValueError(f"no option is called {word!r}; {cure}")
    return error


def unknown_option(flag: str, found: Sequence[Option]) -> ValueError:
    """The error for an option that does not exist, with its new or the most similar name.

    Args:
        flag: the option as typed.
        found: the options that exist.
    """
    current = "--"
    for name in flag.lstrip("-").replace("-", "_").split("."):
        owners = {o.owner for o in found if (o.parent or "--") == current}
        bases = [base_of(o.hint) for o in found if o.flag == current and not owners]
        owners.update(cls for base in bases if base for cls in choices(base).values())
        new = {current_option(cls, name) for cls in owners} - {name}
        current = join(current, min(new, default=name))
    if current.lstrip("-") != flag.lstrip("-"):
        return ValueError(f"{flag} is now {current}")
    parent, _, name = flag.rpartition(".")
    names = [o.name.replace("_", "-") for o in found if o.parent == parent]
    component = next((o for o in found if o.flag == parent and base_of(o.hint)), None)
    if component is not None:
        error = unknown_name(f"option of {_title(parent, found)}", name, names)
        return ValueError(f"{error}{_owners(component, name)}")
    if parent and names:
        return unknown_name(f"option of {_title(parent, found)}", name, names)
    if parent and all(o.flag != parent for o in found):
        return unknown_option(parent, found)  # --methd.guidance: it is --methd that is unknown
    below = [o.flag for o in found if o.parent and o.flag.endswith(f".{flag.lstrip('-')}")]
    if below:  # an option of a component without the flag of the component
        nearest = sorted(below, key=lambda own: own.count("."))[:_MAX_GUESSES]
        return ValueError(f"no option is called {flag!r}. Did you mean {' or '.join(nearest)}?")
    return unknown_name("option", flag, [o.flag for o in found if not o.parent])


def _owners(component: Option, name: str) -> str:
    """The choices for a component that have an option, as the end of a message; empty if none."""
    base = base_of(component.hint)
    owners = [
        choice
        for choice, cls in (choices(base) if base else {}).items()
        if name.replace("-", "_") in options_of(cls)
    ]
    return f". {name!r} belongs to {component.flag} {' or '.join(owners)}" if owners else ""


def _help(
    found: Sequence[Option],
    argv: Sequence[str],
    prog: str,
    about: str,
    positional: str,
    short: Sequence[str],
) -> str:
    words = f" [{positional.removesuffix('s').upper()} ...]" if positional else ""
    found = [o._replace(default=MISSING) if o.name == positional else o for o in found]
    shown = [o for name in short for o in found if o.flag == f"--{name}"] or found
    named = tuple(f"{o.flag}." for o in found if short and value_of(argv, o.flag) is not None)
    shown = [*shown, *(o for o in found if o.flag.startswith(named))]
    width = min(shutil.get_terminal_size().columns, 100)
    lines = [f"usage: {prog}{words} [OPTIONS]", "", *textwrap.wrap(about, width)]
    for parent in dict.fromkeys(o.parent for o in shown):
        members = [o for o in shown if o.parent == parent]
        summary = documentation(members[0].owner)[0] if parent else ""
        lines += ["", f"{_title(parent, found) or 'options'}:", *textwrap.wrap(summary, width)]
        for option in members:
            usage = words[2:-1] if option.name == positional else _usage(option)
            text = textwrap.wrap(help_text(option), width - 26, break_on_hyphens=False)
            if len(usage) > 22:
                lines.append(f"  {usage}")
                usage = ""
            pairs = itertools.zip_longest([usage], text, fillvalue="")
            lines += [f"  {left:24}{right}".rstrip() for left, right in pairs]
    if any(takes_schedule(option.owner, option.hint) for option in shown):
        lines += ["", *textwrap.wrap(_SCHEDULES, width, break_on_hyphens=False)]
    if short:
        footer = (
            f"All options: {prog} --help all. Those of one choice: {prog} --method NAME --help; "
            "likewise of a representation, a timestep schedule or any other, also beside --preset."
        )
        lines += ["", *textwrap.wrap(footer, width, break_on_hyphens=False)]
    return "\n".join(lines)


def _usage(option: Option) -> str:
    """The flag of an option and its metavariable."""
    kind = next(member for member in union_members(option.hint) if member is not type(None))
    args = typing.get_args(kind)
    if kind is bool:
        return _negation(option).replace("no-", "[no-]", 1) if option.default else option.flag
    if typing.get_origin(kind) is Literal:
        return f"{option.flag} {{{','.join(map(str, args))}}}"
    if typing.get_origin(kind) is tuple:
        return " ".join([option.flag, *("..." if a is ... else a.__name__.upper() for a in args)])
    if kind is float and takes_schedule(option.owner, option.hint):
        return f"{option.flag} FLOAT|SCHEDULE"
    return f"{option.flag} {'NAME' if base_of(kind) else kind.__name__.upper()}"


def help_text(option: Option) -> str:
    """The documentation of an option, the components that can be chosen, and its default."""
    text, base = documentation(option.owner)[1].get(option.name, ""), base_of(option.hint)
    if base is not None and not inspect.isabstract(base):
        text = documentation(base)[1]["name"]
    elif base is not None:
        text += f" {describe_type(base).replace('one', 'One', 1)}."
    plain = None if option.default is MISSING else to_plain(option.default, option.hint)
    if plain is None or plain is False or plain in ("", []):
        return text
    return f"{text} (default: {plain if isinstance(plain, str) else format_value(plain)})"

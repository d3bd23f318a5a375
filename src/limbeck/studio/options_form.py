"""The options of ``limbeck run`` as typed fields, and the command line that their values make."""

from __future__ import annotations

import itertools
import shlex
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, NamedTuple

from limbeck.config.command_line import Option, help_text, list_options
from limbeck.config.comparison import format_value
from limbeck.config.discovery import base_of, choices
from limbeck.config.yaml import to_plain
from limbeck.priors.loading import EMBEDDED_MODELS
from limbeck.runs.early_checks import check_files_exist
from limbeck.runs.run_command import RunCommand, read_run_command, run_defaults

#: fields that a beginner needs, in their order; the prompts have a field of their own
BASICS = (
    "--preset",
    "--method",
    "--representation",
    "--model",
    "--particles",
    "--steps",
    "--seed",
    "--representation.lr",
    "--image",
)
#: options that the Studio decides itself
_DECIDED = ("--prompts", "--out", "--viewer", "--dry-run", "--config")
_MODELS = (*EMBEDDED_MODELS, "gaussians", "gaussians-flow")

Kind = Literal["switch", "choice", "text"]


class FormField(NamedTuple):
    """A field of the form.

    Attributes:
        flag: option as typed, such as ``--method.guidance``.
        kind: a switch for true and false, a choice of names, or a text.
        names: what can be chosen.
        is_open: whether other values can be typed too, such as ``FILE.py:Class``.
        default: value if the field is left alone, as it is typed.
        help: what the option is for.
    """

    flag: str
    kind: Kind
    names: tuple[str, ...]
    is_open: bool
    default: str
    help: str

    @property
    def label(self) -> str:
        """The last part of the flag in words."""
        return self.flag.rpartition(".")[2].removeprefix("--").replace("-", " ")


@dataclass
class OptionsForm:
    """What was filled in.

    Attributes:
        prompts: the prompts.
        values: texts by flag; true and false for switches. Options that are left alone are absent.
    """

    prompts: tuple[str, ...] = ()
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Sequence[str]) -> OptionsForm:
        """The form that makes a command line, without what the Studio decides itself.

        Args:
            words: what stands behind ``limbeck run``.

        Raises:
            ValueError: if the command line is not understood.
        """
        form = cls(read_run_command(words).experiment.prompts)
        listed = [o for c, d in run_defaults(words).sections for o in list_options(c, d, words)]
        for option in listed:
            text = _text_in(words, option)
            is_kept = option.flag == "--config" or option.flag not in (*_DECIDED, "--image-every")
            if text and is_kept:  # the file of --config has what the words leave out
                form.values[option.flag] = text
        return form

    @property
    def words(self) -> list[str]:
        """The words behind ``limbeck run``."""
        words = list[str]()
        for option in self._options():
            if option.flag in self.values:
                words += _words(option, self.values[option.flag])
        if any(prompt.startswith("-") for prompt in self.prompts):
            return [*words, "--", *self.prompts]
        return [*self.prompts, *words]

    @property
    def command(self) -> str:
        """The command line that does the same."""
        return shlex.join(["limbeck", "run", *self.words])

    def fields(self) -> list[FormField]:
        """The fields for the components that are chosen."""
        return [_field(option) for option in self._options() if option.flag not in _DECIDED]

    def set(self, flag: str, text: str) -> None:
        """Fill in a field; an empty text, or the default, leaves the option out.

        Another component starts from its own defaults: what was filled in for the one before is
        forgotten.
        """
        before = self.values.pop(flag, "")
        known = {option.flag: option for option in self._options()}
        default = _field(known[flag]).default
        value = text.strip() or default
        if value != (before or default):
            self.values = {f: v for f, v in self.values.items() if not f.startswith(f"{flag}.")}
        if value != default:
            self.values[flag] = value
        known = {option.flag: option for option in self._options()}
        self.values = {flag: text for flag, text in self.values.items() if flag in known}

    def read(self) -> RunCommand:
        """What the form asks for.

        Raises:
            ValueError: if a value is refused, or a prompt or a file is missing, as on the command
                line.
        """
        command = read_run_command(self.words)
        check_files_exist(command.experiment, command.folder)
        return command

    def _options(self) -> list[Option]:
        """All options of the command for the components that are chosen."""
        chosen = [f"{flag}={text}" for flag, text in self.values.items()]
        sections = run_defaults(chosen).sections
        return [o for cls, default in sections for o in list_options(cls, default, chosen)]


def _words(option: Option, text: str) -> Sequence[str]:
    """An option with its value as the words of a command line."""
    if option.hint is bool:
        return [option.flag if text == "true" else _negation(option.flag)]
    if typing.get_origin(option.hint) is tuple:
        return [option.flag, *_split(text)]
    return [f"{option.flag}={text}"] if text.startswith("--") else [option.flag, text]


def _split(text: str) -> list[str]:
    """The words of a text; a single one where a quotation mark is not closed, as in: it's red."""
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


def _text_in(words: Sequence[str], option: Option) -> str:
    """The value of an option in a command line, as it is typed; empty if it is absent."""
    text = ""
    for number, word in enumerate(words):
        if word == "--":
            break
        flag, equals, joined = word.partition("=")
        flag = flag.replace("_", "-")
        if flag == option.flag:
            behind = itertools.takewhile(lambda w: not w.startswith("--"), words[number + 1 :])
            text = _value_text(option.hint, [joined] if equals else list(behind))
        elif option.hint is bool and flag == _negation(option.flag):
            text = "false"
    return text


def _value_text(hint: Any, values: Sequence[str]) -> str:
    """The first of some words that are the value of an option of a type, as it is typed."""
    first = values[0] if values else ""
    if hint is bool:
        return first.lower() if first.lower() in ("true", "false") else "true"
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        return shlex.join(values if args[1:] == (...,) else values[: len(args)])
    return first


def _negation(flag: str) -> str:
    """The flag that makes an option of true or false false."""
    parent, _, name = flag.rpartition(".")
    return f"{parent}.no-{name}" if parent else f"--no-{name.removeprefix('--')}"


def _field(option: Option) -> FormField:
    base, kind, is_open = base_of(option.hint), "text", False
    names: tuple[str, ...] = ()
    if option.hint is bool:
        kind, names = "switch", ("true", "false")
    elif literals := _literals(option.hint):
        kind, names = "choice", literals
    elif option.flag == "--model":
        kind, names, is_open = "choice", _MODELS, True
    elif base is not None:
        kind, names, is_open = "choice", tuple(choices(base)), True
    text, _, _ = help_text(option).partition(" (default: ")
    default = _default_text(option)
    return FormField(option.flag, typing.cast(Kind, kind), names, is_open, default, text)


def _literals(hint: Any) -> tuple[str, ...]:
    """The values of a ``Literal`` that the hint is or contains."""
    found = (hint, *typing.get_args(hint))
    args = [typing.get_args(member) for member in found if typing.get_origin(member) is Literal]
    return tuple(map(str, args[0])) if args else ()


def _default_text(option: Option) -> str:
    """The default of an option as it is typed; empty if there is none."""
    if option.default is MISSING:
        return ""
    plain = to_plain(option.default, option.hint)
    if isinstance(plain, dict):
        plain = plain.get("name", "")
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, list):
        return shlex.join(format_value(item) if item != "" else "" for item in plain)
    return "" if plain is None else plain if isinstance(plain, str) else format_value(plain)

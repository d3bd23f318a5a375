"""Dataclasses as command-line options, in any order: components by name, their options dotted behind; tyro reads and explains."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from functools import partial
from typing import Annotated, Any

from limbeck.config.discovery import base_of, choices, closest_name, find, hints_of, name_of
from limbeck.config.yaml import default_of, wanted

HELP = ("-h", "--help")
TRUTH = {"true": "True", "false": "False"}


@dataclass(frozen=True)
class Leaf:
    """One option with a value."""

    path: str
    hint: Any
    default: Any
    told: str

    def takes(self, words: Sequence[str]) -> int:
        """How many of the words that follow belong to it."""
        if self.hint is bool:
            return int(bool(words) and words[0].lower() in TRUTH)
        if typing.get_origin(self.hint) is not tuple:
            return 1
        args = typing.get_args(self.hint)
        until = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        return until if args[1:] == (...,) else len(args)


@dataclass(frozen=True)
class Node:
    """A dataclass whose options are wanted: which class, where it hangs (empty for the top), what hangs below it."""

    cls: type
    path: str
    leaves: tuple[Leaf, ...]
    nodes: tuple[Node, ...]
    base: type | None = None  #: what the class was chosen for

    def every_leaf(self) -> Iterator[Leaf]:
        yield from self.leaves
        for node in self.nodes:
            yield from node.every_leaf()

    def every_choice(self) -> Iterator[Node]:
        for node in self.nodes:
            if node.base is not None:
                yield node
            yield from node.every_choice()


def described(cls: type) -> tuple[str, dict[str, str]]:
    """What the docstrings of a dataclass say: its first sentences, and of each field what follows ``name:`` in its paragraph."""
    names = "|".join(f.name for f in fields(cls))
    mark = re.compile(rf"(?<![\w.`])({names}):\s+") if names else re.compile(r"(?!)")
    told: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        for paragraph in re.split(
            r"\n\s*\n",
            inspect.cleandoc(part.__doc__ or "") if part.__module__ != "builtins" else "",
        ):
            pieces = mark.split(" ".join(paragraph.split()))[1:]
            told |= {
                name: text.strip().rstrip(".")
                for name, text in zip(pieces[::2], pieces[1::2], strict=True)
            }
    summary = re.split(r"\n\s*\n", inspect.cleandoc(cls.__doc__ or ""))[0]
    return mark.split(" ".join(summary.split()))[0].replace("``", "").strip(), {
        k: v.replace("``", "") for k, v in told.items()
    }


def said(argv: Sequence[str], option: str) -> str | None:
    """The value of ``--option VALUE`` or ``--option=VALUE`` in ``argv``, the last one; None where it is not there."""
    found = None
    for i, word in enumerate(argv):
        if word == "--":
            break
        name, equals, _ = _normal(word).partition("=")
        if name != "--" + option:
            continue
        if not equals and (i + 1 == len(argv) or argv[i + 1].startswith("--")):
            raise ValueError(f"--{option} takes a value, and there is none behind it")
        found = word.partition("=")[2] if equals else argv[i + 1]
    return found


def _normal(word: str) -> str:
    """The name of an option with hyphens for underscores, its value as it is."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _option(path: str) -> str:
    return path.replace("_", "-")


def _node(cls: type, path: str, default: Any, argv: Sequence[str], base: type | None) -> Node:
    default = default if type(default) is cls else None
    hints, (_, told) = hints_of(cls), described(cls)
    leaves, nodes = [], []
    for f in fields(cls):
        if not f.init:
            continue
        here = f"{path}.{f.name}" if path else f.name
        value = getattr(default, f.name) if default is not None else default_of(f)
        below = base_of(hints[f.name])
        if below is None:
            leaves.append(Leaf(here, hints[f.name], value, told.get(f.name, "")))
        elif not inspect.isabstract(below):
            nodes.append(_node(below, here, value, argv, None))
        else:
            name = said(argv, _option(here))
            if name is None and value is None:
                continue  # none is chosen, and none is what it is
            if name is None and not isinstance(value, below):
                raise ValueError(
                    f"--{_option(here)} is missing; accepted: {', '.join(choices(below))}"
                )
            nodes.append(
                _node(
                    type(value) if name is None else _found(below, name, here),
                    here,
                    value,
                    argv,
                    below,
                )
            )
    return Node(cls, path, tuple(leaves), tuple(nodes), base)


def _found(base: type, name: str, path: str) -> type:
    try:
        return find(base, name)
    except ValueError as error:
        raise ValueError(f"--{_option(path)}: {error}") from error


@dataclass(frozen=True)
class Sorted:
    """The command line taken apart: options as tyro reads them, words that belong to none, whether help is wanted."""

    options: dict[str, list[str]]
    plain: list[str]
    helping: bool


def _sort(argv: Sequence[str], nodes: Sequence[Node], positional: str) -> Sorted:
    leaves, chosen = (
        _table(nodes, positional),
        {"--" + _option(c.path) for node in nodes for c in node.every_choice()},
    )
    out, i, helping = Sorted({}, [], False), 0, False
    while i < len(argv):
        word, rest = argv[i], argv[i + 1 :]
        name, equals, value = _normal(word).partition("=")
        i += 1
        if word == "--":
            out.plain.extend(rest)
            break
        if word in HELP:
            helping = True
        elif name in chosen:
            i += 0 if equals else 1
        elif name in leaves:
            values = [value] if equals else list(rest[: leaves[name].takes(rest)])
            i += 0 if equals else len(values)
            out.options["--" + _option(leaves[name].path)] = _typed(
                name, leaves[name], values, bool(equals)
            )
        elif word.startswith("-") and not re.fullmatch(r"-(\.?\d.*)?", word):
            raise _no_option(name, nodes, [*leaves, *chosen])
        elif not positional:
            raise ValueError(f"{word!r} belongs to no option; options are written --name value")
        else:
            out.plain.append(word)
    return Sorted(out.options, out.plain, helping)


def _no_option(name: str, nodes: Sequence[Node], known: list[str]) -> ValueError:
    head, _, last = name.removeprefix("--").rpartition(".")
    for choice in (c for node in nodes for c in node.every_choice() if _option(c.path) == head):
        takes = [k.removeprefix(f"--{head}.") for k in known if k.startswith(f"--{head}.")]
        guess = closest_name(last, takes)
        hint = f" Did you mean --{head}.{guess}?" if guess else ""
        return ValueError(
            f"--{head} {name_of(choice.cls)} has no option {last!r}.{hint} It takes: {', '.join(takes) or 'none'}"
        )
    guess = closest_name(name, known)
    hint = f" Did you mean {guess}?" if guess else ""
    return ValueError(f"no option is called {name!r}.{hint} All are listed by --help")


def _typed(name: str, leaf: Leaf, values: list[str], joined: bool) -> list[str]:
    """An option as tyro is to read it. ``--name=value`` lets a value begin with a hyphen."""
    own = "--" + _option(leaf.path)
    if leaf.hint is bool:
        word = TRUTH.get(values[0].lower(), values[0]) if values else "True"
        return [f"{own}={'False' if name != own else word}"]
    if typing.get_origin(leaf.hint) is tuple:
        return [own, *values]
    if not joined and (not values or values[0].startswith("--")):
        raise ValueError(
            f"{name} takes {wanted(leaf.hint)}, and none follows; write {name}=VALUE for one that begins with --"
        )
    return [f"{own}={values[0]}"]


def _table(nodes: Sequence[Node], positional: str) -> dict[str, Leaf]:
    leaves = {
        "--" + _option(leaf.path): leaf
        for node in nodes
        for leaf in node.every_leaf()
        if leaf.path != positional
    }
    for leaf in list(leaves.values()):
        if leaf.hint is bool:
            head, _, last = _option(leaf.path).rpartition(".")
            leaves[f"--{head}.no-{last}" if head else f"--no-{last}"] = leaf
    return leaves


def _rows(node: Node, positional: str) -> list[tuple[str, Any, Any]]:
    """Fields for tyro to fill in. The real class is made of them afterwards, so that the errors of its checks are ours to tell."""
    from tyro.conf import Positional, arg

    rows: list[tuple[str, Any, Any]] = []
    if node.base is not None:
        last = node.path.split(".")[-1]
        metavar = f"{{{','.join(choices(node.base))}}}"
        told = arg(
            name=_option(node.path),
            prefix_name=False,
            metavar=metavar,
            help=f"which {last}, or FILE.py:CLASS of your own",
        )
        rows.append(("kind_", Annotated[str, told], field(default=name_of(node.cls))))
    for leaf in node.leaves:
        last, value = leaf.path.split(".")[-1], leaf.default
        hint: Any = Annotated[leaf.hint, arg(help=leaf.told or None)]
        if leaf.path == positional:
            value = () if value is MISSING else value
            told = arg(
                help=leaf.told,
                metavar=f"[{positional.removesuffix('s').upper()} ...]",
                help_behavior_hint="",
            )
            hint = Annotated[leaf.hint, Positional, told]
        rows.append(
            (
                last,
                hint,
                field() if value is MISSING else field(default_factory=partial(_same, value)),
            )
        )
    for below in node.nodes:
        form = _form(below, _rows(below, positional))
        complete = all(leaf.default is not MISSING for leaf in below.every_leaf())
        rows.append(
            (below.path.split(".")[-1], form, field(default_factory=form) if complete else field())
        )
    return rows


def _same(value: Any) -> Any:
    """A default of any type, mutable to dataclasses' eyes or not."""
    return value


def _form(node: Node, rows: list[tuple[str, Any, Any]]) -> type:
    return make_dataclass(
        node.cls.__name__, rows, kw_only=True, namespace={"__doc__": described(node.cls)[0]}
    )


def _built(node: Node, form: Any) -> Any:
    values = {
        last: getattr(form, last) for last in (leaf.path.split(".")[-1] for leaf in node.leaves)
    }
    for below in node.nodes:
        last = below.path.split(".")[-1]
        values[last] = _built(below, getattr(form, last))
    try:
        return node.cls(**values)
    except ValueError as error:
        raise ValueError(f"--{_option(node.path)}: {error}" if node.path else str(error)) from error


def _reason(framed: str, leaves: dict[str, Leaf], given: dict[str, list[str]]) -> str:
    """tyro's complaint, printed in a frame, as one line; a value of the wrong type is told in our words."""
    lines = [line.strip("│ ") for line in framed.splitlines() if not line.startswith(("╭", "╰"))]
    text = " ".join(
        lines[: next((i for i, line in enumerate(lines) if line.startswith("─")), len(lines))]
    )
    named = next((name for name in re.findall(r"--[\w.-]+", text) if name in given), None)
    if named is None:
        return text
    value = " ".join(given[named]).removeprefix(named).removeprefix("=").strip()
    return f"{named} must be {wanted(leaves[named].hint)}, not {value!r}"


def parse(
    sections: Sequence[tuple[type, Any]],
    argv: Sequence[str],
    prog: str,
    about: str,
    positional: str = "",
) -> list[Any]:
    """Instances of the dataclasses of ``sections``, each given with its default instance or None, read from ``argv``.

    ``positional`` names the field that collects words without an option. Raises ValueError for whatever is wrong, SystemExit(0)
    after help.
    """
    import tyro

    nodes = [_node(cls, "", default, argv, None) for cls, default in sections]
    leaves, words = _table(nodes, positional), _sort(argv, nodes, positional)
    for name, leaf in leaves.items():
        if leaf.default is MISSING and name not in words.options and not words.helping:
            raise ValueError(f"{name} is missing; it is {wanted(leaf.hint)}")
    top = make_dataclass(
        "Options", [row for node in nodes for row in _rows(node, positional)], kw_only=True
    )
    args = ["--help"] if words.helping else [w for option in words.options.values() for w in option]
    args += ["--", *words.plain] if words.plain and not words.helping else []
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            form: Any = tyro.cli(
                top, prog=prog, description=about, args=args, config=(tyro.conf.FlagConversionOff,)
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_reason(stderr.getvalue(), leaves, words.options)) from None
    return [_built(node, form) for node in nodes]

"""Names of files; atomic writing; reading, with errors that name the file."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


class OtherFileError(ValueError):
    """A file is not the one that a run was started with."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that others see the old or the whole new one.

    Args:
        path: the file to create or replace.

    Yields:
        Path of a file to write, ``NAME.TOKEN.part``, which takes the place of the old one at the
        end, and is removed after an error. Each call has its own, so that of two processes that
        write one file the later one wins, with a whole file.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a small text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Fill a new folder so that others see it whole or not at all.

    Args:
        path: the folder to create, which does not exist.

    Yields:
        A hidden folder beside it, ``.TOKEN.part``, which takes its name at the end and is removed
        after an error.
    """
    part = path.with_name(f".{secrets.token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        yield part
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def slug(text: str, max_length: int = 40) -> str:
    """``text`` as a folder name: lower-case ASCII words joined by hyphens, never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:max_length].strip("-") or "prompt"


def one_line(error: Exception, max_length: int = 200) -> str:
    """The message of an error in one line; its type if it has none. An ellipsis says it is cut."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= max_length else f"{text[: max_length - 3].rstrip()}..."


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: if it is not UTF-8.
        OSError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: byte {error.start} is invalid") from error


def parse_json_object(text: str | bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: the JSON.
        path: the file that it is from, for error messages.

    Raises:
        ValueError: if it is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {value!r:.60}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ValueError: if it is not UTF-8, not JSON, or not an object.
        OSError: if it cannot be read.
    """
    return parse_json_object(read_text(path), path)


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for reading.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        # an empty file cannot be mapped, and the error of the system names no file
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable .safetensors file: {one_line(error)}"
        ) from error

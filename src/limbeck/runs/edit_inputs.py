"""Images to edit, with their prompts and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.config.discovery import component_name
from limbeck.methods.base import EditMethod
from limbeck.system.image_files import image_file_size

_MIN_SIDE = 16  #: shortest accepted image side, in pixels
_MAX_ASPECT = 4  #: largest accepted ratio of the long to the short side


class EditItem(NamedTuple):
    """One edit: an image, its prompts, and a mask or None."""

    image: Path
    source_prompt: str
    target_prompt: str
    mask: Path | None


@dataclass(frozen=True)
class EditInputs:
    """Images to edit, with prompts and masks: each given once for all edits or once per edit.

    Attributes:
        images: image files of any aspect ratio.
        target_prompt: what each image should show.
        source_prompt: what each image shows now. SDEdit needs none, and models that follow
            instructions (InstructPix2Pix) need none with any method.
        mask: image files of the size of their images: white may change, black is kept, gray
            changes in part. Empty: everything may change.
    """

    images: tuple[Path, ...] = ()
    target_prompt: tuple[str, ...] = ()
    source_prompt: tuple[str, ...] = ()
    mask: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError(
                "an image is missing: limbeck edit photo.png --source-prompt TEXT "
                "--target-prompt TEXT"
            )
        if not self.target_prompt or not all(text.strip() for text in self.target_prompt):
            raise ValueError("--target-prompt is missing: say what the images should show")
        if not all(text.strip() for text in self.source_prompt):
            raise ValueError("--source-prompt is empty: say what the images show")
        for name, values in vars(self).items():
            if len(values) not in (0, 1, self.count):
                flag = "images" if name == "images" else f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{len(values)} of {flag} for {self.count} edits: "
                    "give one for all or one for each"
                )

    @property
    def count(self) -> int:
        """Number of edits."""
        return max(map(len, vars(self).values()))

    def edits(self) -> list[EditItem]:
        """Every edit, with inputs that were given once repeated."""
        return [
            EditItem(*row)
            for row in zip(
                self._repeated(self.images),
                self._repeated(self.source_prompt),
                self._repeated(self.target_prompt),
                self._repeated(self.mask),
                strict=True,
            )
        ]

    def _repeated(self, values: Sequence[Any]) -> list[Any]:
        if not values:
            return [None] * self.count
        return list(values) * (self.count if len(values) == 1 else 1)

    def check(self, method: EditMethod, instructions: bool = False) -> None:
        """Check the image files, and that there are the prompts that a method needs.

        Args:
            method: the editing method.
            instructions: whether the model follows instructions, so that no source is described.

        Raises:
            ValueError: if the source prompt is missing, a file is not an image, is too small or too
                long, or a mask differs in size from its image.
        """
        if method.needs_source and not self.source_prompt and not instructions:
            raise ValueError(
                "--source-prompt is missing: say what the images show now; the method "
                f"{component_name(type(method))} compares it with --target-prompt, and "
                "--method sdedit needs none"
            )
        for edit in self.edits():
            width, height = image_file_size(edit.image)
            size = f"{width} x {height} pixels"
            if min(width, height) < _MIN_SIDE:
                raise ValueError(
                    f"{edit.image} is {size}, too small to edit: the short side must be at least "
                    f"{_MIN_SIDE} pixels"
                )
            if max(width, height) > _MAX_ASPECT * min(width, height):
                raise ValueError(
                    f"{edit.image} is {size}: crop it until the long side is at most "
                    f"{_MAX_ASPECT} times the short one"
                )
            if edit.mask is not None and image_file_size(edit.mask) != (width, height):
                mask_size = " x ".join(map(str, image_file_size(edit.mask)))
                raise ValueError(
                    f"{edit.mask} is {mask_size} pixels, but {edit.image} is {size}: a mask must "
                    "have the size of its image"
                )

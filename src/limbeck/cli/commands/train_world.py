"""train a small model: the embedded world, or own images"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.world.training_options import WorldTraining

_MULTI_VIEW = "--multi-view"
#: Of the time for the model card, what loading the model and rendering take before any sample.
_LOADING_SECONDS = 12.0


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck train-world``: train, write the model card, and print it and the folder."""
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.system.folder_lock import folder_lock
    from limbeck.world.training_options import WorldTraining, open_training

    if any(map(_is_multi_view, argv)):
        return _main_multi_view(argv)
    about = (
        "Train a small model from scratch: the embedded world, or own images (--images). "
        f"{_MULTI_VIEW}: train it further to see four views of an object at once; options: "
        f"limbeck train-world {_MULTI_VIEW} --help."
    )
    (options,) = parse([(WorldTraining, None)], argv, "limbeck train-world", about)
    open_training(options)
    folder = options.out / "pipeline"
    card = folder / "card.json"
    command = shlex.join(["limbeck", "train-world", *argv])
    if not card.exists():
        with resume_hint(command), folder_lock(options.out):
            _train(options, folder)
    print(card.read_text(encoding="utf-8"))
    print(f"samples of the model: {folder / 'grid.png'}")
    print(f"the model is finished; try it: limbeck sample PROMPT --model {folder}")


def _is_multi_view(word: str) -> bool:
    return word.replace("_", "-").lower() in (_MULTI_VIEW, f"{_MULTI_VIEW}=true")


def _main_multi_view(argv: Sequence[str]) -> None:
    """Train a multi-view model, write its card, and print it and the folder."""
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.system.folder_lock import folder_lock
    from limbeck.world.multi_view_options import MultiViewTraining, open_multi_view_training

    about = (
        "Train the embedded world further to see four views of an object at once and to take "
        "their cameras."
    )
    words = [word for word in argv if not _is_multi_view(word)]
    prog = f"limbeck train-world {_MULTI_VIEW}"
    (options,) = parse([(MultiViewTraining, None)], words, prog, about)
    open_multi_view_training(options)
    command = shlex.join(["limbeck", "train-world", *argv])
    with resume_hint(command), folder_lock(options.out):
        from limbeck.metrics.multi_view_card import format_multi_view_card, write_multi_view_card
        from limbeck.world.multi_view_training import train_multi_view

        folder = train_multi_view(options)
        if not (folder / "card.json").exists():
            print(format_multi_view_card(write_multi_view_card(folder, options.pipeline)))
    print(f"the model is finished; try it: limbeck run PROMPT --preset mvdream --model {folder}")


def _train(options: WorldTraining, folder: Path) -> None:
    """Train the model and write its card."""
    from limbeck.world.train import card_seconds, train_world

    train_world(options)
    seconds = card_seconds(options.minutes) - _LOADING_SECONDS
    if options.images is None:
        from limbeck.metrics.model_card import write_model_card

        write_model_card(folder, seconds=seconds)
    else:
        from limbeck.metrics.image_model_card import write_image_model_card

        write_image_model_card(folder, options.out, seconds=seconds)

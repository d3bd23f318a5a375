"""train the embedded model from scratch"""

from __future__ import annotations

import json
from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck train-world``: train, write the model card, and print it and the folder."""
    from limbeck.config.command_line import parse
    from limbeck.world.train import WorldTraining, train_world

    about = "Train the embedded model from scratch."
    (options,) = parse([(WorldTraining, None)], argv, "limbeck train-world", about)
    folder = train_world(options)

    from limbeck.metrics.model_card import write_model_card

    print(json.dumps(write_model_card(folder), indent=1))
    print(folder)

"""train the embedded model again, from nothing"""

from __future__ import annotations

import json
from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """``limbeck train-world``: the embedded model from nothing."""
    from limbeck.config.command_line import parse
    from limbeck.world.train import WorldTraining, train

    (training,) = parse(
        [(WorldTraining, None)],
        argv,
        "limbeck train-world",
        "Train the embedded model again, from nothing.",
    )
    folder = train(training)

    from limbeck.metrics.model_card import score

    print(json.dumps(score(folder), indent=1))
    print(folder)

"""What a run writes after its last step: each product by itself, so that none costs another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.system.files import one_line, read_json_object, write_text
from limbeck.system.finite import NonFiniteError
from limbeck.system.notices import notify
from limbeck.training.experiment import Experiment

_TRIED_AGAIN = "the same command tries it again"
FAILURES = "failures.json"  #: in a run folder: products that could not be written, with the reason


class FinalProducts:
    """Writes the products of a run and remembers which could not be written.

    Args:
        folder: run folder.

    Attributes:
        failures: reason by product.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.failures: dict[str, str] = {}
        self._not_finite: NonFiniteError | None = None

    def write(self, product: str, job: Callable[[], object]) -> None:
        """Write one product; a failure is said and does not stop the others.

        Args:
            product: what is written, for the message.
            job: writes it.
        """
        try:
            job()
        except NonFiniteError as error:
            self._not_finite = error
            self.fail(product, error)
        except Exception as error:
            self.fail(product, error)

    def fail(self, product: str, error: Exception, next_step: str = _TRIED_AGAIN) -> None:
        """Say that a product could not be written, and remember it.

        Args:
            product: what was to be written.
            error: the reason.
            next_step: what happens next, for the message.
        """
        self.failures[product] = one_line(error)
        notify(
            f"{self.folder}: {product} could not be written ({self.failures[product]}); the rest "
            f"of the run is complete, and {next_step}"
        )

    def save_failures(self) -> None:
        """Replace the list of failures in the folder; there is none if everything was written."""
        path = self.folder / FAILURES
        if self.failures:
            write_text(path, json.dumps(self.failures, indent=1, ensure_ascii=False) + "\n")
        else:
            path.unlink(missing_ok=True)

    def raise_if_not_finite(self) -> None:
        """Raise the NonFiniteError of a product, if there was one."""
        if self._not_finite is not None:
            raise self._not_finite


def has_failures(folder: Path) -> bool:
    """Whether a product of a run, or of a run below a folder, could not be written."""
    return any(folder.rglob(FAILURES))


def read_failures(folder: Path) -> list[str]:
    """What could not be written of a run, in one line each."""
    path = folder / FAILURES
    failures = read_json_object(path) if path.exists() else {}
    return [f"{product} could not be written: {reason}" for product, reason in failures.items()]


def check_films(experiment: Experiment, films: bool) -> None:
    """Refuse to leave out the films of a run that has none.

    Args:
        experiment: the options of the run.
        films: whether turntables, stills and meshes over time are made.

    Raises:
        ValueError: if they are left out of a run of images.
    """
    if not films and isinstance(experiment.camera_sampler, NoCamera):
        raise ValueError(
            "--no-films (films=False) has no effect: a run of images has no films; leave it out"
        )

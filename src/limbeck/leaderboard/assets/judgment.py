"""Judging the stages of 3D runs from 32 held-out cameras; what was judged is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.evaluation.evaluation_files import write_evaluation
from limbeck.evaluation.judge import RunJudges, evaluate_run, open_finished_run
from limbeck.evaluation.prompt_metrics import PromptImages
from limbeck.metrics.heldout_views import CAMERA_RINGS
from limbeck.priors.loading import load
from limbeck.runs.images import save_png
from limbeck.runs.report.run_data import read_run_data
from limbeck.system.files import read_json_object
from limbeck.training.experiment import Experiment
from limbeck.world.evaluator import Evaluator
from limbeck.world.scene import ASYMMETRIC, SIDED

_SIZE = 64  #: of the images that the evaluator judges
_COLUMNS = 8  #: views beside each other in the file of the views
_NUM_VIEWS = sum(count for _, count, _ in CAMERA_RINGS)
_LOWER_RING = CAMERA_RINGS[0][1]  #: index of the first camera of the ring at 10 degrees
_QUARTER = CAMERA_RINGS[1][1] // 4  #: its cameras from one side of an object to the next
#: indices of the views from front, right, back and left
SIDE_VIEWS = tuple(_LOWER_RING + i * _QUARTER for i in range(4))
#: metrics of the table by their names in eval.json
_NAMES = {
    "all": "all",
    "object": "object",
    "color": "color",
    "true_color": "true_color",
    "color_overlap": "color_overlap",
    "view_accuracy": "view",
    "janus": "janus",
    "janus_side": "janus_side",
    "mirrored": "mirrored",
    "r_precision": "r_precision",
    "r_precision_shape": "r_precision_shape",
}


@dataclass(frozen=True)
class JudgedStage:
    """A stage of a run, judged.

    Attributes:
        metrics: metrics by name, means over the 32 cameras and the particles.
        reference: the same of true renders of the object; empty without numba.
        images: the views of each particle; None if the run was stopped by its own numbers.
        evaluations: rows through the network, those of earlier stages included.
        cpu_seconds: CPU seconds, those of earlier stages included.
        steps: optimization steps, those of earlier stages included.
        folder: run folder.
    """

    metrics: Mapping[str, float]
    reference: Mapping[str, float]
    images: UInt8[Tensor, "p c 3 h w"] | None
    evaluations: int
    cpu_seconds: float
    steps: int
    folder: Path


def stopped_metrics(name: str) -> dict[str, float]:
    """Metrics of a run that its own numbers stopped: of images that show nothing.

    Args:
        name: object of the world.
    """
    names = ["all", "object", "color", "true_color", "color_overlap", "fidelity", "r_precision"]
    names.append("r_precision_shape")
    names += ["view", "janus", "janus_side"] * (name in ASYMMETRIC) + ["mirrored"] * (name in SIDED)
    return dict.fromkeys(names, 0.0)


def table_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the table from those of a prompt in eval.json.

    ``fidelity`` is the share of views in which the evaluator sees one of its objects.

    Args:
        row: metrics of a prompt.
    """
    found = {own: float(row[name]) for name, own in _NAMES.items() if name in row}
    return found | ({"fidelity": 1 - float(row["rejected"])} if "rejected" in row else {})


class AssetJudge:
    """Judges finished stages, each once: eval.json is in its run folder, its views are beside.

    Args:
        views: folder of the views.
        device: device of the models that decode renders.
        evaluator: the world's evaluator.
    """

    def __init__(self, views: Path, device: str, evaluator: Evaluator):
        self.views, self.device, self.evaluator = views, device, evaluator
        self._priors: dict[str, Prior] = {}

    def check_model(self, experiment: Experiment) -> None:
        """Refuse a model whose images the evaluator cannot judge.

        Raises:
            ValueError: if they are not of 64 x 64 pixels.
        """
        height, width = self._prior(experiment).image_size
        if (height, width) != (_SIZE, _SIZE):
            raise ValueError(
                f"the images of {experiment.model} have {height} x {width} pixels, and the "
                f"evaluator judges {_SIZE} x {_SIZE}: choose a model of the embedded world"
            )

    def _prior(self, e: Experiment) -> Prior:
        key = repr((e.model, e.precision, e.runtime))
        if key not in self._priors:
            self._priors[key] = load(e.model, self.device, e.precision, e.runtime)
        return self._priors[key]

    def judge(self, folder: Path, name: str) -> JudgedStage:
        """Judge a finished stage, or read what was judged before.

        Args:
            folder: its run folder.
            name: name of the file of its views, without suffix.
        """
        run = open_finished_run(folder)
        path = self.views / f"{name}.png"
        report = _known_report(folder, run.experiment)
        if report is None or not path.is_file():
            prior = self._prior(run.experiment)
            found = evaluate_run(run, prior, RunJudges(self.evaluator))
            (images,) = found.images.values()
            self.views.mkdir(parents=True, exist_ok=True)
            save_png(_sheet_of_views(images.images), path)
            write_evaluation(run.folder, found.report)  # last: it says that both are there
            report = found.report
        row, data = report["prompts"][0], read_run_data(folder)
        return JudgedStage(
            table_metrics(row),
            table_metrics(row.get("reference", {})),
            _read_views(path),
            data.evaluations(),
            float(data.profile.get("cpu_seconds", 0.0)),
            run.experiment.steps,
            folder,
        )

    def with_features(self, images: UInt8[Tensor, "p c 3 h w"]) -> PromptImages:
        """Images with the features of the evaluator.

        Args:
            images: the views of each particle.
        """
        with torch.no_grad():
            features = self.evaluator.features(images.flatten(0, 1).float() / 255)
        return PromptImages(images, features.unflatten(0, images.shape[:2]))


def _known_report(folder: Path, experiment: Experiment) -> dict[str, Any] | None:
    """The eval.json of a stage, if it is of this experiment's last step and can be read."""
    path = folder / "eval.json"
    if not path.is_file():
        return None
    try:
        report = read_json_object(path)
    except ValueError:
        return None
    rows = report.get("prompts", ())
    is_whole = report.get("step") == experiment.steps and len(rows) == 1
    if is_whole and "reference" in rows[0] and "true_color" not in rows[0]["reference"]:
        return None  # judged before colors were
    return report if is_whole and len(report.get("views", ())) == _NUM_VIEWS else None


def _sheet_of_views(images: UInt8[Tensor, "p c 3 h w"]) -> Image.Image:
    """All views in rows of eight, a particle below the other."""
    count, height = len(images), images.shape[-2]
    grid = images.unflatten(1, (-1, _COLUMNS)).permute(0, 1, 4, 2, 5, 3)
    return Image.fromarray(grid.reshape(count * _NUM_VIEWS // _COLUMNS * height, -1, 3).numpy())


def _read_views(path: Path) -> UInt8[Tensor, "p c 3 h w"]:
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    rows = pixels.unflatten(0, (-1, _SIZE)).unflatten(2, (_COLUMNS, _SIZE))
    return rows.permute(0, 2, 4, 1, 3).flatten(0, 1).unflatten(0, (-1, _NUM_VIEWS))

"""Every metric says in its file what its range, sample size and source are."""

import importlib
import inspect
import pkgutil

import pytest

from limbeck import metrics
from limbeck.metrics import (
    clip_score,
    cmmd,
    density_coverage,
    energy_distance,
    frechet,
    kid,
    mixture_modes,
    precision_recall,
    r_precision,
    sliced_wasserstein,
    vendi,
)
from limbeck.metrics.image_scores.hps import HPS
from limbeck.metrics.image_scores.image_reward import ImageReward
from limbeck.metrics.image_scores.pick_score import PickScore

METRICS = (
    clip_score.clip_scores,
    r_precision.r_precision,
    PickScore,
    HPS,
    ImageReward,
    kid.kid,
    frechet.frechet_distance,
    cmmd.cmmd,
    vendi.vendi_score,
    precision_recall.precision,
    precision_recall.recall,
    density_coverage.density,
    density_coverage.coverage,
    energy_distance.energy_distance,
    mixture_modes.log_density,
    mixture_modes.mode_shares,
    mixture_modes.mode_error,
    mixture_modes.covered_modes,
    mixture_modes.mode_spread,
    sliced_wasserstein.sliced_wasserstein,
)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_a_metric_states_range_sample_size_and_source(metric):
    for word in ("Range", "Sample size", "References:"):
        assert word in " ".join(metric.__doc__.split()), word


#: files of the package that hold no metric of their own
OTHER_FILES = {
    *("bounds", "estimate", "intervals"),  # intervals of means
    *("clip", "inception", "mmd"),  # what metrics are computed with
    *("heldout_views", "square_images", "run_scores", "set_metrics", "true_law"),
    "true_object_colors",
    *("model_card", "image_model_card", "multi_view_card", "image_scores"),
}
FILES = sorted({module.name for module in pkgutil.iter_modules(metrics.__path__)} - OTHER_FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_metric_states_range_sample_size_and_source(name):
    module = importlib.import_module(f"limbeck.metrics.{name}")
    public = [
        value
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    text = " ".join(" ".join(inspect.getdoc(value) or "" for value in public).split())
    assert "Range" in text and "Sample size" in text
    assert "References:" in text or "Our own measure" in text

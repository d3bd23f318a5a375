"""Figures of merit: of pictures alone, of sets of features, and of what the world's evaluator sees."""

from limbeck.metrics.agreement import agreement, judged, said
from limbeck.metrics.features import feature_diversity, frechet
from limbeck.metrics.images import clipped, diversity, saturation, variation
from limbeck.metrics.scores import scores

__all__ = ["agreement", "clipped", "diversity", "feature_diversity", "frechet", "judged", "said", "saturation", "scores", "variation"]

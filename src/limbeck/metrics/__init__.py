"""Figures of merit: of pictures alone, of sets of features, and of what the world's evaluator sees."""

from limbeck.metrics.agreement import agreement as agreement
from limbeck.metrics.features import feature_difference as feature_difference
from limbeck.metrics.features import feature_diversity as feature_diversity
from limbeck.metrics.frechet import frechet_distance as frechet_distance
from limbeck.metrics.images import clipped as clipped
from limbeck.metrics.images import difference as difference
from limbeck.metrics.images import diversity as diversity
from limbeck.metrics.images import saturation as saturation
from limbeck.metrics.images import variation as variation
from limbeck.metrics.scores import score_pictures as score_pictures
from limbeck.metrics.scores import scores as scores
from limbeck.world.spoken import judged as judged
from limbeck.world.spoken import said as said

"""Metrics of images, of sets of features, and of what the evaluator sees."""

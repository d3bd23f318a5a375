"""Scores of models that were trained on people's choices between images."""

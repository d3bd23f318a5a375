"""Evaluation of finished runs, and of images of any tool."""

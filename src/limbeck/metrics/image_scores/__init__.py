"""Scores of single images for their prompts: models of people's preferences, and your own."""

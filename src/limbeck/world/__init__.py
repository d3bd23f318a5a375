"""The embedded world: procedural scenes, a small diffusion model of them, and an evaluator."""

"""draw plain samples of a model, or of a run's critic, to compare with"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> None:
    """``limbeck sample``: plain samples into a folder."""
    from limbeck.cli.run_folder import Place, check_new
    from limbeck.config.command_line import parse
    from limbeck.config.yaml import fingerprint, slug
    from limbeck.diffusion.sampling import Sampling
    from limbeck.runs.sample_recorder import sample_to_folder

    about = "Draw samples of a model for each PROMPT, with its own sampler; the yardstick for what distillation gives."
    sampling, place = parse(
        [(Sampling, None), (Place, None)], argv, "limbeck sample", about, "prompts"
    )
    folder = (
        place.out
        or Path("samples")
        / f"{slug(sampling.prompts[0])}-{sampling.sampler}-{fingerprint(sampling)}"
    )
    check_new(folder)
    if sampling.critic is not None and not sampling.critic.is_dir():
        raise ValueError(f"--critic {sampling.critic} is no run folder")

    from limbeck.priors.loading import load

    prior = load(sampling.model, place.device, sampling.precision, sampling.parts, sampling.running)
    print(sample_to_folder(sampling, prior, folder))

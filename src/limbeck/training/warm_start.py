"""Initialization from another run: reading its representation back from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limbeck.config.yaml import read_yaml
from limbeck.diffusion.prior import Prior
from limbeck.distillation.own_results import check_own_object
from limbeck.representations.base import Representation, RepresentationConfig, match_particles
from limbeck.system.allocation_guard import AllocationGuard, check_allocation
from limbeck.system.checkpoint import read_checkpoint
from limbeck.system.notices import notify
from limbeck.training.experiment import Experiment

_PARTICLE_BYTES = 1024  #: at least, if each is a parameter of its own


def find_checkpoint(source: Path) -> Path:
    """The checkpoint of a run to start from, which is not read.

    Args:
        source: the folder of the run, or a checkpoint in it.

    Raises:
        ValueError: if there is no run.
    """
    folder = source if source.is_dir() else source.parent
    checkpoint = folder / "checkpoint.safetensors" if source.is_dir() else source
    if not (folder / "run.yaml").is_file() or not checkpoint.is_file():
        raise ValueError(
            f"{source} holds no run to start from: give a run folder with run.yaml and checkpoint"
        )
    return checkpoint


def load_representation(source: Path, prior: Prior) -> tuple[Representation, int]:
    """Read the representation of a run from its last checkpoint.

    Args:
        source: the folder of the run, or a checkpoint in it.
        prior: the model of the run.

    Returns:
        The representation and its number of particles.

    Raises:
        ValueError: if there is no run, or if the checkpoint does not fit its run.yaml.
    """
    checkpoint = find_checkpoint(source)
    config = checkpoint.parent / "run.yaml"
    e = read_yaml(Experiment, config)
    representation = e.representation.for_display.build(prior, e.total, e.run_seed)
    representation.set_prompts(prior, e.prompts)
    tensors, _ = read_checkpoint(checkpoint)
    head = "representation."
    state = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
    try:
        representation.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint} was written by another version and does not fit {config}"
        ) from error
    return representation, e.total


def check_particles_fit(
    config: RepresentationConfig, particles: int, image_size: tuple[int, int], device: str
) -> None:
    """Check that the particles can fit into memory, before anything is made of them.

    Args:
        config: options of the representation.
        particles: number of particles.
        image_size: height and width of the images, unless the representation has its own.
        device: device of the particles.

    Raises:
        ValueError: if one image of each would not fit.
    """
    height, width = config.size if all(config.size) else image_size
    size = particles * max(_PARTICLE_BYTES, 4 * 3 * height * width)
    what = "particle" if particles == 1 else "particles"
    check_allocation(size, device, f"{particles:,} {what} of {height} x {width} pixels")


def build_representation(
    config: RepresentationConfig,
    prior: Prior,
    particles: int,
    seed: int,
    prompts: Sequence[str] = (),
) -> Representation:
    """Build a representation and, if ``config.init_from`` is set, initialize it from that run.

    Args:
        config: options of the representation.
        prior: the model of the run; the other run is rebuilt with it.
        particles: number of particles.
        seed: seed of the run.
        prompts: prompts of the run, each of equally many particles; (): not known.

    Raises:
        ValueError: if ``init_from`` holds no run, or one that does not suit this representation.
    """
    check_particles_fit(config, particles, prior.image_size, prior.device)
    with AllocationGuard(prior.device):
        representation = config.build(prior, particles, seed)
    check_own_object(config, ".build", representation, ("render", "param_groups", "state_dict"))
    if config.init_from is not None:
        other, count = load_representation(config.init_from, prior)
        representation.initialize_from(other, count, config.init_from, seed)
        if prompts and not config.fresh_samples:
            _notify_other_prompts(config.init_from, count, prompts, particles)
    return representation


def _notify_other_prompts(
    source: Path, num_source: int, prompts: Sequence[str], particles: int
) -> None:
    """Give a notice if a prompt starts from another one although the source has it too.

    A prompt that the source lacks starts from another one on purpose.
    """
    theirs = read_yaml(Experiment, find_checkpoint(source).parent / "run.yaml").prompts
    for i, j in enumerate(match_particles(num_source, particles, source)):
        ours, other = prompts[i * len(prompts) // particles], theirs[j * len(theirs) // num_source]
        if ours != other and ours in theirs:
            notify(
                f'the prompt "{ours}" starts from "{other}" of {source}, whose particles are taken '
                "in their order: give the prompts in the order of that run"
            )
            return

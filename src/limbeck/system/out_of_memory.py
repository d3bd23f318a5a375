"""Detection of out-of-memory errors, and advice against them."""

from __future__ import annotations

#: what torch says, of accelerators and of the host
_TORCH_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")
MEMORY_ADVICE = (
    "use fewer --particles or a smaller --batch-size, --precision bfloat16, smaller images with "
    "--representation.size, or a tiny autoencoder with --model.vae; for 3D fewer "
    "--cameras.per-particle, a field with a lower --representation.resolution or fewer .samples, "
    "a mesh with a lower .grid-resolution; a smaller .num-gaussians or .num-strokes; limbeck "
    "models lists the sizes of models"
)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory of the host or of an accelerator ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        message in str(error) for message in _TORCH_MESSAGES
    )


def out_of_memory_advice(message: str) -> str:
    """Return one line of advice after an out-of-memory error with torch's ``message``."""
    return f"out of memory: {MEMORY_ADVICE} ({message})"


def insufficient_memory_message(required: int, free: int, breakdown: str) -> str:
    """Return one line for a run that will not fit.

    Args:
        required: bytes that are still to be allocated.
        free: bytes that are free.
        breakdown: what the bytes are needed for.
    """
    return (
        f"this run needs about {required / 1e9:.3g} GB more and {free / 1e9:.3g} GB are free "
        f"({breakdown}): {MEMORY_ADVICE}"
    )

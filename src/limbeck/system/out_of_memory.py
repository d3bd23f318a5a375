"""Memory that ran out, or is going to: how to tell, and what to change."""

from __future__ import annotations

WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
)  #: torch's, of accelerators and of the host
CHANGE = (
    "take fewer --particles or draw only some per step with --batch-size, take --precision bfloat16, "
    "smaller pictures with --representation.size, or a tiny autoencoder with --parts.vae; of what has sides fewer --cameras.per-particle, "
    "a field with a lower --representation.resolution or fewer .samples, a mesh with fewer .cells, splats with a smaller .count; "
    "limbeck models says how large models are"
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory of the host or of an accelerator ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
    )


def out_of_memory_advice(text: str) -> str:
    """One line on memory that ran out, with what torch said."""
    return f"out of memory: {CHANGE} ({text})"


def refusal(need: int, free: int, parts: str) -> str:
    """One line on memory that is not going to suffice: bytes still needed, bytes free, and what they are needed for."""
    return f"this run needs about {need / 1e9:.3g} GB more and {free / 1e9:.3g} GB are free ({parts}): {CHANGE}"

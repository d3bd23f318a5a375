"""Options of a pretrained model: what is changed of it and how it is executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16", "float16"]  #: of frozen weights


@dataclass(frozen=True)
class ModelOverrides:
    """What is changed of a model that is read from files.

    lora: a LoRA of your own in the layout of diffusers, peft or kohya, which becomes part of the frozen weights. scale: of that
    LoRA. vae: folder or hub id of another autoencoder of the same latents, a tiny one of the TAESD layout too. config: pipeline
    folder or hub id whose configurations and tokenizers belong to a checkpoint that is one file. size: side in pixels of the
    pictures; 0 for what the files say. distilled: guidance that the network itself is told, where it was distilled so (Flux dev);
    3.5 if left out.
    """

    lora: Path | None = None
    scale: float = 1.0
    vae: str = ""
    config: str = ""
    size: int = 0
    distilled: float | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size is a side in pixels, or 0, not {self.size}")
        if self.distilled is not None and self.distilled < 0:
            raise ValueError(f"distilled must not be negative, not {self.distilled}")


@dataclass(frozen=True)
class RuntimeOptions:
    """How a model is run: what it costs, and not what it says.

    compile: on makes each network call one graph per shape of input, which takes minutes at its first call and needs a C++ compiler
    on a CPU; there it was measured to pay for SDS in bfloat16. graphs also replays it without the host (CUDA graphs). layout: of
    weights and pictures in memory; auto takes what was measured to be faster. slicing: the autoencoder sees one picture after the
    other. tiling: and each in overlapping tiles, which shows a little where they meet. checkpointing: the autoencoder's activations
    are computed again for the gradient and not kept. offload: the network waits in the host's memory while texts and pictures are
    encoded or decoded, the autoencoder at all other times.
    """

    compile: Literal["off", "on", "graphs"] = "off"
    layout: Literal["auto", "plain", "channels-last"] = "auto"
    slicing: bool = False
    tiling: bool = False
    checkpointing: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        if self.offload and self.compile == "graphs":
            raise ValueError(
                "offload moves weights, and compile graphs needs them where they were: choose one"
            )

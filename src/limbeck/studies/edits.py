"""How do DDS, PDS and SDEdit edit one image, and where is the gradient of PDS?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from limbeck.diffusion.prior import Prior
from limbeck.methods.dds import DDS
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.edit_options import EditOptions, default_options
from limbeck.runs.editing import edit_to_folder
from limbeck.runs.images import save_png
from limbeck.studies.base import Study, labeled_rows, read_rgb


@dataclass(frozen=True)
class EditsStudy(Study):
    """Edits of one rendered image of the world towards several prompts.

    Compares DDS, PDS with its published and its consistent coefficients, and SDEdit, each with
    its default options. Gradient maps of PDS are shown below its images.

    Attributes:
        source_prompt: what the image shows; it is rendered from this prompt.
        target_prompts: what the edited images should show.
    """

    source_prompt: str = "a plain red mug on grass"
    target_prompts: tuple[str, ...] = (
        "a plain blue mug on grass",
        "a striped red mug on grass",
        "a plain red mug at night",
        "a plain red mushroom on grass",
    )
    prompts: tuple[str, ...] = field(default=(), init=False)  # the targets and the source
    particles: int = field(default=1, init=False)
    steps: int = field(default=0, init=False)  # those of each method, as lr
    lr: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", (*self.target_prompts, self.source_prompt))
        super().__post_init__()

    def rows(self) -> Mapping[str, EditOptions]:  # type: ignore[override]
        pds = default_options(PDS)
        consistent = PDS(pds.method.guidance, coefficients="consistent")
        rows = {
            "DDS": default_options(DDS),
            "PDS, consistent": replace(pds, method=consistent),
            "PDS, published": pds,
            "SDEdit": default_options(SDEdit),
        }
        return {
            label: replace(options, model=self.model, precision=self.precision, seed=self.seed)
            for label, options in rows.items()
        }

    def inputs(self, image: Path) -> EditInputs:
        """What is edited: an image of the source prompt, towards each target prompt."""
        return EditInputs((image,), self.target_prompts, (self.source_prompt,))

    def _run(self, out: Path, prior: Prior) -> Path:
        before = out / "before.png"
        if not before.exists():
            save_png(render_world_scene(self.source_prompt), before)
        inputs = self.inputs(before)
        source = self.source_prompt.replace(" on", "\non")
        figure: dict[str, tuple[str, list[Image.Image]]] = {"before": (source, [read_rgb(before)])}
        for label, options in self.rows().items():
            folder = out / label.lower().replace(", ", "-")
            print(f"{label}:", flush=True)
            edit_to_folder(inputs, options, prior, folder, command="limbeck study edits")
            files = sorted(folder.rglob("edit/*-after.png"))
            figure[label] = "", [read_rgb(path) for path in files]
            if isinstance(options.method, PDS):
                maps = [read_rgb(path) for path in sorted(folder.rglob("edit/*-gradient.png"))]
                maps = [m.crop((0, 0, m.height, m.height)).resize((64, 64)) for m in maps]
                figure[f"{label} "] = "gradient", maps
        save_png(labeled_rows(figure), out / "study.png")
        return out / "study.png"


def render_world_scene(caption: str, seed: int = 3) -> Image.Image:
    """Render a random scene of the world with a caption that starts with the given text.

    Args:
        caption: start of the caption.
        seed: seed of the scene.

    Raises:
        ValueError: if the world has no such scene.
    """
    from limbeck.world.scene import full_captions, random_scenes, render_scenes

    scenes = random_scenes(20_000, np.random.default_rng(seed))
    captions = full_captions(scenes)
    matches = [i for i, text in enumerate(captions) if text.startswith(caption)]
    if not matches:
        raise ValueError(
            f"the world has no scene with the caption {caption!r}; an example is {captions[0]!r}"
        )
    return Image.fromarray(render_scenes(scenes[np.array(matches[:1])])[0])

"""What do DDS, PDS and SDEdit make of one picture and several wishes, and where does PDS pull?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from limbeck.methods.dds import DDS
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.priors.loading import load
from limbeck.runs.editing import How, Pictures, edit_to_folder, suited
from limbeck.runs.images import save_picture
from limbeck.studies.base import Study, sheet


@dataclass(frozen=True)
class EditsStudy(Study):
    """A rendered picture of the world, edited towards several prompts: DDS, PDS with its published and its consistent coefficients,
    and SDEdit, each with the settings that suit it; below each row of PDS, its gradient.

    source: what the picture shows; it is rendered from the world's words. targets: what it shall show.
    """

    source: str = "a plain red mug on grass"
    targets: tuple[str, ...] = (
        "a plain blue mug on grass", "a striped red mug on grass", "a plain red mug at night", "a plain red mushroom on grass",
    )  # fmt: skip

    def rows(self) -> Mapping[str, How]:  # type: ignore[override]
        pds = suited(PDS)
        made = {"DDS": suited(DDS), "PDS, published": pds, "SDEdit": suited(SDEdit)}
        made["PDS, consistent"] = replace(
            pds, method=PDS(pds.method.guidance, coefficients="consistent")
        )
        return {
            label: replace(how, precision=self.precision, seed=self.seed)
            for label, how in sorted(made.items())
        }

    def run(self, out: Path, device: str = "auto") -> Path:
        out.mkdir(parents=True, exist_ok=True)
        before, prior = out / "before.png", load(self.model, device, self.precision)
        if not before.exists():
            save_picture(rendered(self.source), before)
        what = Pictures((before,), self.targets, (self.source,))
        rows: dict[str, tuple[str, list[Image.Image]]] = {
            "before": (self.source.replace(" on", "\non"), [Image.open(before)])
        }
        for label, how in self.rows().items():
            folder = out / label.lower().replace(", ", "-")
            print(f"{label}:", flush=True)
            edit_to_folder(what, how, prior, folder, command="limbeck study edits")
            rows[label] = (
                "",
                [Image.open(p).convert("RGB") for p in sorted(folder.rglob("edit/*-after.png"))],
            )
            if isinstance(how.method, PDS):
                maps = [
                    Image.open(p).convert("RGB")
                    for p in sorted(folder.rglob("edit/*-gradient.png"))
                ]
                rows[label + " "] = (
                    "gradient",
                    [m.crop((0, 0, m.height, m.height)).resize((64, 64)) for m in maps],
                )
        save_picture(sheet(rows), out / "study.png")
        return out / "study.png"


def rendered(text: str, seed: int = 3) -> Image.Image:
    """A scene of the world that the text describes, seen from the front at eye level; ValueError where there is none."""
    from limbeck.world.scene import full_captions, random_scenes, render

    scenes = random_scenes(20_000, np.random.default_rng(seed))
    fitting = [i for i, told in enumerate(full_captions(scenes)) if told.startswith(text)]
    if not fitting:
        raise ValueError(
            f"the world has no scene that is described as {text!r}: an example is {full_captions(scenes)[0]!r}"
        )
    return Image.fromarray(render(scenes[np.array(fitting[:1])])[0])

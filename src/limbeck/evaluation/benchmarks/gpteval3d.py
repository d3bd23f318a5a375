"""The layout of GPTEval3D: 120 images and 120 normal maps per prompt, compared by a language model.

References:
    Wu et al., "GPT-4V(ision) is a Human-Aligned Evaluator for Text-to-3D Generation", CVPR 2024,
    arXiv 2401.04092.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from pathlib import Path

from limbeck.config.ranges import refuse_given
from limbeck.evaluation.benchmarks.base import Benchmark
from limbeck.evaluation.benchmarks.threestudio import render_views
from limbeck.evaluation.image_sets import read_prompts
from limbeck.graphics.export.export import MeshExportOptions
from limbeck.graphics.export.png import encode_png
from limbeck.graphics.export.writers import write_atomic
from limbeck.runs.reopen import ReopenedRun


@dataclass(frozen=True)
class GPTEval3D(Benchmark):
    """GPTEval3D: ``METHOD/PROMPT_INDEX/0/rgb_0.png`` to ``rgb_119.png``, ``normal_0.png`` ...

    The indices of the files are unpadded, as its code opens them; its README pads them. Only seed 0
    is read.

    Attributes:
        prompts: prompts.json of the tournament; a prompt's folder is named by its index there.
    """

    name = "gpteval3d"

    prompts: Path | None = None

    def folder(self, root: Path, prompt: str) -> Path:
        if self.prompts is None:
            raise ValueError(
                "gpteval3d names folders by the index of the prompt: give its "
                "data/tournament-v0/prompts.json with --benchmark.prompts FILE"
            )
        texts = read_prompts(self.prompts, "--benchmark.prompts")
        if isinstance(texts, dict):
            raise ValueError(f"{self.prompts} must hold a JSON list of prompts, not an object")
        if prompt not in texts:
            near = difflib.get_close_matches(prompt, texts, 1)
            hint = f"; did you run {near[0]!r}?" if near else ""
            raise ValueError(f"{self.prompts} has no prompt {prompt!r}{hint}")
        return root / self.method / str(texts.index(prompt))

    def write(self, run: ReopenedRun, particle: int, mesh: MeshExportOptions, folder: Path) -> None:
        names = (option.name for option in fields(mesh))
        refuse_given(mesh, "on GPTEval3D, which reads images: leave it out", *names)
        seed = folder / "0"
        seed.mkdir()
        for i, view in enumerate(render_views(run, particle)):
            write_atomic(seed / f"rgb_{i}.png", encode_png(view.image))
            write_atomic(seed / f"normal_{i}.png", encode_png(view.normal_image))

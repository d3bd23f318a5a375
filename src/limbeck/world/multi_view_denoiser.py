"""A U-Net that sees four views of an object at once and takes their cameras.

It starts as the U-Net of a trained pipeline: the cameras have no effect yet, and
self-attention across the views needs no new weights. Learning what cameras mean takes long, because
they matter at the noisiest times only; so in a share of the groups the captions go on naming the
views, by which the network knows them already.

References:
    MVDream (Shi et al. 2023, arXiv 2308.16512).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from limbeck.diffusion.camera_input import CAMERA_OPTIONS
from limbeck.diffusion.view_attention import ViewFolding
from limbeck.world.denoiser import (
    Denoiser,
    mean_errors,
    preview_sample,
    save_grid,
    stratified_times,
    tokenize,
)
from limbeck.world.group_judge import judge_groups, judged_groups
from limbeck.world.multi_view_data import GROUP_SIZE, load_groups, scene_cameras
from limbeck.world.pretrained import shared_evaluator
from limbeck.world.scene import full_captions, group_captions, random_captions
from limbeck.world.trainer import Task, decay_at

_EMPTY_SHARE = 0.1  #: of the captions, those that are empty, for guidance
_PREVIEW_GROUPS, _PREVIEW_STEPS, _PREVIEW_GUIDANCE = 12, 20, 5.0


def add_camera_layers(pipeline: Path) -> UNet2DConditionModel:
    """Return the U-Net of a pipeline with layers for the camera.

    Their output is still zero, unless the U-Net has learned cameras already.

    Args:
        pipeline: folder of a pipeline.
    """
    plain = UNet2DConditionModel.from_pretrained(pipeline / "unet").float()
    # the path on the training machine is private
    options = {name: value for name, value in plain.config.items() if name != "_name_or_path"}
    net = UNet2DConditionModel.from_config(options | CAMERA_OPTIONS)
    net.load_state_dict(plain.state_dict(), strict=False)
    if plain.class_embedding is None:
        for parameter in net.class_embedding.linear_2.parameters():
            nn.init.zeros_(parameter)
    # the backward of the fused kernel is slow on CPUs at this size
    net.set_attn_processor(AttnProcessor())
    return net


class MultiViewDenoiser(Denoiser):
    """Frozen text encoder and U-Net over groups of views, with the training loss.

    Attributes:
        folding: lets the self-attention see all views of a group.
    """

    def __init__(self, pipeline: Path, snr_floor: float):
        scheduler = DDIMScheduler.from_pretrained(pipeline / "scheduler")
        text = CLIPTextModel.from_pretrained(pipeline / "text_encoder").float()
        prediction_type = scheduler.config.prediction_type
        super().__init__(text, add_camera_layers(pipeline), prediction_type, snr_floor)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone(), persistent=False)
        self.text.requires_grad_(False)
        self.folding = ViewFolding(self.unet)

    def forward(  # type: ignore[override]
        self,
        z: Float[Tensor, "b 4 16 16"],
        ids: Int[Tensor, "b tokens"],
        t: Int[Tensor, "b"],
        noise: Float[Tensor, "b 4 16 16"],
        known: Bool[Tensor, "b"],
        cameras: Float[Tensor, "r 16"],
    ) -> dict[str, Tensor]:
        """Compute the training loss.

        Args:
            z: clean latents.
            ids: token ids of their captions.
            t: time steps, 0 to 999, one per group.
            noise: standard normal noise.
            known: rows that the network is given clean, at time step 0, and that have no loss.
            cameras: cameras of the rows; none: every row is an image of its own, as in the
                pipeline that the network started from.

        Returns:
            As ``Denoiser``.
        """
        zt = torch.where(known[:, None, None, None], z, self.add_noise(z, noise, t))
        with torch.no_grad():
            text = self.text(ids).last_hidden_state
        out = self._predict(zt, t.masked_fill(known, 0), text, cameras)
        per_row, weight = self.errors(out.float(), z, noise, t)
        return mean_errors(per_row[~known], weight[~known], t[~known])

    def _predict(self, zt: Tensor, t: Tensor, text: Tensor, cameras: Tensor) -> Tensor:
        if len(cameras):
            with self.folding.groups_of(GROUP_SIZE):
                return self.unet(zt, t, text, class_labels=cameras).sample
        embedding = self.unet.class_embedding
        self.unet.class_embedding = None  # for a camera of zeros it would answer its biases
        try:
            return self.unet(zt, t, text).sample
        finally:
            self.unet.class_embedding = embedding


@cache
def _tokenizer(pipeline: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(str(pipeline / "tokenizer"))


@dataclass(frozen=True)
class MultiViewTask(Task[MultiViewDenoiser]):
    """Training of the U-Net on groups of four views.

    Attributes:
        folder: holds groups/, see ``prepare_groups``.
        pipeline: pipeline folder to start from.
        num_groups: groups to train on.
        batch_size: groups per worker and step.
        view_words: share of the groups whose captions name the views, while the rate is constant.
        final_view_words: the same at the end of the training.
        single_views: share of the steps in which every row is an image of its own without camera,
            so that what the network knew of images is kept.
        reference_views: share of the groups of which one view is given clean.
        camera_lr_factor: factor on the learning rate of the layers that hear the camera.
        snr_floor: see ``Denoiser``.
        name: name of the checkpoint and log files.
        lr: peak learning rate.
        decay_start: share of the budget after which the rate falls linearly to 0.
    """

    folder: Path
    pipeline: Path
    num_groups: int
    batch_size: int = 16
    view_words: float = 0.5
    final_view_words: float = 0.2
    single_views: float = 0.2
    reference_views: float = 0.3
    camera_lr_factor: float = 10.0
    snr_floor: float = 0.25
    name: str = "multi-view"
    lr: float = 1.5e-4
    decay_start: float = 0.7

    def build(self) -> MultiViewDenoiser:
        return MultiViewDenoiser(self.pipeline, self.snr_floor)

    def parameter_groups(self, model: MultiViewDenoiser) -> list[dict[str, Any]]:
        camera = list(model.unet.class_embedding.parameters())
        theirs = {id(p) for p in camera}
        groups = super().parameter_groups(model)
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in theirs]
        added = {"params": camera, "weight_decay": 0.0, "lr_factor": self.camera_lr_factor}
        return [*groups, added]

    def view_words_at(self, progress: float) -> float:
        """Return the share of the groups whose captions name the views.

        Args:
            progress: share of the budget that is spent, in [0, 1].
        """
        excess = self.view_words - self.final_view_words
        return self.final_view_words + excess * decay_at(self, progress)

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        latents, scenes = load_groups(self.folder / "groups", self.num_groups)
        text_rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        single = torch.rand((), generator=rng) < self.single_views
        size = 1 if single else GROUP_SIZE  # rows that belong together
        count = self.batch_size * GROUP_SIZE // size
        first = torch.randint(len(latents) // size, (count, 1), generator=rng) * size
        rows = (first + torch.arange(size)).flatten().numpy()
        scenes = scenes[rows]
        texts = (
            random_captions(scenes, text_rng)
            if single
            else group_captions(scenes, GROUP_SIZE, text_rng, self.view_words_at(progress))
        )
        empty = (torch.rand(count, generator=rng) < _EMPTY_SHARE).repeat_interleave(size)
        texts = ["" if e else text for text, e in zip(texts, empty.tolist(), strict=True)]
        known = torch.zeros(count, size, dtype=torch.bool)
        has_known = (torch.rand(count, generator=rng) < self.reference_views) & (not single)
        known[torch.arange(count), torch.randint(size, (count,), generator=rng)] = has_known
        z = torch.from_numpy(latents[rows].astype(np.float32))
        return (
            z,
            tokenize(_tokenizer(self.pipeline), texts),
            stratified_times(count, rng).repeat_interleave(size),
            torch.randn(z.shape, generator=rng),
            known.flatten(),
            torch.zeros(0, 16) if single else scene_cameras(scenes),
        )

    def preview(self, model: MultiViewDenoiser, folder: Path, minute: float) -> dict[str, float]:
        """Save a grid of groups that training does not see, from captions without view words.

        Returns:
            What the evaluator says of them, see ``judge_groups``.
        """
        scenes = judged_groups(_PREVIEW_GROUPS)
        captions = full_captions(scenes, view_words=False)
        tokenizer, device = _tokenizer(self.pipeline), next(model.parameters()).device
        ids, empty = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(len(ids), 4, 16, 16, generator=rng)
        with model.folding.groups_of(GROUP_SIZE):
            latents = preview_sample(
                model,
                ids.to(device),
                empty.to(device),
                _PREVIEW_STEPS,
                _PREVIEW_GUIDANCE,
                noise.to(device),
                scene_cameras(scenes).to(device),
            )
        vae = AutoencoderKL.from_pretrained(self.pipeline / "vae")
        images = (vae.decode(latents.float().cpu()).sample / 2 + 0.5).clamp(0, 1)
        save_grid(images, folder / f"{self.name}-{minute:06.1f}.png", 3 * GROUP_SIZE)
        verdicts = judge_groups(images, scenes, shared_evaluator("cpu"))
        return {name: round(x.nanmean().item(), 3) for name, x in verdicts.items()}

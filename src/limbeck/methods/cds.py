"""CDS, contrastive denoising score: Nam et al. 2023 (arXiv 2311.18608), eq. 8."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import required_conditions
from limbeck.diffusion.prior import AttentionPrior, Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod


@dataclass(frozen=True)
class CDS(EditMethod):
    """DDS and, against the loss of structure, the gradient in x of PatchNCE (Park et al. 2020) between self-attention features of
    picture and source, through the network.

    guidance: s of DDS. cut: weight of PatchNCE beside the code's DDS loss of 2000 / (h w). patches: most places compared per layer.
    sizes: of the patches, in places of a layer. tau: temperature.
    """

    w_cut: float = 3.0
    num_patches: int = 256
    patch_sizes: tuple[int, ...] = (1, 2)
    tau: float = 0.07

    bibtex = """@inproceedings{nam2024contrastive, title={Contrastive Denoising Score for Text-guided Latent Diffusion Image
  Editing}, author={Nam, Hyelin and Kwon, Gihyun and Park, Geon Yeong and Ye, Jong Chul}, booktitle={CVPR}, year={2024}}"""
    passes = "4 in one call (2 at guidance 1) + 1 with backward"
    backward = "the network, down to its input"

    def __post_init__(self) -> None:
        if (
            self.guidance == 0
            or self.w_cut < 0
            or self.num_patches < 2
            or not self.patch_sizes
            or min(self.patch_sizes) < 1
            or self.tau <= 0
        ):
            raise ValueError(
                f"guidance must not be 0, cut not negative, patches at least 2, sizes at least 1, tau above 0: {self}"
            )

    def init(self, prior: Prior, start: SetupContext) -> Stateless:
        if not isinstance(prior, AttentionPrior):
            raise ValueError(
                f"CDS compares a network's attention, and {type(prior).__name__} has none: take DDS or PDS"
            )
        return super().init(prior, start)

    def nce(
        self, ours: Float[Tensor, "b c h w"], theirs: Float[Tensor, "b c h w"], rng: torch.Generator
    ) -> Float[Tensor, ""]:
        """PatchNCE of one layer, a mean over places, summed over sizes and rows: every place shall know its own in the source."""
        total = ours.new_zeros(())
        for size in (s for s in self.patch_sizes if s <= min(ours.shape[2:])):
            a, b = (F.normalize(F.avg_pool2d(f, size).flatten(2), dim=1) for f in (ours, theirs))
            places = to_device(torch.randperm(a.shape[2], generator=rng)[: self.num_patches], a.device)
            logits = a[:, :, places].mT @ b[:, :, places] / self.tau
            total = total - logits.log_softmax(2).diagonal(dim1=1, dim2=2).mean(1).sum()
        return total

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        assert isinstance(prior, AttentionPrior)  # init has seen to it
        n, (height, width) = len(sample.x0), sample.x0.shape[-2:]
        with prior.capture_attention() as seen:
            gap = self.gap(prior, sample)
        first = (
            2 * (len(required_conditions(sample.conditions, self.guidance)) > 1) + 1
        ) * n  # of each condition's 2 n rows, the text's are second
        with torch.enable_grad(), prior.capture_attention() as own:
            x = sample.x0.detach().requires_grad_()
            prior(
                sample.schedule.add_noise(x, sample.eps, sample.t), sample.t, sample.conditions.pos
            )
            pairs = zip(own, seen, strict=False)  # of several denoising steps the first is meant
            loss = torch.stack(
                [self.nce(a, b[first : first + n], sample.rng) for a, b in pairs]
            ).sum()
        return gap + self.w_cut * height * width / 2000 * torch.autograd.grad(loss, x)[0]

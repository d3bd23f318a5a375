"""CDS, contrastive denoising score: Nam et al. 2023 (arXiv 2311.18608), eq. 8."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import AttentionPrior, Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.gradients import summed_gradient
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod
from limbeck.system.processes import require_one_process
from limbeck.system.random import RowRandom


@dataclass(frozen=True)
class CDS(EditMethod):
    """DDS plus the gradient of PatchNCE between self-attention features of image and source.

    The gradient of PatchNCE (Park et al. 2020) runs through the network. It keeps the structure.

    Attributes:
        w_cut: weight of PatchNCE, relative to the DDS loss of the code, 2000 / (h w) of ours.
        num_patches: largest number of patches compared per layer, at least 2.
        patch_sizes: edge lengths of the patches, in positions of the layer, at least 1.
        tau: temperature of PatchNCE, above 0.
    """

    w_cut: float = 3.0
    num_patches: int = 256
    patch_sizes: tuple[int, ...] = (1, 2)
    tau: float = 0.07

    bibtex = """@inproceedings{nam2024contrastive,
  title={Contrastive Denoising Score for Text-guided Latent Diffusion Image Editing},
  author={Nam, Hyelin and Kwon, Gihyun and Park, Geon Yeong and Ye, Jong Chul},
  booktitle={CVPR},
  year={2024}
}"""
    passes = "4 in one call (2 at guidance 1) + 1 with backward"
    backward = "the network, down to its input"

    def __post_init__(self) -> None:
        if self.guidance == 0:
            raise ValueError("guidance must not be 0: CDS reads features under the prompt")
        if not (self.w_cut >= 0 and self.tau > 0):
            raise ValueError(f"w_cut must be >= 0 and tau > 0, not {self.w_cut} and {self.tau}")
        if self.num_patches < 2:
            raise ValueError(f"num_patches must be at least 2, not {self.num_patches}")
        if not self.patch_sizes or min(self.patch_sizes) < 1:
            raise ValueError(f"patch_sizes must be numbers of at least 1, not {self.patch_sizes}")

    def init(self, prior: Prior, setup: SetupContext) -> Stateless:
        if not isinstance(prior, AttentionPrior):
            name = type(prior).__name__
            raise ValueError(f"CDS reads attention features, and {name} has none: use --method dds")
        require_one_process("CDS reads the features of all rows")
        return super().init(prior, setup)

    def patch_nce(
        self, query: Float[Tensor, "b c h w"], key: Float[Tensor, "b c h w"], rng: RowRandom
    ) -> Float[Tensor, ""]:
        """PatchNCE of one layer: query of the source, key of the image; mean over patches."""
        loss = query.new_zeros(())
        for size in (s for s in self.patch_sizes if s <= min(query.shape[2:])):
            q, k = (F.normalize(F.avg_pool2d(f, size).flatten(2), dim=1) for f in (query, key))
            order = to_device(rng.uniform(f"patches {size}", q.shape[2]).argsort(1), q.device)
            patches = order[:, None, : self.num_patches].expand(-1, q.shape[1], -1)
            logits = q.gather(2, patches).mT @ k.gather(2, patches) / self.tau
            loss = loss - logits.log_softmax(2).diagonal(dim1=1, dim2=2).mean(1).sum()
        return loss

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        assert isinstance(prior, AttentionPrior)  # checked by init
        with prior.capture_attention() as features:
            eps_target, eps_source = self.predict_target_and_source(prior, inputs)
        source_features = [f[self.source_rows(inputs)] for f in features]
        with torch.enable_grad(), prior.capture_attention() as features:
            x = inputs.x0.detach().requires_grad_()
            xt = inputs.schedule.add_noise(x, inputs.eps, inputs.t)
            prior(xt, inputs.t, inputs.conditions.pos)
            # zip stops after the first denoising step
            pairs = enumerate(zip(source_features, features, strict=False))
            losses = [self.patch_nce(q, k, inputs.rng.fold(str(i))) for i, (q, k) in pairs]
        cause = f"patch_sizes {self.patch_sizes} fit no layer of this model: give smaller ones"
        grad_nce = summed_gradient(losses, x, cause)
        height, width = x.shape[-2:]
        return eps_target - eps_source + self.w_cut * height * width / 2000 * grad_nce

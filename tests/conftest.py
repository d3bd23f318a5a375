"""One thread, no network, shapes checked at run time; small pipelines built once."""

import os

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# Modules whose shapes are checked at run time. Others are not: there a wrong value must reach the
# code's own check, or a test uses a stand-in for a prior.
SHAPED = (
    "diffusion.schedule",
    "diffusion.prediction",
    "distillation.timesteps.base",
    "distillation.timesteps",
    "distillation.weights",
    "priors.lora_adapters",
    "priors.diffusers_base",
    "priors.latent_diffusion",
    "priors.stable_diffusion",
    "priors.sdxl",
    "priors.deepfloyd_if",
    "priors.sd3",
    "priors.flux",
    "priors.lora_files",
    "graphics.fields.encodings.base",
    "graphics.fields.encodings.hash_grid",
    "graphics.fields.encodings.frequency",
    "graphics.fields.decoders",
    "graphics.fields.density_init",
    "graphics.fields.background",
    "world.background",
    "diffusion.tensors",
    "graphics.rendering.occupancy_grid",
)
install_import_hook([f"limbeck.{name}" for name in SHAPED], "shape_checks.checked")


@pytest.fixture(scope="session")
def eps_folder(tmp_path_factory):
    """A pipeline that predicts noise, on Stable Diffusion's schedule."""
    from tiny_pipeline import write_pipeline

    return write_pipeline(tmp_path_factory.mktemp("eps"), "epsilon")


@pytest.fixture(scope="session")
def v_folder(tmp_path_factory):
    """A pipeline that predicts v, with zero terminal signal."""
    from tiny_pipeline import write_pipeline

    return write_pipeline(tmp_path_factory.mktemp("v"), "v_prediction")


@pytest.fixture(params=["eps", "v"])
def folder(request, eps_folder, v_folder):
    return {"eps": eps_folder, "v": v_folder}[request.param]


@pytest.fixture
def prior(eps_folder):
    """A freshly loaded prior, for tests that attach adapters or count calls."""
    from limbeck.priors.stable_diffusion import StableDiffusion

    return StableDiffusion(str(eps_folder))


@pytest.fixture(scope="session", autouse=True)
def float32_by_default():
    """``precision`` auto is float32 on every machine: identities are tested to its rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limbeck.priors.loading.cpu_has_bfloat16", lambda: False)
        yield

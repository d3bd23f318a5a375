"""ControlNet: a copy of a U-Net's encoder that reads an image and adds its features to the U-Net.

References:
    Zhang et al. 2023, arXiv 2302.05543 (ControlNet).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import ControlNetModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.model_options import Model, RuntimeOptions
from limbeck.diffusion.prior import ControlKind
from limbeck.priors.checkpoint_files import CheckpointFiles, load_frozen_module
from limbeck.priors.hub import REPO_ID_PATTERN, resolve_model
from limbeck.priors.runtime import place_module
from limbeck.system.files import read_json_object
from limbeck.system.image_files import read_image

#: Options in which a ControlNet must equal its U-Net.
_SHARED_OPTIONS = ("in_channels", "block_out_channels", "cross_attention_dim", "layers_per_block")


def resolve_control(model: Model) -> Model:
    """Return the options with the folder of their ControlNet, which is downloaded if needed.

    Args:
        model: options with a ControlNet.

    Raises:
        ValueError: if there is none, it is another kind of model, or what it takes is not known.
    """
    control = model.control
    is_path = Path(control).expanduser().exists()
    if not is_path and REPO_ID_PATTERN.fullmatch(control) is None:
        raise ValueError(f"no ControlNet {control!r}: give its folder or a hub id like owner/name")
    folder = resolve_model(control, "config.json")
    if not folder.is_dir():
        raise ValueError(f"control {control}: give the folder with its config.json, not one file")
    if not (folder / "config.json").is_file():
        raise ValueError(f"control {control}: the folder has no config.json of a ControlNet")
    name = read_json_object(folder / "config.json").get("_class_name")
    if name != ControlNetModel.__name__:
        raise ValueError(
            f"control {control}: its config.json is of a {name!s:.60}; "
            f"give the folder of a {ControlNetModel.__name__}"
        )
    # of a hub id, whose folder has another name
    kind = model.control_kind if model.control_image else model.rendered_control
    return replace(model, control=str(folder), control_kind=kind)


class ControlNet(nn.Module):
    """A frozen ControlNet of a U-Net; a call returns what it adds to the U-Net.

    Args:
        model: options; ``control`` is a folder.
        unet_config: options of the U-Net.
        factor: pixels per latent, in each direction.
        dtype: precision of the weights.
        device: their device.
        runtime: how the model is executed.

    Attributes:
        network: the module of diffusers.
        kind: what of a render it is given; None if it has an image of its own.

    Raises:
        ValueError: if it is the ControlNet of another network.
    """

    def __init__(
        self,
        model: Model,
        unet_config: dict[str, Any],
        factor: int,
        dtype: torch.dtype,
        device: str,
        runtime: RuntimeOptions,
    ):
        super().__init__()
        folder, self._image_file = Path(model.control), model.control_image
        config = CheckpointFiles(folder).full_config(ControlNetModel, "")
        for name in _SHARED_OPTIONS:
            own, other = (_as_list(found.get(name)) for found in (config, unet_config))
            if own != other:
                raise ValueError(
                    f"control {folder}: it has {name} {own}, the U-Net of the model {other}: "
                    "give a ControlNet that was trained for this model"
                )
        own_factor = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
        if config["conditioning_channels"] != 3 or own_factor != factor:
            raise ValueError(
                f"control {folder}: it takes images of {config['conditioning_channels']} channels "
                f"and {own_factor} pixels per latent; the model has 3 and {factor}"
            )
        if config["global_pool_conditions"]:
            raise ValueError(
                f"control {folder}: it has global_pool_conditions, as for shuffled images, which "
                "are not read"
            )
        module = load_frozen_module(ControlNetModel, folder, dtype)
        self.network = cast(ControlNetModel, place_module(module, runtime, device))
        self.kind: ControlKind | None = None if self._image_file else model.rendered_control
        self._name, self._scale = model.control, model.control_scale
        self._images: dict[tuple[int, int], Tensor] = {}

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        ticks: Float[Tensor, "b"],
        condition: Condition,
        size: tuple[int, int],
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Return what the U-Net adds to its features, as options of its call.

        Args:
            xt: x_t of each row.
            ticks: timestep index of each row.
            condition: text of each row, and its control image if there is none of its own.
            size: height and width of the images in pixels.
            options: further options of the call of the U-Net, which the ControlNet gets too.

        Raises:
            ValueError: if the rows have no control image.
        """
        if condition.control is not None:
            images = condition.control
            if images.shape[2:] != size:
                images = interpolate(images, size, mode="bilinear", antialias=True)
        else:
            images = self._own_image(size, xt.device).expand(len(xt), -1, -1, -1)
        down, middle = self.network(
            xt,
            ticks,
            condition.data,
            images.to(xt.dtype),
            conditioning_scale=self._scale,
            return_dict=False,
            **options,
        )
        return {
            "down_block_additional_residuals": tuple(down),
            "mid_block_additional_residual": middle,
        }

    def _own_image(self, size: tuple[int, int], device: torch.device) -> Tensor:
        if self._image_file is None:
            raise ValueError(
                f"control {self._name}: these rows have no render that shows {self.kind}: "
                "give an image with --model.control-image FILE"
            )
        if size not in self._images:  # kept, because copying it to a device would wait for it
            self._images[size] = read_image(self._image_file, size)[None].to(device)
        return self._images[size]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

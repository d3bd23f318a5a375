"""Gaussians as .ply files in the layout of 3D Gaussian splatting (Kerbl et al. 2023), which viewers and editors of splats read.

Those files live in the space of COLMAP, y down, and viewers and editors (SuperSplat, the previews of macOS) turn them by half a
turn around z to stand them upright. Ours is y up with fronts towards +z. Writing turns by half a turn around z, (x, y, z) ->
(-x, -y, z), and reading turns back: in such a viewer a thing has the very coordinates it has here, and where y is down it stands
upright too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.geometry.assets import Splats

SH_C0 = 0.28209479177387814  #: the spherical harmonic of degree 0, 1 / (2 sqrt(pi)); colour = .5 + C0 f_dc
PLY_PROPERTIES = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
          "rot_0", "rot_1", "rot_2", "rot_3")  #: of the official files; opacities are logits, scales logarithms  # fmt: skip
PLY_DTYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4", "float": "<f4", "double": "<f8",
    "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4",
    "float32": "<f4", "float64": "<f8",
}  # fmt: skip
OPACITY_EPS = 1e-6  #: opacities are kept this far from 0 and 1, whose logits are infinite


def rotate_half_turn_z(
    mean: Float[Tensor, "n 3"], turn: Float[Tensor, "n 4"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]]:
    """Half a turn around z; done twice it is none."""
    w, x, y, z = turn.unbind(1)
    return mean * mean.new_tensor([-1.0, -1.0, 1.0]), torch.stack([-z, -y, x, w], 1)


def write_gaussian_ply(path: Path, splats: Splats) -> None:
    """Write Gaussians of world space; OSError where the file cannot be."""
    mean, turn = rotate_half_turn_z(splats.mean, splats.turn)
    opacity = splats.opacity.clamp(OPACITY_EPS, 1 - OPACITY_EPS).logit()
    colour = (splats.colour - 0.5) / SH_C0
    columns = [mean, torch.zeros_like(mean), colour, opacity[:, None], splats.scale.log(), turn]
    table = (
        torch.cat([column.detach().float().cpu() for column in columns], 1).numpy().astype("<f4")
    )
    head = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(table)}",
        *(f"property float {p}" for p in PLY_PROPERTIES),
    ]
    path.write_bytes("\n".join([*head, "end_header", ""]).encode("ascii") + table.tobytes())


def read_gaussian_ply(path: Path) -> Splats:
    """Gaussians of such a file in world space, colours cut to [0, 1]; harmonics of higher degrees are left out.

    ValueError where it is no binary little-endian .ply of Gaussians, or ends early.
    """
    content = path.read_bytes()
    head, mark, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    if not mark or lines[0].strip() != "ply":
        raise ValueError(f"{path} is no .ply file")
    if "format binary_little_endian 1.0" not in (line.strip() for line in lines):
        raise ValueError(f"{path}: only binary little-endian .ply files are read; save it as one")
    count, fields = _vertices(path, [line.split() for line in lines[1:]])
    kind = np.dtype(fields)
    missing = [
        name for name in PLY_PROPERTIES if name not in dict(fields) and name not in ("nx", "ny", "nz")
    ]
    if missing:
        raise ValueError(f"{path} holds no Gaussians: its vertices lack {', '.join(missing)}")
    if len(body) < count * kind.itemsize:
        raise ValueError(
            f"{path} ends early: {len(body)} bytes of {count * kind.itemsize} are there"
        )
    rows = np.frombuffer(body, kind, count)
    part = lambda *names: torch.from_numpy(
        np.stack([rows[name].astype(np.float32) for name in names], 1)
    )  # noqa: E731
    mean, turn = rotate_half_turn_z(
        part("x", "y", "z"), F.normalize(part("rot_0", "rot_1", "rot_2", "rot_3"), dim=1)
    )
    colour = (0.5 + SH_C0 * part("f_dc_0", "f_dc_1", "f_dc_2")).clamp(0, 1)
    return Splats(
        mean,
        part("scale_0", "scale_1", "scale_2").exp(),
        turn,
        part("opacity")[:, 0].sigmoid(),
        colour,
    )


def _vertices(path: Path, lines: list[list[str]]) -> tuple[int, list[tuple[str, str]]]:
    """How many vertices there are, and what each consists of. They must come first."""
    elements = [i for i, words in enumerate(lines) if words[:1] == ["element"]]
    if not elements or lines[elements[0]][1:2] != ["vertex"]:
        raise ValueError(f"{path}: its first element must be vertex")
    last = elements[1] if len(elements) > 1 else len(lines)
    said = [words for words in lines[elements[0] : last] if words[:1] == ["property"]]
    unknown = [" ".join(words) for words in said if len(words) != 3 or words[1] not in PLY_DTYPES]
    if unknown:
        raise ValueError(f"{path}: cannot read {unknown[0]!r}")
    return int(lines[elements[0]][2]), [(name, PLY_DTYPES[kind]) for _, kind, name in said]

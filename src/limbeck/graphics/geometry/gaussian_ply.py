"""Gaussians as .ply files in the layout of 3D Gaussian splatting (Kerbl et al. 2023).

Such files use COLMAP's axes, y down; viewers and editors (SuperSplat, the macOS preview) rotate
them by 180 degrees around z to stand them upright. Limbeck is y up with fronts towards +z. Writing
applies that rotation, (x, y, z) -> (-x, -y, z), and reading undoes it: such viewers show an asset
with the coordinates it has here, and programs that keep y down show it upright too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.geometry.assets import Splats

#: Spherical harmonic of degree 0, 1 / (2 sqrt(pi)): color = 0.5 + SH_C0 f_dc.
SH_C0 = 0.28209479177387814
#: Vertex properties of the official files; opacities are logits, scales logarithms.
PLY_PROPERTIES = (
    "x",
    "y",
    "z",
    "nx",
    "ny",
    "nz",
    "f_dc_0",
    "f_dc_1",
    "f_dc_2",
    "opacity",
    "scale_0",
    "scale_1",
    "scale_2",
    "rot_0",
    "rot_1",
    "rot_2",
    "rot_3",
)
_PLY_DTYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "<i2",
    "int16": "<i2",
    "ushort": "<u2",
    "uint16": "<u2",
    "int": "<i4",
    "int32": "<i4",
    "uint": "<u4",
    "uint32": "<u4",
    "float": "<f4",
    "float32": "<f4",
    "double": "<f8",
    "float64": "<f8",
}
_OPACITY_EPS = 1e-6  #: opacities are clamped this far from 0 and 1, where logits are infinite


def rotate_half_turn_z(
    means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]]:
    """Rotate Gaussians by 180 degrees around z; the rotation is its own inverse."""
    w, x, y, z = quats.unbind(1)
    return means * means.new_tensor([-1.0, -1.0, 1.0]), torch.stack([-z, -y, x, w], 1)


def write_gaussian_ply(path: Path, splats: Splats) -> None:
    """Write Gaussians in world space as a binary .ply file.

    Raises:
        OSError: if the file cannot be written.
    """
    means, quats = rotate_half_turn_z(splats.means, splats.quats)
    logits = splats.opacities.clamp(_OPACITY_EPS, 1 - _OPACITY_EPS).logit()
    f_dc = (splats.colors - 0.5) / SH_C0
    normals = torch.zeros_like(means)
    columns = [means, normals, f_dc, logits[:, None], splats.scales.log(), quats]
    table = torch.cat([column.detach().float().cpu() for column in columns], 1)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(table)}",
        *(f"property float {name}" for name in PLY_PROPERTIES),
        "end_header",
        "",
    ]
    path.write_bytes("\n".join(header).encode("ascii") + table.numpy().astype("<f4").tobytes())


def read_gaussian_ply(path: Path) -> Splats:
    """Read Gaussians in world space; colors are clamped to [0, 1].

    Spherical harmonics of degree 1 and higher are ignored.

    Raises:
        ValueError: if the file is not a binary little-endian .ply of Gaussians, or is truncated.
    """
    content = path.read_bytes()
    header, end, body = content.partition(b"end_header\n")
    lines = header.decode("ascii", "replace").split("\n")
    if not end or lines[0].strip() != "ply":
        raise ValueError(f"{path} is not a .ply file")
    if "format binary_little_endian 1.0" not in (line.strip() for line in lines):
        raise ValueError(f"{path}: only binary little-endian .ply files can be read; convert it")
    count, fields = _vertex_layout(path, [line.split() for line in lines[1:]])
    dtype = np.dtype(fields)
    required = [name for name in PLY_PROPERTIES if name not in ("nx", "ny", "nz")]
    missing = [name for name in required if name not in dict(fields)]
    if missing:
        raise ValueError(f"{path} holds no Gaussians: its vertices lack {', '.join(missing)}")
    if len(body) < count * dtype.itemsize:
        raise ValueError(
            f"{path} is truncated: {len(body)} of {count * dtype.itemsize} bytes are present"
        )
    return _to_splats(np.frombuffer(body, dtype, count))


def _to_splats(rows: np.ndarray) -> Splats:
    """Gaussians in world space from the vertices of a file."""

    def columns(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([rows[name].astype(np.float32) for name in names], 1))

    file_quats = F.normalize(columns("rot_0", "rot_1", "rot_2", "rot_3"), dim=1)
    means, quats = rotate_half_turn_z(columns("x", "y", "z"), file_quats)
    return Splats(
        means,
        columns("scale_0", "scale_1", "scale_2").exp(),
        quats,
        columns("opacity")[:, 0].sigmoid(),
        (0.5 + SH_C0 * columns("f_dc_0", "f_dc_1", "f_dc_2")).clamp(0, 1),
    )


def _vertex_layout(path: Path, lines: list[list[str]]) -> tuple[int, list[tuple[str, str]]]:
    """Number of vertices, and (name, dtype) of their properties. Vertices must come first."""
    elements = [i for i, words in enumerate(lines) if words[:1] == ["element"]]
    if not elements or lines[elements[0]][1:2] != ["vertex"]:
        raise ValueError(f"{path}: its first element must be vertex")
    end = elements[1] if len(elements) > 1 else len(lines)
    properties = [words for words in lines[elements[0] : end] if words[:1] == ["property"]]
    for words in properties:
        if len(words) != 3 or words[1] not in _PLY_DTYPES:
            raise ValueError(f"{path}: unsupported property {' '.join(words)!r}")
    return int(lines[elements[0]][2]), [(name, _PLY_DTYPES[kind]) for _, kind, name in properties]

"""Gaussians as .ply files: round trip, layout, files of other programs, and broken files."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from gaussians import perturb, single_gaussian, splat_particles
from tiny_pipeline import max_difference

from limbeck.graphics.geometry.assets import Splats
from limbeck.graphics.geometry.gaussian_ply import (
    PLY_PROPERTIES,
    SH_C0,
    read_gaussian_ply,
    write_gaussian_ply,
)
from limbeck.graphics.rendering.gaussian_projection import quats_to_rotations
from limbeck.representations.gaussian_splats import GaussianSplats

HEADER = b"ply\nformat binary_little_endian 1.0\n"


def test_writing_and_reading_keeps_the_gaussians(tmp_path):
    config = GaussianSplats(num_gaussians=50, init_color_std=1.0)
    splats = perturb(splat_particles(config)).asset(0)
    write_gaussian_ply(tmp_path / "a.ply", splats)
    read = read_gaussian_ply(tmp_path / "a.ply")
    for name in ("means", "scales", "opacities", "colors"):
        assert max_difference(getattr(read, name), getattr(splats, name)) < 1e-5
    assert max_difference(quats_to_rotations(read.quats), quats_to_rotations(splats.quats)) < 1e-5


def test_the_layout_is_what_viewers_expect(tmp_path):
    """One Gaussian by hand. SuperSplat and others rotate by 180 degrees around z, which restores
    our coordinates."""
    gaussian = single_gaussian(
        (0.1, 0.2, 0.3), (0.01, 0.02, 0.03), 0.7, (0.9, 0.5, 0.1), (0.8, 0.6, 0, 0)
    )
    write_gaussian_ply(tmp_path / "a.ply", Splats(*(v[0] for v in vars(gaussian).values())))
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    lines = head.decode().split("\n")
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 1"]
    assert [line.split()[2] for line in lines[3:-1]] == list(PLY_PROPERTIES)
    values = torch.frombuffer(bytearray(body), dtype=torch.float32).tolist()
    row = dict(zip(PLY_PROPERTIES, values, strict=True))
    expected = {
        **{"x": -0.1, "y": -0.2, "z": 0.3},
        **{"f_dc_0": 0.4 / SH_C0, "f_dc_1": 0, "f_dc_2": -0.4 / SH_C0},
        **{"opacity": math.log(0.7 / 0.3), "scale_2": math.log(0.03)},
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=1e-6), name
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    rotation = quats_to_rotations(torch.tensor([row[f"rot_{i}"] for i in range(4)]))
    assert max_difference(half_turn @ rotation, quats_to_rotations(gaussian.quats[0, 0])) < 1e-6
    trimesh = pytest.importorskip("trimesh")
    vertices = torch.from_numpy(trimesh.load(tmp_path / "a.ply").vertices)
    assert max_difference(vertices, torch.tensor([[-0.1, -0.2, 0.3]])) < 1e-6


def test_files_with_other_properties_and_elements_are_read(tmp_path):
    names = [name for name in PLY_PROPERTIES if not name.startswith("n")]
    properties = [("double" if name == "x" else "float", name) for name in names]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "comment made elsewhere",
        "element vertex 1",
        *(f"property {kind} {name}" for kind, name in [*properties, ("uchar", "label")]),
        "element face 0",
        "property list uchar int indices",
        "end_header\n",
    ]
    values = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    (tmp_path / "a.ply").write_bytes("\n".join(lines).encode() + struct.pack("<d13fB", *values, 7))
    splats = read_gaussian_ply(tmp_path / "a.ply")
    assert splats.means.tolist() == [[-1, -2, 3]]
    assert splats.scales.tolist() == [[1, 1, 1]] and splats.opacities.tolist() == [0.5]
    assert splats.quats.abs().tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"solid", "not a .ply file"),
        (b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", "only binary little-endian"),
        (HEADER + b"element vertex 1\nproperty float x\nend_header\n", "lack y, z"),
        (HEADER + b"element face 1\nend_header\n", "first element must be vertex"),
        (
            HEADER + b"element vertex 1\nproperty list uchar int x\nend_header\n",
            "unsupported property",
        ),
    ],
    ids=["no ply", "ascii", "lacks properties", "no vertices", "list"],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_gaussian_ply(tmp_path / "a.ply")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.ply"
    write_gaussian_ply(path, splat_particles(GaussianSplats(num_gaussians=5)).asset(0))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="truncated: 337 of 340 bytes"):
        read_gaussian_ply(path)

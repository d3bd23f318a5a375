"""Browser viewer of a 3D run, by viser: orbit, shading, particles, steps and training cameras."""

from __future__ import annotations

import html
import io
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import viser
from jaxtyping import Float
from torch import Tensor
from viser.transforms import SO3

from limbeck.graphics.cameras.camera import Camera, turntable_cameras
from limbeck.graphics.cameras.samplers import ShellCameras
from limbeck.graphics.export.mesh_cleanup import TexturedMesh
from limbeck.graphics.export.writers import encode_glb, srgb_to_linear
from limbeck.graphics.geometry.assets import Splats
from limbeck.metrics.heldout_views import AMBIENT, DIFFUSE, LIGHT_DIRECTION
from limbeck.runs.reopen import particle_names, read_experiment, stage_folders, step_cameras
from limbeck.runs.snapshots_3d import SnapshotFolder, read_snapshot
from limbeck.training.experiment import Experiment

_POLL_SECONDS = 1.0  #: time between checks for new files
_GRAY = 0.75
_SHADINGS = ("color", "normals", "textureless")
_MAX_FRUSTA = 64  #: at most so many training cameras are drawn
_FRUSTUM_SIZE = 0.12  #: size of a training camera, in scene units

#: input and output matrix of ACES tone mapping as in three.js (fit by Stephen Hill)
_ACES_INPUT = (
    (0.59719, 0.35458, 0.04823),
    (0.07600, 0.90834, 0.01566),
    (0.02840, 0.13383, 0.83777),
)
_ACES_OUTPUT = (
    (1.60475, -0.53108, -0.07367),
    (-0.10208, 1.10813, -0.00605),
    (-0.00327, -0.07276, 1.07602),
)


def inverse_tone_mapping(colors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Linear light that viser displays as the given sRGB colors.

    Viser draws meshes with the ACES tone mapping of three.js at exposure 1 / 0.6; this is its
    inverse. For saturated colors some channels are negative, which shaders accept.
    """
    output, input_ = (
        torch.tensor(rows, dtype=torch.float64).inverse() for rows in (_ACES_OUTPUT, _ACES_INPUT)
    )
    y = (srgb_to_linear(colors.double()) @ output.T).clamp(0, 1)
    # solve y = (v (v + a) - b) / (v (c v + d) + e) for v
    a, b, c, d, e = 0.0245786, 0.000090537, 0.983729, 0.4329510, 0.238081
    quadratic, linear, constant = 1 - c * y, a - d * y, b + e * y
    v = (-linear + (linear**2 + 4 * quadratic * constant).sqrt()) / (2 * quadratic)
    return (0.6 * v @ input_.T).float()


def mesh_to_glb(mesh: TexturedMesh, shading: str) -> bytes:
    """Encode a mesh as .glb.

    Args:
        mesh: mesh with vertex colors.
        shading: ``color`` or ``normals`` for unlit colors, ``textureless`` for lit gray.
    """
    if shading == "textureless":
        return encode_glb(replace(mesh, colors=torch.full_like(mesh.vertices, _GRAY)))
    if shading == "normals":
        mesh = replace(mesh, colors=(mesh.normals + 1) / 2)
    return encode_glb(mesh, unlit=True, color_transform=inverse_tone_mapping)


def quaternions_to_matrices(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = quats.unbind(1)
    first = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    second = [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    third = [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack([*first, *second, *third], 1).view(-1, 3, 3)


def splat_colors(splats: Splats, shading: str) -> Float[Tensor, "n 3"]:
    """Display colors of splats.

    The normal of a splat is its shortest axis, oriented away from the mean of all splats.

    Args:
        splats: the splats.
        shading: ``color``, ``normals``, or ``textureless`` for gray under a lamp at the upper left
            in front of the object.
    """
    if shading == "color":
        return splats.colors
    shortest = splats.scales.argmin(1)[:, None, None].expand(-1, 3, 1)
    normal = quaternions_to_matrices(splats.quats).gather(2, shortest)[..., 0]
    outward = ((splats.means - splats.means.mean(0)) * normal).sum(1, keepdim=True) >= 0
    normal = torch.where(outward, normal, -normal)
    if shading == "normals":
        return (normal + 1) / 2
    lamp = torch.nn.functional.normalize(torch.tensor(LIGHT_DIRECTION).to(normal), dim=0)
    light = AMBIENT + DIFFUSE * (normal @ lamp).clamp_min(0)
    return (_GRAY * light)[:, None].expand(-1, 3)


def splat_covariances(splats: Splats) -> Float[Tensor, "n 3 3"]:
    """Covariance matrices R S S R^T."""
    half = quaternions_to_matrices(splats.quats) * splats.scales[:, None]
    return half @ half.mT


def to_opencv(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Convert cameras to the OpenCV convention of viser (looking along +z, y down).

    Returns:
        Unit quaternions (w, x, y, z) of shape [n, 4] and positions of shape [n, 3].
    """
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    rotations = camera.pose[:, :3, :3].double() @ flip
    quats = [SO3.from_matrix(matrix.numpy()).wxyz for matrix in rotations]
    return np.stack(quats), camera.eye.numpy()


def prompts_html(prompts: Sequence[str]) -> str:
    """Prompts as a list, numbered if there are several; their text is shown as it is."""
    numbers = [f"{i:02d} " if len(prompts) > 1 else "" for i in range(len(prompts))]
    lines = [
        f"<div>{html.escape(number + prompt)}</div>"
        for number, prompt in zip(numbers, prompts, strict=True)
    ]
    return f'<div style="padding: 0 0.75em; font-size: 0.875em">{"".join(lines)}</div>'


def _to_numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


class Viewer:
    """A web page that shows the 3D snapshots of a run folder.

    Of a preset with several stages, any stage can be selected; the last one is shown first.
    ``refresh`` picks up new files.

    Args:
        folder: run folder, or the parent folder of the stages.
        experiment: experiment of the run or of the last stage.
        port: TCP port; the next free one is used if it is taken.
        host: address to bind.
    """

    def __init__(self, folder: Path, experiment: Experiment, port: int, host: str = "127.0.0.1"):
        self.root, self.stages = folder, {stage.name: stage for stage in stage_folders(folder)}
        self.snapshots, self.experiment = SnapshotFolder(stage_folders(folder)[-1]), experiment
        self.lock = threading.RLock()  # setting a control draws again, also while drawing
        self.steps = self.snapshots.steps()
        self.drawn: tuple[Path | None, str] | None = None
        with redirect_stdout(io.StringIO()):  # viser prints a banner even if verbose=False
            label = f"limbeck: {folder.name}"
            self.server = viser.ViserServer(host=host, port=port, label=label, verbose=False)
        self._set_initial_camera()
        self._add_controls()
        self.draw()

    def _set_initial_camera(self) -> None:
        """Look as in the recorded images, with y up."""
        sampler = self.experiment.camera_sampler
        elevation, distance, fov = 15.0, 3.6, 40.0
        if isinstance(sampler, ShellCameras):
            elevation, distance, fov = sampler.resolved_eval_camera
        eye = turntable_cameras(1, elevation, distance, fov).eye[0]
        self.server.scene.set_up_direction("+y")
        self.server.initial_camera.position = tuple(eye.tolist())
        self.server.initial_camera.look_at = (0.0, 0.0, 0.0)
        self.server.initial_camera.fov = float(np.radians(fov))

    def _add_controls(self) -> None:
        gui, e = self.server.gui, self.experiment
        gui.add_html(prompts_html(e.prompts))
        stages = tuple(self.stages)
        self.stage = gui.add_dropdown(
            "stage", stages, initial_value=stages[-1], visible=len(stages) > 1
        )
        self.particle = gui.add_dropdown("particle", tuple(particle_names(e)), visible=e.total > 1)
        last = self._last_index
        self.step = gui.add_slider("snapshot", min=0, max=max(last, 1), step=1, initial_value=last)
        self.shading = gui.add_dropdown("shading", _SHADINGS)
        self.cameras = gui.add_checkbox("training cameras", False)
        self.num_steps = gui.add_slider(
            "of the last steps", min=1, max=_MAX_FRUSTA, step=1, initial_value=8, visible=False
        )
        self.note = gui.add_markdown("")
        controls = (
            self.stage,
            self.particle,
            self.step,
            self.shading,
            self.cameras,
            self.num_steps,
        )
        for control in controls:
            control.on_update(lambda _: self.draw())

    @property
    def _last_index(self) -> int:
        return max(len(self.steps) - 1, 0)

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def refresh(self) -> None:
        """Look for new stages and snapshots; move on to them if the newest one is selected."""
        stages = {stage.name: stage for stage in stage_folders(self.root)}
        if list(stages) != list(self.stages):
            at_newest = self.stage.value == list(self.stages)[-1]
            self.stages = stages
            self.stage.options, self.stage.visible = tuple(stages), len(stages) > 1
            if at_newest:
                self.stage.value = list(stages)[-1]
        steps = self.snapshots.steps()
        if steps == self.steps:
            return
        at_newest = self.step.value >= self._last_index
        self.steps = steps
        self.step.max = max(self._last_index, 1)
        if at_newest:
            self.step.value = self._last_index
        self.draw()

    def _select_stage(self, folder: Path) -> None:
        self.snapshots, self.experiment = SnapshotFolder(folder), read_experiment(folder)
        self.steps = self.snapshots.steps()
        self.particle.options = tuple(particle_names(self.experiment))
        self.particle.visible = self.experiment.total > 1
        self.step.max = max(self._last_index, 1)
        self.step.value = self._last_index

    def draw(self) -> None:
        """Draw the page for the current values of the controls."""
        with self.lock:
            if self.stages[self.stage.value] != self.snapshots.folder:
                self._select_stage(self.stages[self.stage.value])
            self.step.visible, self.num_steps.visible = len(self.steps) > 1, self.cameras.value
            index = min(int(self.step.value), self._last_index)
            step = list(self.steps)[index] if self.steps else 0
            path = self.steps.get(step, {}).get(self.particle.value)
            if (path, self.shading.value) != self.drawn:
                self._draw_asset(path)
                self.drawn = (path, self.shading.value)
            self._draw_cameras(step)
            note = f"step {step} of {self.experiment.steps}"
            self.note.content = f"**{'no snapshot yet' if path is None else note}**"

    def _draw_asset(self, path: Path | None) -> None:
        scene = self.server.scene
        scene.remove_by_name("/asset")
        if path is None:
            return
        asset, shading = read_snapshot(path), self.shading.value
        if isinstance(asset, TexturedMesh):
            scene.add_glb("/asset", mesh_to_glb(asset, shading))
            return
        scene.add_gaussian_splats(
            "/asset",
            _to_numpy(asset.means),
            _to_numpy(splat_covariances(asset)),
            _to_numpy(splat_colors(asset, shading)),
            _to_numpy(asset.opacities)[:, None],
        )

    def _draw_cameras(self, step: int) -> None:
        """Draw the cameras that saw the particle in the last steps, the latest darkest."""
        scene = self.server.scene
        scene.remove_by_name("/cameras")
        if not self.cameras.value:
            return
        particle, count = particle_names(self.experiment).index(self.particle.value), 0
        for age in range(1, min(int(self.num_steps.value), step) + 1):
            rows, camera = step_cameras(self.experiment, step - age)
            if camera is None or count >= _MAX_FRUSTA:
                return
            if particle not in rows:
                continue
            cameras, gray = camera[rows == particle], int(30 + 170 * (age - 1) / _MAX_FRUSTA)
            quats, positions = to_opencv(cameras)
            for quat, position, fov in zip(quats, positions, cameras.fov.tolist(), strict=True):
                scene.add_camera_frustum(
                    f"/cameras/{count}",
                    fov,
                    1.0,
                    scale=_FRUSTUM_SIZE,
                    color=(gray, gray, gray),
                    wxyz=quat,
                    position=position,
                )
                count += 1

    def follow(self, stop: threading.Event) -> None:
        """Refresh the page about once per second until ``stop`` is set."""
        while not stop.wait(_POLL_SECONDS):
            self.refresh()


@contextmanager
def viewer_process(folder: Path) -> Iterator[None]:
    """Run a viewer of a run folder in a separate process for the duration of the context."""
    command = [sys.executable, "-m", "limbeck", "view", str(folder), "--live"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()

"""A run's solids in the browser, by viser: orbit, shading, particles, steps, and the cameras that the run looked through."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
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
from limbeck.training.experiment import Experiment
from limbeck.graphics.export.writers import encode_glb, srgb_to_linear
from limbeck.graphics.export.mesh_cleanup import TexturedMesh
from limbeck.metrics.heldout_views import AMBIENT, DIFFUSE, LIGHT_DIRECTION
from limbeck.runs.reopen import particle_names, read_experiment, stage_folders, step_cameras
from limbeck.runs.snapshots_3d import SnapshotFolder, read_snapshot
from limbeck.graphics.geometry.assets import Splats
from limbeck.graphics.cameras.samplers import Orbit

_POLL_SECONDS = 1.0  #: seconds between looks at the folder of a run under way
_GRAY = 0.75
_SHADINGS = ("colour", "normals", "textureless")
_MAX_FRUSTA = 64  #: cameras drawn at most
_ACES_INPUT = (
    (0.59719, 0.35458, 0.04823),
    (0.07600, 0.90834, 0.01566),
    (0.02840, 0.13383, 0.83777),
)  #: the curve of three.js
_ACES_OUTPUT = (
    (1.60475, -0.53108, -0.07367),
    (-0.10208, 1.10813, -0.00605),
    (-0.00327, -0.07276, 1.07602),
)
_FRUSTUM_SIZE = 0.12  #: of a camera drawn, in units of space


def inverse_tone_mapping(colours: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The light that viser's page shows as ``colours``: it draws meshes through a curve like that of film, ACES in Stephen Hill's
    fit with exposure 1 / .6, as three.js has it; this is the inverse. Of pure colours it is partly negative, which shaders take.
    """
    after, before = (
        torch.tensor(rows, dtype=torch.float64).inverse() for rows in (_ACES_OUTPUT, _ACES_INPUT)
    )
    y = (srgb_to_linear(colours.double()) @ after.T).clamp(
        0, 1
    )  # y = (v (v + a) - b) / (v (c v + d) + e)
    a, b, c, d, e = 0.0245786, 0.000090537, 0.983729, 0.4329510, 0.238081
    two, one, none = 1 - c * y, a - d * y, b + e * y
    v = (-one + (one**2 + 4 * two * none).sqrt()) / (2 * two)
    return (0.6 * v @ before.T).float()


def mesh_to_glb(mesh: TexturedMesh, shading: str) -> bytes:
    """A .glb of a mesh: its colours or its normals as they are, or its shape in grey light."""
    if shading == "textureless":
        return encode_glb(replace(mesh, colours=torch.full_like(mesh.vertices, _GRAY)))
    shown = mesh if shading == "colour" else replace(mesh, colours=(mesh.normals + 1) / 2)
    return encode_glb(shown, unlit=True, light=inverse_tone_mapping)


def quaternions_to_matrices(turn: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = turn.unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).view(-1, 3, 3)


def splat_colors(splats: Splats, shading: str) -> Float[Tensor, "n 3"]:
    """Colours of splats; as normals serve their shortest axes, turned away from the middle. Without texture they are grey under a
    lamp before them, up and to the left."""
    if shading == "colour":
        return splats.colour
    shortest = splats.scale.argmin(1)[:, None, None].expand(-1, 3, 1)
    normal = quaternions_to_matrices(splats.turn).gather(2, shortest)[..., 0]
    outward = ((splats.mean - splats.mean.mean(0)) * normal).sum(1, keepdim=True) >= 0
    normal = torch.where(outward, normal, -normal)
    if shading == "normals":
        return (normal + 1) / 2
    lit = normal @ torch.nn.functional.normalize(torch.tensor(LIGHT_DIRECTION).to(normal), dim=0)
    return (_GRAY * (AMBIENT + DIFFUSE * lit.clamp_min(0)))[:, None].expand(-1, 3)


def splat_covariances(splats: Splats) -> Float[Tensor, "n 3 3"]:
    """Second moments: R S S R^T."""
    half = quaternions_to_matrices(splats.turn) * splats.scale[:, None]
    return half @ half.mT


def to_opencv(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions (w, x, y, z) and places of cameras that look along their own +z with y down, as viser's do."""
    turn = camera.pose[:, :3, :3].double() @ torch.diag(
        torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    )
    return np.stack([SO3.from_matrix(matrix.numpy()).wxyz for matrix in turn]), camera.eye.numpy()


class Viewer:
    """A page that shows what lies in ``solids/`` of a run folder; of a recipe of several stages, of any of them, at first the last.
    ``look`` has it look again."""

    def __init__(self, folder: Path, experiment: Experiment, port: int, host: str = "127.0.0.1"):
        """experiment: of the run or the last stage."""
        self.root, self.stages = folder, {stage.name: stage for stage in stage_folders(folder)}
        self.snapshots, self.experiment = SnapshotFolder(stage_folders(folder)[-1]), experiment
        self.lock, self.steps = (
            threading.RLock(),
            self.snapshots.steps(),
        )  # to change a control draws again, within a draw too
        self.shown: tuple[Path | None, str] | None = None
        with redirect_stdout(io.StringIO()):  # it greets whatever it is told
            self.server = viser.ViserServer(
                host=host, port=port, label=f"limbeck: {folder.name}", verbose=False
            )
        self._stage()
        gui, e = self.server.gui, experiment
        gui.add_markdown(
            "\n".join(f"- {i:02d} {prompt}" for i, prompt in enumerate(e.prompts))
            if e.prompts[1:]
            else e.prompts[0]
        )
        several, last = tuple(self.stages), list(self.stages)[-1]
        self.stage = gui.add_dropdown(
            "stage", several, initial_value=last, visible=len(several) > 1
        )
        self.particle = gui.add_dropdown("particle", tuple(particle_names(e)), visible=e.total > 1)
        self.step = gui.add_slider(
            "checkpoint", min=0, max=max(self._last, 1), step=1, initial_value=self._last
        )
        self.shading = gui.add_dropdown("shading", _SHADINGS)
        self.cameras = gui.add_checkbox("cameras", False)
        self.num_steps = gui.add_slider(
            "of the last steps", min=1, max=_MAX_FRUSTA, step=1, initial_value=8, visible=False
        )
        self.note = gui.add_markdown("")
        for control in (
            self.stage,
            self.particle,
            self.step,
            self.shading,
            self.cameras,
            self.num_steps,
        ):
            control.on_update(lambda _: self.draw())
        self.draw()

    @property
    def _last(self) -> int:
        return max(len(self.steps) - 1, 0)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def _stage(self) -> None:
        """Up is y; the first look is that of the pictures."""
        self.server.scene.set_up_direction("+y")
        looked = (
            self.experiment.camera_sampler.resolved_eval_camera
            if isinstance(self.experiment.camera_sampler, Orbit)
            else (15.0, 3.6, 40.0)
        )
        self.server.initial_camera.position = tuple(turntable_cameras(1, *looked).eye[0].tolist())
        self.server.initial_camera.look_at = (0.0, 0.0, 0.0)
        self.server.initial_camera.fov = float(np.radians(looked[2]))

    def refresh(self) -> None:
        """Take up new snapshots and stages; who looked at the newest goes on with the newest."""
        begun = {stage.name: stage for stage in stage_folders(self.root)}
        if list(begun) != list(self.stages):
            newest, self.stages = self.stage.value == list(self.stages)[-1], begun
            self.stage.options, self.stage.visible = tuple(begun), len(begun) > 1
            if newest:
                self.stage.value = list(begun)[-1]
        found = self.snapshots.steps()
        if found == self.steps:
            return
        newest, self.steps = self.step.value >= self._last, found
        self.step.max = max(self._last, 1)
        if newest:
            self.step.value = self._last
        self.draw()

    def _turn(self, folder: Path) -> None:
        """To another stage, as it is now."""
        self.snapshots, self.experiment = SnapshotFolder(folder), read_experiment(folder)
        self.steps = self.snapshots.steps()
        self.particle.options, self.particle.visible = (
            tuple(particle_names(self.experiment)),
            self.experiment.total > 1,
        )
        self.step.max = max(self._last, 1)
        self.step.value = self._last

    def draw(self) -> None:
        """Show what the controls say."""
        with self.lock:
            if self.stages[self.stage.value] != self.snapshots.folder:
                self._turn(self.stages[self.stage.value])
            self.step.visible, self.num_steps.visible = (
                len(self.steps) > 1,
                self.cameras.value,
            )  # what can be chosen
            place = min(int(self.step.value), self._last)
            step = list(self.steps)[place] if self.steps else 0
            path = self.steps.get(step, {}).get(self.particle.value)
            wanted = (path, self.shading.value)
            if wanted != self.shown:
                self._solid(path)
                self.shown = wanted
            self._frusta(step)
            told = (
                "nothing to see yet" if path is None else f"step {step} of {self.experiment.steps}"
            )
            self.note.content = f"**{told}**"

    def _solid(self, path: Path | None) -> None:
        scene = self.server.scene
        scene.remove_by_name("/solid")
        if path is None:
            return
        solid, shading = read_snapshot(path), self.shading.value
        if isinstance(solid, TexturedMesh):
            scene.add_glb("/solid", mesh_to_glb(solid, shading))
            return
        numpy = lambda values: values.detach().float().cpu().numpy()  # noqa: E731
        colour, opacity = numpy(splat_colors(solid, shading)), numpy(solid.opacity)[:, None]
        scene.add_gaussian_splats(
            "/solid", numpy(solid.mean), numpy(splat_covariances(solid)), colour, opacity
        )

    def _frusta(self, step: int) -> None:
        """The cameras of the steps before ``step`` that looked at the particle, the latest darkest."""
        scene = self.server.scene
        scene.remove_by_name("/cameras")
        if not self.cameras.value:
            return
        particle, drawn = particle_names(self.experiment).index(self.particle.value), 0
        for back in range(1, min(int(self.num_steps.value), step) + 1):
            view, camera = step_cameras(self.experiment, step - back)
            if camera is None or drawn >= _MAX_FRUSTA:
                return
            if particle not in view:
                continue
            own, shade = camera[view == particle], int(30 + 170 * (back - 1) / _MAX_FRUSTA)
            turns, places = to_opencv(own)
            for turn, place, fov in zip(turns, places, own.fov.tolist(), strict=True):
                name, colour = f"/cameras/{drawn}", (shade, shade, shade)
                scene.add_camera_frustum(
                    name, fov, 1.0, scale=_FRUSTUM_SIZE, color=colour, wxyz=turn, position=place
                )
                drawn += 1

    def follow(self, over: threading.Event) -> None:
        """Look at the folder until ``over``."""
        while not over.wait(_POLL_SECONDS):
            self.refresh()


@contextmanager
def viewer_process(folder: Path) -> Iterator[None]:
    """A viewer of a run in a process of its own, which follows it and ends with it."""
    command = [sys.executable, "-m", "limbeck", "view", str(folder), "--live"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()

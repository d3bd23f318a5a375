"""Objects that touch the box they are defined in, which cuts them off."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from limbeck.graphics.export.mesh_cleanup import TexturedMesh
from limbeck.graphics.geometry.assets import Splats
from limbeck.graphics.geometry.box_contact import box_contact
from limbeck.training.collapse import box_contact_message


class BoxContacts:
    """Says once for each particle that it touches the box.

    Args:
        bound: half of the edge of the box; None if there is no box.
        show: shows a message.
    """

    def __init__(self, bound: float | None, show: Callable[[str], object]):
        self._bound, self._show = bound, show
        self._touched: set[str] = set()

    def check(self, assets: Mapping[str, TexturedMesh | Splats]) -> None:
        """Look at the meshes of a step.

        Args:
            assets: snapshot of each particle, by its name.
        """
        for name, asset in assets.items():
            if self._bound is None or isinstance(asset, Splats) or name in self._touched:
                continue
            contact = box_contact(asset.vertices, asset.faces, self._bound)
            if message := box_contact_message(contact, self._bound):
                self._touched.add(name)
                self._show(f"particle {name}: {message}")

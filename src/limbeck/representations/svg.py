"""SVG documents of drawings."""

from __future__ import annotations

from collections.abc import Sequence


def hex_color(rgb: Sequence[float]) -> str:
    """Return a color as SVG writes it, such as ``#ff8000``.

    Args:
        rgb: red, green and blue in [0, 1].
    """
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)


def svg_document(
    elements: Sequence[str], background: Sequence[float], height: int, width: int
) -> str:
    """Return an SVG document of elements on a background of one color.

    Args:
        elements: the elements, back to front, one a line.
        background: RGB in [0, 1].
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    size = f'width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">',
        f'<rect {size} fill="{hex_color(background)}"/>',
        *elements,
        "</svg>",
    ]
    return "\n".join([*lines, ""])

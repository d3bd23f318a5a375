"""Images that are embedded in a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from limbeck.runs.images import WEBP_MAX_SIDE
from limbeck.system.image_files import open_image


@dataclass(frozen=True)
class PageImage:
    """An image embedded in a page.

    Attributes:
        src: data URL.
        width: in pixels.
        height: in pixels.
        pixelated: whether to enlarge it without smoothing.
        caption: text below it.
    """

    src: str
    width: int
    height: int
    pixelated: bool
    caption: str = ""


def embed_image(
    path: Path, max_width: int, pixelated: bool, caption: str = "", crop_right: int = 0
) -> PageImage:
    """Encode an image file as a data URL.

    Args:
        path: image file.
        max_width: wider images are shrunk to this width, in pixels, and higher ones to what WebP
            holds.
        pixelated: store lossless and enlarge without smoothing.
        caption: text below it.
        crop_right: columns to remove at the right, such as a color bar.
    """
    image = open_image(path).convert("RGBA")
    image = image.crop((0, 0, image.width - crop_right, image.height))
    scale = min(max_width / image.width, WEBP_MAX_SIDE / image.height)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        if pixelated and crop_right:  # heat maps that were enlarged for their color bar
            image = image.resize(size, Image.Resampling.NEAREST)
        else:
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=pixelated, quality=82)
    src = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return PageImage(src, image.width, image.height, pixelated, caption)


def with_svg(image: PageImage, drawing: Path) -> PageImage:
    """Replace a rasterized image by its SVG file.

    As the source of an ``img`` element, an SVG can neither run scripts nor load anything.
    """
    data = base64.b64encode(drawing.read_bytes()).decode()
    return replace(image, src=f"data:image/svg+xml;base64,{data}", pixelated=False)

"""The look of figures and pictures: palette, resolutions, and WebP for pages."""

import base64
import io
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}
"""Colours of Okabe and Ito, distinct for all kinds of colour vision."""

GREY = "#999999"
"""The colour of what is left when the palette is used up."""

FILE_DPI = 150
"""Resolution of PNG files."""

_PAGE_DPI = 170
_MAX_SIDE = 1000
_COLOURS = 256


def figure_uri(figure: Figure) -> str:
    """Return a figure as WebP in a `data:` URI: lossless, with at most 256 colours.

    Lines and letters stay sharp, in about the size of lossy WebP.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PAGE_DPI, pil_kwargs={"compress_level": 0})
    with Image.open(buffer) as picture:
        rgb = picture.convert("RGB")
    reduced = rgb.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    return _webp_uri(reduced, lossless=True)


def picture_uri(picture: Image.Image) -> str:
    """Return a picture as lossy WebP in a `data:` URI, reduced to at most 1,000 pixels a side."""
    rgb = picture.convert("RGB")
    rgb.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    return _webp_uri(rgb, quality=75, method=6)


def _webp_uri(picture: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="webp", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

import base64
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bigbatch_ue.reporting.style import PALETTE, figure_uri, picture_uri

START = "data:image/webp;base64,"


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(START)))).convert("RGB")


@pytest.fixture
def figure() -> Figure:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    for level, colour in enumerate(PALETTE.values()):
        axes.axhspan(level, level + 0.5, color=colour)
        axes.plot([0, 1], [level, level + 1], color=colour)
    return figure


def test_a_figure_keeps_its_colours_in_a_small_webp(figure: Figure) -> None:
    uri = figure_uri(figure)
    assert uri.startswith(START)
    assert len(uri) < 40_000
    pixels = np.asarray(decode(uri), int)
    assert pixels.shape == (510, 680, 3)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    for colour in PALETTE.values():
        exact = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
        assert np.abs(pixels - exact).max(-1).min() <= 3


def test_the_same_figure_gives_the_same_bytes(figure: Figure) -> None:
    assert figure_uri(figure) == figure_uri(figure)


@pytest.mark.parametrize(("size", "shown"), [((1980, 660), (1000, 333)), ((30, 20), (30, 20))])
def test_large_pictures_are_reduced(size: tuple[int, int], shown: tuple[int, int]) -> None:
    uri = picture_uri(Image.new("L", size, 100))
    assert uri.startswith(START)
    picture = decode(uri)
    assert picture.size == shown
    assert abs(np.asarray(picture, int) - 100).max() <= 2

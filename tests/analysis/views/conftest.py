import pytest

from analysis.views import report


@pytest.fixture
def no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of this test have an empty picture in place of each figure."""
    monkeypatch.setattr(report, "page_uri", lambda _: "data:image/webp;base64,")

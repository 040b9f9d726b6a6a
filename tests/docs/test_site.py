"""The built site in a browser, where `make docs` has built it: nothing is asked of the network, the search finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser import browser, look

SITE = Path(__file__).parents[2] / "build" / "docs" / "html"

pytestmark = [
    pytest.mark.skipif(browser() is None, reason="no Chromium here"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="`make docs` has not been run"),
]


@pytest.mark.parametrize("page", ["index.html", "reference/dima.html", "api/extending.html", "settings/dima.html"])
def test_a_page_opens_without_a_network(page, tmp_path) -> None:
    seen = look(SITE / page, tmp_path)
    assert seen.console == [] and seen.requests == []
    assert "toctree-l1" in seen.html


def test_public_names_have_signatures_and_descriptions() -> None:
    html = (SITE / "api" / "python.html").read_text(encoding="utf-8")
    for name in ("train", "build_config", "load", "Agent.act"):
        found = re.search(rf'<dt class="sig[^>]*id="dima.{name}">(.*?)</dt>\s*<dd>(.*?)</dd>', html, re.DOTALL)
        assert found is not None, name
        assert 'class="sig-param"' in found[1] and "<p>" in found[2]


def test_the_search_works_from_files(tmp_path) -> None:
    for word, found in {"calibration": True, "xylophone": False}.items():
        (tmp_path / word).mkdir()
        html = look(SITE / "search.html", tmp_path / word, query=f"?q={word}").html
        assert bool(re.search(r"found \d+ pages? matching", html)) == found

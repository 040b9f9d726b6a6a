"""The reference pages: links lead to headings, and what code cites is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/reference").glob("*.md"))
CITATION = re.compile(r'docs/reference/(\w+\.md)((?:(?:,| and)\s+"[^"]+")*)')  # one page, any number of headings


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


def cited(text: str) -> list[tuple[str, str]]:
    """Page and heading of every citation."""
    return [(page, name) for page, names in CITATION.findall(text) for name in re.findall(r'"([^"]+)"', names)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    assert links
    for file, anchor in links:
        target = page.parent / file if file else page
        assert target.is_file(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_citations_are_found_in_prose():
    text = '(PPO; docs/reference/a.md, "One" and "Two three"); docs/reference/b.md, "Four".'
    assert cited(text) == [("a.md", "One"), ("a.md", "Two three"), ("b.md", "Four")]


@pytest.mark.parametrize("room", ["dima", "benchmarks", "tests", "examples"])
def test_what_is_cited_is_there(room):
    files = [file for kind in ("py", "yaml") for file in (ROOT / room).rglob(f"*.{kind}") if file != Path(__file__)]
    assert files
    for file in files:
        for page, heading in cited(file.read_text(encoding="utf-8")):
            assert heading in headings(ROOT / "docs/reference" / page), f"{file}: {page}, {heading!r}"

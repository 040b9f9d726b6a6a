"""Links of the documentation lead somewhere, and the table of results names all that is kept."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [path for path in TOP if path.exists()] + sorted((ROOT / "docs").rglob("*.md")) + [RESULTS / "README.md"]
LIMIT = 6_000_000  # bytes under results/


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    """Targets of a page's links and images within the repository."""
    found = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", prose(page)) + re.findall(
        r"^\[[^\]]+\]:\s*(\S+)", prose(page), re.MULTILINE
    )
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """Those of a page's links that lead nowhere."""
    wrong = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        lost = anchor and goal.suffix == ".md" and goal.exists() and anchor not in anchors(goal)
        if not goal.is_relative_to(ROOT) or not goal.exists() or lost:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    (tmp_path / "there.md").write_text("# Is it `here`?\n")
    page.write_text(
        "[a](there.md#is-it-here) ![b](gone.png) [c](there.md#no) `[d](code)` [e](../out.md) [f](https://x.org)\n"
    )
    assert broken(page) == ["gone.png", "there.md#no", "../out.md"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != RESULTS], ids=lambda page: page.name)
def test_results_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`(results/[^`\s]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if "TASK" not in name and not named_files(ROOT, name)] == []


def test_every_result_has_its_row() -> None:
    table, _, _ = (RESULTS / "README.md").read_text(encoding="utf-8").partition("\n## ")
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|", table, re.MULTILINE)
    named = {pattern: named_files(RESULTS, pattern) for row in rows for pattern in re.findall(r"`([^`]+)`", row)}
    assert len(named) > 40
    assert [pattern for pattern, files in named.items() if not files] == []
    assert kept() - {RESULTS / "README.md"} - set().union(*named.values()) == set()


def test_results_stay_small() -> None:
    assert sum(path.stat().st_size for path in kept()) < LIMIT


def kept() -> set[Path]:
    """Committed files under results/; benchmarks may have left others there."""
    done = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout of git")
    return {path for name in done.stdout.split("\0") if name and (path := ROOT / name).exists()}


def named_files(root: Path, pattern: str) -> set[Path]:
    """Files that a pattern names, or that lie in folders it names; also without their ending."""
    found = [*root.glob(pattern), *root.glob(pattern + ".*")]
    return {file for path in found for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}

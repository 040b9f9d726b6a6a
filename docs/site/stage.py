"""Lay out the pages of the documentation site for Sphinx, from the Markdown that GitHub shows.

    python docs/site/stage.py OUT

Pages keep their text; links between them, to pictures and to source files are made to lead to the same things on the
site. Source files and folders that pages link to become pages of their own, and so do the settings of each algorithm.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

SITE = Path(__file__).resolve().parent
ROOT = SITE.parents[1]
sys.path[:0] = [str(ROOT), str(SITE)]

import settings  # noqa: E402

import dima  # noqa: E402

PICTURES = {".png", ".svg", ".webp"}
CONTENTS = {  # chapters of the table of contents; patterns leave out what is named elsewhere, and may match nothing
    "Start": ["quickstart", "presets", "reports"],
    "Guides": ["own-environment", "own-world-model", "own-algorithm", "python", "sweeps", "export", "*"],
    "Coming from": ["from-dima-release", "from-harl"],
    "Methods": ["reference/dima", "reference/marie", "reference/mamba", "reference/baselines", "reference/*"],
    "Results": ["baselines", "world-models", "speed", "results/index"],
    "Settings": ["settings/runs", "settings/*"],
    "Python": ["api/python", "api/extending", "api/data"],
    "Project": ["contents", "architecture", "contributing", "changelog"],
}
_RENAMED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/index.md": "contents.md",
    "results/README.md": "results/index.md",
}
_CODE = re.compile(r"^```.*?^```|`(?:[^`\n]|\n(?!\n))*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)([^)]*\))")


def pages() -> dict[Path, Path]:
    """The Markdown pages: where each lies in the repository, and on the site."""
    found = [*(ROOT / name for name in _RENAMED), *sorted((ROOT / "docs").rglob("*.md"))]
    return {path: place_of(path) for path in found}


def place_of(path: Path) -> Path:
    """Where a Markdown page lies on the site."""
    name = path.relative_to(ROOT).as_posix()
    return Path(_RENAMED.get(name, name.removeprefix("docs/")))


def title_of(path: Path) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+?) *$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path} has no heading"
    return found[1]


class Stage:
    """The folder that Sphinx reads.

    Args:
        out: the folder, replaced.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.pages = out, pages()
        self.sources: dict[Path, Path] = {}  # files and folders that get a page

    def build(self) -> None:
        """Write everything."""
        shutil.rmtree(self.out, ignore_errors=True)
        written: set[Path] = set()
        while left := [path for path in self.pages if path not in written]:  # links may lead to further pages
            for path in left:
                self._write(self.pages[path], self.rewritten(path.read_text(encoding="utf-8"), path))
            written |= set(left)
        for path, page in self.sources.items():
            self._write(page, _source_page(path))
        for path in sorted((SITE / "api").glob("*.rst")):
            self._write(Path("api", path.name), path.read_text(encoding="utf-8") + unnamed(path))
        for name, text in settings.pages():
            self._write(Path("settings", f"{name}.md"), text)
        home = (self.out / "index.md").read_text(encoding="utf-8")
        self._write(Path("index.md"), home + "".join(self._contents()))

    def rewritten(self, text: str, path: Path) -> str:
        """A page's text with links that lead to the same things on the site."""
        code = [found.span() for found in _CODE.finditer(text)]

        def link(found: re.Match[str]) -> str:
            if any(start <= found.start() < end for start, end in code) or re.match(r"[a-z]+:|#", found[2]):
                return found[0]
            target, hash_, anchor = found[2].partition("#")
            goal = (path.parent / target).resolve()
            address = f"{self._relative(goal, path)}{hash_}{anchor}"
            named = found[1].endswith(".md")  # by its file, which the site does not show
            return f"[{title_of(goal) if named else found[1]}]({address}{found[3]}"

        text = _LINK.sub(link, text)
        return re.sub(r"^```sh$", "```text", text, flags=re.MULTILINE)  # single numbers would be coloured

    def _relative(self, goal: Path, path: Path) -> str:
        """The address of a file from a page, on the site."""
        if not goal.exists():
            raise SystemExit(f"{path.relative_to(ROOT)} links to {goal}, which does not exist")
        name = goal.relative_to(ROOT).as_posix()
        if goal.suffix == ".md":
            place = self.pages.setdefault(goal, place_of(goal))
        elif goal.suffix in PICTURES:
            place = Path("pictures", *goal.parts[-2:])
            self._copy(goal, place)
        elif goal.is_dir() or goal.suffix == ".py":
            place = self.sources.setdefault(goal, Path("source", f"{name.replace('/', '.')}.md"))
        else:
            place = Path("files", name)
            self._copy(goal, place)
        return Path(os.path.relpath(place, self.pages[path].parent)).as_posix()

    def _contents(self) -> Iterator[str]:
        """The table of contents, hidden at the end of the first page: the side bar of all."""
        named = {name for names in CONTENTS.values() for name in names}
        every = {page.with_suffix("").as_posix() for page in self.pages.values()}
        written = [path.relative_to(self.out) for name in ("api", "settings") for path in (self.out / name).iterdir()]
        every |= {path.with_suffix("").as_posix() for path in written}
        for chapter, names in CONTENTS.items():
            lines = []
            for name in names:
                matching = sorted(page for page in every - named - {"index"} if Path(page).match(name))
                same_folder = [page for page in matching if Path(page).parent == Path(name).parent]
                lines += same_folder if "*" in name else [name] if name in every else []
            yield "\n```{toctree}\n:hidden:\n:caption: " + chapter + "\n\n" + "\n".join(lines) + "\n```\n"
        rest = sorted(page.as_posix() for page in (*self.pages.values(), *self.sources.values()))
        outside = [page.removesuffix(".md") for page in rest if page.startswith(("source/", "results/"))]
        for page in outside:
            if page != "results/index":
                self._prepend(Path(f"{page}.md"), "---\norphan: true\n---\n\n")

    def _copy(self, path: Path, place: Path) -> None:
        (self.out / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.out / place)

    def _write(self, place: Path, text: str) -> None:
        (self.out / place).parent.mkdir(parents=True, exist_ok=True)
        (self.out / place).write_text(text, encoding="utf-8")

    def _prepend(self, place: Path, text: str) -> None:
        self._write(place, text + (self.out / place).read_text(encoding="utf-8"))


def unnamed(path: Path) -> str:
    """Further directives for the page of the Python API: public names that it does not have yet."""
    if path.stem != "python":
        return ""
    text = path.read_text(encoding="utf-8")
    lines = []
    for name in dima.__all__:
        if not name.startswith("_") and not re.search(rf":: dima\.{name}$", text, re.MULTILINE):
            kind = "class" if isinstance(getattr(dima, name), type) else "function"
            lines.append(f".. auto{kind}:: dima.{name}\n" + "   :members:\n" * (kind == "class"))
    return "\n".join(["\nMore\n----\n", *lines]) if lines else ""


def _source_page(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        files = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
        listed = "\n".join(one for one in files if "__pycache__" not in one)
        return f"# {name}/\n\nFiles of this folder of the repository:\n\n```text\n{listed}\n```\n"
    return f"# {name}\n\n````python\n{path.read_text(encoding='utf-8').rstrip()}\n````\n"


if __name__ == "__main__":
    Stage(Path(sys.argv[1])).build()

"""Self-contained HTML page of text, tables, plots, pictures and films.

    figure, axes = plot(xlabel="environment steps", ylabel="team return")
    axes.plot(steps, returns, label="dima")
    axes.legend()
    page = Page("Learning to run")
    page.section("Curves")
    page.figure(figure, "curves", "Team return over environment steps.")
    page.save(Path("report.html"))

A page loads nothing and runs no script: it opens from a file, without a network, on a phone, in dark and in light mode,
and prints. Plots made by :func:`plot` follow its text colour, see ``dima.analysis.html.figures``.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.legend import Legend

from dima.analysis.html.figures import DASHES as DASHES
from dima.analysis.html.figures import PALETTE as PALETTE
from dima.analysis.html.figures import as_png, as_svg, inline_svg
from dima.analysis.html.figures import plot as plot
from dima.analysis.html.figures import plots as plots
from dima.analysis.html.style import CSS
from dima.runtime.verdicts import Verdict, ranked
from dima.storage.atomic import write_bytes, write_errors
from dima.version import __version__

_CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
_SLUG = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
_WRAP_LENGTH = 32  # characters from which on a cell is wrapped


class Page:
    """Page that is built from top to bottom and saved as one file; all text is escaped.

    Args:
        title: its heading.
        lead: the result in a sentence or two.
        verdicts: shown first, the gravest on top.
    """

    def __init__(self, title: str, lead: str = "", verdicts: Sequence[Verdict] = ()) -> None:
        self.title = title
        self._head = f"<h1>{escape(title)}</h1>\n" + (f'<p class="lead">{escape(lead)}</p>\n' if lead else "")
        if verdicts:
            items = "\n".join(map(_verdict_item, ranked(verdicts)))
            self._head += f'<ul class="verdicts" aria-label="Verdicts">\n{items}\n</ul>\n'
        self._parts: list[tuple[str, str]] = []  # (kind, HTML)
        self._contents: list[tuple[str, str]] = []  # (anchor, title) of the sections
        self._figures: dict[str, Figure] = {}
        self._names: set[str] = set()

    def section(self, title: str, text: str = "") -> None:
        """Begin a section, with an entry in the table of contents."""
        anchor = self._claim(f"section-{len(self._contents) + 1}")
        self._contents.append((anchor, title))
        self._add("section", f'<h2 id="{anchor}">{escape(title)}</h2>')
        if text:
            self.text(text)

    def text(self, text: str) -> None:
        """A paragraph."""
        self._add("text", f"<p>{escape(text)}</p>")

    def small(self, text: str) -> None:
        """A paragraph of small print, such as a protocol."""
        self._add("small", f'<p class="small">{escape(text)}</p>')

    def notice(self, text: str) -> None:
        """A highlighted paragraph, such as a warning."""
        self._add("notice", f'<p class="notice" role="note">{escape(text)}</p>')

    @contextmanager
    def fold(self, title: str) -> Iterator[None]:
        """Parts that open when their title is clicked; paper shows them open."""
        outer, self._parts = self._parts, []
        yield
        inner, self._parts = self._parts, outer
        self._add("fold", f"<details>\n<summary>{escape(title)}</summary>\n{_joined(inner)}</details>")

    def facts(self, pairs: Mapping[str, object]) -> None:
        """A list of names with their values, such as versions."""
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{_cell(value)}</dd>" for name, value in pairs.items())
        self._add("facts", f"<dl>{rows}</dl>")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", note: str = "") -> None:
        """A table whose first column names its rows; numbers are rounded to four digits.

        Args:
            head: the columns' names.
            rows: as many cells each as there are columns; None and undefined numbers show as a dash.
            caption: above the table.
            note: small print next to the table, such as the protocol; below it in narrow windows.
        """
        assert all(len(row) == len(head) for row in rows), "a row has more or fewer cells than the table has columns"
        css = [_column_class([row[i] for row in rows]) for i in range(len(head))]
        top = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(head, css, strict=True))
        body = "\n".join(
            f'<tr><th scope="row"{css[0]}>{_cell(row[0])}</th>'
            + "".join(f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(row[1:], css[1:], strict=True))
            + "</tr>"
            for row in rows
        )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        region = f'class="scroll" tabindex="0" role="region" aria-label="{escape(caption or "table")}"'
        small_print = f'\n<p class="small">{escape(note)}</p>' if note else ""
        self._add(
            "table",
            f'<div class="table">\n<div {region}>'
            f"<table>{title}<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{small_print}\n</div>",
        )

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """A plot, as inline SVG that follows the page's text colour.

        Args:
            figure: made by :func:`plot` or :func:`plots`, or otherwise without pyplot.
            name: the element's id, and the file's name when plots are saved: small letters, digits, hyphens.
            caption: shown below, and read by screen readers.
        """
        for legend in figure.findobj(Legend):
            legend.set_frame_on(False)
        self._figures[self._claim(name)] = figure
        self._add_figure(name, inline_svg(figure, name, caption), caption)

    def file(self, name: str, figure: Figure) -> None:
        """A plot that is not on the page, but among the files where plots are saved."""
        self._figures[self._claim(name)] = figure

    def image(self, png: bytes, name: str, caption: str, wide: bool = False) -> None:
        """A picture.

        Args:
            png: the file.
            name: the element's id, as for :meth:`figure`.
            caption: shown below, and read by screen readers.
            wide: too detailed to be shrunk: narrow windows scroll it, paper gives it the whole width.
        """
        image = f'<img src="{_data("image/png", png)}" alt="{escape(caption)}">'
        if wide:
            image = f'<div class="scroll wide" tabindex="0" role="region" aria-label="{escape(caption)}">{image}</div>'
        self._add_figure(self._claim(name), image, caption)

    def video(self, mp4: bytes, name: str, caption: str) -> None:
        """A film that plays at once, without sound, and begins again at its end."""
        source = _data("video/mp4", mp4)
        label = escape(caption)
        self._add_figure(
            self._claim(name),
            f'<video autoplay controls loop muted playsinline src="{source}" aria-label="{label}"></video>',
            caption,
        )

    def html(self) -> str:
        """The page as text."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_CONTENT_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
            f"<header>\n{self._head}{self._navigation()}</header>\n<main>\n{_joined(self._parts)}</main>\n"
            f"<footer>Written by dima {__version__}.</footer>\n</body>\n</html>\n"
        )

    def save(self, path: Path, plots: bool = False) -> None:
        """Write the page atomically.

        Args:
            path: the file; its folder is created when missing.
            plots: also write every figure to ``plots/<name>.svg`` and ``.png`` next to it, dark on white.

        Raises:
            RunFolderError: the disk is full or read-only.
        """
        with write_errors(path, "choose another --out"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if plots:
                (path.parent / "plots").mkdir(exist_ok=True)
                for name, figure in self._figures.items():
                    write_bytes(path.parent / "plots" / f"{name}.svg", as_svg(figure, name))
                    write_bytes(path.parent / "plots" / f"{name}.png", as_png(figure))
            write_bytes(path, self.html().encode())

    def _claim(self, name: str) -> str:
        assert _SLUG.fullmatch(name), f"{name!r} is no name for a part of a page: small letters, digits, hyphens"
        assert name not in self._names, f"the page already has a part named {name!r}"
        self._names.add(name)
        return name

    def _add(self, kind: str, html: str) -> None:
        self._parts.append((kind, html))

    def _add_figure(self, name: str, content: str, caption: str) -> None:
        caption_html = f"<figcaption>{escape(caption)}</figcaption>"
        self._add("figure", f'<figure id="{name}">\n{content}\n{caption_html}\n</figure>')

    def _navigation(self) -> str:
        if len(self._contents) < 2:
            return ""
        links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in self._contents)
        return f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'


def _joined(parts: Sequence[tuple[str, str]]) -> str:
    """Parts in order; figures that follow each other stand side by side."""
    body = ""
    for kind, some in groupby(parts, key=lambda part: part[0]):
        content = "\n".join(html for _, html in some)
        body += f'<div class="figures">\n{content}\n</div>\n' if kind == "figure" else content + "\n"
    return body


def _verdict_item(verdict: Verdict) -> str:
    name = "good" if verdict.severity == "good" else "warning"
    mark = f'<span class="mark" role="img" aria-label="{name}">{verdict.mark}</span>'
    return f'<li class="{verdict.severity}">{mark} {escape(verdict.sentence)}.</li>'


def _column_class(values: Sequence[object]) -> str:
    """Align numbers right; wrap long text only."""
    if values and all(map(_is_number, values)):
        return ' class="number"'
    return ' class="long"' if any(len(str(value)) > _WRAP_LENGTH for value in values) else ""


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return escape(str(value))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

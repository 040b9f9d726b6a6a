"""The page: self-contained, escaped, readable in dark and light, and its plots follow its ink."""

import base64
import re
from functools import cache
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest

from dima.analysis.html.figures import BASELINE, IMAGINED, REAL
from dima.analysis.html.page import DASHES, PALETTE, Page, plot, plots
from dima.errors import RunFolderError
from dima.runtime.verdicts import Verdict

ROLES = (REAL, IMAGINED, BASELINE)
VOID = {"meta", "img", "br", "link", "input", "use", "path", "rect", "image"}


class Outline(HTMLParser):
    """Elements by tag with their attributes, the text, and what was left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def curve(label="dima"):
    figure, axes = plot(4.0, 3.0, xlabel="steps", ylabel="return", title="walk")
    axes.plot([0, 1, 2], [0, 3, 1], label=label)
    axes.fill_between([0, 1, 2], [0, 2, 0], [1, 4, 2], alpha=0.2)
    axes.legend()
    return figure


@cache
def everything() -> Page:
    """Made once: no test adds to it."""
    page = Page("A <page> & more", "lead", [Verdict("good", "a < b"), Verdict("grave", "lost & gone")])
    page.section("First things", "what is told")
    page.text("a < b")
    page.notice("mind the gap")
    page.facts({"seeds": "0, 1", "steps": 20_000, "dirty": True})
    page.table(["task", "return"], [["walk", 1234.5], ["<ant>", None]], "Returns & such")
    page.figure(curve(), "curves", 'the "curves"')
    page.figure(curve(), "curves-again", "the same")
    with page.fold("More <of> it"):
        page.text("inside")
        page.figure(curve(), "folded", "c")
        page.figure(curve(), "folded-too", "d")
    page.section("Second things")
    page.image(b"\x89PNG", "strip", "a strip")
    page.video(b"film", "film", "a film")
    return page


class TestHtml:
    def test_is_well_formed_and_escaped(self):
        outline = Outline(everything().html())
        assert outline.open == []
        for text in ("A <page> & more", "a < b", "mind the gap", "Returns & such", "<ant>", "what is told", "lead"):
            assert text in outline.words

    def test_loads_nothing_and_runs_nothing(self):
        outline = Outline(everything().html())
        names = {tag for tag, _ in outline.elements}
        assert not names & {"script", "link", "iframe", "object"}
        for _, attributes in outline.elements:
            for name in ("src", "href", "xlink:href"):
                assert attributes.get(name, "#").startswith(("#", "data:"))
        policy = next(a["content"] for a in outline.all("meta") if a.get("http-equiv"))
        assert policy.startswith("default-src 'none'")

    def test_ids_are_unique_and_links_lead_to_them(self):
        html = everything().html()
        outline = Outline(html)
        ids = [a["id"] for _, a in outline.elements if "id" in a]
        assert len(ids) == len(set(ids))
        assert {"section-1", "section-2", "curves", "curves-again", "folded", "strip", "film"} <= set(ids)
        targets = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)
        assert targets
        assert {a or b for a, b in targets} <= set(ids)

    def test_contents_appear_with_the_second_section(self):
        page = Page("t")
        page.section("One")
        assert "<nav" not in page.html()
        page.section("Two")
        assert [a["href"] for a in Outline(page.html()).all("a")] == ["#section-1", "#section-2"]

    def test_begins_with_verdicts_the_gravest_first(self):
        html = everything().html()
        items = re.findall(
            r'<li class="(\w+)"><span class="mark" role="img" aria-label="(\w+)">(.)</span> ([^<]*)</li>', html
        )
        assert items == [("grave", "warning", "⚠", "lost &amp; gone."), ("good", "good", "✓", "a &lt; b.")]
        assert html.index('<p class="lead">') < html.index('class="verdicts"') < html.index("<nav")

    def test_folds_are_closed_and_hold_their_parts(self):
        (fold,) = re.findall(
            r"<details>\n<summary>More &lt;of&gt; it</summary>(.*?)</details>", everything().html(), re.S
        )
        assert "<p>inside</p>" in fold and fold.count("<figure") == 2 and fold.count('class="figures"') == 1

    def test_follows_the_readers_scheme_and_prints(self):
        html = everything().html()
        assert "prefers-color-scheme: dark" in html
        assert "@media print" in html
        assert 'name="viewport"' in html

    def test_a_wide_picture_scrolls_instead_of_shrinking(self):
        page = Page("title")
        page.image(b"png", "small", "one picture")
        page.image(b"png", "strip", 'a "strip"', wide=True)
        outline = Outline(page.html())
        regions = [a for a in outline.all("div") if a.get("role") == "region"]
        assert [(a["class"], a["aria-label"], a["tabindex"]) for a in regions] == [("scroll wide", 'a "strip"', "0")]
        assert len(outline.all("img")) == 2

    def test_bytes_come_back_out_of_pictures_and_films(self):
        outline = Outline(everything().html())
        image, video = outline.all("img")[0], outline.all("video")[0]
        assert base64.b64decode(image["src"].split(",")[1]) == b"\x89PNG"
        assert base64.b64decode(video["src"].split(",")[1]) == b"film"
        assert image["alt"] == "a strip"
        assert video["aria-label"] == "a film"
        assert "controls" in video


class TestTable:
    def cells(self, *values):
        page = Page("t")
        page.table(["name", *map(str, range(len(values)))], [["row", *values]])
        return re.findall(r"<td[^>]*>([^<]*)</td>", page.html())

    def test_numbers_are_rounded_and_grouped(self):
        assert self.cells(20_000, 1234.56, 0.123456, 12.0, -1500.4) == ["20,000", "1,235", "0.1235", "12", "-1,500"]

    def test_what_is_not_a_number(self):
        assert self.cells(None, float("nan"), True, False, "a & b") == ["–", "–", "yes", "no", "a &amp; b"]

    def test_columns_of_numbers_stand_right(self):
        page = Page("t")
        page.table(["task", "return", "note"], [["a", 1.0, "x"], ["b", None, "y"]])
        heads = Outline(page.html()).all("th")[:3]
        assert [head.get("class") for head in heads] == [None, "number", None]

    def test_rows_are_named_and_wide_tables_scroll(self):
        outline = Outline(everything().html())
        assert [th.get("scope") for th in outline.all("th")] == ["col", "col", "row", "row"]
        scroll = next(div for div in outline.all("div") if div.get("class") == "scroll")
        assert scroll["tabindex"] == "0"
        assert scroll["aria-label"] == "Returns & such"

    def test_long_text_wraps_and_small_print_stands_beside(self):
        page = Page("t")
        page.table(["folder", "why"], [["a", "word " * 20]], note="the <protocol>")
        page.small("at last")
        outline = Outline(page.html())
        assert [cell.get("class") for cell in outline.all("td")] == ["long"]
        assert [p.get("class") for p in outline.all("p")] == ["small", "small"]
        assert "the <protocol>" in outline.words

    def test_a_ragged_row_is_refused(self):
        with pytest.raises(AssertionError, match="more or fewer cells"):
            Page("t").table(["a", "b"], [["only"]])

    def test_a_table_may_be_empty(self):
        page = Page("t")
        page.table(["a", "b"], [])
        assert len(Outline(page.html()).all("th")) == 2


class TestFigure:
    def test_black_is_the_ink_and_other_colours_stay(self):
        page = Page("t")
        page.figure(curve(), "curves", "c")
        html = page.html()
        assert "currentColor" in html
        assert "#000000" not in html
        assert PALETTE[0] in html

    def test_is_named_described_and_scales(self):
        outline = Outline(everything().html())
        svg = outline.all("svg")[0]
        assert svg["aria-label"] == 'the "curves"'
        assert svg["role"] == "img"
        assert svg["style"] == "width: 384px"
        assert "viewbox" in svg
        assert "steps" in outline.words  # text stays text

    def test_no_rule_of_a_plot_reaches_the_page(self):
        svg = everything().html().split("<svg")[1]
        assert "<style" not in svg
        assert "metadata" not in svg

    def test_legends_have_no_box(self):
        figure = curve()
        Page("t").figure(figure, "curves", "c")
        assert not figure.axes[0].get_legend().get_frame_on()

    def test_is_the_same_whenever_it_is_written(self):
        assert everything.__wrapped__().html() == everything().html()

    @pytest.mark.parametrize("name", ["Curves", "two words", ""])
    def test_a_name_that_is_no_id_is_refused(self, name):
        with pytest.raises(AssertionError, match="is no name"):
            Page("t").figure(curve(), name, "c")

    def test_a_name_is_given_once(self):
        page = Page("t")
        page.image(b"", "same", "c")
        with pytest.raises(AssertionError, match="already has a part"):
            page.image(b"", "same", "c")

    def test_a_plot_of_other_colours_only_stays_as_it_is(self):
        figure, axes = plot()
        axes.imshow([[0.0, 1.0]], cmap="cividis")
        page = Page("t")
        page.figure(figure, "heat", "c")
        assert "data:image/png;base64" in page.html()

    def test_grids(self):
        figure, axes = plots(2, 3, 6.0, 4.0, sharey=True)
        assert axes.shape == (2, 3)
        assert tuple(figure.get_size_inches()) == (6.0, 4.0)

    def test_pyplot_is_never_touched(self):
        import subprocess
        import sys

        program = (
            "import sys; from dima.analysis.html.page import Page, plot; f, a = plot(); a.plot([1, 2]); p = Page('t')\n"
            "p.figure(f, 'f', 'c'); p.html(); print('matplotlib.pyplot' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"


class TestPalette:
    @pytest.mark.parametrize("ground", ["#ffffff", "#14161a"])
    def test_every_colour_reads_on_both_grounds(self, ground):
        for colour in (*PALETTE, *ROLES):
            light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3

    def test_the_grounds_are_those_of_the_page(self):
        html = Page("t").html()
        assert "--paper: #ffffff" in html
        assert "--paper: #14161a" in html

    def test_no_two_colours_look_alike(self):
        for one, other in combinations((*PALETTE, *ROLES), 2):
            assert np.linalg.norm(lab(one) - lab(other)) > 25, (one, other)

    def test_lines_differ_without_colour(self):
        assert len(set(DASHES)) == len(PALETTE)


class TestSave:
    def test_writes_one_file(self, tmp_path):
        page = everything()
        page.save(tmp_path / "new" / "report.html")
        assert (tmp_path / "new" / "report.html").read_text() == page.html()
        assert [child.name for child in (tmp_path / "new").iterdir()] == ["report.html"]

    def test_plots_beside_it_when_asked(self, tmp_path):
        everything().save(tmp_path / "report.html", plots=True)
        names = {child.name for child in (tmp_path / "plots").iterdir()}
        every = ("curves", "curves-again", "folded", "folded-too")
        assert names == {f"{name}.{kind}" for name in every for kind in ("svg", "png")}
        assert (tmp_path / "plots/curves.png").read_bytes().startswith(b"\x89PNG")
        alone = (tmp_path / "plots/curves.svg").read_text()
        assert alone.startswith("<?xml")
        assert "#ffffff" in alone

    def test_a_folder_that_cannot_be_written_is_one_clear_line(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunFolderError, match=r"cannot write .*report\.html.* or choose another --out$"):
            Page("t").save(tmp_path / "file" / "report.html")


def linear(colour: str) -> np.ndarray:
    part = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines 2.1 define it."""
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def lab(colour: str) -> np.ndarray:
    """CIE L*a*b* under D65, in which distances are about those that eyes see."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear(colour) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

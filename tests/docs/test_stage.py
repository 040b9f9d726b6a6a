"""The pages that the documentation site is built from; `make docs` builds it and fails on any warning."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import dima

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        from stage import Stage, pages, place_of
    finally:
        sys.path.pop(0)
    staged = Stage(tmp_path_factory.mktemp("site") / "source")
    staged.build()
    staged.place_of, staged.first = place_of, pages()
    return staged


def test_every_page_is_in_the_contents_or_an_appendix(stage) -> None:
    home = (stage.out / "index.md").read_text(encoding="utf-8")
    named = set("\n".join(re.findall(r"```\{toctree\}\n(?::.*\n)*\n((?:.*\n)*?)```", home)).split())
    for page in stage.out.rglob("*.[mr][ds]*"):
        name = page.relative_to(stage.out).with_suffix("").as_posix()
        assert (name in named) != (name == "index" or page.read_text("utf-8").startswith("---\norphan: true"))
    assert {"quickstart", "reports", "from-harl", "reference/dima", "settings/runs", "settings/hasac"} <= named


def test_links_lead_to_the_same_things(stage) -> None:
    page = ROOT / "docs" / "quickstart.md"

    def made(text: str) -> str:
        return stage.rewritten(text, page)

    assert (
        made("[a](presets.md) [b](architecture.md#the-run-folder)")
        == "[a](presets.md) [b](architecture.md#the-run-folder)"
    )
    assert made("[c](../CONTRIBUTING.md#the-rooms) [d](../README.md)") == "[c](contributing.md#the-rooms) [d](index.md)"
    assert made("[presets.md](presets.md)") == "[Presets](presets.md)"
    assert made("[`x.py`](../dima/runtime/verdicts.py)") == "[`x.py`](source/dima.runtime.verdicts.py.md)"
    # code spans over two lines hide no link beside them
    lone = "[`x`] reads. `dima\nimagine` films [c]({0}), `dima\ndiagnose` tells [d]({0})"
    assert made(lone.format("../README.md")) == lone.format("index.md")
    assert made("![p](imagination.webp)") == "![p](pictures/docs/imagination.webp)"
    assert (stage.out / "pictures" / "docs" / "imagination.webp").is_file()
    for same in ("`[a](../README.md)`", "```text\n[a](../README.md)\n```", "[w](https://x.org/a.md)", "[h](#here)"):
        assert made(same) == same
    with pytest.raises(SystemExit, match="which does not exist"):
        made("[gone](gone.md)")


def test_every_public_name_has_its_place(stage) -> None:
    text = (stage.out / "api" / "python.rst").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto\w+:: dima\.(\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(name for name in dima.__all__ if not name.startswith("_"))


def test_settings_are_those_of_the_presets(stage) -> None:
    text = (stage.out / "settings" / "mappo.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `learner\.([\w.-]+)` \| (.*?) \|", text, re.MULTILINE))
    published = dima.build_config("mamujoco/halfcheetah-2x3", "mappo", "published").learner
    assert rows["ppo.clip"] == f"`{published.ppo.clip}`" and rows["ppo.actor.hidden"] == "`128 128 128`"

"""Commands that hand on what was trained: export, push, pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dima.cli.answer import answer
from dima.cli.options import parse
from dima.config import Config, NonEmpty


@dataclass(frozen=True)
class ExportOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    # plain weights; graphs of the policy's mode, for PyTorch or ONNX Runtime alone
    formats: Annotated[tuple[Literal["safetensors", "torch", "onnx"], ...], NonEmpty("onnx")] = ("safetensors", "torch")
    out: str | None = None  # output folder; default: export/ in the run folder
    task: str | None = None  # the run's task, repeated: consent to import it if it is package.module:factory
    algorithm: str | None = None  # likewise the run's algorithm, if it is package.module:Name
    quiet: bool = False  # no progress bars
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class PushOptions(Config):
    run: tyro.conf.Positional[str]  # run folder
    repo: tyro.conf.Positional[str]  # repository of the Hugging Face hub, owner/name; made if there is none
    public: bool = False  # make a new repository public; by default it is private
    replay: bool = True  # with the replay, which resuming needs, and imagination from real states
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class PullOptions(Config):
    repo: tyro.conf.Positional[str]  # repository of the Hugging Face hub, owner/name
    run: str | None = None  # folder for the run; default: runs/<owner>/<name>
    revision: str | None = None  # branch, tag or commit; default: the newest
    json: bool = False  # print one JSON object


def export(args: Sequence[str]) -> int:
    options = parse(ExportOptions, args, "dima export")

    from dima.runtime.progress import choose_progress
    from dima.sharing.export import CARD
    from dima.sharing.export import export as run

    done = run(
        options.run,
        options.out,
        options.formats,
        task=options.task,
        algorithm=options.algorithm,
        progress=choose_progress(options.quiet),
    )
    if options.json:
        answer(done.to_dict())
        return 0
    for path, equal in done.files.items():
        print(f"{path}: {path.stat().st_size / 1000:,.0f} kB, {equal}")
    print(f"card: {done.folder / CARD}")
    return 0


def push(args: Sequence[str]) -> int:
    options = parse(PushOptions, args, "dima push")

    from dima.sharing.hub import push as run

    where = run(options.run, options.repo, public=options.public, replay=options.replay)
    if options.json:
        answer({"url": where})
    else:
        print(f"pushed to {where}")
    return 0


def pull(args: Sequence[str]) -> int:
    options = parse(PullOptions, args, "dima pull")

    from dima.sharing.hub import pull as run

    folder = run(options.repo, options.run, revision=options.revision)
    if options.json:
        answer({"run": str(folder)})
    else:
        print(f"run folder: {folder}")
    return 0

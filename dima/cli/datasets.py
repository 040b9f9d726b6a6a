"""Commands on datasets: dataset, fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dima.cli.answer import answer
from dima.cli.commands import DATASET
from dima.cli.help import asks_help, asks_short_help, help_text
from dima.cli.options import parse
from dima.cli.overview import dataset_overview
from dima.cli.positional import EXAMPLE, choose, preset_values, the_task
from dima.cli.train import tell
from dima.config import Config
from dima.datasets.minari import ImportConfig, import_config
from dima.errors import ConfigError, nearest
from dima.recording.config import RecordConfig, record_config
from dima.training.run_config import OfflineConfig, offline_config


@dataclass(frozen=True)
class RecordOptions:
    config: Annotated[RecordConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an existing dataset
    quiet: bool = False  # print nothing but warnings and errors
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class InfoOptions(Config):
    dataset: tyro.conf.Positional[str]  # dataset folder
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class ImportOptions:
    config: Annotated[ImportConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an existing dataset
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class ExportOptions(Config):
    dataset: tyro.conf.Positional[str]  # dataset folder
    name: tyro.conf.Positional[str]  # name of the new Minari dataset, such as mine/halfcheetah-v0
    form: Literal["agents", "joint"] = "agents"  # dictionaries over agents, or state and joint action as vectors
    task: str | None = None  # the dataset's task, repeated: consent to import it if it is package.module:factory
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class FitOptions:
    config: Annotated[OfflineConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an existing run
    quiet: bool = False  # print nothing but warnings and errors
    json: bool = False  # print one JSON object


def dataset(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help", "--help-all", "help"):
        print(dataset_overview())
        return 0
    if args[0] not in DATASET:
        raise ConfigError(f"there is no command {args[0]!r} of `dima dataset`: {nearest(args[0], DATASET)}")
    return {"record": _record, "info": _info, "import": _import, "export": _export}[args[0]](args[1:])


def _record(args: Sequence[str]) -> int:
    choice = choose(args, RecordOptions, learns=False)
    config = record_config(the_task(choice, args, "dima dataset record"))
    options = parse(RecordOptions, choice.rest, "dima dataset record TASK", RecordOptions(config))

    from dima.recording.record import record as run
    from dima.runtime.progress import choose_progress

    done = run(options.config, overwrite=options.overwrite, progress=choose_progress(options.quiet))
    if options.json and done.finished:
        return _info([str(done.folder), "--json"])
    if options.json:
        answer({"dataset": str(done.folder), "steps": done.steps, "finished": False})
    elif not options.quiet and done.finished:
        return _info([str(done.folder)])
    elif not options.quiet:
        print(f"interrupted after {done.steps:,} steps: the same command continues {done.folder}")
    return 0 if done.finished else 130


def _info(args: Sequence[str]) -> int:
    options = parse(InfoOptions, args, "dima dataset info")

    from dima.datasets.reader import Dataset, describe, description_text

    facts = describe(Dataset.open(options.dataset))
    if options.json:
        answer(facts)
    else:
        print(description_text(facts))
    return 0


def _import(args: Sequence[str]) -> int:
    choice = choose(args, ImportOptions, learns=False)
    config = import_config(the_task(choice, args, "dima dataset import"))
    options = parse(ImportOptions, choice.rest, "dima dataset import TASK", ImportOptions(config))

    from dima.datasets.minari import import_minari

    imported = import_minari(options.config, overwrite=options.overwrite).path
    return _info([str(imported), *(["--json"] if options.json else [])])


def _export(args: Sequence[str]) -> int:
    options = parse(ExportOptions, args, "dima dataset export")

    from dima.datasets.minari import export_minari
    from dima.datasets.reader import Dataset

    where = export_minari(Dataset.open(options.dataset), options.name, options.form, task=options.task)
    if options.json:
        answer({"folder": str(where), "name": options.name})
    else:
        print(f"exported to {where}: open it with minari.load_dataset({options.name!r})")
    return 0


def fit(args: Sequence[str]) -> int:
    choice = choose(args, FitOptions, "dataset", also=("task",))
    if asks_short_help(args):
        print(help_text("dima fit", FitOptions, values=preset_values(choice, run=False)))
        return 0

    from dima.runtime.progress import choose_progress
    from dima.training.offline import fit as run
    from dima.training.offline import fit_config

    if "dataset" in choice.names:
        config = fit_config(**choice.names)
    elif asks_help(args):
        config = offline_config("DATASET", EXAMPLE, choice.names.get("algorithm", OfflineConfig.algorithm))
    else:
        raise ConfigError("no dataset was given: write `dima fit DATASET`, with a folder of `dima dataset record`")
    options = parse(FitOptions, choice.rest, "dima fit DATASET", FitOptions(config))
    summary = run(options.config, overwrite=options.overwrite, progress=choose_progress(options.quiet))
    return tell(summary, options.quiet, options.json)

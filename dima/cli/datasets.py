"""Commands on datasets: dataset, fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dima.cli.options import parse
from dima.cli.positional import EXAMPLE, choose, the_task
from dima.config import Config
from dima.datasets.minari import ImportConfig, import_config
from dima.errors import ConfigError, nearest
from dima.recording.config import RecordConfig, record_config
from dima.training.run_config import OfflineConfig, offline_config

_DATASET = {  # the commands of `dima dataset`
    "record": "record episodes of policies: dima dataset record TASK --sources random RUN,mode",
    "info": "describe a dataset after verifying its files",
    "import": "import a Minari dataset: dima dataset import TASK --minari NAME",
    "export": "export a dataset to Minari: dima dataset export DATASET NAME",
}


@dataclass(frozen=True)
class RecordOptions:
    config: Annotated[RecordConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an existing dataset
    quiet: bool = False  # print nothing but warnings and errors


@dataclass(frozen=True)
class InfoOptions(Config):
    dataset: tyro.conf.Positional[str]  # dataset folder
    json: bool = False  # print one JSON object


@dataclass(frozen=True)
class ImportOptions:
    config: Annotated[ImportConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an existing dataset


@dataclass(frozen=True)
class ExportOptions(Config):
    dataset: tyro.conf.Positional[str]  # dataset folder
    name: tyro.conf.Positional[str]  # name of the new Minari dataset, such as mine/halfcheetah-v0
    form: Literal["agents", "joint"] = "agents"  # dictionaries over agents, or state and joint action as vectors
    task: str | None = None  # the dataset's task, repeated: consent to import it if it is package.module:factory


@dataclass(frozen=True)
class FitOptions:
    config: Annotated[OfflineConfig, tyro.conf.arg(name="", prefix_name=False)]
    overwrite: bool = False  # replace an existing run
    quiet: bool = False  # print nothing but warnings and errors


def dataset(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:<8}{about}" for name, about in _DATASET.items()]
        print("usage: dima dataset COMMAND ...\n\n" + "\n".join(lines) + "\n")
        print("`dima dataset COMMAND --help` lists the options of a command.")
        return 0
    if args[0] not in _DATASET:
        raise ConfigError(f"there is no command {args[0]!r} of `dima dataset`: {nearest(args[0], _DATASET)}")
    return {"record": _record, "info": _info, "import": _import, "export": _export}[args[0]](args[1:])


def _record(args: Sequence[str]) -> int:
    choice = choose(args, RecordOptions, learns=False)
    config = record_config(the_task(choice, args, "dima dataset record"))
    options = parse(RecordOptions, choice.rest, "dima dataset record TASK", RecordOptions(config))

    from dima.recording.record import record as run
    from dima.runtime.progress import choose_progress

    done = run(options.config, overwrite=options.overwrite, progress=choose_progress(options.quiet))
    if options.quiet:
        return 0 if done.finished else 130
    if not done.finished:
        print(f"interrupted after {done.steps:,} steps: the same command continues {done.folder}")
        return 130
    return _info([str(done.folder)])


def _info(args: Sequence[str]) -> int:
    options = parse(InfoOptions, args, "dima dataset info")

    from dima.datasets.reader import Dataset, describe, description_text

    facts = describe(Dataset.open(options.dataset))
    print(json.dumps(facts) if options.json else description_text(facts))
    return 0


def _import(args: Sequence[str]) -> int:
    choice = choose(args, ImportOptions, learns=False)
    config = import_config(the_task(choice, args, "dima dataset import"))
    options = parse(ImportOptions, choice.rest, "dima dataset import TASK", ImportOptions(config))

    from dima.datasets.minari import import_minari

    return _info([str(import_minari(options.config, overwrite=options.overwrite).path)])


def _export(args: Sequence[str]) -> int:
    options = parse(ExportOptions, args, "dima dataset export")

    from dima.datasets.minari import export_minari
    from dima.datasets.reader import Dataset

    where = export_minari(Dataset.open(options.dataset), options.name, options.form, task=options.task)
    print(f"exported to {where}: open it with minari.load_dataset({options.name!r})")
    return 0


def fit(args: Sequence[str]) -> int:
    choice = choose(args, FitOptions, "dataset", also=("task",))

    from dima.runtime.progress import choose_progress
    from dima.training.offline import fit as run
    from dima.training.offline import fit_config

    if "dataset" in choice.names:
        config = fit_config(**choice.names)
    elif {"-h", "--help"} & set(args):
        config = offline_config("DATASET", EXAMPLE, choice.names.get("algorithm", OfflineConfig.algorithm))
    else:
        raise ConfigError("no dataset was given: write `dima fit DATASET`, with a folder of `dima dataset record`")
    options = parse(FitOptions, choice.rest, "dima fit DATASET", FitOptions(config))
    summary = run(options.config, overwrite=options.overwrite, progress=choose_progress(options.quiet))
    if not options.quiet:
        print(summary.table())
    return 0 if summary.finished else 130

"""The commands: what each is for, an example, and the options that most people use.

Nothing is imported here, so that ``dima --help`` costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command in help texts.

    Attributes:
        module: of this package, which has a function of the command's first word.
        options: class there whose fields are its options; empty if it has commands of its own.
        about: one line.
        usage: its arguments.
        examples: command lines.
        common: options that ``--help`` shows, by name; all of them if empty. ``--help-all`` shows every one.
        notes: what else ``--help`` says, a line each.
    """

    module: str
    options: str
    about: str
    usage: str
    examples: tuple[str, ...]
    common: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


_RUN = "runs/mamujoco/halfcheetah-2x3/dima-small-seed0"
_SETTINGS = ("Every setting is an option: --env.* of the environment, --learner.* of the algorithm.",)
COMMANDS = {
    "train": Command(
        "train",
        "TrainOptions",
        "train a team on a task",
        "TASK [options]",
        (
            "dima train mamujoco/halfcheetah-2x3 --algorithm dima --preset small --seed 0",
            "dima train package.module:make_env --algorithm mappo --steps 1e6 --seeds 0 1 2",
        ),
        common=(
            *("task", "algorithm", "preset", "steps", "envs", "evaluate-every", "seed", "seeds", "device", "run"),
            *("overwrite", "wandb", "quiet", "json"),
        ),
        notes=_SETTINGS,
    ),
    "resume": Command(
        "train",
        "ResumeOptions",
        "continue an interrupted run, or extend a finished one",
        "RUN [options]",
        (f"dima resume {_RUN}", f"dima resume {_RUN} --steps 40000"),
    ),
    "evaluate": Command(
        "train",
        "EvaluateOptions",
        "evaluate a run's policy over episodes",
        "RUN [options]",
        (f"dima evaluate {_RUN} --episodes 20 --video",),
    ),
    "sweep": Command(
        "sweep",
        "SweepOptions",
        "train tasks x algorithms x seeds x settings from a file, or search settings",
        "FILE [options]",
        ("dima sweep sweep.yaml --dry-run", "dima sweep sweep.yaml --address auto"),
    ),
    "demo": Command(
        "inspect",
        "DemoOptions",
        "show a trained team and its imagination, in the browser, from a run that comes along",
        "[options]",
        ("dima demo",),
    ),
    "imagine": Command(
        "inspect",
        "ImagineOptions",
        "compare imagined with real episodes: film, strip and page",
        "RUN [options]",
        (f"dima imagine {_RUN}", f"dima imagine {_RUN} --act policy --horizon 15 50"),
    ),
    "diagnose": Command(
        "inspect",
        "DiagnoseOptions",
        "evaluate a run's world model: error, calibration, influence; a page and JSON",
        "RUN [options]",
        (f"dima diagnose {_RUN}",),
        common=(
            *(
                "run",
                "episodes",
                "segments",
                "samples",
                "horizon",
                "orders",
                "seed",
                "also",
                "out",
                "task",
                "algorithm",
            ),
            *("device", "quiet", "json"),
        ),
    ),
    "report": Command(
        "inspect",
        "ReportOptions",
        "compare runs on one page: learning curves, tables, confidence intervals",
        "RUN... [options]",
        ("dima report runs", "dima report runs/mpe --out report/mpe --plots"),
    ),
    "dataset": Command(
        "datasets",
        "",
        "record and describe datasets, import from and export to Minari",
        "COMMAND ...",
        ("dima dataset record toy/walk --sources random --steps 2000",),
    ),
    "fit": Command(
        "datasets",
        "FitOptions",
        "fit a world model to a dataset",
        "DATASET [options]",
        ("dima fit datasets/walk --algorithm dima --preset small",),
        common=(
            *("dataset", "algorithm", "preset", "iterations", "evaluate-every", "evaluation-horizon", "seed", "device"),
            *("run", "task", "overwrite", "quiet", "json"),
        ),
        notes=_SETTINGS,
    ),
    "export": Command(
        "share",
        "ExportOptions",
        "write a run's policy as files that act alone: safetensors, torch.export, ONNX",
        "RUN [options]",
        (f"dima export {_RUN} --formats safetensors onnx",),
    ),
    "push": Command(
        "share",
        "PushOptions",
        "copy a run folder to the Hugging Face hub",
        "RUN OWNER/NAME [options]",
        (f"dima push {_RUN} lab/cheetah",),
    ),
    "pull": Command(
        "share",
        "PullOptions",
        "copy a run folder from the Hugging Face hub",
        "OWNER/NAME [options]",
        ("dima pull lab/cheetah",),
    ),
    "tasks": Command(
        "info", "TasksOptions", "list the tasks", "[TEXT] [options]", ("dima tasks", "dima tasks mamujoco/")
    ),
    "algorithms": Command(
        "info", "AnswerOptions", "list the algorithms and their presets", "[options]", ("dima algorithms",)
    ),
    "check": Command(
        "info",
        "CheckOptions",
        "check that an environment follows the PettingZoo API",
        "TASK [options]",
        ("dima check package.module:make_env",),
    ),
    "doctor": Command("info", "AnswerOptions", "check this installation and machine", "[options]", ("dima doctor",)),
    "completion": Command(
        "info",
        "CompletionOptions",
        "print a shell's completion script: commands, tasks, algorithms, presets, options",
        "{bash,zsh,fish}",
        (
            "dima completion bash > ~/.local/share/bash-completion/completions/dima",
            "dima completion zsh > ~/.zfunc/_dima       (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)",
            "dima completion fish > ~/.config/fish/completions/dima.fish",
        ),
        notes=("Again after an upgrade, or after installing a package that brings tasks or algorithms.",),
    ),
}

DATASET = {
    "record": Command(
        "datasets",
        "RecordOptions",
        "record episodes of policies",
        "TASK [options]",
        ("dima dataset record toy/walk --sources random runs/toy/walk/dima-small-seed0,mode",),
    ),
    "info": Command(
        "datasets",
        "InfoOptions",
        "describe a dataset after verifying its files",
        "DATASET [options]",
        ("dima dataset info datasets/walk",),
    ),
    "import": Command(
        "datasets",
        "ImportOptions",
        "import a Minari dataset",
        "TASK --minari NAME [options]",
        ("dima dataset import toy/walk --minari mine/walk-v0",),
    ),
    "export": Command(
        "datasets",
        "ExportOptions",
        "export a dataset to Minari",
        "DATASET NAME [options]",
        ("dima dataset export datasets/walk mine/walk-v0",),
    ),
}


def every_command() -> dict[str, Command]:
    """All commands that do something, by name, ``dataset record`` among them."""
    found = {name: command for name, command in COMMANDS.items() if command.options}
    return found | {f"dataset {name}": command for name, command in DATASET.items()}


def command_of(prog: str) -> tuple[str, Command]:
    """The full name and the record of the command that begins ``dima dataset record TASK``."""
    _, first, *rest = prog.split()
    if first == "dataset" and rest:
        return f"dima dataset {rest[0]}", DATASET[rest[0]]
    return f"dima {first}", COMMANDS[first]

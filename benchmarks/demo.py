"""Make the team that ships with the library, and the moving picture of the README, from a finished run.

    python -m benchmarks.demo runs/mamujoco/halfcheetah-2x3/dima-small-seed0

Writes ``dima/analysis/demo/team/`` (policy and world model, without optimisers, replay and earlier policies) and
``docs/imagination.webp`` (50 steps of `dima imagine`).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from dima.agent import load
from dima.algorithms.model_based import ModelBased
from dima.analysis.demo.run import TEAM
from dima.analysis.imagine.page import FILMS
from dima.analysis.imagine.run import imagine
from dima.errors import ConfigError
from dima.runtime.progress import choose_progress
from dima.storage.layout import METRICS, PROTOCOL, REPLAY
from dima.storage.lock import NAME as LOCK
from dima.storage.run_folder import RunFolder
from dima.storage.serialization import Tree

PICTURE = Path(__file__).parents[1] / "docs" / "imagination.webp"
STEPS = 50  # of the picture, less than 2 MB
LEARNT = ("world_model", "average_actor", "policy_updates", "iterations")


def make_team(run: Path, out: Path) -> None:
    """Write a run folder that acts and imagines as ``run`` does; an earlier one is replaced.

    Raises:
        ConfigError: the run has no world model.
        RunFolderError: it cannot be read, or is of another format.
    """
    agent = load(run, "cpu")
    if not isinstance(agent.algorithm, ModelBased):
        raise ConfigError(f"{run}: {agent.config.algorithm} learns no world model: give a run of dima or the like")
    with RunFolder.open(run) as source:
        tree = source.load().tree
    config = agent.config.to_dict() | {"run": "runs/demo", "tensorboard": False, "wandb": False}
    if out.exists():
        shutil.rmtree(out)
    with RunFolder.create(out, config) as folder:
        for name in (PROTOCOL, METRICS):  # of the training
            shutil.copyfile(run / name, out / name)
        folder.save(acting(tree))
    for name in (LOCK, "uncommitted.diff"):
        (out / name).unlink(missing_ok=True)
    (out / REPLAY).rmdir()
    for path in out.rglob("*.*"):
        path.chmod(0o644)  # whoever installs the package may read it


def acting(tree: Tree) -> Tree:
    """What acting and imagining need of a checkpoint of a run with a world model."""
    learnt = tree["algorithm"]
    return {
        "algorithm": {name: learnt[name] for name in LEARNT} | {"ppo": {"networks": learnt["ppo"]["networks"]}},
        "collector": {"steps": tree["collector"]["steps"]},
    }


def make_picture(run: Path, path: Path) -> None:
    """Write the animated picture of a run's imagination."""
    with tempfile.TemporaryDirectory() as folder:
        imagine(run, [STEPS], webp=True, out=folder, progress=choose_progress(False))
        shutil.copyfile(Path(folder, FILMS["webp"]), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    run = parser.parse_args().run
    make_team(run, TEAM)
    make_picture(TEAM, PICTURE)
    for path in (TEAM, PICTURE):
        print(path)


if __name__ == "__main__":
    main()

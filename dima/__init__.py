"""Multi-agent reinforcement learning with world models: DIMA, and the methods it is compared with.

    run = dima.train("mamujoco/halfcheetah-2x3", seed=1)
    agent = dima.load(run)
    agent.reset()  # as the environment is: some policies remember an episode
    actions = agent.act(observations)

Names are imported when first used, so ``import dima`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dima.version import __version__

if TYPE_CHECKING:
    from dima.agent import Agent as Agent
    from dima.agent import evaluate as evaluate
    from dima.agent import load as load
    from dima.algorithms import register_algorithm as register_algorithm
    from dima.analysis.demo.run import demo as demo
    from dima.analysis.diagnose.config import DiagnosisConfig as DiagnosisConfig
    from dima.analysis.diagnose.run import diagnose as diagnose
    from dima.analysis.imagine.run import film as film
    from dima.analysis.imagine.run import imagine as imagine
    from dima.analysis.report.build import report as report
    from dima.datasets.reader import Dataset as Dataset
    from dima.envs import all_tasks as all_tasks
    from dima.envs import make_env as make_env
    from dima.envs import register_task as register_task
    from dima.errors import UserError as UserError
    from dima.recording.config import RecordConfig as RecordConfig
    from dima.recording.config import record_config as record_config
    from dima.recording.record import record as record
    from dima.sharing.export import export as export
    from dima.sharing.hub import pull as pull
    from dima.sharing.hub import push as push
    from dima.sharing.policy import ExportedPolicy as ExportedPolicy
    from dima.sharing.policy import load_policy as load_policy
    from dima.sweeps.run import sweep as sweep
    from dima.training.api import fit as fit
    from dima.training.api import resume as resume
    from dima.training.api import train as train
    from dima.training.callbacks import Callback as Callback
    from dima.training.callbacks import KeepBest as KeepBest
    from dima.training.callbacks import Status as Status
    from dima.training.callbacks import StopAtReturn as StopAtReturn
    from dima.training.callbacks import StopOnPlateau as StopOnPlateau
    from dima.training.offline import fit_config as fit_config
    from dima.training.run import Run as Run
    from dima.training.run import open_run as open_run
    from dima.training.run_config import RunConfig as RunConfig
    from dima.training.run_config import build_config as build_config
    from dima.world_models import register_world_model as register_world_model

_HOME = {
    "Agent": "dima.agent",
    "Callback": "dima.training.callbacks",
    "DiagnosisConfig": "dima.analysis.diagnose.config",
    "Dataset": "dima.datasets.reader",
    "ExportedPolicy": "dima.sharing.policy",
    "KeepBest": "dima.training.callbacks",
    "RecordConfig": "dima.recording.config",
    "Run": "dima.training.run",
    "RunConfig": "dima.training.run_config",
    "Status": "dima.training.callbacks",
    "StopAtReturn": "dima.training.callbacks",
    "StopOnPlateau": "dima.training.callbacks",
    "UserError": "dima.errors",
    "all_tasks": "dima.envs",
    "build_config": "dima.training.run_config",
    "demo": "dima.analysis.demo.run",
    "diagnose": "dima.analysis.diagnose.run",
    "evaluate": "dima.agent",
    "export": "dima.sharing.export",
    "film": "dima.analysis.imagine.run",
    "fit": "dima.training.api",
    "fit_config": "dima.training.offline",
    "imagine": "dima.analysis.imagine.run",
    "load": "dima.agent",
    "load_policy": "dima.sharing.policy",
    "make_env": "dima.envs",
    "open_run": "dima.training.run",
    "pull": "dima.sharing.hub",
    "push": "dima.sharing.hub",
    "record": "dima.recording.record",
    "record_config": "dima.recording.config",
    "register_algorithm": "dima.algorithms",
    "register_task": "dima.envs",
    "register_world_model": "dima.world_models",
    "report": "dima.analysis.report.build",
    "resume": "dima.training.api",
    "sweep": "dima.sweeps.run",
    "train": "dima.training.api",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dima' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

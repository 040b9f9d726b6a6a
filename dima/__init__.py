"""Multi-agent reinforcement learning with world models: DIMA, and the methods it is compared with.

    config = dima.build_config("mamujoco/halfcheetah-2x3", preset="small")
    dima.train(config)
    agent = dima.load(config.folder)
    actions = agent.act(observations)

Names are imported when first used, so ``import dima`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dima.agent import Agent as Agent
    from dima.agent import evaluate as evaluate
    from dima.agent import load as load
    from dima.datasets.config import RecordConfig as RecordConfig
    from dima.datasets.config import record_config as record_config
    from dima.datasets.reader import Dataset as Dataset
    from dima.datasets.record import record as record
    from dima.diagnosis.config import DiagnosisConfig as DiagnosisConfig
    from dima.diagnosis.diagnose import diagnose as diagnose
    from dima.envs import all_tasks as all_tasks
    from dima.envs import make_env as make_env
    from dima.errors import UserError as UserError
    from dima.offline import fit as fit
    from dima.offline import fit_config as fit_config
    from dima.report.build import report as report
    from dima.run_config import RunConfig as RunConfig
    from dima.run_config import build_config as build_config
    from dima.train import resume as resume
    from dima.train import train as train

__version__ = "0.1.0"

_HOME = {
    "Agent": "dima.agent",
    "DiagnosisConfig": "dima.diagnosis.config",
    "Dataset": "dima.datasets.reader",
    "RecordConfig": "dima.datasets.config",
    "RunConfig": "dima.run_config",
    "UserError": "dima.errors",
    "all_tasks": "dima.envs",
    "build_config": "dima.run_config",
    "diagnose": "dima.diagnosis.diagnose",
    "evaluate": "dima.agent",
    "fit": "dima.offline",
    "fit_config": "dima.offline",
    "load": "dima.agent",
    "make_env": "dima.envs",
    "record": "dima.datasets.record",
    "record_config": "dima.datasets.config",
    "report": "dima.report.build",
    "resume": "dima.train",
    "train": "dima.train",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dima' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps ``dima.train`` the function: importing the module of the same name would put itself in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

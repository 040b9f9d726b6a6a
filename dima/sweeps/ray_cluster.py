"""Ray itself: started on this machine or reached elsewhere, silent, and with room for a run."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from dima.errors import ConfigError, one_line
from dima.runtime.machine import cores
from dima.sweeps.plan import Plan
from dima.sweeps.progress import SweepProgress
from dima.sweeps.spec import Resources, Sweep

_TOKEN = secrets.token_hex(32)  # of a Ray of this machine
_ANSWER_SECONDS = 10.0  # of a cluster
_OBJECT_STORE_BYTES = 100 << 20  # nothing but settings and metrics passes through it
_PENDING = {False: "16", True: "1"}  # trials that wait for a place; those of a search are drawn as late as possible
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a run without a share of a GPU sees none
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command's own handler lets runs save
    "TUNE_WARN_THRESHOLD_S": "1000000",
}


@contextmanager
def quiet(search: bool) -> Iterator[None]:
    """No statistics of usage, no files of Ray's loggers, no lines but our own."""
    changes = _ENVIRONMENT | {"TUNE_MAX_PENDING_TRIALS_PG": _PENDING[search]}
    before = {name: os.environ.get(name) for name in (*changes, "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")}
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.air", "ray.train")]
    levels = [logger.level for logger in loggers]
    os.environ.update(changes)
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def connected(sweep: Sweep) -> Iterator[None]:
    """A connection to the cluster, or a Ray of this machine that ends with the sweep."""
    address = sweep.spec.address
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    folder = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is not None:
            _require_answer(address)
            ray.init(address=address, **common)
        else:
            # others on this machine cannot use it; without a token given, Ray would write one to the home folder
            os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
            folder = tempfile.mkdtemp(prefix="dima-ray-")  # paths of sockets must be short: not in the sweep's folder
            ray.init(
                address="local",
                num_cpus=cores(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=folder,
                **common,
            )
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray's own would end the command at once
                signal.signal(number, handler)
        yield
    except (ConnectionError, ValueError) as error:
        if ray.is_initialized():
            raise
        place = "started" if address is None else f"reached at {address} (with a token? see RAY_AUTH_MODE)"
        raise ConfigError(f"Ray cannot be {place}: {one_line(error)[:300]}") from error
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _require_answer(address: str) -> None:
    """Raise ConnectionError if nobody answers at ``host:port``, for which Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()


def gpu_share(plan: Plan, resources: Resources) -> float:
    """The share of a GPU that each run gets."""
    if resources.gpus is not None:
        return resources.gpus
    configs = [run.config for point in plan.points for run in point.runs(plan.sweep.any_values)]
    may_use_one = any(config.device != "cpu" for config in configs)
    return 1.0 if may_use_one and ray.cluster_resources().get("GPU", 0) else 0.0


def require_room(needs: dict[str, float], cluster: bool, progress: SweepProgress) -> None:
    """Refuse a run that this machine can never hold; a cluster may grow."""
    for kind, amount in needs.items():
        found = max((node["Resources"].get(kind.upper(), 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if amount > found:
            text = f"resources.{kind}s = {amount:g} is more than the {found:g} of "
            if not cluster:
                raise ConfigError(f"{text}this machine: lower it")
            progress.message(f"{text}any machine of the cluster: runs wait until it has a larger one")

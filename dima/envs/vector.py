"""Step many copies of an environment together, through Gymnasium's vector API without automatic reset."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from dima.envs.base import Joint, JointEnv
from dima.errors import EnvError, UserError
from dima.runtime.signals import become_worker

T = TypeVar("T")


class VectorEnv:
    """``n`` copies of an environment, in this process or in one process each.

    Args:
        make: builds one copy; called n times (with processes once more, for the spec).
        n: number of copies.
        processes: one process per copy. Worth it for slow simulators and spare cores only: a step then costs a round
            trip, about 0.1 ms.

    Attributes:
        metrics: of the copies whose episodes ended in the last step, the values of the spec's ``episode_metrics``.

    Raises:
        EnvError: an environment cannot be built or violates the PettingZoo API, also in another process; or it is to
            have a process and cannot be forked.
    """

    def __init__(self, make: Callable[[], JointEnv], n: int, processes: bool = False) -> None:
        self.n, self.processes = n, processes
        probe = make()
        self.spec, self.forkable = probe.spec, probe.forkable
        if processes and not probe.forkable:
            probe.close()
            raise EnvError(f"{probe.name} cannot be forked into a process per environment: leave env_processes off")
        spare = [] if processes else [probe]  # serves as the first copy
        owner, in_main_thread = os.getpid(), threading.current_thread() is threading.main_thread()

        def build() -> _Copy:
            if os.getpid() != owner:
                become_worker(owner, in_main_thread)
            return _Copy(spare.pop() if spare else make())

        self._vector: SyncVectorEnv | AsyncVectorEnv
        if processes:
            probe.close()
        kind = AsyncVectorEnv if processes else SyncVectorEnv
        self._vector = self._calling(lambda: kind([build] * n, copy=False, autoreset_mode=AutoresetMode.DISABLED))
        self._closed, self._ended = False, np.zeros(n, dtype=bool)
        self.metrics: dict[int, tuple[float, ...]] = {}
        self._at_exit = partial(_close_if_alive, weakref.ref(self))
        atexit.register(self._at_exit)  # before multiprocessing's own clean-up, whose SIGTERM the processes ignore
        self._calling(lambda: self._vector.reset(options={"park": True}))

    def reset(self, seeds: Sequence[int | None], mask: np.ndarray) -> Joint:
        """Start new episodes in the copies that ``mask`` (n,) selects.

        Args:
            seeds: one for every copy; those of copies not selected are ignored.
            mask: (n,) bool.

        Returns:
            Observations of every copy: ``obs`` (n, N, O), ``state`` (n, S), ``action_mask`` (n, N, A) bool, in arrays
            that are not written again. Copies not selected repeat their last observation (zeros before their first
            episode).
        """
        mask = np.asarray(mask, dtype=bool)
        self._ended &= ~mask
        joint, infos = self._calling(lambda: self._vector.reset(seed=list(seeds), options={"reset_mask": mask}))
        _raise_error(infos)
        return _copied(joint)

    def step(self, action: np.ndarray, active: np.ndarray) -> tuple[Joint, np.ndarray, np.ndarray, np.ndarray]:
        """Step the copies that ``active`` (n,) selects; the others pause with reward 0.

        Args:
            action: (n, N, A).
            active: (n,) bool. Every selected copy must be inside an episode.

        Returns:
            Observations as from :meth:`reset`, reward (n,) float64, terminated (n,) bool and truncated (n,) bool.
        """
        active = np.asarray(active, dtype=bool)
        if self._ended.any():  # Gymnasium refuses to step a copy that ended: park it until its reset
            ended, self._ended = self._ended, np.zeros(self.n, dtype=bool)
            self._calling(lambda: self._vector.reset(options={"reset_mask": ended, "park": True}))
        actions: Any = [own if moves else None for own, moves in zip(action, active, strict=True)]
        joint, reward, terminated, truncated, infos = self._calling(lambda: self._vector.step(actions))
        _raise_error(infos)
        self._ended = terminated | truncated
        given = infos.get("_metrics", np.zeros(self.n, dtype=bool))
        self.metrics = {int(n): tuple(infos["metrics"][n].tolist()) for n in np.flatnonzero(given)}
        return _copied(joint), reward, terminated, truncated

    @contextmanager
    def used_by_fork(self) -> Iterator[None]:
        """Let a forked copy of this process step the environments while the block runs.

        If the block raises, the environments' processes may still be answering the fork: :meth:`close` kills them.
        """
        self._interrupted = True
        yield
        self._interrupted = False

    def close(self) -> None:
        """End the environments and their processes."""
        if self._closed:
            return
        self._closed = True
        workers = getattr(self._vector, "processes", [])
        if self._interrupted or not all(worker.is_alive() for worker in workers):  # a closing handshake could hang
            for worker in workers:
                worker.kill()
                worker.join()
            self._vector.closed = True
        else:
            self._vector.close()
        atexit.unregister(self._at_exit)

    def __enter__(self) -> VectorEnv:  # Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _calling(self, call: Callable[[], T]) -> T:
        """Call Gymnasium, and raise an EnvError if a process died."""
        self._interrupted = True  # until the call has returned
        try:
            answer = call()
        except (EOFError, ConnectionError) as error:
            raise EnvError(
                "an environment's process died: its simulator crashed or memory ran out; try fewer environments, "
                "or keep them in one process to see the cause"
            ) from error
        self._interrupted = False
        return answer


class _Copy(gymnasium.Env[Joint, Any]):
    """One copy, as Gymnasium's vector API needs it: pauses, and errors that keep its process alive.

    The action None pauses the copy. ``reset(options={"park": True})`` leaves its episode alone: it satisfies Gymnasium,
    which refuses to step an environment that ended, while other copies continue. Errors of the environment are passed
    in ``info``, which preserves the exception.
    """

    def __init__(self, env: JointEnv) -> None:
        self.env, self.metadata, self.render_mode = env, env.metadata, env.render_mode
        self.observation_space, self.action_space = env.observation_space, env.action_space
        boxes: Any = env.observation_space
        self._joint: Joint = {name: np.zeros(box.shape, box.dtype) for name, box in boxes.items()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Joint, dict[str, Any]]:
        if not (options and options.get("park")):
            try:
                self._joint, _ = self.env.reset(seed=seed)
            except UserError as error:
                return self._joint, {"error": error}
        return self._joint, {}

    def step(self, action: np.ndarray | None) -> tuple[Joint, float, bool, bool, dict[str, Any]]:
        if action is None:
            return self._joint, 0.0, False, False, {}
        try:
            self._joint, reward, terminated, truncated, _ = self.env.step(action)
        except UserError as error:
            return self._joint, 0.0, False, False, {"error": error}
        ended = {"metrics": np.array(self.env.metrics)} if self.env.metrics else {}
        return self._joint, reward, terminated, truncated, ended

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


def _copied(joint: Joint) -> Joint:
    """Gymnasium's arrays are overwritten by the next step."""
    return {name: values.copy() for name, values in joint.items()}


def _raise_error(infos: dict[str, Any]) -> None:
    for error in infos.get("error", ()):
        if error is not None:
            raise error


def _close_if_alive(reference: weakref.ref[VectorEnv]) -> None:
    envs = reference()
    if envs is not None:
        envs.close()

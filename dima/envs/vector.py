"""Many copies of a team stepped together: Gymnasium's vector API, automatic reset off.

Each copy hands Gymnasium one packed row (observations, state, mask), so that a step costs one stacking, or one write to
shared memory, however many fields there are.
"""

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
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from dima.envs.base import Joint, JointEnv
from dima.errors import EnvError, UserError
from dima.runtime.signals import serve

T = TypeVar("T")


class VectorEnv:
    """``n`` copies of an environment, in this process or in one process each.

    Args:
        make: builds one copy; called n times (and once more for a look when in processes).
        n: how many.
        processes: one process per copy. Worth it for slow simulators and spare cores only: a step then costs a round
            trip, about 0.1 ms.

    Raises:
        EnvError: an environment cannot be built or breaks a promise, also in another process.
    """

    def __init__(self, make: Callable[[], JointEnv], n: int, processes: bool = False) -> None:
        self.n, self.processes = n, processes
        probe = make()
        self.spec = probe.spec
        spare = [] if processes else [probe]  # serves as the first copy
        owner, in_main_thread = os.getpid(), threading.current_thread() is threading.main_thread()

        def build() -> _Slot:
            if os.getpid() != owner:
                serve(owner, in_main_thread)
            return _Slot(spare.pop() if spare else make())

        self._vector: SyncVectorEnv | AsyncVectorEnv
        if processes:
            probe.close()
        kind = AsyncVectorEnv if processes else SyncVectorEnv
        self._vector = self._calling(lambda: kind([build] * n, copy=False, autoreset_mode=AutoresetMode.DISABLED))
        self._closed, self._ended = False, np.zeros(n, dtype=bool)
        self._at_exit = partial(_close_if_alive, weakref.ref(self))
        atexit.register(self._at_exit)  # before multiprocessing's own clean-up, whose SIGTERM the processes ignore
        self._calling(lambda: self._vector.reset(options={"park": True}))

    def reset(self, seeds: Sequence[int | None], mask: np.ndarray) -> Joint:
        """Start new episodes in the copies that ``mask`` (n,) selects.

        Args:
            seeds: one for every copy; those not selected are not looked at.
            mask: (n,) bool.

        Returns:
            What every copy observes now: ``obs`` (n, N, O), ``state`` (n, S), ``action_mask`` (n, N, A) bool. Copies
            not selected show again what they showed last (zeros before their first episode).
        """
        mask = np.asarray(mask, dtype=bool)
        self._ended &= ~mask
        rows, infos = self._calling(lambda: self._vector.reset(seed=list(seeds), options={"reset_mask": mask}))
        _raise_told(infos)
        return self._unpack(rows)

    def step(self, action: np.ndarray, active: np.ndarray) -> tuple[Joint, np.ndarray, np.ndarray, np.ndarray]:
        """Step the copies that ``active`` (n,) selects; the others stand still and give reward 0.

        Args:
            action: (n, N, A).
            active: (n,) bool. Every selected copy must be inside an episode.

        Returns:
            The observations as from :meth:`reset`, reward (n,) float64, terminated (n,) bool and truncated (n,) bool.
        """
        active = np.asarray(active, dtype=bool)
        if self._ended.any():  # Gymnasium steps no environment that ended: let those rest until they are reset
            ended, self._ended = self._ended, np.zeros(self.n, dtype=bool)
            self._calling(lambda: self._vector.reset(options={"reset_mask": ended, "park": True}))
        flat = np.empty((self.n, self.spec.n_agents * self.spec.action_dim + 1), dtype=np.float32)
        flat[:, :-1] = action.reshape(self.n, -1)
        flat[:, -1] = active
        rows, reward, terminated, truncated, infos = self._calling(lambda: self._vector.step(flat))
        _raise_told(infos)
        self._ended = terminated | truncated
        return self._unpack(rows), reward, terminated, truncated

    @contextmanager
    def used_by_fork(self) -> Iterator[None]:
        """A copy of this process plays here while the block runs; if it breaks off, processes may wait for it."""
        self._interrupted = True
        yield
        self._interrupted = False

    def close(self) -> None:
        """End the environments and their processes."""
        if self._closed:
            return
        self._closed = True
        workers = getattr(self._vector, "processes", [])
        if self._interrupted or not all(worker.is_alive() for worker in workers):  # they would not answer politely
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
        """Call Gymnasium; a process that died becomes an EnvError."""
        self._interrupted = True  # should the call never come back
        try:
            answer = call()
        except (EOFError, ConnectionError) as error:
            raise EnvError(
                "an environment's process died: its simulator crashed or memory ran out; try fewer environments, "
                "or keep them in one process to see the cause"
            ) from error
        self._interrupted = False
        return answer

    def _unpack(self, rows: np.ndarray) -> Joint:
        spec, rows = self.spec, rows.copy()
        agents, state = spec.n_agents * spec.obs_dim, spec.state_dim
        return {
            "obs": rows[:, :agents].reshape(self.n, spec.n_agents, spec.obs_dim),
            "state": rows[:, agents : agents + state],
            "action_mask": rows[:, agents + state :].reshape(self.n, spec.n_agents, spec.action_dim) > 0,
        }


class _Slot(gymnasium.Env[np.ndarray, np.ndarray]):
    """One copy as Gymnasium's vector API sees it: packed rows, an "active" flag behind each action, and parking.

    ``reset(options={"park": True})`` leaves the episode alone. It satisfies Gymnasium, which will not step an
    environment that ended, while other copies go on. Errors of the environment travel in ``info``, which keeps the
    exception whole and the processes alive.
    """

    def __init__(self, env: JointEnv) -> None:
        spec = env.spec
        entries = spec.n_agents * spec.obs_dim + spec.state_dim + spec.n_agents * spec.action_dim
        self.env, self.metadata, self.render_mode = env, env.metadata, env.render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (entries,), np.float32)
        self.action_space = spaces.Box(-np.inf, np.inf, (spec.n_agents * spec.action_dim + 1,), np.float32)
        self._shape, self._row = (spec.n_agents, spec.action_dim), np.zeros(entries, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if options and options.get("park"):
            return self._row, {}
        try:
            return self._pack(self.env.reset(seed=seed)[0]), {}
        except UserError as error:
            return self._row, {"error": error}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not action[-1]:
            return self._row, 0.0, False, False, {}
        try:
            joint, reward, terminated, truncated, _ = self.env.step(action[:-1].reshape(self._shape))
        except UserError as error:
            return self._row, 0.0, False, False, {"error": error}
        return self._pack(joint), reward, terminated, truncated, {}

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _pack(self, joint: Joint) -> np.ndarray:
        self._row = np.concatenate([joint["obs"].ravel(), joint["state"], joint["action_mask"].ravel()])
        return self._row


def _raise_told(infos: dict[str, Any]) -> None:
    """Raise the first error that a copy put into its info."""
    for error in infos.get("error", ()):
        if error is not None:
            raise error


def _close_if_alive(reference: weakref.ref[VectorEnv]) -> None:
    envs = reference()
    if envs is not None:
        envs.close()

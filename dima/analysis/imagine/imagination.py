"""What `dima imagine` finds: an imagination beside the truth in numbers, in words, and as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dima.analysis.imagine.compare import Acting, Beside
from dima.analysis.imagine.pictures import Pictures
from dima.data import EnvSpec
from dima.runtime.progress import Progress


@dataclass(frozen=True)
class Horizon:
    """How far the imagination had got from the truth after so many steps; errors are mean absolute, per feature."""

    steps: int
    compared: int  # fewer where the real episode had ended by then
    state: float
    state_unchanged: float  # had nothing changed since the start
    state_sum: float  # of the errors of all steps so far
    state_unchanged_sum: float
    obs: float
    obs_unchanged: float
    reward: float  # sum of the imagined rewards
    real_reward: float


@dataclass(frozen=True)
class Imagination:
    """An imagination beside what really happened.

    Attributes:
        run: of which run, after how many environment steps, by which versions.
        acting: whose actions, see :func:`dima.analysis.imagine.compare.beside`.
        beside: both courses, in the environment's units.
        state_error, state_unchanged: (T + 1,) mean absolute error of the state after each step that both have, and that
            of a world where nothing changes.
        obs_error, obs_unchanged: (T + 1, N) likewise of each agent's observation.
        kinds: (T + 1,) error of each kind of state feature.
        pictures: indexed by step: what is real and what is imagined, (height, width, 3) uint8 each; None if ``unseen``.
        unseen: why there are no pictures.
    """

    run: Mapping[str, Any]
    spec: EnvSpec
    acting: Acting
    beside: Beside
    state_error: np.ndarray
    state_unchanged: np.ndarray
    obs_error: np.ndarray
    obs_unchanged: np.ndarray
    kinds: Mapping[str, np.ndarray]
    measures: Mapping[str, tuple[np.ndarray, np.ndarray]]  # real and imagined, after each step; see Scene.measures
    pictures: Pictures | None
    unseen: str = ""

    def horizons(self) -> list[Horizon]:
        """The errors after each of the horizons asked for."""
        return [self._after(steps) for steps in self.beside.horizons]

    def findings(self) -> list[str]:
        """A line for each horizon."""
        return [_sentence(found) for found in self.horizons()]

    def to_dict(self) -> dict[str, Any]:
        """Everything but pictures, as plain data."""
        beside, real, imagined = self.beside, self.beside.real, self.beside.imagined
        agents = self.spec.agents
        return {
            "run": dict(self.run),
            "acting": self.acting,
            "seed": beside.seed,
            "start": beside.start,
            "horizons": [vars(found) for found in self.horizons()],
            "unseen": self.unseen,
            "steps": {
                "state_error": self.state_error.tolist(),
                "state_unchanged": self.state_unchanged.tolist(),
                "state_error_by_kind": {kind: error.tolist() for kind, error in self.kinds.items()},
                "obs_error": {agent: self.obs_error[:, i].tolist() for i, agent in enumerate(agents)},
                "obs_unchanged": {agent: self.obs_unchanged[:, i].tolist() for i, agent in enumerate(agents)},
                "real": {"reward": real.reward.tolist(), "continuation": real.continuation.tolist()},
                "imagined": {"reward": imagined.reward.tolist(), "continuation": imagined.continuation.tolist()},
                "measures": {
                    name: {"real": a.tolist(), "imagined": b.tolist()} for name, (a, b) in self.measures.items()
                },
            },
        }

    def save(self, folder: str | Path, fps: float = 10.0, progress: Progress | None = None) -> Path:
        """Write ``imagination.json``, ``imagination.html``, and with pictures ``imagination.mp4`` and ``strip.png``.

        Args:
            folder: made when missing; an earlier imagination in it is replaced.
            fps: frames a second of the film.
            progress: told of the frames; silent by default.

        Returns:
            The page.

        Raises:
            RunFolderError: the disk is full or read-only.
        """
        from dima.analysis.imagine.page import save

        return save(self, Path(folder), fps, progress or Progress())

    def _after(self, steps: int) -> Horizon:
        beside = self.beside
        compared = min(steps, beside.steps)
        return Horizon(
            steps=steps,
            compared=compared,
            state=float(self.state_error[compared]),
            state_unchanged=float(self.state_unchanged[compared]),
            state_sum=float(self.state_error[: compared + 1].sum()),
            state_unchanged_sum=float(self.state_unchanged[: compared + 1].sum()),
            obs=float(self.obs_error[compared].mean()),
            obs_unchanged=float(self.obs_unchanged[compared].mean()),
            reward=float(beside.imagined.reward[:compared].sum()),
            real_reward=float(beside.real.reward[:compared].sum()),
        )


def examined(
    beside: Beside,
    *,
    spec: EnvSpec,
    kinds: list[str],
    run: Mapping[str, Any],
    acting: Acting,
    pictures: Pictures | None,
    unseen: str,
) -> Imagination:
    """An imagination with its errors.

    Args:
        beside: both courses.
        spec: of the environment.
        kinds: what kind of quantity each state feature is.
        run: where the world model comes from.
        acting: whose actions.
        pictures: of both, or None.
        unseen: why there are none.
    """
    gap, unchanged = beside.gap("state"), beside.gap_unchanged("state")
    names = np.array(kinds)
    return Imagination(
        run=run,
        spec=spec,
        acting=acting,
        beside=beside,
        state_error=gap.mean(-1),
        state_unchanged=unchanged.mean(-1),
        obs_error=_mean_real(beside.gap("obs"), spec),
        obs_unchanged=_mean_real(beside.gap_unchanged("obs"), spec),
        kinds={kind: gap[:, names == kind].mean(-1) for kind in dict.fromkeys(kinds)},
        measures={} if pictures is None else pictures.measures(),
        pictures=pictures,
        unseen=unseen,
    )


def _mean_real(gap: np.ndarray, spec: EnvSpec) -> np.ndarray:
    """(T, N, O) -> (T, N), padding left out."""
    mean: np.ndarray = (gap * spec.obs_valid).sum(-1) / np.array(spec.obs_sizes)
    return mean


def _sentence(found: Horizon) -> str:
    ended = "" if found.compared == found.steps else f" (the real episode ended after {found.compared})"
    steps = max(1, found.compared)
    mean, unchanged = found.state_sum / steps, found.state_unchanged_sum / steps
    return (
        f"{found.steps} steps{ended}: state error {mean:.3g} on average, {found.state:.3g} at the end (had nothing "
        f"changed {unchanged:.3g} and {found.state_unchanged:.3g}), reward {found.reward:.4g} imagined, "
        f"{found.real_reward:.4g} real"
    )

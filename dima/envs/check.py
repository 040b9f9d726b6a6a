"""Check whether an environment is fit for training: PettingZoo's tests and ours, as a report."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from gymnasium import spaces
from pettingzoo.test.parallel_test import parallel_api_test
from pettingzoo.test.seed_test import parallel_seed_test

from dima.config import Config
from dima.data import EnvSpec
from dima.envs import make_env, make_parallel_env, suite_config
from dima.envs.base import AdapterConfig, Joint, JointEnv
from dima.envs.checked import AgentsLeave
from dima.errors import EnvError, UserError, one_line

C = TypeVar("C", bound=Config)
EPISODES = 3  # of random actions
OPPOSED = -0.3  # correlation of two agents' rewards from which on they oppose each other
REWARD_STEPS = 300  # in which rewards are compared, at least; then until the episode's end, where games are decided
LONGEST_COMPARISON = 1_000  # steps, whether or not an episode ends
LEAVING_STEPS = 1_000  # in which agents are expected to leave early, if they ever do
LEAVING = "agents leave before the others: they are masked from then on, and the episode goes on for those who stay"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    verdict: Literal["ok", "note", "wrong"]
    text: str


@dataclass(frozen=True)
class CheckReport:
    """The results of all checks of an environment.

    Attributes:
        task: its name.
        findings: a result each.
        spec: its agents and sizes; None if it could not be built.
        lengths: steps of the random episodes that ended.
        endless: none ended, not even the one that was played on, and nothing else is wrong.
        can_be_cut: its settings have an ``episode_limit``.
    """

    task: str
    findings: tuple[Finding, ...]
    spec: EnvSpec | None = None
    lengths: tuple[int, ...] = ()
    endless: bool = False
    can_be_cut: bool = False

    @property
    def ok(self) -> bool:
        """No check failed (notes are advice)."""
        return all(finding.verdict != "wrong" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        return {
            "task": self.task,
            "ok": self.ok,
            "findings": [vars(finding) for finding in self.findings],
            "spec": None if self.spec is None else self.spec.to_dict(),
            "lengths": list(self.lengths),
        }

    @property
    def lines(self) -> list[str]:
        """The findings, one line each, and a conclusion."""
        verdict = "is fit for training" if self.ok else "is not fit for training yet"
        return [f"{f.verdict:5}  {f.text}" for f in self.findings] + [f"{self.task} {verdict}"]


def check_environment(task: str, config: Config | None = None, max_steps: int = 1000) -> CheckReport:
    """Build an environment, run the tests on it, and play a few episodes of random actions.

    Args:
        task: as for :func:`dima.envs.make_env`, for example ``package.module:factory``.
        config: settings of its suite.
        max_steps: of each episode; where none ended, and no longer limit is known, the last is played to its end.

    Raises:
        ConfigError: there is no such task. Errors of the environment itself are in the report.
    """
    found: list[Finding] = []
    config = foresee_leaving(task, suite_config(task)() if config is None else config)
    make_parallel = partial(make_parallel_env, task, config)
    try:
        make_env(task, config).close()
        env = make_env(task, config)
        joint, _ = env.reset(seed=0)  # a step before PettingZoo's tests, which do not know masks that come late
        env.step(random_action(env.spec, joint["action_mask"], np.random.default_rng(0)))
    except EnvError as error:
        return CheckReport(task, (Finding("wrong", str(error)),))
    found.append(Finding("ok", description(env.spec)))
    if env.spec.agents_leave:
        found.append(Finding("note", LEAVING))
    found += _precision(env)
    ends: list[tuple[int, bool, bool]] = []
    found += _pettingzoo("API", lambda: parallel_api_test(make_parallel(), num_cycles=min(max_steps, 200)))
    if env.spec.masks_actions:
        found.append(Finding("note", "PettingZoo's seed test is left out: it ignores action masks; ours follows"))
    else:
        found += _pettingzoo("seed", lambda: parallel_seed_test(make_parallel, num_cycles=50))
    try:
        found += _determinism(env, make_env(task, config))
        found += _episodes(env, max_steps, ends)
        found += compare_rewards(env, config)
        found += _pictures(task, config, env.metadata.get("render_modes"))
    except UserError as error:
        found.append(Finding("wrong", str(error)))
    env.close()
    lengths = tuple(steps for steps, *ended in ends if any(ended))
    wrong = sum(finding.verdict == "wrong" for finding in found)
    endless = len(ends) == EPISODES - 1 and not lengths and wrong == 1  # the last one was to end
    return CheckReport(task, tuple(found), env.spec, lengths, endless, hasattr(config, "episode_limit"))


def foresee_leaving(task: str, config: C) -> C:
    """The settings of a task, with ``agents_leave`` on if an agent leaves before the others in random play.

    Any other fault of the environment is left to those who use it.
    """
    if isinstance(config, AdapterConfig) and not config.agents_leave:
        try:
            with contextlib.closing(make_env(task, config)) as env:
                _random_rewards(env, LEAVING_STEPS)
        except AgentsLeave:
            return config.override({"agents_leave": True})
        except UserError:
            pass
    return config


def compare_rewards(env: JointEnv, config: Config | None) -> list[Finding]:
    """Compare agents' rewards in random play: what is learnt is their mean, which opposed rewards cancel.

    Args:
        env: is stepped.
        config: its settings; with ``team_reward = mean`` nothing is compared.

    Returns:
        A note if rewards differ; an error if those of two agents are negatively correlated and the settings could
        allow that. Nothing if they are alike.
    """
    allowed = getattr(config, "team_reward", None)
    if allowed == "mean":
        return []
    rewards = _random_rewards(env, REWARD_STEPS)
    rewards = rewards / (np.nanmax(np.abs(rewards)) or 1.0)  # whose squares neither overflow nor vanish
    together = rewards[np.isfinite(rewards).all(axis=1)]  # nobody had left
    if np.allclose(together, together[:, :1], rtol=0, atol=1e-6):  # equal in float32
        return []
    meant = "; if that is meant, say --env.team-reward mean" if allowed else ""
    if not (text := _opposition(rewards, together, env.spec.agents)):
        return [Finding("note", f"rewards differ between agents: what is learnt is their mean{meant}")]
    return [Finding("wrong" if allowed else "note", f"{text}, and what is learnt is their mean{meant}")]


def _opposition(rewards: np.ndarray, together: np.ndarray, agents: Sequence[str]) -> str:
    """How agents' rewards (T, N) oppose each other in random play; empty if they do not.

    Args:
        rewards: NaN where an agent had left.
        together: those of the steps with everybody.
        agents: their names.
    """
    changes = np.diff(rewards, axis=0)  # unlike slow rewards themselves, not correlated by chance
    changes = changes[np.isfinite(changes).all(axis=1)]
    moving = np.flatnonzero(changes.std(axis=0) > 0)
    correlation = np.atleast_2d(np.corrcoef(changes[:, moving], rowvar=False))
    lowest = float(correlation.min(initial=1.0))
    if lowest > OPPOSED:
        cancel = np.allclose(together.mean(axis=1), 0, rtol=0, atol=1e-6)
        return "rewards cancel each other in random play: their mean is always 0" if cancel else ""
    one, two = (agents[moving[i]] for i in np.unravel_index(correlation.argmin(), correlation.shape))
    return f"rewards of {one!r} and {two!r} oppose each other (correlation {lowest:.2f} in random play)"


def random_action(spec: EnvSpec, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uniform joint action (N, A) among those that ``mask`` (N, A) allows; padding is zero."""
    drawn = np.zeros(mask.shape, dtype=np.float32)
    if not spec.discrete:
        drawn[mask] = rng.uniform(-1, 1, mask.sum())
        return drawn
    choice = np.where(mask, rng.random(mask.shape), -1).argmax(axis=-1)
    np.put_along_axis(drawn, choice[..., None], 1, axis=-1)
    return drawn


def description(spec: EnvSpec) -> str:
    """Agents and sizes in a line."""

    def sizes(values: tuple[int, ...]) -> str:
        if len(set(values)) == 1:
            return f"{values[0]} each" if len(values) > 1 else str(values[0])
        return ", ".join(map(str, values)) if len(values) <= 5 else f"{min(values)} to {max(values)}"

    kind = "choices" if spec.discrete else "continuous actions"
    limit = f", at most {spec.episode_limit} steps" if spec.episode_limit else ""
    agents = f"{spec.n_agents} agents" if spec.n_agents > 1 else "1 agent"
    return (
        f"{agents}; observations {sizes(spec.obs_sizes)}; {kind} {sizes(spec.action_sizes)}"
        f"{' with masks' if spec.masks_actions else ''}; state {spec.own_state_dim}{limit}"
    )


def _pettingzoo(name: str, test: Callable[[], Any]) -> list[Finding]:
    """Run one of PettingZoo's tests; its output is suppressed, its warnings become notes."""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            test()
            found = [Finding("ok", f"PettingZoo's {name} test passes")]
        except Exception as error:  # it asserts, and the environment may raise anything
            found = [Finding("wrong", f"PettingZoo's {name} test fails: {one_line(error)}")]
    notes = dict.fromkeys(" ".join(str(w.message).split()) for w in caught if issubclass(w.category, UserWarning))
    return found + [Finding("note", f"PettingZoo's {name} test warns: {note}") for note in notes]


def _determinism(env: JointEnv, other: JointEnv, steps: int = 50) -> list[Finding]:
    """The same seed and actions must give the same trajectory: again, in a second copy, and beside one."""
    rng, first = np.random.default_rng(0), [_flat(env.reset(seed=1)[0])]
    actions: list[np.ndarray] = []
    joint, ended = env.reset(seed=1)[0], False
    while not ended and len(actions) < steps:
        actions.append(random_action(env.spec, joint["action_mask"], rng))
        joint, reward, terminated, truncated, _ = env.step(actions[-1])
        ended = terminated or truncated
        first.append(_flat(joint, reward, terminated, truncated))
    beside = _Beside(other)
    cases: tuple[tuple[JointEnv, Callable[[], None], str], ...] = (
        (env, lambda: None, "two episodes with the same seed and actions differ {}: let reset(seed) decide everything"),
        (other, lambda: None, "two copies with the same seed and actions differ {}: let reset(seed) decide everything"),
        (env, beside.move, "a copy disturbs another {}: give each a simulator and random generator of its own"),
    )
    for copy, between, text in cases:
        again = [_flat(copy.reset(seed=1)[0])]
        for action in actions[: len(first) - 1]:
            between()
            again.append(_flat(*copy.step(action)[:4]))
        for step, (one, two) in enumerate(zip(first, again, strict=True)):
            if not np.array_equal(one, two):
                where = "at reset" if step == 0 else f"at step {step}"
                return [Finding("wrong", text.format(where))]
    other.close()
    found = [Finding("ok", "the same seed and actions give the same episode")]
    if np.array_equal(_flat(env.reset(seed=1)[0]), _flat(env.reset(seed=2)[0])):
        found.append(Finding("note", "seeds 1 and 2 start alike: right if the start is fixed"))
    return found


def _random_rewards(env: JointEnv, steps: int) -> np.ndarray:
    """Agents' rewards (T, N) in whole episodes of random actions, T being at least ``steps``; the last may be cut."""
    rng, rewards, ended = np.random.default_rng(0), list[list[float]](), True
    while len(rewards) < steps or not (ended or len(rewards) >= LONGEST_COMPARISON):
        if ended:
            joint, _ = env.reset(seed=len(rewards))
        joint, _, *ends, _ = env.step(random_action(env.spec, joint["action_mask"], rng))
        rewards.append(env.agent_rewards)
        ended = any(ends)
    return np.array(rewards)


class _Beside:
    """A copy that plays other episodes at random."""

    def __init__(self, env: JointEnv) -> None:
        self.env, self.rng, self.mask = env, np.random.default_rng(1), np.zeros(0)

    def move(self) -> None:
        """Start an episode, or step in it."""
        ended = not self.mask.size
        if not ended:
            joint, _, *ends, _ = self.env.step(random_action(self.env.spec, self.mask, self.rng))
            ended, self.mask = any(ends), joint["action_mask"]
        if ended:
            self.mask = self.env.reset(seed=2)[0]["action_mask"]


def _precision(env: JointEnv) -> list[Finding]:
    """Note observations that are wider than float32."""
    wide = any(box.dtype == np.float64 for box in _boxes(env).values())
    return [Finding("note", "observations are of float64: they are converted to float32")] if wide else []


def _episodes(env: JointEnv, max_steps: int, ends: list[tuple[int, bool, bool]]) -> list[Finding]:
    """Play random actions; the adapter checks every value.

    Args:
        env: the environment.
        max_steps: see :func:`check_environment`.
        ends: is given each episode's steps, and whether it terminated or was truncated.
    """
    rng, outside = np.random.default_rng(0), False
    limit = env.spec.episode_limit
    for seed in range(EPISODES):
        joint, steps, terminated, truncated = env.reset(seed=seed)[0], 0, False, False
        to_its_end = (
            (limit is None or limit <= max_steps) and seed == EPISODES - 1 and not any(t or c for _, t, c in ends)
        )
        while not (terminated or truncated) and (steps < max_steps or to_its_end):
            joint, _, terminated, truncated, _ = env.step(random_action(env.spec, joint["action_mask"], rng))
            steps += 1
            outside = outside or not _within(env, joint)
        ends.append((steps, terminated, truncated))
    outcomes = "; ".join(f"{n} steps, {'terminated' if t else 'truncated' if c else 'still going'}" for n, t, c in ends)
    found = [Finding("ok", f"{EPISODES} episodes played at random: {outcomes}")]
    lengths = {n for n, _, _ in ends}
    if all(t for _, t, _ in ends) and len(lengths) == 1 and (limit in lengths or (max(lengths) > 1 and limit is None)):
        verdict: Literal["wrong", "note"] = "wrong" if limit in lengths else "note"
        text = f"every episode terminates after {lengths.pop()} steps: if that is a time limit, set truncations instead"
        found.append(Finding(verdict, text))
    found += [Finding("note", text) for text in env.conversions]
    if outside:
        found.append(Finding("note", "observations leave the bounds of their space: widen low and high"))
    return found


def _pictures(task: str, config: Config, modes: Any, steps: int = 5) -> list[Finding]:
    """Whether an environment of the user's own can be filmed, if it says so: training does not depend on it."""
    if not isinstance(config, AdapterConfig) or not isinstance(modes, Container) or "rgb_array" not in modes:
        return []
    try:
        with contextlib.closing(make_env(task, config, render_mode="rgb_array")) as env:
            joint, rng = env.reset(seed=0)[0], np.random.default_rng(0)
            for _ in range(steps):
                env.render()
                joint, _, *ends, _ = env.step(random_action(env.spec, joint["action_mask"], rng))
                if any(ends):
                    joint = env.reset(seed=0)[0]
            env.render()
    except UserError as error:
        return [Finding("note", f"no film can be made: {error}")]
    return []


def _within(env: JointEnv, joint: Joint) -> bool:
    """Whether observations are within the bounds of their Box."""
    alive = env.spec.alive(joint["state"])
    for i, box in _boxes(env).items():
        if alive is not None and not alive[i]:
            continue
        seen = joint["obs"][i, : env.spec.obs_sizes[i]]
        slack = 1e-5 * (1 + np.abs(seen))
        if (seen < box.low.ravel() - slack).any() or (seen > box.high.ravel() + slack).any():
            return False
    return True


def _boxes(env: JointEnv) -> dict[int, spaces.Box]:
    """Observation spaces of the agents that observe a Box, by their numbers."""
    found = {}
    for i, agent in enumerate(env.parallel_env.possible_agents):
        space = env.parallel_env.observation_space(agent)
        box = space["observation"] if isinstance(space, spaces.Dict) else space
        if isinstance(box, spaces.Box):
            found[i] = box
    return found


def _flat(joint: Joint, *more: float) -> np.ndarray:
    return np.concatenate(
        [*(values.ravel().astype(np.float64) for values in joint.values()), np.array(more, np.float64)]
    )

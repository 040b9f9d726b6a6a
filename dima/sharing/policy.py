"""A policy loaded from a file of its own: acts without simulator, replay or world model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dima.config import user_path
from dima.data import EnvSpec
from dima.envs.base import JointEnv
from dima.errors import ConfigError, EnvError, RunFolderError, nearest
from dima.experience.team import Team
from dima.policies.base import Policy
from dima.runtime.device import pick_device
from dima.sharing.card import FORMAT, KIND
from dima.sharing.files import SUFFIXES, Card, decode_onnx, decode_safetensors, decode_torch
from dima.sharing.spaces import team_of
from dima.storage.atomic import read_errors
from dima.storage.manifest import check_format

_DECODE = {".safetensors": decode_safetensors, ".pt2": decode_torch, ".onnx": decode_onnx}


class ExportedPolicy(Team):
    """A team's policy from a file; it acts as :class:`dima.Agent` does, with the same memory.

    Attributes:
        card: task, spaces, normalisers, returns and versions, as JSON data.
        env: translates observations and actions; it cannot be stepped.
    """

    def __init__(self, card: Card, policy: Policy, env: JointEnv, device: torch.device) -> None:
        super().__init__(policy, env, device)
        self.card = card

    def __repr__(self) -> str:
        card, agents = self.card, len(self.spec.agents)
        return f"<policy of {card['algorithm']} for {card['task']}, {agents} agent{'s' * (agents != 1)}>"

    @property
    def spec(self) -> EnvSpec:
        """Agents and sizes."""
        return self.env.spec

    def act_batch(
        self,
        obs: np.ndarray,
        action_mask: np.ndarray | None = None,
        mode: bool = True,
        alive: np.ndarray | None = None,
    ) -> np.ndarray:
        """Choose joint actions for many joint observations, as padded arrays.

        A policy with a memory takes row b for the next step of the episode in row b of the call before, until
        :meth:`reset`; another number of rows begins an episode in each.

        Args:
            obs: (B, N, O), each agent's features first and zeros behind.
            action_mask: (B, N, A) bool, allowed choices; None allows all.
            mode: take the most probable action instead of sampling one, which only a safetensors file can.
            alive: (B, N) bool, who is there where agents may leave; the others observe zeros and act zeros. None: all.

        Returns:
            (B, N, A), continuous ones in [-1, 1], which stand for the bounds of the agent's Box; choices one-hot.

        Raises:
            EnvError: an array has another shape.
        """
        spec, rows = self.spec, len(obs)
        if action_mask is None:
            action_mask = np.repeat(spec.action_valid[None], rows, axis=0)
        if alive is None:
            alive = np.ones((rows, spec.n_agents), np.bool_)
        chosen = self._choose(
            _array("obs", obs, np.float32, (rows, spec.n_agents, spec.obs_dim)),
            _array("action_mask", action_mask, np.bool_, (rows, spec.n_agents, spec.action_dim)),
            _array("alive", alive, np.bool_, (rows, spec.n_agents)),
            mode,
        )
        return chosen.copy() if spec.discrete else chosen.clip(-1, 1)


def _array(name: str, values: np.ndarray, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    values = np.ascontiguousarray(values, dtype)
    if values.shape != shape:
        raise EnvError(f"{name} has shape {values.shape}: expected {shape}")
    return values


def _device(name: str, suffix: str) -> torch.device:
    if suffix == ".safetensors":
        return pick_device(name)
    if name not in ("auto", "cpu"):
        raise ConfigError(f"device = {name} cannot be used: graphs act on the CPU, the safetensors file anywhere")
    return torch.device("cpu")


def load_policy(file: str | Path, device: str = "cpu", *, trust: bool = False) -> ExportedPolicy:
    """Load a policy that `dima export` wrote.

    Args:
        file: ``.safetensors``, ``.onnx`` or ``.pt2``.
        device: of a safetensors policy, ``auto``, ``cpu`` or ``cuda``; graphs act on the CPU.
        trust: consent to load a ``.pt2`` file, which can run code of whoever made it; the others cannot.

    Raises:
        UserError: the file is missing, damaged or of another kind or version, a package that it needs is not installed,
            or consent is missing.
    """
    path = user_path(file)
    if path.is_dir():
        raise RunFolderError(f"{path} is a folder: give a file in it, such as {path / 'policy.safetensors'}")
    if not path.is_file():
        raise RunFolderError(f"{path} does not exist: give a file that `dima export` wrote")
    if path.suffix not in _DECODE:
        raise RunFolderError(f"{path} is no policy's file by its name: {nearest(path.suffix, SUFFIXES.values())}")
    if path.suffix == ".pt2" and not trust:
        raise ConfigError(
            f"{path} can run code of whoever made it when PyTorch loads it: pass trust=True if you trust it, or take "
            "the safetensors or ONNX file"
        )
    try:
        with read_errors(path, "is damaged, or not a file of `dima export`"):
            card, build = _DECODE[path.suffix](path)
            if card["kind"] != KIND:
                raise ValueError("its card is of another kind")
            if card["format"] != 1:  # which knows neither a memory nor agents that leave
                check_format(path, card, FORMAT)
            leave = bool(card.get("agents_leave", False))
            team = team_of(str(card["task"]), card["agents"], bool(card["obs_has_id"]), leave)
            where = _device(device, path.suffix)
            policy = ExportedPolicy(card, build(team.spec, where), team, where)
            spec = policy.spec
            for _ in range(2):  # from a memory of zeros, and from one that the policy made
                if policy.act_batch(np.zeros((1, spec.n_agents, spec.obs_dim))).shape[1:] != spec.action_valid.shape:
                    raise ValueError("its actions are not of the sizes that its card says")
            policy.reset()
    except (ConfigError, EnvError) as error:  # of the spaces, the network, a package, the device
        raise type(error)(f"{path}: {error}") from error
    return policy

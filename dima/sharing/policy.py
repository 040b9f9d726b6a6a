"""A policy loaded from a file of its own: acts without simulator, replay or world model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dima.config import user_path
from dima.envs.base import JointEnv
from dima.errors import ConfigError, EnvError, RunFolderError, nearest
from dima.sharing.card import FORMAT, KIND
from dima.sharing.files import SUFFIXES, Act, Card, decode_onnx, decode_safetensors, decode_torch
from dima.sharing.spaces import team_of
from dima.storage.atomic import read_errors
from dima.storage.manifest import check_format

_DECODE = {".safetensors": decode_safetensors, ".pt2": decode_torch, ".onnx": decode_onnx}


class ExportedPolicy:
    """A team's policy.

    Attributes:
        card: task, spaces, normalisers, returns and versions, as JSON data.
        spec: agents and sizes.
    """

    def __init__(self, card: Card, team: JointEnv, act: Act) -> None:
        self.card, self.spec = card, team.spec
        self._team, self._act = team, act

    def __repr__(self) -> str:
        card, agents = self.card, len(self.spec.agents)
        return f"<policy of {card['algorithm']} for {card['task']}, {agents} agent{'s' * (agents != 1)}>"

    def act(
        self, observations: dict[Any, Any], infos: dict[Any, Any] | None = None, mode: bool = True
    ) -> dict[Any, Any]:
        """Choose an action for every agent, in the PettingZoo environment's spaces.

        Args:
            observations: as returned by ``reset`` or ``step``.
            infos: likewise; needed where they hold the action masks.
            mode: take the most probable action instead of sampling one, which only a safetensors file can.

        Raises:
            EnvError: an agent is missing, or its observation does not fit its space.
        """
        joint = self._team.encode(observations, infos)
        return self._team.decode(self.act_batch(joint["obs"][None], joint["action_mask"][None], mode)[0])

    def act_batch(self, obs: np.ndarray, action_mask: np.ndarray | None = None, mode: bool = True) -> np.ndarray:
        """Choose joint actions for many joint observations, as padded arrays.

        Args:
            obs: (B, N, O), each agent's features first and zeros behind.
            action_mask: (B, N, A) bool, allowed choices; None allows all.
            mode: as for :meth:`act`.

        Returns:
            (B, N, A), continuous ones in [-1, 1], which stand for the bounds of the agent's Box; choices one-hot.

        Raises:
            EnvError: an array has another shape.
        """
        spec = self.spec
        if action_mask is None:
            action_mask = np.repeat(spec.action_valid[None], len(obs), axis=0)
        rows = _tensor("obs", np.asarray(obs, np.float32), (len(obs), spec.n_agents, spec.obs_dim))
        masks = _tensor("action_mask", np.asarray(action_mask, np.bool_), (len(obs), spec.n_agents, spec.action_dim))
        with torch.no_grad():
            chosen: np.ndarray = self._act(rows, masks, mode).cpu().numpy()
        return chosen


def _tensor(name: str, values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    if values.shape != shape:
        raise EnvError(f"{name} has shape {values.shape}: expected {shape}")
    return torch.from_numpy(np.ascontiguousarray(values))


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
            check_format(path, card, FORMAT)
            team = team_of(str(card["task"]), card["agents"], bool(card["obs_has_id"]))
            policy = ExportedPolicy(card, team, build(team.spec, device))
            spec = policy.spec
            if policy.act_batch(np.zeros((1, spec.n_agents, spec.obs_dim))).shape[1:] != spec.action_valid.shape:
                raise ValueError("its actions are not of the sizes that its card says")
    except (ConfigError, EnvError) as error:  # of the spaces, the network, a package, the device
        raise type(error)(f"{path}: {error}") from error
    return policy

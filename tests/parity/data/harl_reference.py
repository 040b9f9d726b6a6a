"""Write harl.json: reference results of HARL on given inputs, for ``tests/parity/test_harl_*.py``.

HARL (https://github.com/PKU-MARL/HARL, MIT licence) is the authors' implementation of HAPPO and HASAC, and has a MAPPO.
Nothing of it is part of this library. Networks have HARL's published settings, input layer norm included, at test size:

    git clone https://github.com/PKU-MARL/HARL /tmp/harl
    git -C /tmp/harl checkout d539bad20f677bc4ce9fa200fa5de31b5f0b9d37
    OMP_NUM_THREADS=1 .venv/bin/python tests/parity/data/harl_reference.py --harl /tmp/harl

Only PyTorch, NumPy and PyYAML are needed: simulators and loggers that HARL imports are replaced by empty modules.
Numbers are float32, written with the fewest digits that restore them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import yaml

UNUSED = ("absl", "gym", "pysc2", "pysc2.lib", "s2clientprotocol", "setproctitle", "tensorboardX", "uu")
STEPS, ENVS, AGENTS = 9, 4, 3
OBS, STATE, ACTION, HIDDEN = 4, 5, 2, [8, 8]
PPO: dict[str, Any] = {
    "hidden_sizes": HIDDEN,
    "activation_func": "relu",
    "initialization_method": "orthogonal_",
    "gain": 0.3,
    "use_feature_normalization": True,
    "recurrent_n": 1,
    "data_chunk_length": 10,
    "use_recurrent_policy": False,
    "use_naive_recurrent_policy": False,
    "use_policy_active_masks": True,
    "std_x_coef": 1,
    "std_y_coef": 0.5,
    "action_aggregation": "prod",
    "lr": 1e-2,
    "critic_lr": 1e-2,
    "opti_eps": 1e-5,
    "weight_decay": 0,
    "ppo_epoch": 4,
    "critic_epoch": 4,
    "actor_num_mini_batch": 1,
    "critic_num_mini_batch": 1,
    "clip_param": 0.1,
    "entropy_coef": 0.01,
    "value_loss_coef": 1,
    "huber_delta": 1.5,
    "use_huber_loss": True,
    "use_clipped_value_loss": True,
    "use_max_grad_norm": True,
    "max_grad_norm": 0.4,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "use_gae": True,
    "use_proper_time_limits": True,
    "episode_length": STEPS,
    "n_rollout_threads": ENVS,
}
SAC: dict[str, Any] = {
    "hidden_sizes": HIDDEN,
    "activation_func": "relu",
    "final_activation_func": "tanh",
    "lr": 1e-2,
    "critic_lr": 1e-2,
    "alpha_lr": 1e-2,
    "polyak": 0.1,
    "gamma": 0.9,
    "auto_alpha": True,
    "use_proper_time_limits": True,
    "use_policy_active_masks": True,
    "use_huber_loss": False,
    "huber_delta": 10,
}


class Box:
    """A space with what HARL reads of it: class name, shape and bounds."""

    def __init__(self, size: int) -> None:
        self.shape, self.high = (size,), np.ones(size, np.float32)


def plain(value: Any) -> Any:
    """Convert tensors and arrays to lists, float32 numbers to their shortest decimals."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        array = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)
        if array.dtype.kind == "f":
            short = [float(str(number)) for number in array.astype(np.float32).ravel()]
            return np.array(short, dtype=object).reshape(array.shape).tolist()
        return array.tolist()
    return value


def blank(kind: type, **attributes: Any) -> Any:
    """Make an object without running its constructor, which would open environments and files."""
    made = object.__new__(kind)
    vars(made).update(attributes)
    return made


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def returns() -> list[dict[str, Any]]:
    """Returns (GAE) of the critic's buffer."""
    from harl.common.buffers.on_policy_critic_buffer_ep import OnPolicyCriticBufferEP
    from harl.common.valuenorm import ValueNorm

    cases = []
    for name, scaled, proper in [
        ("plain", False, True),
        ("scaled", True, True),
        ("scaled, limits are ends", True, False),
    ]:
        random = draws(1)
        buffer = OnPolicyCriticBufferEP(PPO | {"use_proper_time_limits": proper}, Box(STATE))
        norm = ValueNorm(1) if scaled else None
        seen = 5 + 3 * normal(random, 30, 1)
        if norm is not None:
            norm.update(seen)
        reward, value = normal(random, STEPS, ENVS, 1), normal(random, STEPS + 1, ENVS, 1)
        done, truncated = np.zeros((2, STEPS, ENVS, 1), bool)
        # environment 0 continues, 1 terminates, 2 is truncated; 3: truncated, terminated, truncated at the last step
        for step, env, cut in [(3, 1, False), (8, 1, False), (4, 2, True), (1, 3, True), (5, 3, False), (8, 3, True)]:
            done[step, env], truncated[step, env] = True, cut
        buffer.rewards[:], buffer.value_preds[:-1] = reward, value[:-1]
        buffer.masks[1:], buffer.bad_masks[1:] = ~done, ~truncated
        buffer.compute_returns(value[-1], norm)
        case = {"reward": reward, "value": value, "done": done, "truncated": truncated, "returns": buffer.returns[:-1]}
        case = {key: entry[..., 0].swapaxes(0, 1) for key, entry in case.items()}
        cases.append({"name": name, "proper": proper, "seen": seen[:, 0] if scaled else None} | case)
    return cases


def value_norm() -> list[dict[str, Any]]:
    """Moments of ValueNorm after each of several updates, and a normalised probe."""
    from harl.common.valuenorm import ValueNorm

    cases = []
    for name, centre, scale in [("usual", 3.0, 2.0), ("small", 0.0, 0.01), ("far from zero", 10050.0, 3.0)]:
        random, norm, updates = draws(2), ValueNorm(1), []
        probe = (centre + scale * normal(random, 6)).astype(np.float32)
        for number in range(4):
            batch = (centre + number * scale / 2 + scale * normal(random, 20)).astype(np.float32)
            norm.update(batch[:, None])
            mean, var = norm.running_mean_var()
            updates.append({"batch": batch, "mean": mean[0], "var": var[0]})
        there, back = norm.normalize(probe[:, None])[:, 0], norm.denormalize(normal(draws(3), 6, 1))[:, 0]
        cases.append({"name": name, "updates": updates, "probe": probe, "normalized": there, "denormalized": back})
        cases[-1]["units"] = normal(draws(3), 6)
    return cases


def policy_loss() -> dict[str, Any]:
    """Policy losses of MAPPO and HAPPO on a batch with old log-probabilities far from the current ones."""
    from harl.algorithms.actors.happo import HAPPO
    from harl.algorithms.actors.mappo import MAPPO

    rows = 24
    case: dict[str, Any] = {"clip": PPO["clip_param"]}
    for name, kind in (("mappo", MAPPO), ("happo", HAPPO)):
        random = draws(4)
        torch.manual_seed(4)
        agent = kind(PPO, Box(OBS), Box(ACTION))
        obs, action, advantage = normal(random, rows, OBS), normal(random, rows, ACTION), normal(random, rows, 1)
        blind, alive = np.zeros((rows, 1, HIDDEN[-1]), np.float32), np.ones((rows, 1), np.float32)
        log_prob, _, _ = agent.evaluate_actions(obs, blind, action, alive, None, alive)
        old = log_prob.detach().numpy() + 0.1 * normal(random, rows, ACTION)
        factor = np.exp(0.3 * normal(random, rows, 1))
        sample = (obs, blind, action, alive, alive, old, advantage, None)
        loss, entropy, _, _ = agent.update(sample if name == "mappo" else (*sample, factor))
        case |= {"log_prob": log_prob, "old_log_prob": old, "advantage": advantage[:, 0], "factor": factor[:, 0]}
        case[name] = {"loss": loss, "entropy": entropy}
    return case


def value_loss() -> dict[str, Any]:
    """Clipped Huber loss of the critic, by row and averaged; errors on both sides of each threshold."""
    from harl.algorithms.critics.v_critic import VCritic

    rows, random = 30, draws(5)
    critic = blank(VCritic, clip_param=0.2, huber_delta=1.5, use_huber_loss=True, use_clipped_value_loss=True)
    old, value = normal(random, rows, 1), normal(random, rows, 1)
    value[: rows // 2] = old[: rows // 2] + 0.1 * normal(random, rows // 2, 1)
    target = value + 3 * normal(random, rows, 1)

    by_row = [critic.cal_value_loss(*map(torch.from_numpy, row)) for row in zip(value, old, target, strict=True)]
    case = {"clip": 0.2, "delta": 1.5, "value": value[:, 0], "old_value": old[:, 0], "target": target[:, 0]}
    return case | {"by_row": by_row, "loss": critic.cal_value_loss(*map(torch.from_numpy, (value, old, target)))}


def feeding(noise: list[np.ndarray]) -> Callable[..., torch.Tensor]:
    """Replacement of PyTorch's standard normals that records its samples."""
    random = draws(6)

    def standard_normal(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        noise.append(normal(random, *shape))
        return torch.from_numpy(noise[-1])

    return standard_normal


def tanh_gaussian() -> dict[str, Any]:
    """Samples and log-probabilities of the squashed Gaussian policy; means and deviations vary widely."""
    from harl.models.policy_models.squashed_gaussian_policy import SquashedGaussianPolicy

    torch.manual_seed(7)
    policy, obs = SquashedGaussianPolicy(SAC, Box(OBS), Box(ACTION)), 4 * normal(draws(7), 20, OBS)
    with torch.no_grad():
        for layer in (policy.mu_layer, policy.log_std_layer):
            layer.weight *= 6
    noise: list[np.ndarray] = []
    torch.distributions.normal._standard_normal = feeding(noise)
    action, log_prob = policy(torch.from_numpy(obs))
    mode, _ = policy(torch.from_numpy(obs), stochastic=False)
    case = {"weights": weights(policy), "obs": obs, "noise": noise[0], "action": action}
    return case | {"log_prob": log_prob[:, 0], "mode": mode}


def n_step() -> list[dict[str, Any]]:
    """All n-step samples of the off-policy buffer; a row's state is its environment and time step."""
    from harl.common.buffers.off_policy_buffer_ep import OffPolicyBufferEP

    cases = []
    for name, capacity, steps in [
        ("unfinished", 60, 12),
        ("wrapped around", 24, 21),
        ("wrapped around, capacity not a multiple", 25, 21),
    ]:
        random, envs = draws(8), 3
        settings = {"buffer_size": capacity, "batch_size": min(capacity, envs * steps), "n_step": 4, "gamma": 0.9}
        spaces = [Box(1)] * AGENTS
        buffer = OffPolicyBufferEP(settings | {"n_rollout_threads": envs}, Box(2), AGENTS, spaces, spaces)
        reward = normal(random, steps, envs)
        end, cut = np.zeros((2, steps, envs), bool)
        for step, env, limit in [(4, 0, False), (7, 1, True), (-6, 0, False), (-4, 1, True), (-1, 2, False)]:
            end[step, env], cut[step, env] = True, limit
        for step in range(steps):
            state = np.stack([np.arange(envs), np.full(envs, step)], axis=1).astype(np.float32)
            after, own = state + np.array([0, 0.5]), [np.zeros((envs, 1), np.float32)] * AGENTS
            column = np.s_[step, :, None]
            ended = (end[column], [np.ones((envs, 1))] * AGENTS, (end & ~cut)[column])
            buffer.insert((state, own, own, None, reward[column], *ended, after, own, None))
        state, _, _, _, ret, _, _, term, next_state, _, _, gamma = buffer.sample()
        order = np.lexsort(state.T[::-1])
        case = {"begin": state, "ret": ret[:, 0], "discount": gamma[:, 0], "term": term[:, 0], "end": next_state}
        case = {key: entry[order] for key, entry in case.items()}
        case |= {"reward": reward.T, "terminated": (end & ~cut).T, "boundary": end.T}
        cases.append({"name": name, "capacity": capacity, "n_step": 4, "gamma": 0.9} | case)
    return cases


def on_policy(algorithm: str) -> dict[str, Any]:
    """One iteration of the runner of MAPPO (one shared policy) or HAPPO on a rollout: weights and factors."""
    from harl.algorithms.actors import ALGO_REGISTRY
    from harl.algorithms.critics.v_critic import VCritic
    from harl.common.buffers.on_policy_actor_buffer import OnPolicyActorBuffer
    from harl.common.buffers.on_policy_critic_buffer_ep import OnPolicyCriticBufferEP
    from harl.common.valuenorm import ValueNorm
    from harl.runners import RUNNER_REGISTRY

    random, shared = draws(9), algorithm == "mappo"
    torch.manual_seed(9)
    members = [ALGO_REGISTRY[algorithm](PPO, Box(OBS), Box(ACTION)) for _ in range(1 if shared else AGENTS)]
    critic = VCritic(PPO, Box(STATE))
    before = {"actors": [weights(member.actor) for member in members], "critic": weights(critic.critic)}
    team = members * AGENTS if shared else members
    central = OnPolicyCriticBufferEP(PPO, Box(STATE))
    own = [OnPolicyActorBuffer(PPO, Box(OBS), Box(ACTION)) for _ in range(AGENTS)]
    central.share_obs[:], central.rewards[:] = normal(random, STEPS + 1, ENVS, STATE), normal(random, STEPS, ENVS, 1)
    central.masks[1:] = random.random((STEPS, ENVS, 1)) > 0.15
    blind, alive = np.zeros((ENVS, 1, HIDDEN[-1]), np.float32), np.ones((ENVS, 1), np.float32)
    noise: list[np.ndarray] = []
    torch.distributions.normal._standard_normal = feeding(noise)
    with torch.no_grad():
        for step in range(STEPS + 1):
            central.value_preds[step] = critic.get_values(central.share_obs[step], blind, alive)[0].numpy()
            for agent in range(AGENTS if step < STEPS else 0):
                own[agent].obs[step] = normal(random, ENVS, OBS)
                action, log_prob, _ = team[agent].get_actions(own[agent].obs[step], blind, alive)
                own[agent].actions[step], own[agent].action_log_probs[step] = action.numpy(), log_prob.numpy()
    norm = ValueNorm(1)
    central.compute_returns(central.value_preds[-1].copy(), norm)
    returns = central.returns[:-1, ..., 0].T.copy()
    runner = blank(
        RUNNER_REGISTRY[algorithm],
        algo_args={"train": PPO},
        actor=team,
        actor_buffer=own,
        critic=critic,
        critic_buffer=central,
        value_normalizer=norm,
        state_type="EP",
        share_param=shared,
        fixed_order=True,
        num_agents=AGENTS,
        action_aggregation="prod",
    )
    runner.train()
    by_env = {
        "obs": np.stack([buffer.obs[:-1] for buffer in own], axis=2),
        "action": np.stack([buffer.actions for buffer in own], axis=2),
        "log_prob": np.stack([buffer.action_log_probs for buffer in own], axis=2).sum(-1),
        "state": central.share_obs[:-1],
        "next_state": central.share_obs[1:],
        "reward": central.rewards[..., 0],
        "continuation": central.masks[1:, :, 0],
    }
    after = {"actors": [weights(member.actor) for member in members], "critic": weights(critic.critic)}
    return {
        "rollout": {key: value.swapaxes(0, 1) for key, value in by_env.items()},
        "returns": returns,
        "factors": [] if shared else [buffer.factor[..., 0].T for buffer in own],
        "before": before,
        "after": after,
    }


def hasac() -> dict[str, Any]:
    """Two updates of HASAC's runner on one batch: weights, temperatures, critic targets, noise."""
    from harl.algorithms.actors.hasac import HASAC
    from harl.algorithms.critics.soft_twin_continuous_q_critic import SoftTwinContinuousQCritic
    from harl.runners.off_policy_ha_runner import OffPolicyHARunner

    random, rows = draws(10), 16
    torch.manual_seed(10)
    actors = [HASAC(SAC, Box(OBS), Box(ACTION)) for _ in range(AGENTS)]
    critic = SoftTwinContinuousQCritic(SAC, Box(STATE), [Box(ACTION)] * AGENTS, AGENTS, "EP")
    nets = {"critic": critic.critic, "critic2": critic.critic2}
    before: dict[str, Any] = {"actors": [weights(agent.actor) for agent in actors]}
    before |= {key: weights(net) for key, net in nets.items()}
    batch = {
        "state": normal(random, rows, STATE),
        "obs": normal(random, AGENTS, rows, OBS),
        "action": np.tanh(normal(random, AGENTS, rows, ACTION)),
        "ret": normal(random, rows, 1),
        "term": random.random((rows, 1)) < 0.3,
        "next_state": normal(random, rows, STATE),
        "next_obs": normal(random, AGENTS, rows, OBS),
        "discount": (0.9 ** random.integers(1, 4, (rows, 1))).astype(np.float32),
    }
    sample = (
        *(batch["state"], batch["obs"], batch["action"], None, batch["ret"], batch["term"]),
        *(np.ones((AGENTS, rows, 1), np.float32), batch["term"], batch["next_state"], batch["next_obs"], None),
        batch["discount"],
    )
    starts = [0.4, -0.3, 0.1, -0.6]  # log temperatures of the agents and the critic, all different
    log_alpha = [torch.full((1,), start, requires_grad=True) for start in starts[:AGENTS]]
    critic.log_alpha.data.fill_(starts[-1])
    critic.alpha = critic.log_alpha.detach().exp()
    before["log_alpha"] = starts
    runner = blank(
        OffPolicyHARunner,
        args={"algo": "hasac"},
        algo_args={"algo": SAC},
        actor=actors,
        critic=critic,
        buffer=MagicMock(sample=lambda: sample),
        value_normalizer=None,
        state_type="EP",
        fixed_order=True,
        num_agents=AGENTS,
        policy_freq=1,
        total_it=0,
        device=torch.device("cpu"),
        target_entropy=[-ACTION] * AGENTS,
        log_alpha=log_alpha,
        alpha=[value.detach().exp() for value in log_alpha],
        alpha_optimizer=[torch.optim.Adam([value], lr=SAC["alpha_lr"]) for value in log_alpha],
    )
    # an update samples every agent's next action and its current one, and then in turn the one of its loss and the one
    # after its step. The noise of the second and third is made equal: HARL tunes temperatures by the third, and we do
    # not sample a third
    fresh = [[normal(random, rows, ACTION) for _ in range(4 * AGENTS)] for _ in range(2)]
    for update in fresh:
        update[2 * AGENTS :: 2] = update[AGENTS : 2 * AGENTS]
    noise = [one for update in fresh for one in update]
    queue = iter(noise)
    torch.distributions.normal._standard_normal = lambda shape, dtype, device: torch.from_numpy(next(queue))
    targets: list[torch.Tensor] = []
    mse = torch.nn.functional.mse_loss

    def note(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        targets.append(target.detach().clone())
        return mse(value, target)

    torch.nn.functional.mse_loss = note
    for _ in fresh:
        runner.train()
    torch.nn.functional.mse_loss = mse
    nets |= {"target": critic.target_critic, "target2": critic.target_critic2}
    after: dict[str, Any] = {"actors": [weights(agent.actor) for agent in actors]}
    after |= {key: weights(net) for key, net in nets.items()}
    after["log_alpha"] = [float(value.detach()) for value in (*log_alpha, critic.log_alpha)]
    flat = {key: value[:, 0] if key in ("ret", "term", "discount") else value for key, value in batch.items()}
    case = {"batch": flat, "noise": noise, "targets": [targets[0][:, 0], targets[2][:, 0]]}
    return case | {"before": before, "after": after}


def our_task(suite: str, theirs: str) -> tuple[str, str]:
    """HARL's name of a task -> ours, and the kind of its actions where the name has it."""
    name = re.sub(r"[-_]v\d", "", theirs.lower())
    if suite == "mamujoco":
        return f"mamujoco/{name}", ""
    if suite == "dexhands":  # ShadowHandDoorOpenInward
        words = re.findall("[A-Z][a-z]*|[0-9]", theirs.removeprefix("ShadowHand"))
        return f"dexhands/{'-'.join(words).lower()}", ""
    task, _, actions = name.partition("-")
    return f"mpe/{task}", actions


def tuned(folder: Path) -> list[dict[str, Any]]:
    """HARL's tuned settings of each task, by our task names."""
    cases = []
    for suite in ("mamujoco", "pettingzoo_mpe", "dexhands"):
        for path in sorted((folder / "tuned_configs" / suite).glob("*/*/config.json")):
            algorithm, (task, actions) = path.parent.name, our_task(suite, path.parent.parent.name)
            if algorithm in ("mappo", "happo", "hasac"):
                sections = json.loads(path.read_text())["algo_args"]
                settings = sections["train"] | sections["model"] | sections["algo"]
                unset = {name for name, value in settings.items() if value is None}
                settings = {name: settings[name] for name in sorted(settings.keys() - unset)}
                name = " ".join([algorithm, task.partition("/")[2], actions]).strip()
                cases.append({"name": name, "algorithm": algorithm, "task": task} | settings)
    return cases


def base(folder: Path) -> list[dict[str, Any]]:
    """HARL's settings for tasks without tuned ones."""
    cases = []
    for algorithm in ("mappo", "happo"):
        sections = yaml.safe_load((folder / "harl" / "configs" / "algos_cfgs" / f"{algorithm}.yaml").read_text())
        settings = sections["train"] | sections["model"] | sections["algo"]
        settings = {name: settings[name] for name in sorted(settings) if settings[name] is not None}
        case = {"name": algorithm, "algorithm": algorithm, "eval_episodes": sections["eval"]["eval_episodes"]}
        cases.append(case | settings)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harl", type=Path, required=True, help="a clone of HARL")
    default = Path(__file__).with_name("harl.json")
    parser.add_argument("--out", type=Path, default=default, help="default: %(default)s")
    args = parser.parse_args()
    sys.path.insert(0, str(args.harl))
    sys.modules.update({name: MagicMock(name=name) for name in UNUSED})
    commit = subprocess.check_output(["git", "-C", args.harl, "rev-parse", "HEAD"], text=True).strip()
    results = {
        "origin": {"repository": "https://github.com/PKU-MARL/HARL", "licence": "MIT", "commit": commit},
        "ppo": PPO,
        "sac": SAC,
        "returns": returns(),
        "value_norm": value_norm(),
        "policy_loss": policy_loss(),
        "value_loss": value_loss(),
        "tanh_gaussian": tanh_gaussian(),
        "n_step": n_step(),
        "mappo": on_policy("mappo"),
        "happo": on_policy("happo"),
        "hasac": hasac(),
        "tuned": tuned(args.harl),
        "base": base(args.harl),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(plain(value))}" for key, value in results.items()]
    args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

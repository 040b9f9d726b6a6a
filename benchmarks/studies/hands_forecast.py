"""What world models forecast of two hands, sequential against joint, part by part of the state.

    python -m benchmarks.studies.hands_forecast TASK ... [--runs RUN ...] --seconds 40 --seeds 0 1 2 --out FOLDER

Records episodes of random hands, of the scripts with noise and of the policies of runs of the task, in equal shares,
and holds a third of them out. A form's denoiser is fitted for so many seconds of one thread's processor time, its
reward model and its decoder for a quarter of that each. Finished results are kept. Reported for held-out episodes:

- ``obs``: L1 error of observations, summed over 15 and 20 steps, as in the paper (docs/reference/dima.md);
- ``parts``: L1 error of the state after 1, 5, 15 steps, in standard deviations, over features that vary;
- ``response``: how far the right and the left palm are predicted to go per unit of their force, over how far they go;
- ``change``: explained variance of a step's change, mean of four draws, over features that vary;
- ``decoder``: mean squared error of observations of true states over their variance;
- ``reward``, ``ends``: explained variance of rewards, expected over real number of failures, at true states.

``sequential`` is ``small``, ``joint`` shows every level the whole team. ``before`` are both as ``small`` is elsewhere:
a nearly noiseless last level, a vector-quantised decoder, an additive termination head. Three forms undo one choice of
``small``: the noise of the levels, noise on samples, windows of one target with less weight decay. ``plain mlp`` is
least squares.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.studies.accuracy import build, fit
from benchmarks.studies.forms import keep_table, spread_of
from benchmarks.studies.hands import task_names
from dima.agent import load
from dima.data import Act, EnvSpec, Episode, View
from dima.envs import make_env
from dima.envs.base import JointEnv
from dima.envs.dexhands.observation import HAND, HAND_SIZE
from dima.envs.dexhands.scripted import act_both
from dima.envs.vector import VectorEnv
from dima.experience.episodes import episode_seed, play, random_policy
from dima.experience.replay import Replay
from dima.recording.policies import NoisyPolicy
from dima.runtime.provenance import protocol
from dima.runtime.rng import drawn_from
from dima.training.run_config import build_config
from dima.world_models.dima.model import DimaWorldModel
from dima.world_models.rollout import forecast

SHARES = {"denoiser": 1.0, "reward": 0.25, "decoder": 0.25}  # of --seconds
BEFORE: dict[str, Any] = {
    "denoiser": {"width": 192, "log_sigma_mean": -0.4, "log_sigma_std": 1.2, "rollout": 1, "residual_noise": True},
    "denoiser_fit": {"weight_decay": 0.01},
    "sampler": {"sigma_min": 0.002, "sigma_max": 5.0},
    "decoder": {"copy": False, "bottleneck": "vq", "hidden": [256, 256]},
    "reward": {"termination": "additive", "input_lasso": 0.0},
}
JOINT = {"reveal": "all"}
LESS = {"log_sigma_mean": 1.0, "log_sigma_std": 0.6}
FORMS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "joint": {"denoiser": JOINT},
    "sequential, before": BEFORE,
    "joint, before": BEFORE | {"denoiser": BEFORE["denoiser"] | JOINT},
    "sequential, less noise": {"sampler": {"sigma_min": 2.0, "sigma_max": 5.0}, "denoiser": LESS},
    "sequential, residual noise": {"denoiser": {"residual_noise": True}},
    "sequential, one target": {"denoiser": {"rollout": 1}, "denoiser_fit": {"weight_decay": 0.01}},
    "plain mlp": {},
}
NOISE, CORRELATION = 0.3, 0.9  # of the scripts' actions
ENVS, LEAST = 4, 1e-3  # standard deviation of a feature that varies
SUMMED, SHOWN, STARTS, DRAWS = (15, 20), (1, 5, 15), 300, 4


class Scripted:
    """The scripts as a policy of several environments."""

    def __init__(self, task: str) -> None:
        self.task, self.step = task, np.zeros(ENVS, dtype=int)

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        assert view.first is not None
        self.step = np.where(view.first.numpy(), 0, self.step + 1)
        each = zip(self.step.tolist(), view.obs.double().numpy(), strict=True)
        actions = np.stack([act_both(self.task, step, obs) for step, obs in each])
        return torch.from_numpy(actions).float(), torch.zeros(actions.shape[:2])


def make(task: str) -> JointEnv:
    """The task's environment in its own settings."""
    name = f"dexhands/{task}"
    return make_env(name, build_config(name, "dima", "small").env)


def record(task: str, policies: Sequence[Act], steps: int) -> tuple[list[Episode], list[Episode]]:
    """Episodes of the policies in turn, to so many steps each; every third is held out."""
    train: list[Episode] = []
    held_out: list[Episode] = []
    with VectorEnv(
        partial(make_env, f"dexhands/{task}", build_config(f"dexhands/{task}", "dima", "small").env), ENVS
    ) as envs:
        for number, act in enumerate(policies):
            played: list[Episode] = []
            while sum(len(episode) for episode in played) < steps:
                seeds = [episode_seed(number, len(played) + n, "recording") for n in range(3 * ENVS)]
                with drawn_from("cpu", seeds[0]):
                    played += play(envs, lambda view, act=act: _clipped(act, view), seeds)
            held_out += played[::3]
            train += [episode for place, episode in enumerate(played) if place % 3]
    return train, held_out


def _clipped(act: Act, view: View) -> tuple[Tensor, Tensor]:
    action, log_prob = act(view)
    return action.clamp(-1, 1), log_prob


@torch.no_grad()
def judge(model: DimaWorldModel, held_out: Replay) -> dict[str, Any]:
    """Every reported figure."""
    index, context, spec = held_out.index.steps, model.context, model.spec
    left = held_out.last[index % held_out.rows] - index
    generator = torch.Generator().manual_seed(0)  # the same starts for every form
    torch.manual_seed(0)

    able = index[left >= max(SUMMED)]
    rows = held_out.gather(able[torch.randint(len(able), (STARTS,), generator=generator)], context - 1, max(SUMMED))
    predicted = forecast(model, rows[:, :context], rows.action[:, context - 1 :][:, : max(SUMMED)])
    assert predicted.state is not None
    std = held_out.store["state"].std(0)
    error = (predicted.state[:, 1:] - rows.state[:, context:]).abs() / std.clamp(min=LEAST)
    parts = {
        name: [error[:, step - 1, features].mean().item() for step in SHOWN]
        for name, features in state_parts(spec, std > LEAST).items()
    }
    valid = torch.from_numpy(spec.obs_valid)
    obs = (predicted.obs[:, 1:] - rows.obs[:, context:]).abs()[:, :, valid].mean((0, 2))

    steps = held_out.gather(index[left >= 1], context - 1, 1)
    now, real, action = steps.state[:, context - 1], steps.state[:, context], steps.action[:, context - 1].clamp(-1, 1)
    draws = [forecast(model, steps[:, :context], steps.action[:, context - 1 : context]).state for _ in range(DRAWS)]
    went, goes = real - now, torch.stack([draw[:, 1] for draw in draws if draw is not None]).mean(0) - now
    varies = went.std(0) > LEAST
    change = 1 - (goes - went).square().mean(0) / went.var(0)

    decoded, seen = model.view(real, None, None).obs, steps.obs[:, context]  # type: ignore[arg-type]
    spread = seen.var(0)
    unexplained = ((decoded - seen).square().mean(0) / spread)[spread > LEAST**2].mean()

    here = slice(context - 1, context + 1)
    reward, continuation = model.predict_rewards(steps.state[:, here], steps.action[:, here][:, :1])
    paid, ended = steps.reward[:, context - 1], steps.terminated[:, context - 1]
    return {
        "obs": {str(n): obs[:n].sum().item() for n in SUMMED},
        "parts": parts,
        "response": [response(action[:, hand, :3], went, goes, hand) for hand in (0, 1)],
        "change": change[varies].mean().item(),
        "decoder": unexplained.item(),
        "reward": (1 - (reward[:, 0] - paid).square().mean() / paid.var()).item(),
        "ends": [(1 - continuation).sum().item(), ended.sum().item()],
    }


def state_parts(spec: EnvSpec, varies: Tensor) -> dict[str, Tensor]:
    """Indices of the features of both hands' parts and of the object, of those that vary."""
    hands = {name: np.r_[part, part.start + HAND_SIZE : part.stop + HAND_SIZE] for name, part in HAND.items()}
    hands |= {"object": np.arange(2 * HAND_SIZE, spec.state_dim), "all": np.arange(spec.state_dim)}
    found = {name: torch.from_numpy(features)[varies[features]] for name, features in hands.items()}
    return {name: features for name, features in found.items() if len(features)}


def response(force: Tensor, went: Tensor, goes: Tensor, hand: int) -> float:
    """Slope of a palm's predicted displacement (B, S) on its force (B, 3), over that of the real one."""
    start = HAND["palm"].start + hand * HAND_SIZE
    centred = force - force.mean(0)
    slopes = [(centred * moved[:, start : start + 3]).mean(0) for moved in (goes, went)]
    return (slopes[0].sum() / slopes[1].sum()).item()


def table(results: list[dict[str, Any]]) -> str:
    """A row for each task and form: mean over seeds ± half of Student's 95 % interval."""
    head = ["task", "form", "seeds", *(f"obs, {n} steps" for n in SUMMED), *(f"state, step {h}" for h in SHOWN)]
    head += ["response right", "left", "change", "decoder", "reward R²", "ends"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for task, form in dict.fromkeys((r["task"], r["form"]) for r in results):
        mine = [r for r in results if (r["task"], r["form"]) == (task, form)]
        cells = [task, form, str(len(mine)), *(spread_of([r["obs"][str(n)] for r in mine]) for n in SUMMED)]
        cells += [spread_of([r["parts"]["all"][n] for r in mine]) for n in range(len(SHOWN))]
        cells += [spread_of([r["response"][hand] for r in mine]) for hand in (0, 1)]
        cells += [spread_of([r[name] for r in mine]) for name in ("change", "decoder", "reward")]
        cells.append(f"{mean(r['ends'][0] for r in mine):.0f} / {mine[0]['ends'][1]}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--runs", nargs="*", default=[], metavar="RUN", help="whose policies play, on their own task")
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS), metavar="FORM")
    parser.add_argument("--steps", type=int, default=6_000, help="of each policy")
    parser.add_argument("--seconds", type=float, default=40.0, help="processor time of the denoiser")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    agents = [load(run, "cpu") for run in args.runs]
    command = shlex.join(["python", "-m", "benchmarks.studies.hands_forecast", *sys.argv[1:]])
    made = protocol("cpu")
    for task in task_names(args.tasks, parser):
        name = f"dexhands/{task}"
        spec = make(task).spec
        learnt = [agent.algorithm.act for agent in agents if agent.config.task == name]
        train, others = record(
            task, [random_policy(spec), NoisyPolicy(Scripted(task), NOISE, CORRELATION), *learnt], args.steps
        )
        held_out = Replay.of(others, spec, "cpu")
        for seed in args.seeds:
            for form in args.forms:
                path = args.out / f"{task}-{form.replace(', ', '-').replace(' ', '-')}-seed{seed}.json"
                if path.exists():
                    continue
                torch.manual_seed(seed)
                model = build(form, FORMS[form], name, "small", spec)
                assert isinstance(model, DimaWorldModel)
                model.update_statistics(train)
                replay = Replay.of(train, spec, "cpu", model.visit_counters)
                updates = fit(model, replay, args.seconds, SHARES)
                facts = {"task": task, "form": form, "seed": seed, "seconds": args.seconds, "updates": updates}
                facts |= judge(model, held_out) | {"learnt policies": len(learnt), "command": command, "protocol": made}
                path.write_text(json.dumps(facts) + "\n")
                print(table([facts]).splitlines()[-1], file=sys.stderr, flush=True)
    keep_table(args.out, table([json.loads(path.read_text()) for path in sorted(args.out.glob("*-seed*.json"))]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

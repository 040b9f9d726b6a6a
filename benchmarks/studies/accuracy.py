"""Prediction error of world models fitted to the same data for equal processor seconds.

    dima dataset record mamujoco/ant-4x2 --sources random,share=0.3 RUN,share=0.7 --steps 60000 --episode-steps 250 \
        --out DATASET
    python -m benchmarks.studies.accuracy DATASET --seconds 160 --seeds 0 1 2 --out results/accuracy/ant-4x2

Every form is fitted on one thread: its dynamics for ``--seconds`` of processor time, its reward model for a quarter of
that, its decoder hardly at all (errors are those of states). MARIE and MAMBA, whose dynamics predict rewards as well,
have as many seconds in all; a quarter of MARIE's go to its tokenizer. Forms of DIMA have one denoiser, if not said
otherwise; several share the time. Then a form predicts the held-out episodes under their true actions. ``plain mlp`` is
least squares with the network of ``denoiser.backbone = mlp``; models of observations alone predict the state that these
hold. Finished results are kept.

Reported, the errors in standard deviations averaged over features:

- ``error``: L1 error of the state after 1, 5, 15 and 50 predicted steps, one draw (``curve``: after each);
- ``order``: change with the order of the agents, :mod:`benchmarks.studies.order`;
- ``drift``: predicted minus real reward per step over 15 predicted steps, in standard deviations of the reward;
- ``spread``: root mean square deviation of 8 draws over the root mean square error of their mean, after one step;
- ``coverage``: share of the next states' features inside the central 80 % of 8 draws (of 9 equally likely ranks, 7);
- ``reward``: explained variance on true transitions;
- ``ends``: mean probability of termination given to the true terminal steps, and expected over observed number.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.cost import parameters
from benchmarks.studies.forms import keep_table, spread_of
from benchmarks.studies.order import order_change
from dima.data import EnvSpec
from dima.datasets.reader import Dataset
from dima.experience.replay import Replay, Rows
from dima.nn.optim import Fitter
from dima.runtime.provenance import protocol
from dima.training.run_config import build_config
from dima.world_models.base import WorldModel, clip_action
from dima.world_models.dima.denoiser import Context, Denoiser
from dima.world_models.dima.model import DimaModelConfig, DimaWorldModel
from dima.world_models.mamba.model import MambaWorldModel
from dima.world_models.rollout import Forecast, forecast

STEPS = (1, 5, 15, 50)  # at which the error of the state is told
JUDGED = 2_000  # transitions at a time: windows of tokens of six agents take gigabytes
DRIFT_STEPS, STARTS, DRAWS = 15, 400, 8
ORDER_STEPS, ORDER_STARTS = 15, 64
# processor time of the parts, in units of --seconds; of the others only a few updates
SHARES = {"denoiser": 1.0, "dynamics": 1.0, "reward": 0.25, "tokenizer": 0.3, "transformer": 0.95}
MIN_UPDATES = 10
UNET = {  # the preset `small` of version 0.1
    "denoiser": {
        "backbone": "unet",
        "action_path": "condition+input",
        "rollout": 3,
        "channels": [128],
        "blocks": 1,
        "encoder": {"token_dim": 64, "latents": 2, "latent_dim": 64, "depth": 1, "heads": 4, "head_dim": 16},
        "full_reveal": 0.0,
        "residual_noise": False,
    },
    "denoiser_fit": {"batch": 128, "weight_decay": 0.0, "ema": 0.99},
}
FORMS: dict[str, dict[str, Any]] = {
    "small": {},
    "three denoisers": {"denoisers": 3},
    "all agents": {"denoiser": {"reveal": "all"}},
    "one agent": {"denoiser": {"reveal": "one"}},
    "perceiver": {
        "denoiser": {"action_path": "condition+input", "encoder": UNET["denoiser"]["encoder"]},
    },
    "three targets": {"denoiser": {"rollout": 3}},
    "no residual noise": {"denoiser": {"residual_noise": False}},
    "even reveal": {"denoiser": {"full_reveal": 0.0}},
    "no floor": {"denoiser": {"sigma_offset": 0.0, "residual_noise": False}, "sampler": {"levels_per_agent": 2}},
    "u-net": UNET,
    "plain mlp": {"denoiser": {"residual_noise": False}},
    "ensemble, mean": {"members": 5},
    "ensemble, member": {"members": 5},
    "marie": {},
    "mamba": {},
}


class PlainNetwork(Denoiser):
    """Least squares of the state's change, by the denoiser's network without noise and reveal."""

    def predict(self, context: Context) -> Tensor:
        """The mean of the next scaled state, (B, S)."""
        newest, batch = context.state[:, -1], len(context.state)
        sigma, everyone = newest.new_ones(1, 1), context.action.new_ones(batch, self.spec.n_agents, dtype=torch.bool)
        encoded = self.encode_actions(context.action, context.valid, everyone)
        k = self.coefficients(sigma)
        change = self.raw(torch.zeros_like(newest), k, context, everyone, encoded, self.net)
        return self.to_state(self.config.sigma_data * change, newest)

    def loss(self, state: Tensor, action: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        past = self.config.context
        context = Context(state[:, :past], action[:, :past], valid[:, :past])
        newest = context.state[:, -1]
        error = self.to_target(self.predict(context), newest) - self.to_target(state[:, past], newest)
        real = valid[:, past]
        loss = (error.square().mean(-1) * real).sum() / real.sum().clamp(min=1)
        return loss, {}


class PlainModel(DimaWorldModel):
    """DIMA with a plain network in place of the diffusion."""

    def __init__(self, config: DimaModelConfig, spec: EnvSpec) -> None:
        super().__init__(config, spec, PlainNetwork)

    def next_state(self, context: Context, order: Tensor, noise: Tensor) -> Tensor:
        assert isinstance(self.denoiser, PlainNetwork)
        return self.denoiser.predict(context)


def build(form: str, changes: dict[str, Any], task: str, preset: str, spec: EnvSpec) -> WorldModel[Any]:
    """The untrained world model of a form."""
    algorithm = next((name for name in ("ensemble", "marie", "mamba") if form.startswith(name)), "dima")
    base = {"ensemble": {"draw": form.partition(", ")[2]}, "dima": {"denoisers": 1}}.get(algorithm, {})
    changes = base | changes
    config = build_config(task, algorithm, preset, {"learner": {"world_model": changes}}).learner.world_model
    return PlainModel(config, spec) if form.startswith("plain mlp") else config.build(spec)


def fit(model: WorldModel[Any], train: Replay, seconds: float, shares: Mapping[str, float] = SHARES) -> dict[str, int]:
    """Fit each part for its processor time; returns the gradient steps it took."""
    updates = {}
    for name, objective in model.objectives().items():
        fitter, began, part = Fitter(model.get_submodule(name), objective.fit), time.process_time(), 0
        budget = share_of(model, name, shares) * seconds
        model.get_submodule(name).train()
        with fitter.fitting():
            while time.process_time() - began < budget or part < MIN_UPDATES:
                fitter.step(objective.loss(objective.sample(train))[0])
                part += 1
        updates[name] = part
    model.eval()
    return updates


def share_of(model: WorldModel[Any], part: str, shares: Mapping[str, float]) -> float:
    """The processor time of a part, in units of --seconds."""
    if isinstance(model, MambaWorldModel):
        return 1 + SHARES["reward"]
    if isinstance(model, DimaWorldModel) and part in model.denoisers:
        return shares.get("denoiser", 0.0) / len(model.denoisers)
    return shares.get(part, 0.0)


@torch.no_grad()
def judge(model: WorldModel[Any], held_out: Replay, state_std: Tensor) -> dict[str, Any]:
    """Every reported figure, on the held-out episodes."""
    index = held_out.index.steps
    left = held_out.last[index % held_out.rows] - index
    shown = [h for h in STEPS if h <= left.max()]
    horizon = shown[-1]
    generator = torch.Generator().manual_seed(0)  # the same starts for every form

    def starts(steps: int, count: int = STARTS) -> Rows:
        able = index[left >= steps]
        chosen = able[torch.randint(len(able), (count,), generator=generator)]
        return held_out.gather(chosen, model.context - 1, steps)

    def predict(rows: Rows, steps: int) -> Forecast:
        return forecast(model, rows[:, : model.context], rows.action[:, model.context - 1 :][:, :steps])

    torch.manual_seed(0)
    rows = starts(horizon)
    real = rows.state[:, model.context :]
    predicted = predict(rows, horizon)
    error = ((predicted.state[:, 1:] - real).abs() / state_std).mean((0, 2))
    reward = rows.reward[:, model.context - 1 :][:, :DRIFT_STEPS]
    drift = (predicted.reward[:, :DRIFT_STEPS] - reward).mean() / held_out.store["reward"][index].std()

    few = starts(min(horizon, ORDER_STEPS), ORDER_STARTS)
    actions = few.action[:, model.context - 1 : -1]
    order = order_change(model, few[:, : model.context], actions, state_std)

    single = starts(1)
    draws = torch.stack([predict(single, 1).state[:, 1] for _ in range(DRAWS)]) / state_std
    truth = single.state[:, -1] / state_std
    centre = draws.mean(0)
    spread = draws.var(0).mean().sqrt() / (centre - truth).square().mean().sqrt()
    rank = (draws < truth).sum(0)
    coverage = ((rank >= 1) & (rank <= DRAWS - 1)).float().mean()

    steps = held_out.gather(index, model.context - 1, 1)
    real_reward, ends = steps.reward[:, model.context - 1], steps.terminated[:, model.context - 1]
    parts = [one_step(model, steps[rows]) for rows in torch.arange(len(ends)).split(JUDGED)]
    told, continuation = (torch.cat(part) for part in zip(*parts, strict=True))
    end = 1 - continuation
    return {
        "error": {str(h): error[h - 1].item() for h in shown},
        "curve": error.tolist(),
        "order": order,
        "drift": drift.item(),
        "spread": spread.item(),
        "coverage": coverage.item(),
        "reward": (1 - (told - real_reward).square().mean() / real_reward.var()).item(),
        "end": end[ends].mean().item() if ends.any() else None,
        "ends": [end.sum().item(), ends.sum().item()],
        "parameters": parameters(model),
    }


def one_step(model: WorldModel[Any], rows: Rows) -> tuple[Tensor, Tensor]:
    """Reward and continuation of true transitions: where a model can, given the true next state."""
    now = slice(model.context - 1, model.context + 1)
    if isinstance(model, DimaWorldModel):
        reward, continuation = model.predict_rewards(rows.state[:, now], rows.action[:, now][:, :1])
        return reward[:, 0], continuation[:, 0]
    step = model.step(model.start(rows[:, : model.context]), clip_action(rows.action[:, model.context - 1], model.spec))
    return step.reward, step.continuation


def table(results: list[dict[str, Any]]) -> str:
    """A row for each form: mean over seeds ± half of Student's 95 % interval."""
    steps = list(results[0]["error"])
    head = ["form", "seeds", "updates", *(f"error, step {h}" for h in steps), "drift", "spread", "coverage"]
    head += ["reward R²", "p(end)", "ends"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for form in dict.fromkeys(r["form"] for r in results):
        mine = [r for r in results if r["form"] == form]
        cells = [form, str(len(mine)), f"{mean(next(iter(r['updates'].values())) for r in mine):,.0f}"]
        cells += [spread_of([r["error"][h] for r in mine]) for h in steps]
        cells += [spread_of([r[name] for r in mine]) for name in ("drift", "spread", "coverage", "reward")]
        ended = all(r["end"] is not None for r in mine)
        cells.append(spread_of([r["end"] for r in mine]) if ended else "")
        cells.append(f"{mean(r['ends'][0] for r in mine):.0f} / {mine[0]['ends'][1]}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of `dima dataset record`")
    parser.add_argument("--forms", nargs="*", default=list(FORMS), metavar="FORM", help=f"of {', '.join(FORMS)}")
    parser.add_argument(
        "--more", type=json.loads, default={}, metavar="JSON", help="further forms: name -> fields of the world model"
    )
    parser.add_argument("--preset", default="small", help="that the forms change")
    parser.add_argument("--seconds", type=float, default=160.0, help="processor time of the dynamics")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset, forms = Dataset.open(args.dataset), FORMS | args.more
    train, held_out = (Replay.of(dataset.episodes(part), dataset.spec, "cpu") for part in ("train", "held-out"))
    episodes = dataset.episodes("train")
    args.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.studies.accuracy", *sys.argv[1:]])
    for seed in args.seeds:
        for form in [*args.forms, *args.more]:
            path = args.out / f"{form.replace(', ', '-').replace(' ', '-')}-seed{seed}.json"
            if path.exists():
                continue
            torch.manual_seed(seed)
            model = build(form, forms[form], dataset.task, args.preset, dataset.spec)
            model.update_statistics(episodes)
            for name in model.visit_counters:
                train.visits[name] = torch.zeros(train.rows, dtype=torch.int32)
            updates = fit(model, train, args.seconds)
            std = train.store["state"].std(0).clamp(min=1e-6)
            facts = {"form": form, "seed": seed, "seconds": args.seconds, "updates": updates, "changes": forms[form]}
            facts |= judge(model, held_out, std) | {"command": command, "protocol": protocol("cpu")}
            path.write_text(json.dumps(facts) + "\n")
            print(table([facts]).splitlines()[-1], file=sys.stderr, flush=True)
    results = [json.loads(path.read_text()) for path in sorted(args.out.glob("*-seed*.json"))]
    keep_table(args.out, table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

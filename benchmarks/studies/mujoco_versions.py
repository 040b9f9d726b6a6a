"""Do two versions of MuJoCo simulate the tasks alike?

    python -m benchmarks.studies.mujoco_versions record OLD.npz                       where one version is installed
    python -m benchmarks.studies.mujoco_versions record NEW.npz --states OLD.npz      where the other is
    python -m benchmarks.studies.mujoco_versions compare OLD.npz NEW.npz --out results/mujoco-versions

``record`` plays seeded random actions from seeded resets, then starts from single states of these episodes (with
``--states``: of another recording's, so that both versions start from the same numbers) and keeps the accelerations
there, with a dense and with a sparse constraint Jacobian, and the state one environment step later, with the model's
own integrator and with Euler's. ``compare`` gives the largest differences, in standard deviations over states of what
is compared. Trajectories diverge from rounding alone, because contacts are chaotic; single steps from the same state do
not. The control is a set of random robots whose hinges are bound together across branches: the sparse Cholesky
factorisation of MuJoCo 4.0.0 gets the accelerations of some wrong, so that dense and sparse disagree.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from dima.envs.mujoco.partitions import parse, simulator
from dima.runtime.provenance import protocol

TASKS = (
    "halfcheetah-2x3", "halfcheetah-6x1", "ant-4x2", "ant-2x4", "walker2d-2x3", "hopper-3x1", "humanoid-9|8",
    "swimmer-2x1", "reacher-2x1", "pusher-3p", "manysegmentswimmer-10x2", "manysegmentant-2x3",
    "manysegmentswimmer-30x2", "manysegmentant-7x2",
)  # fmt: skip
JACOBIANS = {"dense": mujoco.mjtJacobian.mjJAC_DENSE, "sparse": mujoco.mjtJacobian.mjJAC_SPARSE}
STATES = ("qpos", "qvel", "action")
_SHOWN = (1, 10, 50)  # steps after which trajectories are compared
_ROBOTS = 300  # of the control
_WRONG = 1e-6  # relative difference of accelerations that rounding does not explain


def play(env: Any, seeds: int, steps: int) -> dict[str, np.ndarray]:
    """Episodes of uniformly random actions, not reset where a robot falls.

    Returns:
        ``qpos`` (E, T + 1, nq), ``qvel`` (E, T + 1, nv), ``action`` (E, T, nu) and ``reward`` (E, T).
    """
    low, high = env.action_space.low, env.action_space.high
    shape = (seeds, steps, len(low))
    action = np.random.default_rng(0).uniform(low, high, shape)
    qpos, qvel = np.zeros((seeds, steps + 1, env.model.nq)), np.zeros((seeds, steps + 1, env.model.nv))
    reward = np.zeros((seeds, steps))
    for seed in range(seeds):
        env.reset(seed=seed)
        qpos[seed, 0], qvel[seed, 0] = env.data.qpos, env.data.qvel
        for step in range(steps):
            reward[seed, step] = env.step(action[seed, step])[1]
            qpos[seed, step + 1], qvel[seed, step + 1] = env.data.qpos, env.data.qvel
    return {"qpos": qpos, "qvel": qvel, "action": action, "reward": reward}


def one_step(env: Any, states: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What follows from each of N single states, each under its action.

    Returns:
        ``qacc_dense`` and ``qacc_sparse`` (N, nv), accelerations with either Jacobian; ``next_qpos`` (N, nq),
        ``next_qvel`` (N, nv) one environment step later; ``euler_qvel`` (N, nv) likewise with Euler's integrator.
    """
    model, data = env.model, mujoco.MjData(env.model)
    integrator = model.opt.integrator
    found: dict[str, list[np.ndarray]] = {}

    def keep(**values: np.ndarray) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value.copy())

    for state in zip(*(states[name] for name in STATES), strict=True):
        for kind in JACOBIANS:
            keep(**{f"qacc_{kind}": _acceleration(model, kind, *state)})
        for chosen in (mujoco.mjtIntegrator.mjINT_EULER, integrator):
            model.opt.integrator = chosen
            _put(model, data, *state)
            mujoco.mj_step(model, data, env.frame_skip)
            if chosen is not integrator:
                keep(euler_qvel=data.qvel)
        keep(next_qpos=data.qpos, next_qvel=data.qvel)
    return {name: np.array(values) for name, values in found.items()}


def _acceleration(model: Any, jacobian: str, *state: np.ndarray) -> np.ndarray:
    before, data = model.opt.jacobian, mujoco.MjData(model)
    model.opt.jacobian = JACOBIANS[jacobian]
    _put(model, data, *state)
    mujoco.mj_forward(model, data)
    model.opt.jacobian = before
    acceleration: np.ndarray = data.qacc.copy()
    return acceleration


def _put(model: Any, data: Any, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray) -> None:
    mujoco.mj_resetData(model, data)  # also forgets the solver's warm start
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, action


def coupled_robot(rng: np.random.Generator) -> str:
    """MJCF of a random tree of 5 to 39 hinged bodies, some pairs of hinges bound together."""
    size = int(rng.integers(5, 40))
    below: list[list[int]] = [[] for _ in range(size)]
    for child in range(1, size):
        below[int(rng.integers(max(0, child - 4), child))].append(child)

    def body(i: int) -> str:
        axis, place = (" ".join(map(str, numbers)) for numbers in (rng.normal(size=3), 0.1 * rng.normal(size=3)))
        inside = f'<joint name="{i}" axis="{axis}" damping=".1"/><geom size=".02" mass="1" contype="0"/>'
        return f'<body pos="{place}">{inside}{"".join(map(body, below[i]))}</body>'

    pairs = [rng.choice(size, 2, replace=False) for _ in range(int(rng.integers(1, size)))]
    bound = "".join(f'<joint joint1="{a}" joint2="{b}"/>' for a, b in pairs)
    return f"<mujoco><worldbody>{body(0)}</worldbody><equality>{bound}</equality></mujoco>"


def control() -> np.ndarray:
    """Relative difference of the accelerations that dense and sparse Jacobians give, for each of many random robots."""
    found = []
    for seed in range(_ROBOTS):
        rng = np.random.default_rng(seed)
        model = mujoco.MjModel.from_xml_string(coupled_robot(rng))
        state = 0.3 * rng.normal(size=model.nq), rng.normal(size=model.nv), np.zeros(0)
        dense, sparse = (_acceleration(model, kind, *state) for kind in JACOBIANS)
        found.append(np.abs(sparse - dense).max() / np.abs(dense).max())
    return np.array(found)


def settings(model: Any) -> dict[str, Any]:
    """What decides on the way in which a model's equations are solved."""
    return {
        "nv": int(model.nv),
        "jacobian": mujoco.mjtJacobian(model.opt.jacobian).name.removeprefix("mjJAC_").lower(),
        "uses": "sparse" if mujoco.mj_isSparse(model) else "dense",
        "solver": mujoco.mjtSolver(model.opt.solver).name.removeprefix("mjSOL_"),
        "integrator": mujoco.mjtIntegrator(model.opt.integrator).name.removeprefix("mjINT_"),
        "free_joint": bool((model.jnt_type == mujoco.mjtJoint.mjJNT_FREE).any()),
    }


def record(args: argparse.Namespace) -> None:
    """Simulate every task under the installed version."""
    given = None if args.states is None else np.load(args.states)
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {"mujoco": mujoco.mj_versionString(), "protocol": protocol("cpu"), "tasks": {}}
    for task in args.tasks:
        env = simulator(*parse(task), None, False)
        about["tasks"][task] = settings(env.model)
        played = play(env, args.episodes, args.steps)
        picked = np.random.default_rng(1).choice(args.episodes * args.steps, args.count, replace=False)
        states = {name: (played[name][:, :-1] if name != "action" else played[name]) for name in STATES}
        states = {name: value.reshape(-1, value.shape[-1])[picked] for name, value in states.items()}
        if given is not None:
            states = {name: given[f"{task}/state/{name}"] for name in STATES}
        parts = {"trajectory": played, "state": states, "after": one_step(env, states)}
        arrays |= {f"{task}/{part}/{name}": value for part, some in parts.items() for name, value in some.items()}
        env.close()
    np.savez_compressed(args.file, about=json.dumps(about), control=control(), **arrays)


def compare(args: argparse.Namespace) -> None:
    """Differences of two recordings, as a JSON file and a CSV table."""
    old, new = (np.load(file) for file in (args.old, args.new))
    about = [json.loads(str(file["about"])) for file in (old, new)]
    rows = [{"task": task, **facts, **differences(task, old, new)} for task, facts in about[0]["tasks"].items()]
    args.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.studies.mujoco_versions", *sys.argv[1:]])
    facts = {"command": command, "versions": [one["mujoco"] for one in about]}
    facts |= {"protocols": [one["protocol"] for one in about]}
    wrong = [int((file["control"] > _WRONG).sum()) for file in (old, new)]
    facts |= {"control": {"robots": _ROBOTS, "wrong": wrong}}
    (args.out / "comparison.json").write_text(json.dumps(facts | {"tasks": rows}, indent=1) + "\n")
    with (args.out / "comparison.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print((args.out / "comparison.csv").read_text() + f"control: {wrong} of {_ROBOTS} robots")


def differences(task: str, old: Any, new: Any) -> dict[str, Any]:
    """How far two recordings of a task are apart.

    Raises:
        ValueError: their single states are not the same.
    """
    for name in STATES:
        if not np.array_equal(old[f"{task}/state/{name}"], new[f"{task}/state/{name}"]):
            raise ValueError(
                f"{task}: the recordings start from different states: record one with --states of the other"
            )
    told: dict[str, Any] = {}
    for kind in JACOBIANS:
        told[f"qacc_{kind}"] = _apart(old[f"{task}/after/qacc_{kind}"], new[f"{task}/after/qacc_{kind}"])
    for name, file in (("old", old), ("new", new)):
        told[f"sparse_dense_{name}"] = _apart(file[f"{task}/after/qacc_dense"], file[f"{task}/after/qacc_sparse"])
    for name, at in (("step_qvel", "next_qvel"), ("step_qvel_euler", "euler_qvel")):
        told[name] = _apart(*(file[f"{task}/after/{at}"] - file[f"{task}/state/qvel"] for file in (old, new)))
    told["step_qpos"] = _apart(*(file[f"{task}/after/next_qpos"] for file in (old, new)))
    speeds = [file[f"{task}/trajectory/qvel"] for file in (old, new)]
    told |= {f"trajectory_{n}": _apart(speeds[0][:, n], speeds[1][:, n]) for n in _SHOWN if n < speeds[0].shape[1]}
    returns = [file[f"{task}/trajectory/reward"].sum(-1) for file in (old, new)]
    return told | {"return_old": round(float(returns[0].mean()), 3), "return_new": round(float(returns[1].mean()), 3)}


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two (N, D) arrays, each feature in standard deviations of the first."""
    std = a.std(0)
    moving = std > 1e-9  # what stands still has no scale
    return float(f"{(np.abs(a - b)[:, moving] / std[moving]).max():.2g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("record", help="simulate under the installed version")
    first.add_argument("file", type=Path, help="an .npz file to write")
    first.add_argument("--states", type=Path, help="recording whose single states to start from")
    first.add_argument("--tasks", nargs="+", default=TASKS)
    first.add_argument("--episodes", type=int, default=8)
    first.add_argument("--steps", type=int, default=200, help="of an episode")
    first.add_argument("--count", type=int, default=500, help="single states of a task")
    first.set_defaults(run=record)
    second = commands.add_parser("compare", help="two recordings")
    second.add_argument("old", type=Path)
    second.add_argument("new", type=Path)
    second.add_argument("--out", type=Path, required=True, help="folder of comparison.json and comparison.csv")
    second.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

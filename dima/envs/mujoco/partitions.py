"""Scenarios of multi-agent MuJoCo: partitions of the actuators, and simulators.

Partitions, edges and categories come from Gymnasium-Robotics (``obsk``); the three simulators it builds from templates
are generated in a temporary folder, so that read-only installations and parallel processes work.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import mujoco

from dima.errors import ConfigError, nearest

MAX_SEGMENTS = 100  # of a many-segment robot; more only costs memory


@dataclass(frozen=True)
class Scenario:
    """A robot of Gymnasium-Robotics."""

    label: str  # the package's name
    partitions: tuple[str, ...]  # () where any NxM is one: N agents of M segments
    episode_limit: int = 1000
    near: tuple[str, ...] = ("qpos", "qvel")  # categories that an agent observes of its own joints
    broken: str = ""  # why installed versions may not run it
    own_partitions: dict[str, tuple[int, ...]] = field(default_factory=dict)  # agents' sizes, actuators in XML order
    flat: bool = False  # moves in a horizontal plane, drawn from above


_HUMANOID = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
SCENARIOS = {
    "ant": Scenario("Ant", ("2x4", "2x4d", "4x2")),
    "coupledhalfcheetah": Scenario(
        "CoupledHalfCheetah",
        ("1p1",),
        near=("qpos", "qvel", "ten_J", "ten_length", "ten_velocity"),
        broken="gymnasium-robotics reads the tendon's Jacobian as a dense matrix, MuJoCo stores it sparse since 3.6",
    ),
    "halfcheetah": Scenario("HalfCheetah", ("2x3", "3x2", "6x1"), own_partitions={"3x2": (2, 2, 2)}),
    "hopper": Scenario("Hopper", ("3x1",)),
    "humanoid": Scenario("Humanoid", ("9|8",), near=_HUMANOID),
    "humanoidstandup": Scenario("HumanoidStandup", ("9|8",), near=_HUMANOID),
    "inverteddoublependulum": Scenario("InvertedDoublePendulum", ("1x1",)),
    "invertedpendulum": Scenario("InvertedPendulum", ("1x1",)),
    "manysegmentant": Scenario("ManySegmentAnt", ()),
    "manysegmentswimmer": Scenario("ManySegmentSwimmer", (), flat=True),
    "pusher": Scenario("Pusher", ("3p",), episode_limit=100, flat=True),
    "reacher": Scenario("Reacher", ("2x1",), episode_limit=50, near=("qpos", "qvel", "fingertip_dist"), flat=True),
    "swimmer": Scenario("Swimmer", ("2x1",), flat=True),
    "walker2d": Scenario("Walker2d", ("2x3", "3x2"), own_partitions={"3x2": (2, 2, 2)}),
}
WITH_CONTACTS = ("ant", "manysegmentant")  # whose contact forces are an option
GRAPHLESS = ("inverteddoublependulum", "invertedpendulum")  # one actuator, no graph of joints in the package
_SEGMENTED = {"manysegmentant": ("Ant-v5", 1), "manysegmentswimmer": ("Swimmer-v5", 2)}  # task, fewest segments


@dataclass(frozen=True)
class Parts:
    """Division of a robot among agents."""

    actuators: tuple[tuple[int, ...], ...]  # of each agent, ids in the order of the simulator's ``ctrl``
    joints: tuple[tuple[Any, ...], ...]  # the package's nodes of each agent; empty for graphless scenarios
    edges: tuple[Any, ...] = ()
    globals: tuple[Any, ...] = ()


def parse(task: str) -> tuple[str, str]:
    """The scenario and partition in ``halfcheetah-2x3``.

    Raises:
        ConfigError: one of them does not exist.
    """
    scenario, _, partition = task.partition("-")
    if scenario not in SCENARIOS:
        raise ConfigError(f"mamujoco/{task}: no scenario {scenario!r}: {nearest(scenario, SCENARIOS)}")
    known = SCENARIOS[scenario].partitions
    if known and partition not in known:
        raise ConfigError(f"mamujoco/{task}: {scenario} has no partition {partition!r}: {nearest(partition, known)}")
    if not known:
        segments(scenario, partition)
    return scenario, partition


def segments(scenario: str, partition: str) -> int:
    """Number of segments of N agents with M segments each."""
    fewest = _SEGMENTED[scenario][1]
    sizes = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", partition)
    total = int(sizes[1]) * int(sizes[2]) if sizes else 0
    if not fewest <= total <= MAX_SEGMENTS:
        raise ConfigError(
            f"mamujoco/{scenario}-{partition}: the partition must be NxM, N agents of M segments, such as 2x3, "
            f"with {fewest} to {MAX_SEGMENTS} segments in all"
        )
    return total


def parts_of(scenario: str, partition: str) -> Parts:
    """Joints and actuators of each agent."""
    if scenario in GRAPHLESS:
        return Parts(((0,),), ((),))
    with quiet():
        from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges
    robot = SCENARIOS[scenario]
    if partition in robot.own_partitions:
        (all_joints,), edges, roots = get_parts_and_edges(robot.label, None)
        ordered, joints = sorted(all_joints, key=lambda node: node.act_ids), []
        for size in robot.own_partitions[partition]:
            joints.append(tuple(ordered[:size]))
            ordered = ordered[size:]
    else:
        joints, edges, roots = get_parts_and_edges(robot.label, partition)
    actuators = tuple(tuple(node.act_ids for node in agent) for agent in joints)
    return Parts(actuators, tuple(map(tuple, joints)), tuple(edges), tuple(roots))


def simulator(scenario: str, partition: str, render_mode: str | None, contact_forces: bool) -> Any:
    """The single-agent Gymnasium environment behind a scenario, without wrappers.

    Args:
        scenario: a key of ``SCENARIOS``.
        partition: decides the length of many-segment robots.
        render_mode: as in Gymnasium.
        contact_forces: of ants: observe contact forces and pay their cost, as in Gymnasium's v5 tasks, or neither.
    """
    options: dict[str, Any] = {"render_mode": render_mode}
    if scenario in WITH_CONTACTS and not contact_forces:
        options |= {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
    with quiet():
        if scenario == "coupledhalfcheetah":
            from gymnasium_robotics.envs.multiagent_mujoco import CoupledHalfCheetahEnv

            return CoupledHalfCheetahEnv(render_mode)
        if scenario not in _SEGMENTED:
            return gymnasium.make(f"{SCENARIOS[scenario].label}-v5", **options).unwrapped
        from gymnasium_robotics.envs.multiagent_mujoco import many_segment_ant, many_segment_swimmer

        generator = many_segment_ant if scenario == "manysegmentant" else many_segment_swimmer
        with tempfile.TemporaryDirectory() as folder:
            asset = Path(folder) / "robot.xml"
            generator.gen_asset(n_segs=segments(scenario, partition), asset_path=str(asset))
            return gymnasium.make(_SEGMENTED[scenario][0], xml_file=str(asset), **options).unwrapped


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress two notices of the packages, also in MUJOCO_LOG.TXT; everything else is printed.

    Importing Gymnasium-Robotics prints one about hands that are not used here, and loading HalfCheetah's model warns
    that an attribute of its XML is deprecated.
    """

    def warn(message: str) -> None:
        if "settotalmass" not in str(message):
            print(f"mujoco: {message}", file=sys.stderr)

    before, caught = mujoco.get_mju_user_warning(), io.StringIO()
    mujoco.set_mju_user_warning(warn)
    try:
        with contextlib.redirect_stderr(caught):
            yield
    finally:
        mujoco.set_mju_user_warning(before)
        for line in caught.getvalue().splitlines():
            if "AdroitHand" not in line:
                print(line, file=sys.stderr)

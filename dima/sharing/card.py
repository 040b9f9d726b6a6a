"""The card of an exported policy or a published run: what it is, how good, made by what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dima.nn.normalizer import Normalizer
from dima.policies.base import Policy
from dima.runtime.summary import settings_line

KIND, FORMAT = "dima policy", 2  # raised with every change of what a loader reads
_FRONT = "---\nlibrary_name: dima\npipeline_tag: reinforcement-learning\ntags:\n"


def run_facts(
    config: Mapping[str, Any], protocol: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Task, algorithm, returns and versions of a run as JSON data.

    Args:
        config: of the run folder.
        protocol: likewise.
        records: of its metrics, as far as its checkpoint goes.
    """
    episodes = config.get("evaluation_episodes")
    scores = [
        {"step": one["step"], "return": one["evaluate/return"], "std": one.get("evaluate/std"), "episodes": episodes}
        for one in records
        if "evaluate/return" in one
    ]
    returns = {"last": scores[-1], "best": max(scores, key=lambda one: float(one["return"]))} if scores else {}
    named = {name: config.get(name) for name in ("task", "env", "algorithm", "preset", "seed")}
    trained = {name: value for name, value in protocol.items() if name not in ("kind", "format")}
    return {**named, "returns": returns, "trained": trained}


def normalizers(policy: Policy) -> list[dict[str, Any]]:
    """The running normalisers of a policy, whose statistics are among its tensors."""
    return [
        {"name": name, "shape": list(part.shape), "samples": int(part.count.max())}
        for name, part in policy.named_modules()
        if isinstance(part, Normalizer)
    ]


def policy_text(card: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """A policy's card in Markdown.

    Args:
        card: the JSON data in its files.
        files: how equal each file acts, by its name.
    """
    scales = [f"{one['name']} {tuple(one['shape'])}, {one['samples']:,} samples" for one in card["normalizers"]]
    rows = [
        (f"`{one['name']}`", _space(one["observation"]), _space(one["action"]), one.get("action_mask", ""))
        for one in card["agents"]
    ]
    first, memory = next(iter(files)), card["memory"]
    return "\n".join(
        [
            *_head(card, f"A policy for {card['task']}"),
            "## Acting",
            "",
            "```python",
            "import dima",
            "",
            f"policy = dima.load_policy({first!r}{', trust=True' if first.endswith('.pt2') else ''})",
            *(["policy.reset()  # where an episode begins: it remembers the one before"] if memory else []),
            "actions = policy.act(observations, infos)  # by agent, as in PettingZoo",
            "```",
            "",
            "It needs neither simulator nor replay.",
            "",
            *(_fed_back(memory, files, card["agents_leave"]) if memory else []),
            *_table(("agent", "observes", "acts in", "action mask in its"), rows),
            f"Observations are standardised within the policy: {'; '.join(scales)}."
            if scales
            else "Observations enter as the environment gives them: the policy has no running normaliser.",
            "",
            *_table(("file", "beside the run's own policy"), [(f"`{name}`", text) for name, text in files.items()]),
            *_origin(card, f"Exported by dima {card['dima']} from the checkpoint {card['checkpoint'][:12]}."),
        ]
    )


def _fed_back(memory: Mapping[str, Sequence[int]], files: Iterable[str], agents_leave: bool) -> list[str]:
    """How programs without dima keep the memory of graphs, where there are any among the files."""
    shapes = dict(memory)
    code = {
        ".pt2": lambda name: [
            f"graph = torch.export.load({name!r}).module()",
            f"memory = [torch.zeros(1, *shape) for shape in {list(shapes.values())!r}]  # an episode begins",
            "memory = graph(obs, action_mask, *memory)  # at each step; the action is memory[0]",
        ],
        ".onnx": lambda name: [
            f"session, shapes = onnxruntime.InferenceSession({name!r}), {shapes!r}",
            "memory = [np.zeros((1, *shape), np.float32) for shape in shapes.values()]  # an episode begins",
            'given = {f"previous_{name}": values for name, values in zip(shapes, memory)}',
            'given |= {"obs": obs, "action_mask": action_mask}',
            "memory = session.run(list(shapes), given)  # these three at each step; the action is memory[0]",
        ],
    }
    graphs = {name: code[suffix](name) for name in files for suffix in code if name.endswith(suffix)}
    if not graphs:
        return []
    gone = (
        " An agent that has left observes zeros, is allowed everything, and has zeros in the action that enters again."
    )
    return [
        "A graph takes its memory as inputs and returns it: zeros where an episode begins, then what the step before"
        f" returned.{gone if agents_leave else ''}",
        "",
        *(line for lines in graphs.values() for line in ("```python", *lines, "```", "")),
    ]


def run_text(facts: Mapping[str, Any], repo: str) -> str:
    """A published run's card in Markdown.

    Args:
        facts: of :func:`run_facts`.
        repo: where it is published, ``owner/name``.
    """
    folder = f"runs/{repo}"
    return "\n".join(
        [
            *_head(facts, f"A run on {facts['task']}"),
            "```sh",
            f"dima pull {repo}",
            f"dima evaluate {folder}",
            "```",
            "",
            *_origin(facts, ""),
        ]
    )


def _head(facts: Mapping[str, Any], title: str) -> list[str]:
    tags = ("multi-agent", "reinforcement-learning", str(facts["algorithm"]), str(facts["task"]))
    front = _FRONT + "".join(f"- {tag!r}\n" for tag in tags) + "---"
    settings = settings_line(facts["env"])
    lines = [
        f"{facts['algorithm']}, preset {facts['preset']}, seed {facts['seed']}" + (f"; {settings}" if settings else "")
    ]
    for name, one in facts["returns"].items():
        if name == "best" and one == facts["returns"]["last"]:
            continue
        spread = "" if one["std"] is None else f" ± {one['std']:,.1f}"
        played = f"{one['episodes']} episodes, after {one['step']:,} steps"
        lines.append(f"{name} evaluation: team return {one['return']:,.1f}{spread}, {played}")
    return [front, "", f"# {title}", "", *(f"- {line}" for line in lines), ""]


def _origin(facts: Mapping[str, Any], first: str) -> list[str]:
    trained = facts["trained"]
    packages = ", ".join(f"{name} {version}" for name, version in trained.get("packages", {}).items() if version)
    made = f"Trained with dima {trained.get('dima')}, Python {trained.get('python')}, {packages}."
    return ["## Origin", "", " ".join(filter(None, (first, made))), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _space(space: Mapping[str, Any]) -> str:
    if space["kind"] == "discrete":
        return f"{space['n']} choices" + (f" from {space['start']}" if space["start"] else "")
    bounds = [value if not isinstance(value, list) else "..." for value in (space["low"], space["high"])]
    return f"{space['dtype']} {tuple(space['shape'])} in [{bounds[0]}, {bounds[1]}]"

"""What a learning iteration costs, by part and optimisation, against the reference.

    python -m benchmarks.speed                                        every task and preset: hours on a CPU
    python -m benchmarks.speed --tasks mamujoco/halfcheetah-2x3 --presets small --threads 1

Every figure comes from one run on one device, on random data in a real replay, at a preset's full sizes: the parts of
an iteration are timed a few times each and scaled to an iteration. Compared variants alternate, so their ratios hold on
a busy machine, too; seconds do not. Writes a JSON file and a table for each task and preset under ``--out``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.counts import counts
from benchmarks.speed.learners import REFERENCE
from benchmarks.speed.parts import measure
from benchmarks.speed.switches import switched
from benchmarks.speed.tables import counts_table, parts_table, switches_table, versus_table, whole_table
from benchmarks.speed.timing import CLOCKS, Timing, ceiling
from benchmarks.speed.versus import versus
from benchmarks.speed.whole import whole
from dima.algorithms.model_based import ModelBasedConfig
from dima.presets import preset_names
from dima.runtime.device import pick_device
from dima.runtime.machine import keep_freed_memory
from dima.runtime.provenance import protocol
from dima.training.run_config import TrainConfig, build_config
from dima.world_models.dima.model import DimaModelConfig

TASKS = tuple(
    f"mamujoco/{name}" for name in ("halfcheetah-2x3", "halfcheetah-6x1", "ant-4x2", "manysegmentswimmer-10x2")
)
OWN_SECTIONS = ("parts",)  # those that need no plain form of the networks
SECTIONS = ("counts", "parts", "switches", "plain", "whole")
YARDSTICKS = {"lean": "published"}  # whose settings the reference has, where not the preset's own
PRESETS = [name for name in ("published", "lean", "small") if name in preset_names("dima")]


def run(
    config: TrainConfig, yardstick: TrainConfig, timing: Timing, sections: list[str], settings: list[str]
) -> dict[str, Any]:
    """The requested sections for one task and preset, as plain data."""
    kinds = [torch.float32, *([torch.bfloat16] if timing.device.type == "cuda" else [])]
    tops = {str(kind).removeprefix("torch."): ceiling(timing, kind) for kind in kinds}
    facts = {"task": config.task, "preset": config.preset, "seed": config.seed, "threads": torch.get_num_threads()}
    result: dict[str, Any] = facts | {
        "repeats": timing.repeats,
        "share": timing.share,
        "clock": timing.clock,
        "ceiling": tops,
    }
    result["reference"] = REFERENCE.get(config.task) if config.preset == "published" else None
    if "counts" in sections:
        result["counts"] = counts(config, yardstick)
    if "parts" in sections:
        result |= measure(config, timing, max(tops.values()))
    if "switches" in sections:
        result["switches"] = switched(config, timing)
    if "plain" in sections:
        result["plain"] = versus(config, yardstick, timing)
    if "whole" in sections:
        result["whole"] = whole(config, yardstick, settings, torch.get_num_threads(), timing)
    return result


def has_plain_form(config: TrainConfig) -> bool:
    """Whether ``benchmarks.speed.plain`` has the preset's networks: one U-Net, Perceiver and Transformer."""
    assert isinstance(config.learner, ModelBasedConfig)
    model = config.learner.world_model
    assert isinstance(model, DimaModelConfig)
    networks = (model.denoiser.backbone, model.reward.backbone, model.denoisers)
    return networks == ("unet", "transformer", 1) and model.denoiser.action_path != "input"


def report(result: dict[str, Any]) -> str:
    """The tables of one task and preset, as Markdown."""
    top = ", ".join(f"{value / 1e12:.3g} TFLOP/s in {name}" for name, value in result["ceiling"].items())
    device = result["protocol"]["machine"]["device"]
    blocks = [
        f"## {result['task']}, {result['preset']}",
        f"`{result['command']}`",
        f"{device}, {result['threads']} CPU threads; a large matrix product does {top}. A call imagines "
        f"{result['share']:.3g} of a batch, a whole iteration is cut to so much; medians of {result['repeats']} calls, "
        f"{result['clock']} clock.",
    ]
    if "counts" in result:
        blocks.append(counts_table(result["counts"]))
    if "parts" in result:
        blocks.append(parts_table(result))
    if "switches" in result:
        blocks.append(switches_table(result["switches"]))
    if "plain" in result:
        blocks.append(versus_table(result["plain"]))
    if "whole" in result:
        blocks.append(whole_table(result["whole"]))
    return "\n\n".join(blocks)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="TASK", help="whose sizes to use; default: four")
    parser.add_argument("--presets", nargs="+", default=PRESETS, metavar="PRESET", help=f"default: {' '.join(PRESETS)}")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS, help="default: all")
    parser.add_argument(
        "--yardstick", metavar="PRESET", help="settings of the reference; default: the preset's, of lean published"
    )
    parser.add_argument(
        "--settings", nargs="+", default=[], metavar="FIELD=VALUE,...", help="to time an iteration under, too"
    )
    parser.add_argument("--give-back", action="store_true", help="return freed memory to the system, unlike runs")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of everything")
    parser.add_argument(
        "--share", type=float, help="of an imagined batch, and of an iteration; default 1, on a CPU 0.1"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the random data")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: of this process alone, on a busy machine")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's own choice")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="folder for results")
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    share = args.share or (1.0 if device.type == "cuda" else 0.1)
    kept = not args.give_back and keep_freed_memory()
    timing = Timing(device, args.repeats, share, args.clock)
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    for task in args.tasks:
        for preset in args.presets:
            changes = {"seed": args.seed, "device": device.type}
            config = build_config(task, "dima", preset, changes)
            sections = [one for one in args.sections if one in OWN_SECTIONS or has_plain_form(config)]
            if not sections:
                parser.error(f"the networks of {preset} have no plain form to compare with: choose --sections parts")
            yardstick = build_config(task, "dima", args.yardstick or YARDSTICKS.get(preset, preset), changes)
            facts = {"command": command, "protocol": protocol(str(device)), "freed_memory_kept": kept}
            result = facts | run(config, yardstick, timing, sections, args.settings)
            some = [] if set(sections) == set(SECTIONS) else sections
            path = args.out / device.type / ("-".join([task.split("/")[-1], preset, *some]) + ".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
            path.with_suffix(".md").write_text(report(result) + "\n")
            print(report(result), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

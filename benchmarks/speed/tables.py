"""Results of the speed benchmark as Markdown tables."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.versus import OURS, PLAIN


def parts_table(result: dict[str, Any]) -> str:
    """Parts of an iteration, the imagination split, their sum, and the reference where there is one."""
    known = result["reference"] or {}
    reference = {f"{name} update": known.get(name) for name in ("denoiser", "reward")}
    per_call = result["share"]  # the reference's imagination is a whole batch
    if "imagination" in known:
        reference["imagination"] = known["imagination"] * per_call
    lines = [
        "| part | s a call | GFLOP | reference | of ceiling | GiB | calls/iteration | s/iteration | TFLOP/iteration |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, part in result["parts"].items():
        scaled = result["iteration"][name]
        lines.append(
            f"| {name} | {part['seconds']:.4g} | {_giga(part['flops'])} | {_giga((reference.get(name) or 0) * 1e12)} | "
            f"{_percent(part['ceiling'])} | {_gibi(part['memory'])} | {result['often'][name]:.3g} | "
            f"{scaled['seconds']:.4g} | {scaled['flops'] / 1e12:.3g} |"
        )
        if name == "imagination":
            lines += [
                f"| - {inner} | {cost['seconds']:.4g} | {_giga(cost['flops'])} | | {_percent(cost['ceiling'])} | | | "
                f"{cost['share']:.1%} of it | |"
                for inner, cost in result["inside"].items()
            ]
    whole = result["iteration"]["iteration"]
    lines.append(f"| an iteration | | | | | | | {whole['seconds']:.4g} | {whole['flops'] / 1e12:.4g} |")
    if known:
        lines.append(f"| reference | | | | | | | {known['seconds']:.4g} | {known['iteration']:.4g} |")
    pace = f"A million environment steps at this pace: {result['million']:.3g} hours."
    lines += ["", f"Replay sampling, checkpoint and log: {result['keeping']:.2%} of the iteration. {pace}"]
    return "\n".join(lines)


def switches_table(found: dict[str, Any]) -> str:
    """Slowdown of a part without each optimisation."""
    lines = ["| without | part | times as long |", "|---|---|---|"]
    for name, parts in found.items():
        lines += [f"| {name} | {part} | {values['ratio']:.2f} |" for part, values in parts.items()]
    return "\n".join(lines)


def versus_table(found: dict[str, Any]) -> str:
    """Slowdown of an iteration in the reference."""
    lines = [
        f"| part | s an iteration, dima | s an iteration, reference {found['yardstick']} | times as long |",
        "|---|---|---|---|",
    ]
    for name, part in found["parts"].items():
        lines.append(
            f"| {name} | {part['iteration'][OURS]:.4g} | {part['iteration'][PLAIN]:.4g} | {part['ratio']:.2f} |"
        )
    whole = found["iteration"]
    lines.append(f"| an iteration | {whole[OURS]:.4g} | {whole[PLAIN]:.4g} | {whole['ratio']:.2f} |")
    return "\n".join(lines)


def counts_table(found: dict[str, Any]) -> str:
    """Operations of each part and of an iteration, library and reference."""
    lines = [f"| part, GFLOP a call | dima | reference {found['yardstick']} | times as many |", "|---|---|---|---|"]
    for name, ours in found["parts"][OURS].items():
        both = ours["flops"], found["parts"][PLAIN][name]["flops"]
        lines.append(f"| {name} | {both[0] / 1e9:.4g} | {both[1] / 1e9:.4g} | {both[1] / both[0]:.3f} |")
    whole = found["iteration"]
    lines.append(
        f"| an iteration, TFLOP | {whole[OURS] / 1e12:.4g} | {whole[PLAIN] / 1e12:.4g} | {whole['ratio']:.3f} |"
    )
    return "\n".join(lines)


def whole_table(found: dict[str, Any]) -> str:
    """Seconds of an iteration under every setting."""
    lines = ["| an iteration | threads | s | reference takes times as long |", "|---|---|---|---|"]
    for name, values in found.items():
        lines.append(f"| {name} | {values['threads']} | {values['iteration']:.4g} | {values['ratio']:.2f} |")
    return "\n".join(lines)


def _giga(flops: float) -> str:
    return f"{flops / 1e9:.4g}" if flops else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _gibi(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f}"

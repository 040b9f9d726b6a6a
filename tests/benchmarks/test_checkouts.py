"""Two checkouts take turns; their iterations are compared with their neighbours; what fails is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.speed import checkouts
from benchmarks.speed.checkouts import Contender
from dima.errors import UserError

HERE = Path(checkouts.__file__).parents[2]


def test_turns_and_ratios(tmp_path: Path, monkeypatch, capsys) -> None:
    calls: list[tuple[str, str, int]] = []

    def dima(self: Contender, *args: str) -> None:
        """Iterations of 100 steps, which take 10 seconds here, 25 there, and 7 for an evaluation at the end."""
        steps = int(args[args.index("--steps") + 1])
        calls.append((args[0], self.run.name, steps))
        self.run.mkdir(exist_ok=True)
        with (self.run / "metrics.jsonl").open("a") as file:
            begin = steps - 200 if args[0] == "resume" else 0
            for step in range(begin + 100, steps + 1, 100):
                seconds = {"here": 10.0, "there": 25.0}[self.run.name]
                last = {"time/evaluate": 7.0} if step == steps else {}
                record = {"step": step, "time/iteration": seconds + sum(last.values()), **last}
                file.write(json.dumps(record) + "\n" + json.dumps({"event": "told"}) + "\n")

    monkeypatch.setattr(Contender, "_dima", dima)
    given = ["toy/linear", "--first", "300", "--stretch", "200", "--turns", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["checkouts", str(HERE), *given])
    assert checkouts.main() == 0
    turns = [("resume", "here", 500), ("resume", "there", 500), ("resume", "there", 700), ("resume", "here", 700)]
    assert calls == [("train", "here", 300), ("train", "there", 300), *turns]
    found = json.loads((tmp_path / "linear-small.json").read_text())
    assert found["first iterations"] == [[10.0] * 3, [25.0] * 3]
    assert found["iterations"] == [[10.0] * 4, [25.0] * 4]
    assert (found["median"], found["ratio"]) == ([10.0, 25.0], 2.5)
    assert "an iteration takes 10.0 s here, 25.0 s there: 2.50 times as long" in capsys.readouterr().out


def test_the_other_checkout_must_be_one(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["checkouts", str(tmp_path), "toy/linear"])
    with pytest.raises(SystemExit) as stop:
        checkouts.main()
    assert stop.value.code == 2
    assert f"{tmp_path} is no checkout of dima" in capsys.readouterr().err


def test_what_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"resume .*nowhere --steps 3 --quiet failed: .*nowhere"):
        Contender(HERE, tmp_path / "nowhere").go_on(3)

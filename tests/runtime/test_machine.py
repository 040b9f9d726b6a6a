"""Cores and memory, also in containers; provenance; the doctor's findings on a broken installation."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dima.cli.doctor
from dima.cli.doctor import examine
from dima.cli.probe import Probe, probe
from dima.runtime import machine, provenance

ROOT = Path(__file__).parents[2]


def test_a_containers_limit_counts(monkeypatch):
    real = machine.psutil.virtual_memory()
    numbers = {"memory.max": 2**30, "memory.current": 2**29}
    monkeypatch.setattr(machine, "_container", numbers.get)
    assert machine.total_memory() == min(2**30, real.total)
    assert machine.free_memory() <= 2**29
    monkeypatch.setattr(machine, "_container", lambda file: None)
    assert machine.total_memory() == real.total
    assert 0 < machine.free_memory() <= real.total
    assert machine.cores() >= 1


def test_a_container_without_a_limit(monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda self: "max\n")
    assert machine._container("memory.max") is None


def test_protocol_outside_a_checkout(monkeypatch):
    monkeypatch.setattr(provenance, "_git", lambda *command: None)
    assert provenance.protocol("cpu")["commit"] is None
    assert provenance.uncommitted_diff() == ""


def test_protocol_in_a_checkout(monkeypatch):
    answers = {"ls-files": "x", "rev-parse": "abc123\n", "status": " M dima/x.py\n", "diff": "patch"}
    monkeypatch.setattr(provenance, "_git", lambda *command: answers[command[0]])
    assert provenance.protocol("cpu")["commit"] == {"id": "abc123", "dirty": True}
    assert provenance.uncommitted_diff() == "patch"


NOW = {"dima": "1", "packages": {"mujoco": "3.17.0"}, "commit": None}
OLD = NOW | {"kind": "dima run folder", "packages": {"mujoco": "4.0.0"}}


class TestProtocolHistory:
    def test_a_resume_under_the_same_versions_adds_nothing(self):
        assert provenance.resumed(OLD, 100, NOW | {"packages": {"mujoco": "4.0.0"}}) == OLD

    def test_both_versions_are_recorded(self):
        record = provenance.resumed(OLD, 100, NOW)
        assert record == OLD | {"resumed": [{"step": 100, **NOW}]}
        assert provenance.resumed(record, 200, NOW) == record
        back = provenance.resumed(record, 200, NOW | {"packages": {"mujoco": "4.0.0"}})
        assert [one["packages"]["mujoco"] for one in provenance.protocol_history(back)] == ["4.0.0", "3.17.0", "4.0.0"]
        assert provenance.mujoco_versions("mamujoco/ant-4x2", back) == ["4.0.0", "3.17.0", "4.0.0"]

    def test_a_resume_that_saved_nothing_is_dropped(self):
        record = provenance.resumed(OLD, 100, NOW)
        assert provenance.resumed(record, 100, NOW | {"packages": {"mujoco": "4.0.0"}}) == OLD

    def test_a_run_started_again_has_the_current_protocol(self):
        record = provenance.resumed(provenance.resumed(OLD, 100, NOW), 0, NOW)
        assert record == {"kind": "dima run folder", **NOW}

    def test_the_simulator_is_named_where_it_counts(self, monkeypatch):
        monkeypatch.setattr(provenance, "package_version", lambda name: "3.17.0")
        ant, both = "mamujoco/ant-4x2", provenance.resumed(OLD, 100, NOW)
        assert provenance.simulator_line(ant, both) == "MuJoCo 4.0.0, then 3.17.0"
        assert provenance.simulator_line(ant, NOW, here=True) == "MuJoCo 3.17.0"
        assert provenance.simulator_line(ant, OLD, here=True) == "MuJoCo 3.17.0, trained under 4.0.0"
        assert provenance.simulator_line(ant, {}, here=True) == "MuJoCo 3.17.0"
        assert provenance.simulator_line(ant, {"packages": [], "resumed": [1]}) == ""
        assert provenance.simulator_line("toy/walk", both, here=True) == ""


def test_without_git(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance.commit() is None


class TestDoctor:
    @pytest.fixture(autouse=True)
    def probed(self, monkeypatch):
        """What importing the packages would show: by default all is well."""
        probed = {"faults": {}, "torch": {"cuda": None, "gpu": None, "memory": 0}}
        monkeypatch.setattr(dima.cli.doctor, "probe", lambda modules: Probe(**probed))
        return probed

    def found(self):
        return {finding.name: finding for finding in examine()}

    def test_a_sound_installation(self):
        found = self.found()
        assert not any(finding.fatal for finding in found.values())
        assert "GiB free of" in found["memory"].text
        assert {"device", "cores", "disk", "EGL", "OSMesa", "GLFW", "pictures", "ffmpeg", "python"} <= set(found)
        assert found["ffmpeg"].text.endswith(": films can be written")
        assert json.loads(json.dumps(found["torch"].to_dict()))["status"] == "ok"

    @pytest.mark.parametrize(("fault", "said"), [("", "can render"), ("no driver", "cannot render: no driver")])
    def test_a_library_is_tried_before_it_can_render(self, monkeypatch, fault, said):
        monkeypatch.setattr(dima.cli.doctor, "find_library", lambda name: "libEGL.so.1" if name == "EGL" else None)
        monkeypatch.setattr("dima.envs.render.headless.error_of", lambda name: fault)
        found = self.found()
        assert found["EGL"].text == f"libEGL.so.1: MUJOCO_GL=egl {said}"
        assert found["EGL"].absent == bool(fault)
        assert found["OSMesa"].text.startswith(
            "not found (optional: pictures); on Debian and Ubuntu: apt install libosm"
        )
        assert found["GLFW"].text == f"MUJOCO_GL=glfw {said}"

    @pytest.mark.parametrize(("fault", "risky"), [("no display", True), ("", False)])
    def test_a_backend_that_was_asked_for_is_tried(self, monkeypatch, fault, risky):
        monkeypatch.setenv("MUJOCO_GL", "glfw")
        monkeypatch.setattr("dima.envs.render.headless.error_of", lambda name: fault if name == "glfw" else "")
        found = self.found()["pictures"]
        assert found.risky == risky
        expected = "MUJOCO_GL = 'glfw' cannot draw here (no display): unset it" if risky else "drawn by glfw"
        assert expected in found.text

    def test_a_missing_package(self, monkeypatch):
        real = dima.cli.doctor.package_version
        lacking = ("mujoco", "wandb")
        monkeypatch.setattr(dima.cli.doctor, "package_version", lambda name: None if name in lacking else real(name))
        found = self.found()
        assert str(found["mujoco"]).startswith("BROKEN")
        assert "not installed; do: pip install mujoco" in found["mujoco"].text
        assert found["[wandb]"].absent and not found["[wandb]"].fatal
        assert found["[wandb]"].text == "not installed; optional: pip install 'dima-marl[wandb]'"

    def test_packages_and_extras_are_those_of_the_project(self):
        tomllib = pytest.importorskip("tomllib")  # Python 3.11
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        names = [re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]]
        assert sorted(names) == sorted(dima.cli.doctor.PACKAGES)
        extras = {name.strip("[]") for name in self.found() if name.startswith("[")}
        assert extras <= project["optional-dependencies"].keys() - {"dev", "docs"}

    def test_a_package_that_cannot_be_imported(self, probed):
        probed["faults"] = {"pettingzoo": "libSDL.so: cannot open"}
        found = self.found()
        assert found["pettingzoo"].fatal
        assert "cannot be imported: libSDL.so: cannot open" in found["pettingzoo"].text

    def test_without_torch(self, probed):
        probed["torch"] = None
        assert self.found()["device"].fatal

    def test_a_gpu_and_little_memory(self, probed, monkeypatch):
        probed["torch"] = {"cuda": "12.8", "gpu": "NVIDIA X", "memory": 80 * 2**30}
        monkeypatch.setattr(machine, "free_memory", lambda: 2**30)
        found = self.found()
        assert found["device"].text == "cuda: NVIDIA X, 80 GiB, CUDA 12.8"
        assert "needs 4 GiB" in found["memory"].text

    def test_a_gpu_that_pytorch_cannot_use(self, monkeypatch):
        monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidia0")
        found = dima.cli.doctor._device(dima.cli.doctor.probe([]))
        assert (
            found.risky and "there is an NVIDIA GPU, but PyTorch cannot use it: it is built without CUDA" in found.text
        )

    def test_without_ffmpeg(self, monkeypatch):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
        found = self.found()["ffmpeg"]
        assert found.risky and "there are no films" in found.text

    def test_the_faulty_mujoco(self, mujoco):
        mujoco({"mujoco": "4.0.0", "mujoco-core": "4.0.0", "mujoco-studio": "4.0.0"})
        found = self.found()["mujoco"]
        assert str(found).startswith("BROKEN")
        assert "4.0.0 is faulty: its sparse Cholesky" in found.text
        assert "pip uninstall --yes mujoco mujoco-core mujoco-studio && pip install" in found.text

    @pytest.mark.parametrize(
        "installed", [{"mujoco": "3.17.0"}, {"mujoco": "4.0.1", "mujoco-core": "4.0.1", "mujoco-studio": "4.0.1"}]
    )
    def test_a_whole_mujoco(self, mujoco, installed):
        mujoco(installed)
        assert str(self.found()["mujoco"]).split() == ["ok", "mujoco", installed["mujoco"]]

    @pytest.mark.parametrize("version", ["4.0.0", "4.0.1"])
    def test_a_mujoco_upgraded_from_3_to_4_in_place(self, mujoco, version):
        mujoco({"mujoco": version, "mujoco-core": version}, lost=["mujoco-core"])
        found = self.found()["mujoco"]
        assert found.fatal
        assert f"{version} is half upgraded: 2 of its files are missing" in found.text
        assert "pip uninstall --yes" in found.text

    def test_a_mujoco_downgraded_from_4_to_3_in_place(self, mujoco):
        mujoco({"mujoco": "3.17.0", "mujoco-core": "4.0.0", "mujoco-studio": "4.0.0"})
        found = self.found()["mujoco"]
        assert str(found).startswith("RISK")
        assert "shares its files with mujoco-core 4.0.0 and mujoco-studio 4.0.0" in found.text
        assert not found.fatal

    def test_a_downgraded_mujoco_whose_rest_was_uninstalled(self, mujoco):
        mujoco({"mujoco": "3.17.0"}, lost=["mujoco"])
        assert self.found()["mujoco"].fatal

    @pytest.fixture
    def mujoco(self, monkeypatch, tmp_path):
        """Metadata of MuJoCo's packages, and their files but for those that got lost."""

        def install(versions, lost=()):
            for name, version in versions.items():
                files = [f"mujoco/{name}.py", f"mujoco/{name}.so"]
                info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
                info.mkdir()
                (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
                (info / "RECORD").write_text("".join(f"{file},,\n" for file in [*files, f"mujoco/{name}.pyc"]))
                (tmp_path / "mujoco").mkdir(exist_ok=True)
                for file in () if name in lost else files:
                    (tmp_path / file).write_text("")

            ours = ("mujoco", "mujoco-core", "mujoco-studio")

            def found(name):
                if name not in ours:
                    return importlib.metadata.distribution(name)
                return next(iter(importlib.metadata.distributions(name=name, path=[str(tmp_path)])), None)

            real = dima.cli.doctor.package_version
            monkeypatch.setattr(dima.cli.doctor, "distribution", found)
            monkeypatch.setattr(
                dima.cli.doctor,
                "package_version",
                lambda name: real(name) if name not in ours else (one := found(name)) and one.version,
            )

        return install


def test_a_package_that_ends_the_process_is_named_and_the_others_are_tried(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os, signal\nprint('hello')\nos.kill(os.getpid(), signal.SIGILL)\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe(["json", "deadly", "leaving", "nowhere_to_be_found", "colorsys"])
    assert found.torch is None
    assert found.faults == {
        "json": "",
        "deadly": "it ends Python by SIGILL",
        "leaving": "3",
        "nowhere_to_be_found": "No module named 'nowhere_to_be_found'",
        "colorsys": "",
    }


FAULTS = """
import resource, sys, torch
from dima.runtime.machine import keep_freed_memory
assert not int(sys.argv[1]) or keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use = lambda: torch.ones(2**24)  # 64 MiB
for _ in range(20):
    use()
before = faults()
for _ in range(10):
    use()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's doing")
def test_freed_memory_is_kept():
    given, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, str(n)], capture_output=True, check=True).stdout)
        for n in (0, 1)
    )
    assert kept <= 0.1 * given


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    assert not machine.keep_freed_memory()

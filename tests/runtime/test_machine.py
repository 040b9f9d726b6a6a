"""What the machine offers, inside containers too; what the doctor says about a broken installation."""

import subprocess
import sys

import pytest

import dima.cli.doctor
from dima.cli.doctor import examine
from dima.runtime import machine, provenance


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


def test_without_git(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance.commit() is None


class TestDoctor:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(dima.cli.doctor, "import_module", lambda name: sys.modules.get(name))

    def found(self):
        return {finding.name: finding for finding in examine()}

    def test_a_sound_installation(self):
        found = self.found()
        assert not any(finding.fatal for finding in found.values())
        assert "GiB free of" in found["memory"].text
        assert {"device", "cores", "disk", "EGL", "OSMesa", "python"} <= set(found)

    def test_a_missing_package(self, monkeypatch):
        real = dima.cli.doctor.package_version
        monkeypatch.setattr(dima.cli.doctor, "package_version", lambda name: None if name == "mujoco" else real(name))
        found = self.found()
        assert str(found["mujoco"]).startswith("BROKEN")
        assert not found["wandb"].fatal

    def test_a_package_that_cannot_be_imported(self, monkeypatch):
        def broken(name):
            if name == "pettingzoo":
                raise OSError("libSDL.so:\ncannot open")

        monkeypatch.setattr(dima.cli.doctor, "import_module", broken)
        found = self.found()
        assert found["pettingzoo"].fatal
        assert "cannot be imported: libSDL.so: cannot open" in found["pettingzoo"].text

    def test_without_torch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        assert dima.cli.doctor._device().fatal

    def test_a_gpu_and_little_memory(self, monkeypatch):
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X")
        monkeypatch.setattr(machine, "free_memory", lambda: 2**30)
        found = self.found()
        assert found["device"].text == "cuda: NVIDIA X"
        assert "wants 4 GiB" in found["memory"].text


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

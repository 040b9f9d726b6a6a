"""Work recorded once and played again: CUDA graphs, and the compiler of PyTorch where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

import torch

from dima.data import Record
from dima.errors import ConfigError

I = TypeVar("I", bound=Record)  # noqa: E741
O = TypeVar("O", bound=Record)  # noqa: E741
BACKEND = "inductor"


class CudaGraph(Generic[I, O]):
    """A function of a record on a GPU, recorded at its first call for each shape; later calls launch it as a whole.

    Without it a GPU waits for Python to launch some hundred thousand small kernels for one imagination. Elsewhere than
    on a GPU the function is simply called. What it reads besides its argument must stay where it is (weights and
    running statistics are changed in place), and it must never wait for the device.

    Args:
        function: draws from PyTorch's default generators only.
    """

    def __init__(self, function: Callable[[I], O]) -> None:
        self.function = function
        self._graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, I, O]] = {}

    def __call__(self, given: I) -> O:
        columns = [getattr(given, f.name) for f in fields(given)]
        if columns[0].device.type != "cuda":
            return self.function(given)
        shapes = tuple(column.shape for column in columns)
        if shapes not in self._graphs:
            before = torch.cuda.get_rng_state()  # results must not depend on when it was recorded
            self._graphs[shapes] = self._record(given)
            torch.cuda.set_rng_state(before)
        graph, held, answer = self._graphs[shapes]
        for f, column in zip(fields(given), columns, strict=True):
            getattr(held, f.name).copy_(column)
        graph.replay()
        return _copy(answer)

    def _record(self, given: I) -> tuple[torch.cuda.CUDAGraph, I, O]:
        held, stream = _copy(given), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up in their first calls, which cannot be recorded
            for _ in range(2):
                self.function(held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = self.function(held)
        return graph, held, answer


def compile_parts(parts: list[torch.nn.Module], device: torch.device | str) -> None:
    """Let PyTorch compile what these modules do; their weights and checkpoints stay as they are.

    What was compiled is kept on disk (``TORCHINDUCTOR_CACHE_DIR``, by default under ``~/.cache/dima``): a second run
    of the same shapes takes it from there.

    Raises:
        ConfigError: the compiler has no tools for the device.
    """
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu and find_spec("triton") is None:
        raise ConfigError("compile = true cannot be used on a GPU without the package triton")
    if not on_gpu and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ConfigError("compile = true needs a C++ compiler (g++, or the one that CXX names) on the CPU")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "dima" / "compiled"))
    for part in parts:
        part.compile(backend=BACKEND, dynamic=False)


def _copy(record: I) -> I:
    return replace(record, **{f.name: getattr(record, f.name).clone() for f in fields(record)})

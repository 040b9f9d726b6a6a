"""Work recorded once and played again: CUDA graphs, and the compiler of PyTorch where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

import torch

from dima.data import Record
from dima.errors import ConfigError

I = TypeVar("I", bound=Record)  # noqa: E741
O = TypeVar("O")  # noqa: E741
BACKEND = "inductor"


class CudaGraph(Generic[I, O]):
    """A function of a record on a GPU, recorded at its first call for each shape; later calls launch it as a whole.

    Without it a GPU waits for Python to launch tens of thousands of small kernels for one imagination, thousands for a
    gradient. Elsewhere than on a GPU the function is simply called. What it reads besides its argument must stay where
    it is (weights and running statistics are changed in place), and it must never wait for the device. Its answer
    stays where it is, too: the next call overwrites it.

    Args:
        function: draws from PyTorch's default generators only; keeps nothing in Python.
        changes: a module whose buffers it changes; recording leaves them alone.

    Raises:
        ConfigError: the function cannot be recorded.
    """

    def __init__(self, function: Callable[[I], O], changes: torch.nn.Module | None = None) -> None:
        self.function, self.changes = function, changes
        self._graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, I, O]] = {}

    def __call__(self, given: I) -> O:
        columns = [getattr(given, f.name) for f in fields(given)]
        if columns[0].device.type != "cuda":
            return self.function(given)
        shapes = tuple(column.shape for column in columns)
        if shapes not in self._graphs:
            with self._unchanged():
                self._graphs[shapes] = self._record(given)
        graph, held, answer = self._graphs[shapes]
        for f, column in zip(fields(given), columns, strict=True):
            getattr(held, f.name).copy_(column)
        graph.replay()
        return answer

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Results must not depend on when it was recorded."""
        drawn = torch.cuda.get_rng_state()
        held = {} if self.changes is None else {n: buffer.clone() for n, buffer in self.changes.named_buffers()}
        try:
            yield
        except RuntimeError as error:  # also of torch's, when memory runs out
            why = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"learner.cuda_graphs = false may help, a CUDA graph could not be recorded: {why}"
            ) from error
        finally:
            torch.cuda.set_rng_state(drawn)
            for name, was in held.items():
                self.changes.get_buffer(name).copy_(was)  # type: ignore[union-attr]

    def _record(self, given: I) -> tuple[torch.cuda.CUDAGraph, I, O]:
        held, stream = given.clone(), torch.cuda.Stream()
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

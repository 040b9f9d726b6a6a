"""CUDA graph capture and ``torch.compile``."""

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
    """A function of a record, captured as one CUDA graph per input shape.

    Without it a GPU waits for Python to launch tens of thousands of small kernels for one imagination, thousands for a
    gradient. On a CPU the function is simply called. The tensors it reads besides its argument must keep their memory
    (weights and running statistics are changed in place), and it must never wait for the device. The result keeps its
    memory, too: the next call overwrites it.

    Args:
        function: draws from PyTorch's default generators only; keeps no Python state.
        mutated: a module whose buffers it changes; capturing restores them.

    Raises:
        ConfigError: the function cannot be captured.
    """

    def __init__(self, function: Callable[[I], O], mutated: torch.nn.Module | None = None) -> None:
        self.function, self.mutated = function, mutated
        self._graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, I, O]] = {}

    def __call__(self, record: I) -> O:
        columns = [getattr(record, f.name) for f in fields(record)]
        if columns[0].device.type != "cuda":
            return self.function(record)
        shapes = tuple(column.shape for column in columns)
        if shapes not in self._graphs:
            with self._state_restored():
                self._graphs[shapes] = self._capture(record)
        graph, static_input, output = self._graphs[shapes]
        for f, column in zip(fields(record), columns, strict=True):
            getattr(static_input, f.name).copy_(column)
        graph.replay()
        return output

    @contextmanager
    def _state_restored(self) -> Iterator[None]:
        """Results must not depend on the moment of capture."""
        rng = torch.cuda.get_rng_state()
        buffers = {} if self.mutated is None else {n: buffer.clone() for n, buffer in self.mutated.named_buffers()}
        try:
            yield
        except RuntimeError as error:  # also of torch's, when memory runs out
            why = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"learner.cuda_graphs = false may help, a CUDA graph could not be captured: {why}"
            ) from error
        finally:
            torch.cuda.set_rng_state(rng)
            for name, before in buffers.items():
                self.mutated.get_buffer(name).copy_(before)  # type: ignore[union-attr]

    def _capture(self, record: I) -> tuple[torch.cuda.CUDAGraph, I, O]:
        static_input, stream = record.clone(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries initialise in their first calls, which cannot be captured
            for _ in range(2):
                self.function(static_input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.function(static_input)
        return graph, static_input, output


def compile_parts(parts: list[torch.nn.Module], device: torch.device | str) -> None:
    """Compile modules in place; their weights and checkpoints do not change.

    Compiled code is cached on disk (``TORCHINDUCTOR_CACHE_DIR``, by default under ``~/.cache/dima``): a second run of
    the same shapes loads it.

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

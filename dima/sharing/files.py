"""Files of a policy: plain safetensors, torch.export, ONNX; each holds the card.

Loading safetensors and ONNX executes nothing. A file of torch.export may hold pickles, which run code, so it is loaded
only where the user says that they trust it.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dima.data import EnvSpec
from dima.errors import ConfigError, one_line
from dima.policies.base import Policy
from dima.sharing.graph import Graph, GraphPolicy
from dima.sharing.networks import JointPolicy, build_network
from dima.storage.manifest import JSON_BYTES
from dima.storage.memory import INIT_FACTOR, memory_limit

Form = Literal["safetensors", "torch", "onnx"]
SUFFIXES: dict[Form, str] = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
Card = Mapping[str, Any]
Build = Callable[[EnvSpec, torch.device], Policy]  # a team's sizes, where it acts -> what acts
_KEY, _MEMBER = "dima", "dima.json"  # where the card is in a file
_EXAMPLE_ROWS = 2  # of the batch that a graph is traced with


def encode(form: Form, policy: JointPolicy, card: Card) -> bytes:
    """The content of a file.

    Raises:
        ConfigError: a package is missing, or the policy cannot be written in this form.
    """
    text = json.dumps(card, allow_nan=False)
    if form == "safetensors":
        if card["network"] is None:
            raise ConfigError(
                f"its policy {card['class']} is none that safetensors can tell how to build: "
                "choose --formats torch, or onnx"
            )
        tensors = {name: value.clone().contiguous() for name, value in policy.policy.state_dict().items()}
        return save(tensors, {_KEY: text})
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            _onnx_package(name)
    try:
        with _silence(), torch.no_grad():
            return _torch_file(policy, text) if form == "torch" else _onnx_file(policy, text)
    except Exception as error:  # of many kinds, from the user's own policy
        why = one_line(error)[:300]
        raise ConfigError(f"its policy {card['class']} cannot be traced as a graph ({why})") from error


def decode_safetensors(path: Path) -> tuple[Card, Build]:
    """The card of a file, and how to build what acts."""
    with safetensors.safe_open(path, framework="pt") as file:
        card = _parsed((file.metadata() or {})[_KEY])

    def build(spec: EnvSpec, device: torch.device) -> Policy:
        limit = INIT_FACTOR * path.stat().st_size
        with memory_limit(limit, "its card describes more than it holds"), torch.random.fork_rng([]):
            policy = build_network(card["network"], spec)
            policy.load_state_dict(load_file(path))
            return policy.to(device).eval()

    return card, build


def decode_torch(path: Path) -> tuple[Card, Build]:
    """Likewise, of a file that the user trusts."""
    held = {_MEMBER: ""}
    with _silence():
        module = torch.export.load(path, extra_files=held).module()

    def graph(*given: Tensor) -> tuple[Tensor, ...]:
        found = module(*given)
        return (found,) if isinstance(found, Tensor) else found

    card = _parsed(held[_MEMBER])
    return card, _build_graph(card, graph)


def decode_onnx(path: Path) -> tuple[Card, Build]:
    """Likewise; raises ConfigError where ONNX Runtime is not installed."""
    runtime = _onnx_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # networks are small, and waking threads costs more than they save
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    card = _parsed(session.get_modelmeta().custom_metadata_map[_KEY])
    inputs, outputs = graph_names(card.get("memory", {}))

    def graph(*given: Tensor) -> list[Tensor]:
        named = {name: values.numpy() for name, values in zip(inputs, given, strict=True)}
        return [torch.from_numpy(values) for values in session.run(outputs, named)]

    return card, _build_graph(card, graph)


def graph_names(memory: Collection[str]) -> tuple[list[str], list[str]]:
    """Names of an ONNX graph's inputs and outputs, in order, by those of its memory."""
    return ["obs", "action_mask", *(f"previous_{name}" for name in memory)], list(memory) or ["action"]


def _build_graph(card: Card, graph: Graph) -> Build:
    return lambda spec, device: GraphPolicy(graph, card.get("memory", {}), spec)


def _torch_file(policy: JointPolicy, card: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(policy), buffer, extra_files={_MEMBER: card})
    return buffer.getvalue()


def _onnx_file(policy: JointPolicy, card: str) -> bytes:
    inputs, outputs = graph_names(policy.memory)
    names = {"input_names": inputs, "output_names": outputs}
    made = torch.onnx.export(_program(policy), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert made is not None
    made.model.metadata_props[_KEY] = card
    content: bytes = made.model_proto.SerializeToString()
    return content


def _program(policy: JointPolicy) -> torch.export.ExportedProgram:
    """The graph of the policy's mode, for any number of rows."""
    spec, batch = policy.spec, torch.export.Dim("batch")
    obs = torch.zeros(_EXAMPLE_ROWS, spec.n_agents, spec.obs_dim)
    mask = torch.from_numpy(spec.action_valid).expand(_EXAMPLE_ROWS, -1, -1).clone()
    memory = tuple(torch.zeros(_EXAMPLE_ROWS, *shape) for shape in policy.memory.values())
    shapes: dict[str, Any] = {"obs": {0: batch}, "action_mask": {0: batch}}
    if memory:
        shapes["memory"] = tuple({0: batch} for _ in memory)
    return torch.export.export(policy, (obs, mask, *memory), dynamic_shapes=shapes)


def _parsed(text: str | bytes) -> dict[str, Any]:
    if len(text) > JSON_BYTES:
        raise ValueError(f"its card has {len(text)} bytes")
    card = json.loads(text)
    if not isinstance(card, dict):
        raise ValueError("its card is not an object")
    return card


def _onnx_package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"ONNX needs the package {name}: pip install 'dima-marl[onnx]'") from None


@contextmanager
def _silence() -> Iterator[None]:
    """Hide what tracers log about themselves, such as packages that the policy does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

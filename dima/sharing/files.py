"""Files of a policy: plain safetensors, torch.export, ONNX; each holds the card.

Loading safetensors and ONNX executes nothing. A file of torch.export may hold pickles, which run code, so it is loaded
only where the user says that they trust it.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dima.data import EnvSpec
from dima.errors import ConfigError, one_line
from dima.runtime.device import pick_device
from dima.sharing.networks import JointPolicy, build_network
from dima.storage.manifest import JSON_BYTES
from dima.storage.memory import INIT_FACTOR, memory_limit

Form = Literal["safetensors", "torch", "onnx"]
SUFFIXES: dict[Form, str] = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
Card = Mapping[str, Any]
Act = Callable[[Tensor, Tensor, bool], Tensor]  # observations (B, N, O), masks (B, N, A), mode -> (B, N, A)
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


def decode_safetensors(path: Path) -> tuple[Card, Callable[[EnvSpec, str], Act]]:
    """The card of a file, and how to build what acts."""
    with safetensors.safe_open(path, framework="pt") as file:
        card = _parsed((file.metadata() or {})[_KEY])

    def build(spec: EnvSpec, device: str) -> Act:
        limit, where = INIT_FACTOR * path.stat().st_size, pick_device(device)
        with memory_limit(limit, "its card describes more than it holds"), torch.random.fork_rng([]):
            network = build_network(card["network"], spec)
            network.load_state_dict(load_file(path))
            policy = JointPolicy(network, spec).to(where).eval()

        def act(obs: Tensor, mask: Tensor, mode: bool) -> Tensor:
            rows = obs.to(where), mask.to(where)
            chosen: Tensor = policy(*rows) if mode else policy.sample(*rows)
            return chosen

        return act

    return card, build


def decode_torch(path: Path) -> tuple[Card, Callable[[EnvSpec, str], Act]]:
    """Likewise, of a file that the user trusts."""
    held = {_MEMBER: ""}
    with _silence():
        program = torch.export.load(path, extra_files=held)
    module = program.module()
    return _parsed(held[_MEMBER]), lambda spec, device: _mode_only(lambda obs, mask: module(obs, mask), device)


def decode_onnx(path: Path) -> tuple[Card, Callable[[EnvSpec, str], Act]]:
    """Likewise; raises ConfigError where ONNX Runtime is not installed."""
    runtime = _onnx_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # networks are small, and waking threads costs more than they save
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    card = _parsed(session.get_modelmeta().custom_metadata_map[_KEY])

    def run(obs: Tensor, mask: Tensor) -> Tensor:
        values: np.ndarray = session.run(["action"], {"obs": obs.numpy(), "action_mask": mask.numpy()})[0]
        return torch.from_numpy(values)

    return card, lambda spec, device: _mode_only(run, device)


def _torch_file(policy: JointPolicy, card: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(policy), buffer, extra_files={_MEMBER: card})
    return buffer.getvalue()


def _onnx_file(policy: JointPolicy, card: str) -> bytes:
    names = {"input_names": ["obs", "action_mask"], "output_names": ["action"]}
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
    return torch.export.export(policy, (obs, mask), dynamic_shapes={"obs": {0: batch}, "action_mask": {0: batch}})


def _mode_only(run: Callable[[Tensor, Tensor], Tensor], device: str) -> Act:
    """A graph as what acts; it holds the policy's mode and runs on the CPU."""
    if device not in ("auto", "cpu"):
        raise ConfigError(f"device = {device} cannot be used: graphs act on the CPU, the safetensors file anywhere")

    def act(obs: Tensor, mask: Tensor, mode: bool) -> Tensor:
        if not mode:
            raise ConfigError("a graph holds the policy's mode only: load the safetensors file to sample actions")
        return run(obs, mask)

    return act


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

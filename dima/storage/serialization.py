"""Serialise trees of tensors and plain data as safetensors plus JSON, without pickle.

JSON holds the structure. Types that JSON lacks are objects with a mark, ``{"!": kind, ...}``: a tensor (by its name in
the safetensors file), a NumPy array, a tuple, an infinite or undefined float, a dictionary whose keys are not all
strings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tree = dict[Any, Any]
_MARK = "!"
_JSON_KEY = "tree"  # of the JSON in the metadata of a single safetensors file


def encode(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """Split a tree into JSON text and named tensors.

    Raises:
        TypeError: the tree holds something that is neither a tensor nor plain data.
    """
    tensors: dict[str, Tensor] = {}
    plain = _encode(tree, "", tensors)
    return json.dumps(plain, allow_nan=False, indent=1), _separate(tensors)


def decode(text: str, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of :func:`encode`.

    Raises:
        ValueError: the text has another form.
        KeyError: a tensor is missing.
    """
    return _decode(json.loads(text), tensors)


def save_tree_file(path: Path, tree: Tree) -> None:
    """Write a tree into one safetensors file."""
    text, tensors = encode(tree)
    save_file(tensors, path, metadata={_JSON_KEY: text})


def load_tree_file(path: Path) -> Tree:
    """Inverse of :func:`save_tree_file`."""
    with safetensors.safe_open(path, framework="pt") as file:
        text = (file.metadata() or {})[_JSON_KEY]
    tree: Tree = decode(text, load_file(path))
    return tree


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {_MARK: "tensor", "name": _store(value, path, tensors)}
    if isinstance(value, np.ndarray):
        return {_MARK: "array", "name": _store(torch.from_numpy(np.ascontiguousarray(value)), path, tensors)}
    if isinstance(value, np.generic):
        return _encode(value.item(), path, tensors)
    if isinstance(value, float) and not math.isfinite(value):
        return {_MARK: "float", "value": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_MARK: "tuple", "items": items}
    if isinstance(value, Mapping):
        pairs = [(_encode(k, path, tensors), _encode(v, f"{path}/{k}", tensors)) for k, v in value.items()]
        if all(isinstance(key, str) for key in value) and _MARK not in value:
            return dict(pairs)
        return {_MARK: "dict", "items": pairs}
    raise TypeError(f"{path.strip('/')} is a {type(value).__name__}: only tensors and plain data can be saved")


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    name = base = path.strip("/") or "value"
    while name in tensors:
        name = f"{base}#{len(tensors)}"
    tensors[name] = tensor
    return name


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy to the CPU, contiguous and without shared memory, as safetensors requires."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return out


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_MARK)
    if kind is None:
        return {key: _decode(item, tensors) for key, item in value.items()}
    if kind == "tensor":
        return tensors[value["name"]]
    if kind == "array":
        return tensors[value["name"]].numpy()
    if kind == "float":
        return float(value["value"])
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in value["items"])
    if kind == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in value["items"]}
    raise ValueError(f"unknown mark {kind!r}")

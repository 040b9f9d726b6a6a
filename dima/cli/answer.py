"""Answers of commands: text, or with ``--json`` one JSON object, on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def answer(facts: Mapping[str, Any]) -> None:
    """Print an answer as one JSON object, in a line."""
    print(json.dumps(facts, allow_nan=False))

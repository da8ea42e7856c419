"""Whether two runs, or two stores, are of the same things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change whenever anything in `identity` (JSON types) changes."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class _Absent:
    """Stands for a key that is not there, which is not the same as null."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`["fit.folds: 5 -> 10", …]`: the leaves in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            path = f"{prefix}.{key}" if prefix else str(key)
            lines += differing_keys(old.get(key, _ABSENT), new.get(key, _ABSENT), path)
        return lines
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]

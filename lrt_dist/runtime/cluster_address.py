"""Which Ray cluster a run uses; or it starts one of its own.

Ray waits 14 minutes for a cluster that is gone, so its address is tried first.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from lrt_dist.errors import UserError

TRYING = 10.0
"""Seconds within which a cluster has to accept a connection."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def connect(address: str, note: Callable[[str], None]) -> None:
    """Connect to a cluster, or start one on this machine that ends with this process.

    Args:
        address: see `RayRuntime`.
        note: told when the cluster that `ray start` made known here is gone.

    Raises:
        UserError: no cluster answers at the address.
    """
    wanted = (os.environ.get("RAY_ADDRESS") or "auto") if address == "auto" else address
    try:
        if wanted == "auto":
            _connect_or_start(note)
        elif wanted == "local":
            ray.init(address="local", include_dashboard=False, **QUIET)
        else:
            _try(wanted)
            # Left to find the environment's address, Ray also takes the token that goes with it.
            ray.init(address=None if address == "auto" else address, **QUIET)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at {wanted}: {error}; start one with `ray start --head`, or "
            "set cluster.address: serial to do without Ray"
        ) from error


def _connect_or_start(note: Callable[[str], None]) -> None:
    """The cluster that `ray start` made known here, else one of our own.

    Asked for `auto`, Ray would also join a cluster that another process started for itself.
    """
    known, own = _made_known(), None
    try:
        _try(known)
    except OSError as error:
        note(
            f"the Ray cluster at {known}, which `ray start` made known, is gone ({error}); one is "
            "started on this machine (`ray stop` forgets the address)"
        )
        own = "local"
    ray.init(address=own, include_dashboard=False, **QUIET)


def _made_known() -> str:
    """The address that the last `ray start` here left behind; empty if there is none."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    left = Path(temporary, "ray", "ray_current_cluster")
    return left.read_text().strip() if left.is_file() else ""


def _try(address: str) -> None:
    """Connect to an address, and hang up; words like `local` are left to Ray.

    Raises:
        OSError: nothing listens there.
        ValueError: its port is no port.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=TRYING).close()

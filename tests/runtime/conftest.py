"""A local Ray cluster for this folder's tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrt_dist.runtime.tasks import Runtime


@pytest.fixture(scope="session")
def ray_runtime() -> Iterator[Runtime]:
    """Ray, really started, on two cores."""
    import ray

    from lrt_dist.runtime.pool import RayRuntime

    # Workers must find the scripted stage, which lies beside the tests.
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    assert here in sys.path
    yield RayRuntime()
    ray.shutdown()

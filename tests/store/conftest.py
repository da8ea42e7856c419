"""Every kind of storage that stores, ledgers and leases may lie in; one suite for all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from local_azure import PROGRAM, azure_container
from local_s3 import s3_bucket
from raw_objects import Objects

KINDS = ["local", "s3", *(["az"] if PROGRAM else [])]


@pytest.fixture(scope="module", params=KINDS)
def storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path_factory.mktemp("storage"))
    elif request.param == "s3":
        with s3_bucket("storage") as url:
            yield url
    else:
        with azure_container("storage") as url:
            yield url


@pytest.fixture
def url(storage: str) -> str:
    """A place of a test's own."""
    return f"{storage}/{uuid.uuid4().hex}"


@pytest.fixture
def objects(url: str) -> Objects:
    """Of the test's own place."""
    return Objects(url)

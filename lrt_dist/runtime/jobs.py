"""Jobs of a Ray cluster, over HTTP: sent, followed, and ended with the exit code of their command.

See https://docs.ray.io/en/latest/cluster/running-applications/job-submission/.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from ray.job_submission import JobDetails, JobInfo, JobStatus, JobSubmissionClient

from lrt_dist.errors import IncompleteError, UserError

POLL = 1.0
"""Seconds between two questions whether a job has ended."""
STARTING = 60.0
"""Seconds that a job server may take, once it answers, until it can take a job."""
_NOT_YET = "No available agent"
"""What it says until then."""


class Job:
    """A job that was sent.

    Attributes:
        address: of the job server.
        id: that Ray gave it.
    """

    def __init__(self, client: JobSubmissionClient, address: str, id: str) -> None:
        self._client, self.address, self.id = client, address, id

    @property
    def ends(self) -> str:
        """The command that ends it."""
        return f"ray job stop --address {self.address} {self.id}"

    @property
    def follows(self) -> str:
        """The command that follows its log."""
        return f"ray job logs --address {self.address} -f {self.id}"

    def follow(self, write: Callable[[str], None]) -> int:
        """Hand over its log until it ends; its exit code.

        Raises:
            IncompleteError: it was stopped, or died with the node that it ran on; or the job
                server does not answer any more.
        """
        try:
            asyncio.run(self._tail(write))
            while not (info := self._info()).status.is_terminal():
                time.sleep(POLL)
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            raise IncompleteError(
                f"no longer followed, since {self.address} does not answer ({error}); the job "
                f"{self.id} may go on: {self.follows}"
            ) from error
        if info.status == JobStatus.SUCCEEDED:
            return 0
        if info.status == JobStatus.FAILED and info.driver_exit_code is not None:
            return int(info.driver_exit_code)
        raise IncompleteError(f"the job {self.id} ended as {info.status}: {info.message}")

    async def _tail(self, write: Callable[[str], None]) -> None:
        async for lines in self._client.tail_job_logs(self.id):
            write(lines)

    def _info(self) -> JobInfo | JobDetails:
        return self._client.get_job_info(self.id)


def submit_job(
    address: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Job:
    """Send a command, to be run on the head node of a cluster.

    Args:
        address: of the cluster's job server, e.g. `http://head:8265`.
        command: and its arguments.
        folder: whose files go along; the command is run in a copy of it.
        environment: variables of the command, and of all that it starts on the cluster.

    Raises:
        UserError: no job server answers there, or it refuses the job.
    """
    runtime: dict[str, Any] = {"working_dir": str(folder), "env_vars": dict(environment)}
    try:
        client = JobSubmissionClient(address)
        id = _sent(client, shlex.join(command), runtime)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot send a job to {address}: {error}\n(it takes the address of the cluster's job "
            "server, as in http://HEAD:8265, and Ray's `default` extra here and on the head node)"
        ) from error
    return Job(client, address, id)


def _sent(client: JobSubmissionClient, entrypoint: str, runtime: dict[str, Any]) -> str:
    """The id of a job; a cluster that has only just begun gets some time."""
    last = time.monotonic() + STARTING
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime))
        except RuntimeError as error:
            if _NOT_YET not in str(error) or time.monotonic() > last:
                raise
            time.sleep(POLL)

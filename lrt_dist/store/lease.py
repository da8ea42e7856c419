"""One driver at a time on a store, or on an OUT in an object store, wherever the drivers run.

Whoever works there holds a *lease*: a small object in the ledger, or in OUT, that names the
holder, and that the holder writes anew every few seconds. A lease that no longer changes belongs
to a driver that is gone, and is taken over; clocks of different machines are never compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import ObjectStore

from lrt_dist.errors import IncompleteError, UserError, as_disk_full_error
from lrt_dist.store.objects import open_objects

LEASE = "driver.json"
"""Name of the object."""
BEAT = 10.0
"""Seconds between two writes of a lease."""
PATIENCE = 3
"""A lease is dead that has not changed for so many beats."""


@dataclass(frozen=True)
class Holder:
    """What a lease says: a token, where its driver runs, and how often it was written."""

    token: str
    host: str
    process: int
    beat: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class Lease:
    """A lease that is held."""

    def __init__(self, url: str, objects: ObjectStore, holder: Holder) -> None:
        self._url, self._objects, self._holder = url, objects, holder
        self._taken_by: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if the lease was taken over.

        Raises:
            IncompleteError: another driver works on the store now.
        """
        if self._taken_by:
            raise IncompleteError(
                f"{self._taken_by} has taken over {self._url}, since this driver was not heard of "
                f"for {BEAT * PATIENCE:g} s; it goes on from here"
            )

    def release(self) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        known = _read(self._objects)
        if known is not None and known.token == self._holder.token:
            obstore.delete(self._objects, LEASE)

    def _beat(self) -> None:
        number = 0
        while not self._ended.wait(BEAT):
            number += 1
            try:
                known = _read(self._objects)
                if known is not None and known.token != self._holder.token:
                    self._taken_by = str(known)
                    return
                _write(self._objects, replace(self._holder, beat=number), "overwrite")
            except (BaseError, OSError):
                continue  # storage that fails for long shows at the next commit


@contextmanager
def sole_driver(url: str, note: Callable[[str], None]) -> Iterator[Lease]:
    """Keep other drivers off what lies at `url`.

    Args:
        note: told why it takes a while, if it does.

    Raises:
        UserError: another driver works there.
    """
    objects = open_objects(url)
    holder = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid())
    while True:
        try:
            with as_disk_full_error(url):
                _write(objects, holder, "create")
            break
        except AlreadyExistsError:
            known = _read(objects)
            if known is not None and known.token == holder.token:
                break  # written, but the answer was lost and the request sent again
            _wait_until_dead(url, objects, note)
    lease = Lease(url, objects, holder)
    try:
        yield lease
    finally:
        lease.release()


def _wait_until_dead(url: str, objects: ObjectStore, note: Callable[[str], None]) -> None:
    """Return once there is no lease; delete a dead one.

    Raises:
        UserError: it is alive.
    """
    first = _read(objects)
    if first is None:
        return
    if not first.is_gone:
        seconds = BEAT * PATIENCE
        note(
            f"{url} was last used by {first}; taking it over if nothing is heard of it for "
            f"{seconds:g} s"
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(BEAT / 10)
            now = _read(objects)
            if now is None:
                return
            if now != first:
                raise UserError(f"{now} is working on {url}; wait for it, or end it")
    try:
        obstore.delete(objects, LEASE)
    except (NotFoundError, FileNotFoundError):
        return


def _read(objects: ObjectStore) -> Holder | None:
    try:
        return Holder(**json.loads(bytes(obstore.get(objects, LEASE).bytes())))
    except (NotFoundError, FileNotFoundError):
        return None


def _write(objects: ObjectStore, holder: Holder, mode: str) -> None:
    obstore.put(objects, LEASE, json.dumps(asdict(holder)).encode(), mode=mode)  # type: ignore[arg-type]

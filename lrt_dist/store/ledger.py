"""The ledger: one JSON record per committed unit, the only truth about what is done.

A record is created if absent, after all data of its unit has been written. Units that cannot be
computed get a record under `quarantined/` instead; a later success replaces it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict

from lrt_dist.config import differing_keys, fingerprint
from lrt_dist.errors import CorruptionError, UserError, explain_full
from lrt_dist.store.objects import child, is_there, open_objects

_IDENTITY = "identity.json"


class UnitRecord(BaseModel):
    """What is known of a committed unit.

    Attributes:
        unit, rows: its number and its rows.
        crc: `{array: crc32 of its uncompressed bytes}`.
        tokens: hash of the token ids that went through the model.
        fingerprint: of the run's identity (model, rows, layers, dtype).
        nonfinite: number of states that were not finite (always 0 in a committed unit).
        seconds: time from first batch to last write.
        versions: of the libraries that computed it.
        token_budget: tokens of a batch; lower than asked where memory ran out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: int
    rows: int
    crc: dict[str, str]
    tokens: str
    fingerprint: str
    nonfinite: int
    seconds: float
    versions: dict[str, str]
    token_budget: int

    def content(self) -> tuple[int, dict[str, str], str]:
        """What must be equal if a unit is committed twice."""
        return self.rows, self.crc, self.tokens


class Ledger:
    """The ledger of one activation store, at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _objects(self) -> ObjectStore:
        return open_objects(self.url)

    def claim(self, identity: Mapping[str, Any]) -> str:
        """Bind the ledger to what is being computed; returns the identity's fingerprint.

        Raises:
            UserError: the ledger belongs to something else, with the differing keys.
        """
        body = json.dumps(identity, indent=1, sort_keys=True).encode()
        try:
            with explain_full(self.url):
                obstore.put(self._objects, _IDENTITY, body, mode="create")
        except AlreadyExistsError:
            differing = differing_keys(self.identity(), dict(identity))
            if differing:
                raise UserError(
                    f"{self.url} holds activations of another run:\n  "
                    + "\n  ".join(differing)
                    + "\nuse another --out, or delete this one"
                ) from None
        return fingerprint(identity)

    def identity(self) -> dict[str, Any]:
        """What the ledger was claimed for; empty before the first claim."""
        if not is_there(self.url):  # reading makes no folders
            return {}
        try:
            body = obstore.get(self._objects, _IDENTITY).bytes()
        except (NotFoundError, FileNotFoundError):
            return {}
        identity: dict[str, Any] = json.loads(bytes(body))
        return identity

    def commit(self, record: UnitRecord) -> None:
        """Record a unit whose data is all written.

        Raises:
            CorruptionError: the unit is committed already, with other content.
        """
        name = _record_name(record.unit)
        try:
            with explain_full(self.url):
                obstore.put(
                    self._objects, name, record.model_dump_json(indent=1).encode(), mode="create"
                )
        except AlreadyExistsError:
            known = self._get(name)
            if known.content() != record.content():
                raise CorruptionError(
                    f"unit {record.unit} was committed twice with different content: "
                    f"{child(self.url, name)} says {known.content()}, this run computed "
                    f"{record.content()}"
                ) from None
        self._delete(_quarantine_name(record.unit))

    def quarantine(self, unit: int, reason: str) -> None:
        """Set a unit aside, with the reason."""
        body = json.dumps({"unit": unit, "reason": reason}, indent=1).encode()
        with explain_full(self.url):
            obstore.put(self._objects, _quarantine_name(unit), body)

    def committed(self) -> dict[int, UnitRecord]:
        """All committed units, by number."""
        records = (self._get(name) for name in self._names("") if name.startswith("unit-"))
        return {record.unit: record for record in records}

    def quarantined(self) -> dict[int, str]:
        """Reasons of the units set aside, by number."""
        found: dict[int, str] = {}
        committed = set(self._names(""))
        for name in self._names("quarantined"):
            record = json.loads(bytes(obstore.get(self._objects, name).bytes()))
            # A kill between commit and the removal of this record leaves both: it is committed.
            if _record_name(record["unit"]) not in committed:
                found[record["unit"]] = record["reason"]
        return dict(sorted(found.items()))

    def drop(self, unit: int) -> None:
        """Forget a unit, so that extraction redoes it."""
        self._delete(_record_name(unit))

    def _names(self, prefix: str) -> list[str]:
        if not is_there(self.url):
            return []
        listed = obstore.list_with_delimiter(self._objects, prefix or None)["objects"]
        return sorted(entry["path"] for entry in listed)

    def _get(self, name: str) -> UnitRecord:
        body = bytes(obstore.get(self._objects, name).bytes())
        try:
            return UnitRecord.model_validate_json(body)
        except ValueError as error:
            raise CorruptionError(
                f"{child(self.url, name)} is not a ledger record ({error}); delete it and run "
                "extract again"
            ) from error

    def _delete(self, name: str) -> None:
        try:
            obstore.delete(self._objects, name)
        except (NotFoundError, FileNotFoundError):
            return


def _record_name(unit: int) -> str:
    return f"unit-{unit:08d}.json"


def _quarantine_name(unit: int) -> str:
    return f"quarantined/unit-{unit:08d}.json"

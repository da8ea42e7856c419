"""The ledger: one JSON record per committed unit, the only truth about what is done.

A record is created if absent, after all data of its unit has been written. Units that cannot be
computed get a record under `quarantined/` instead; a later success replaces it.

Thousands of records are kept a second time, together, under `compacted/`, each with the e-tag that
its object had. A kept record is taken for one that is listed with that e-tag, and for no other.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, NotFoundError
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict, ValidationError

from lrt_dist.config import differing_keys, fingerprint_of
from lrt_dist.errors import CorruptionError, UserError, as_disk_full_error
from lrt_dist.store.objects import child, exists_at, open_objects

_IDENTITY = "identity.json"
_RECORD = "unit-"
_COMPACTED = "compacted"
READERS = 32
"""Records that are read at once: an object store answers each after a while, whatever its size."""
COMPACT = 4096
"""Records that are put together into one object."""
ROUNDING = 1e-2
"""Relative difference of mean norms that rounding on unlike machines may make, in bfloat16 too."""


class UnitRecord(BaseModel):
    """What is known of a committed unit.

    Attributes:
        unit: its number.
        rows: number of its rows.
        checksums: `{array: crc32 of its uncompressed bytes}`.
        mean_norms: mean norm of the rows of each layer.
        machines: kinds of CPU or GPU that computed it, with their threads, in chain order.
        token_digest: hash of the token ids that went through the model.
        fingerprint: of the store's identity (model, rows, layers, dtype).
        seconds: time from first batch to last write.
        versions: of the libraries that computed it.
        token_budget: tokens of a batch; lower than asked where memory ran out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: int
    rows: int
    checksums: dict[str, str]
    mean_norms: dict[int, float]
    machines: tuple[str, ...]
    token_digest: str
    fingerprint: str
    seconds: float
    versions: dict[str, str]
    token_budget: int

    def conflict(self, other: UnitRecord) -> str | None:
        """Why two records of one unit cannot both be right; None where they can.

        Bits are promised for the same shapes, machines, threads and library versions. Where any of
        these differ, rows and tokens must be equal and mean norms close, to `ROUNDING`.
        """
        if (self.rows, self.token_digest) != (other.rows, other.token_digest):
            return (
                f"{self.rows} rows of tokens {self.token_digest}, and {other.rows} rows of tokens "
                f"{other.token_digest}"
            )
        if self._conditions() == other._conditions():
            unequal = sorted(k for k in self.checksums if self.checksums[k] != other.checksums[k])
            if not unequal:
                return None
            name = unequal[0]
            return (
                f"{name} has crc32 {self.checksums[name]} and {other.checksums[name]}, both "
                f"computed on {' → '.join(self.machines)}"
            )
        for layer, norm in self.mean_norms.items():
            if not math.isclose(norm, other.mean_norms[layer], rel_tol=ROUNDING):
                return (
                    f"layer {layer} has mean norm {norm:.6g} on {' → '.join(self.machines)} and "
                    f"{other.mean_norms[layer]:.6g} on {' → '.join(other.machines)}"
                )
        return None

    def _conditions(self) -> tuple[tuple[str, ...], dict[str, str], int]:
        return self.machines, self.versions, self.token_budget


class Ledger:
    """The ledger of one activation store, at `url`. Threads may share it."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Records that are in no object with others yet: `{name: (e-tag, content)}`.
        self._loose: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

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
            with as_disk_full_error(self.url):
                obstore.put(self._objects, _IDENTITY, body, mode="create")
        except AlreadyExistsError:
            differing = differing_keys(self.identity(), dict(identity))
            if differing:
                raise UserError(
                    f"{self.url} holds activations of another run:\n  "
                    + "\n  ".join(differing)
                    + "\nuse another --out, or delete this one"
                ) from None
        return fingerprint_of(identity)

    def identity(self) -> dict[str, Any]:
        """What the ledger was claimed for; empty before the first claim."""
        if not exists_at(self.url):  # reading makes no folders
            return {}
        try:
            body = obstore.get(self._objects, _IDENTITY).bytes()
        except (NotFoundError, FileNotFoundError):
            return {}
        identity: dict[str, Any] = json.loads(bytes(body))
        return identity

    def commit(
        self,
        record: UnitRecord,
        stored: Callable[[], Mapping[str, str]],
        *,
        failed_before: bool = True,
    ) -> None:
        """Record a unit whose data is all written.

        A unit that was committed by another machine meanwhile keeps the record of whoever wrote
        what the store holds now.

        Args:
            stored: reads the checksums of what the store holds of the unit now.
            failed_before: whether the unit may be in quarantine.

        Raises:
            CorruptionError: the unit is committed already, and the two cannot both be right.
        """
        name = _record_name(record.unit)
        body = record.model_dump_json(indent=1)
        try:
            self._put(name, body, create=True)
        except AlreadyExistsError:
            known = self._get(name)
            conflict = known.conflict(record)
            if conflict is not None:
                raise CorruptionError(
                    f"unit {record.unit} was committed twice, and the two differ: {conflict}; "
                    f"{child(self.url, name)} is the first record; `lrt-dist verify --repair` "
                    "drops the unit for extract to redo"
                ) from None
            if known.checksums != record.checksums and stored() == record.checksums:
                self._put(name, body, create=False)
        if failed_before:
            self._delete(_quarantine_name(record.unit))

    def _put(self, name: str, body: str, *, create: bool) -> None:
        """Write a record, and now and then what was written into one object.

        Raises:
            AlreadyExistsError: with `create`, where there is one.
        """
        with as_disk_full_error(self.url):
            written = obstore.put(
                self._objects, name, body.encode(), mode="create" if create else "overwrite"
            )
        with self._lock:
            if written["e_tag"]:
                self._loose[name] = (written["e_tag"], body)
            if len(self._loose) < COMPACT:
                return
            together, self._loose = self._loose, {}
        rows = [{"name": n, "e_tag": tag, "record": text} for n, (tag, text) in together.items()]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer, compression="zstd")
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
        with as_disk_full_error(self.url):
            obstore.put(self._objects, f"{_COMPACTED}/{digest}.parquet", buffer.getvalue())

    def quarantine(self, unit: int, reason: str) -> None:
        """Record a unit that cannot be computed, with the reason."""
        body = json.dumps({"unit": unit, "reason": reason}, indent=1).encode()
        with as_disk_full_error(self.url):
            obstore.put(self._objects, _quarantine_name(unit), body)

    def committed(self) -> dict[int, UnitRecord]:
        """All committed units, by number."""
        listed = {name: tag for name, tag in self._listed("") if name.startswith(_RECORD)}
        if len(listed) < COMPACT:
            return self._read(listed)
        kept = self._compacted()
        known = {name for name, tag in listed.items() if tag and kept.get(name, ("",))[0] == tag}
        records = self._read(listed.keys() - known)
        for name in known:
            record = self._parsed(name, kept[name][1].encode())
            records[record.unit] = record
        return dict(sorted(records.items()))

    def records(self, units: Iterable[int]) -> dict[int, UnitRecord]:
        """The records of some committed units, by number."""
        return self._read(map(_record_name, units))

    def committed_units(self) -> set[int]:
        """Their numbers alone, from the names of the records: no record is read."""
        return {
            int(name.removeprefix(_RECORD).removesuffix(".json")) for name in self._record_names()
        }

    def quarantined(self) -> dict[int, str]:
        """Reasons of the units quarantined, by number."""
        reasons: dict[int, str] = {}
        names = self._names("quarantined")
        committed = set(self._names("")) if names else set()
        for name in names:
            try:
                record = json.loads(bytes(obstore.get(self._objects, name).bytes()))
            except (NotFoundError, FileNotFoundError):  # it was committed meanwhile
                continue
            # A kill between commit and the removal of this record leaves both: it is committed.
            if _record_name(record["unit"]) not in committed:
                reasons[record["unit"]] = record["reason"]
        return dict(sorted(reasons.items()))

    def drop(self, unit: int) -> None:
        """Forget a unit, so that extraction redoes it."""
        self._delete(_record_name(unit))

    def _read(self, names: Iterable[str]) -> dict[int, UnitRecord]:
        with ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader") as readers:
            return {record.unit: record for record in readers.map(self._get, names)}

    def _record_names(self) -> list[str]:
        return [name for name in self._names("") if name.startswith(_RECORD)]

    def _names(self, prefix: str) -> list[str]:
        return [name for name, _ in self._listed(prefix)]

    def _listed(self, prefix: str) -> list[tuple[str, str | None]]:
        """Names and e-tags of all objects right below a prefix."""
        if not exists_at(self.url):
            return []
        listed = obstore.list_with_delimiter(self._objects, prefix or None)["objects"]
        return sorted((entry["path"], entry["e_tag"]) for entry in listed)

    def _compacted(self) -> dict[str, tuple[str, str]]:
        """`{name: (e-tag, content)}` of records that were put together. They only save reading: of
        an object that cannot be read the records are read one by one."""
        kept: dict[str, tuple[str, str]] = {}
        for name in self._names(_COMPACTED):
            body = bytes(obstore.get(self._objects, name).bytes())
            try:
                columns = pq.read_table(io.BytesIO(body)).to_pydict()
            except pa.ArrowInvalid:
                continue
            pairs = zip(columns["e_tag"], columns["record"], strict=True)
            kept |= dict(zip(columns["name"], pairs, strict=True))
        return kept

    def _get(self, name: str) -> UnitRecord:
        return self._parsed(name, bytes(obstore.get(self._objects, name).bytes()))

    def _parsed(self, name: str, body: bytes) -> UnitRecord:
        """
        Raises:
            CorruptionError: it is no record.
        """
        try:
            return UnitRecord.model_validate_json(body)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()
            )
            raise CorruptionError(
                f"{child(self.url, name)} is not a ledger record of this version ({problems}); "
                "delete it and run extract again, or use another --out"
            ) from error

    def _delete(self, name: str) -> None:
        try:
            obstore.delete(self._objects, name)
        except (NotFoundError, FileNotFoundError):
            return


def _record_name(unit: int) -> str:
    return f"{_RECORD}{unit:08d}.json"


def _quarantine_name(unit: int) -> str:
    return f"quarantined/{_record_name(unit)}"

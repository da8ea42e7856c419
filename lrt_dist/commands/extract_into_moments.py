"""The command `extract` where nothing is stored: states of both models go straight into moments.

Both models and the processes that hold the moments are at work at once. Blocks of units are taken
in in the fit's random order, each when both models have computed it. Now and then all moments are
kept on disk, and only then are their units committed: so the ledgers say what need not be done
again, and what is done again is never in twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from lrt_dist.commands._blocks_ahead import BlocksAhead
from lrt_dist.commands._busy import EVENT, busy_message
from lrt_dist.commands._losses import through_losses
from lrt_dist.commands._moments import fitted_units, moments_fingerprint, moments_identity
from lrt_dist.commands._rows import Records, run_blocks, write_groups, write_row_facts
from lrt_dist.commands._tiles import largest_on_gpu, layers_wanted, run_tiles, tile_name, tile_path
from lrt_dist.commands._together import Together, together
from lrt_dist.commands._unit_records import (
    Machines,
    library_versions,
    note_versions,
    record_of,
)
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import UserError
from lrt_dist.files import delete_tree, sweep
from lrt_dist.plan.pairing import shuffled
from lrt_dist.runtime.contract import Chains, Done
from lrt_dist.sites import Side, Sided
from lrt_dist.store.activations import ActivationStore
from lrt_dist.store.committing import Committer
from lrt_dist.store.lease import Lease, sole_driver
from lrt_dist.store.ledger import Ledger, UnitRecord
from lrt_dist.store.objects import delete_partial_writes
from lrt_dist.tasks.accumulate import KEPT, kept_units
from lrt_dist.tasks.blocks import Block
from lrt_dist.tasks.extract import ExtractTask
from lrt_dist.tasks.moment_stage import WriteTask
from lrt_dist.workspace.placement import compute_dtype
from lrt_dist.workspace.products import ProductsDevices
from lrt_dist.workspace.run import Run

STORED = 3
"""Units whose states are stored all the same: controls of an evaluation are drawn like them."""


def extract_into_moments(run: Run, identities: Sided[dict[str, Any]]) -> None:
    """Accumulate the moments of the run, from wherever they stand.

    Units that cannot be computed are quarantined, and not tried again.

    Args:
        identities: of what each side's store would hold.

    Raises:
        UserError: the ledgers are of something else, or there is no room for all at once.
        IncompleteError: see `LostError` and `NoReplicaError`; or another driver took the ledgers
            over.
    """
    work = _Work(run, identities)
    if work.is_written():
        work.tidy_up()  # unless a kill came in between, it was done before
        return
    with ExitStack() as stack:
        tell = partial(run.progress.note, "lease")
        leases = {
            side: stack.enter_context(sole_driver(ledger.url, tell))
            for side, ledger in work.ledgers.items()
        }
        go_on = partial(work.go_on, leases)
        through_losses(run, work.placed, go_on, work.committed_units)


class _Work:
    """Of one run: what is done of it, and how the rest is done."""

    def __init__(self, run: Run, identities: Sided[dict[str, Any]]) -> None:
        self._run, self._identities = run, identities
        self._index = RowIndex.open(run.folder.rows)
        self._kept = run.folder.moments / "kept"
        self.ledgers = {side: Ledger(run.folder.ledger_url(side)) for side in sorted(set(run.lead))}
        self._passed_on = {side: layers_wanted(run, side, run_tiles(run)) for side in self.ledgers}
        self._products = ProductsDevices(run, largest_on_gpu(run, run_tiles(run)))
        fits = moments_identity(run)
        self._fingerprints = Sided.of(
            lambda side: Ledger(run.folder.ledger_url(side)).claim(identities[side] | fits)
        )

    def committed_units(self) -> set[int]:
        """Units that are in moments that were kept."""
        return set.intersection(*(ledger.committed_units() for ledger in self.ledgers.values()))

    def is_written(self) -> bool:
        """Whether all is done."""
        if len(self.committed_units() | self._quarantined()) < self._index.units:
            return False
        folder = self._folder(fitted_units(self._run.folder))
        return all(tile_path(folder, tile).exists() for tile in run_tiles(self._run))

    def placed(self) -> Together:
        """What runs at once on the nodes that there are now.

        Raises:
            UserError: they have no room for it, or would compute in another dtype.
        """
        self._run.runtime.look()
        for side in self.ledgers:
            began, now = self._identities[side]["compute_dtype"], compute_dtype(self._run, side)
            if began != now:
                raise UserError(f"the {side} model was run in {began}, and would be in {now}")
        sides = list(self.ledgers)
        return together(self._run, sides, self._index, self._kept, self._products.now())

    def go_on(self, leases: dict[Side, Lease], placed: Together) -> None:
        """Take in what is missing, and write the moments."""
        run, index = self._run, self._index
        absent, committed = self._quarantine_both(), self.committed_units()
        kept = self._checked_kept(committed)
        sweep(self._kept)
        write_groups(run, index, range(index.units), self._kept)
        blocks = run_blocks(run, index, range(index.units), self._kept)
        first = next(
            (n for n, block in enumerate(blocks) if set(block.units) - absent - committed),
            len(blocks),
        )
        with ExitStack() as stack:
            chains = stack.enter_context(run.runtime.chains(placed.moments))
            if first < len(blocks):
                self._take_in(chains, placed, blocks, first, kept, absent, leases)
            records = fitted_units(run.folder)
            folder = self._folder(records)
            write_row_facts(run, index, records, folder)
            most = max(map(len, placed.processes))
            for outcome in chains.run([WriteTask(folder, len(records), most, keeps=True)]):
                assert isinstance(outcome, Done), outcome
        assert self.is_written(), "moments are not where they were written"
        self.tidy_up()

    def tidy_up(self) -> None:
        """Delete moments in the making, which are written by now."""
        delete_tree(self._kept)

    def _checked_kept(self, committed: set[int]) -> set[int]:
        """Units that are in moments that were kept, of any tile.

        Raises:
            UserError: moments are gone that committed units are in.
        """
        names = [tile_name(tile) for tile in run_tiles(self._run)]
        held = [kept_units(self._kept / f"{name}{KEPT}") for name in names]
        lacking = [units for units in held if not units >= committed]
        if lacking:
            raise UserError(
                f"{self._kept} lacks moments: {len(committed)} units are committed, and those of "
                f"{len(lacking)} of {len(held)} tiles hold fewer, {len(min(lacking, key=len))} at "
                "least; put the folder back, or use another --out"
            )
        return set().union(*held)

    def _take_in(
        self,
        chains: Chains,
        placed: Together,
        blocks: list[Block],
        first: int,
        kept: set[int],
        absent: set[int],
        leases: dict[Side, Lease],
    ) -> None:
        run = self._run
        stores = {side: self._store(side) for side in self.ledgers}
        machines, committed, versions = {}, {}, library_versions()
        for side, ledger in self.ledgers.items():
            of_side = ledger.committed()
            note_versions(run, of_side, versions)
            machines[side], committed[side] = Machines(run, of_side), set(of_side)

        def record(side: Side, done: Done[ExtractTask]) -> UnitRecord:
            made = record_of(done, self._fingerprints[side], versions)
            machines[side].see(made)
            return made

        with ExitStack() as stack:
            models = len(placed.models)
            name = "extract into moments"
            bar = stack.enter_context(run.progress.phase(name, models * self._index.units, "units"))
            bar.resume(models * sum(len(block.units) for block in blocks[:first]))
            ahead = BlocksAhead(
                run,
                self._index,
                blocks,
                first,
                processes=placed.processes,
                known=set.intersection(*committed.values()),
                known_records=self._records,
                kept=kept,
                absent=absent,
                record=record,
                quarantine=self._quarantine,
                facts=self._kept,
                bar=bar,
            )
            streams = stack.enter_context(
                ahead.fed(placed.models, lambda side, unit: self._task(side, committed[side], unit))
            )
            committers = {
                side: stack.enter_context(Committer(ledger, leases[side].check))
                for side, ledger in self.ledgers.items()
            }
            for outcome in chains.run(ahead.tasks()):
                for lease in leases.values():
                    lease.check()
                assert isinstance(outcome, Done), outcome
                for unit, records in ahead.ended(outcome).items():
                    for side, committer in committers.items():
                        committer.commit(
                            records[side],
                            partial(stores[side].checksums, unit),
                            failed_before=False,
                        )
            shares = {run.facts[side].name: stream.shares for side, stream in streams.items()}
            for what, replicas in {**shares, "moments": chains.busy_shares()}.items():
                phase = f"{name}, {what.rsplit('/', 1)[-1]}"
                if message := busy_message(phase, replicas):
                    run.progress.note(EVENT, message, phase=phase, shares=replicas)

    def _task(self, side: Side, committed: set[int], unit: int) -> ExtractTask:
        return ExtractTask(
            unit,
            side,
            self._run.folder.rows,
            self._run.folder.store_url(side),
            self._run.stored_layers(side),
            self._index.lengths(unit, side),
            self._run.config.extract.batch_tokens,
            self._fingerprints[side],
            passed_on=self._passed_on[side],
            stored=unit not in committed,
        )

    def _store(self, side: Side) -> ActivationStore:
        run = self._run
        url = run.folder.store_url(side)
        delete_partial_writes(url)
        delete_partial_writes(self.ledgers[side].url)
        return ActivationStore.create(
            url,
            layers=dict.fromkeys(run.stored_layers(side), run.facts[side].width),
            rows=self._index.rows,
            rows_per_unit=self._index.rows_per_unit,
            logical_dtype=run.config.extract.store_dtype,
            compress=run.config.extract.compress,
            fingerprint=self._fingerprints[side],
            states_of=shuffled(range(self._index.units), self._index.digest)[:STORED],
        )

    def _records(self, units: Sequence[int]) -> Records:
        """Of units that are committed."""
        source, target = (self.ledgers[side].records(units) for side in self._run.lead)
        return {unit: Sided(source[unit], target[unit]) for unit in units}

    def _quarantined(self) -> set[int]:
        return {unit for ledger in self.ledgers.values() for unit in ledger.quarantined()}

    def _quarantine_both(self) -> set[int]:
        """Units that are in no moments, in every ledger: a kill may have come in between."""
        reasons = {side: ledger.quarantined() for side, ledger in self.ledgers.items()}
        for side, known in reasons.items():
            for unit in known:
                for other, ledger in self.ledgers.items():
                    if unit not in reasons[other]:
                        ledger.quarantine(unit, f"the {side} model cannot compute it")
        return set().union(*reasons.values())

    def _quarantine(self, side: Side, unit: int, reason: str) -> None:
        for one, ledger in self.ledgers.items():
            why = reason if one is side else f"the {side} model cannot compute it: {reason}"
            ledger.quarantine(unit, why)
        self._run.progress.note("quarantined", f"unit {unit} quarantined: {reason}")

    def _folder(self, records: Records) -> Path:
        """Where the moments of some units will lie."""
        return self._run.folder.moments / moments_fingerprint(self._run.folder, records)

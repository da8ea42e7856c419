"""Blocks of units on their way from both models into moments: what each waits for, and what of."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lrt_dist.commands._rows import Records, median_norms, row_facts, usual_units
from lrt_dist.commands._unit_stream import UnitStream, UnitTask
from lrt_dist.corpus.rows import RowIndex
from lrt_dist.errors import IncompleteError, LrtError
from lrt_dist.parcels import Handle
from lrt_dist.plan.spreading import Group
from lrt_dist.plan.tiles import layers_of
from lrt_dist.runtime.contract import ChainSpec, Done, receipts_of
from lrt_dist.runtime.progress import Phase
from lrt_dist.sites import Side, Sided
from lrt_dist.store.ledger import UnitRecord
from lrt_dist.tasks.blocks import Block, RowFacts
from lrt_dist.tasks.moment_stage import BlockTask, Place
from lrt_dist.workspace.run import Run

SOONEST = 60.0
"""Seconds that pass at least between two times that moments are kept."""
AHEAD = 3
"""Blocks that the models may be ahead of the one that is taken in, with it."""
UNDER_WAY = 2
"""Blocks that processes with moments hold at once: one is multiplied, one sorted."""
KEEPING = 60
"""So many times as long as keeping took must pass before the next time: it costs 2 % at most."""
LATEST = 1800.0
"""Seconds after which moments are kept all the same, unless that takes most of them."""


def kept_every(keeping: float) -> float:
    """Seconds between two times that moments are kept, which takes so many seconds."""
    return max(SOONEST, min(KEEPING * keeping, max(LATEST, 4 * keeping)))


class BlocksAhead:
    """The blocks of a run from the first wanted one on.

    Each is taken in when both models have computed its units, and the target model those of its
    partners. States stay until the last block that wants them has been taken in; the models are a
    few blocks ahead, no more.
    """

    def __init__(
        self,
        run: Run,
        index: RowIndex,
        blocks: Sequence[Block],
        first: int,
        *,
        processes: Sequence[Group],
        known: Set[int],
        known_records: Callable[[Sequence[int]], Records],
        kept: Set[int],
        absent: set[int],
        record: Callable[[Side, Done[Any]], UnitRecord],
        quarantine: Callable[[Side, int, str], None],
        facts: Path,
        bar: Phase,
        keeps_last: bool = True,
    ) -> None:
        """
        Args:
            processes: tiles of each process with moments.
            known: units that are committed.
            known_records: reads the records of some of them.
            kept: units that are in moments that were kept, committed or not.
            absent: units that are in no moments.
            record: makes the record of a unit that was computed, and is not committed.
            quarantine: told of a unit that cannot be computed.
            facts: see `RowFacts.folder`.
            bar: counts the units of every model.
            keeps_last: whether moments are kept with the last block, too.
        """
        self._run, self._index, self._blocks, self._first = run, index, blocks, first
        self._layers = tuple(layers_of(tiles) for tiles in processes)
        self._tiles, self._keeps_last = max(map(len, processes)), keeps_last
        self._lead, self._known, self._kept, self._absent = run.lead, set(known), kept, absent
        self._known_records, self._facts = known_records, facts
        self._record_of, self._quarantine = record, quarantine
        self._bar, self._shown = bar, 0
        self._streams: dict[Side, UnitStream] = {}
        self._records: dict[tuple[Side, int], UnitRecord] = {}
        self._row_facts: RowFacts | None = None
        self._wanted: dict[Side, list[int]] = {side: [] for side in set(self._lead)}
        """Units of each model, in the order in which they are wanted."""
        self._until: list[dict[Side, int]] = []
        self._released: list[list[tuple[Side, int]]] = []
        self._plan()
        self._under_way = 0
        self._to_commit = first
        self._last_kept, self._keeping = time.monotonic(), 0.0

    def _plan(self) -> None:
        """Who wants what first, and last."""
        last: dict[tuple[Side, int], int] = {}
        for number, block in enumerate(self._blocks[self._first :]):
            for side, unit in self._wants(block):
                key = (self._lead[side], unit)
                if key not in last and unit not in self._absent:
                    self._wanted[key[0]].append(unit)
                last[key] = number
            self._until.append({side: len(units) for side, units in self._wanted.items()})
        self._released = [[] for _ in self._until]
        for key, number in last.items():
            self._released[number].append(key)

    def _wants(self, block: Block) -> list[tuple[Side, int]]:
        """What must be known before a block is taken in. Of its partners both sides, too, though
        the target's states alone are used: whether a unit is in the fit at all is known then."""
        new = [unit for unit in block.partners if unit not in self._known]
        wants = [(side, unit) for side in Side for unit in (*block.units, *new)]
        return wants + [(Side.TARGET, unit) for unit in block.partners if unit in self._known]

    @contextmanager
    def fed(
        self, by: Mapping[Side, ChainSpec], task: Callable[[Side, int], UnitTask]
    ) -> Iterator[dict[Side, UnitStream]]:
        """Have the models begin, and go on as long as this is open.

        Args:
            by: a chain for each model, by its leading side.
            task: of a model and a unit.
        """
        with ExitStack() as stack:
            for side, spec in by.items():
                stream = UnitStream(
                    self._run.runtime, spec, self._wanted[side], partial(task, side)
                )
                self._streams[side] = stack.enter_context(stream)
            self._allow(AHEAD)
            yield self._streams

    def tasks(self) -> Iterator[BlockTask | None]:
        """One for each block, in order; None where the next one is not there yet."""
        before = sum(len(self._present(block.units)) for block in self._blocks[: self._first])
        for number in range(self._first, len(self._blocks)):
            block = self._blocks[number]
            while not (
                self._under_way < UNDER_WAY
                and self._is_there(block)
                and (facts := self._known_facts())
            ):
                self._tell()
                yield None
            self._tell()
            chosen = Block(self._present(block.units), self._present(block.partners))
            last = number == len(self._blocks) - 1
            keep = self._keeps_last if last else self._is_time()
            yield BlockTask(
                number=number,
                block=chosen,
                before=before,
                facts=facts,
                held=self._held(chosen),
                layers=self._layers,
                tiles=self._tiles,
                keep=keep,
            )
            before += len(chosen.units)
            self._under_way += 1

    def ended(self, done: Done[BlockTask]) -> dict[int, Sided[UnitRecord]]:
        """A block is in. If moments were kept with it, the records of all units that came in since
        the last time; else none."""
        number = done.task.number - self._first
        self._under_way -= 1
        for side, unit in self._released[number]:
            self._streams[side].release(unit)
        self._allow(number + 1 + AHEAD)
        if not done.task.keep:
            return {}
        self._keeping = max((kept.seconds for kept in receipts_of(done)), default=0.0)
        through = self._blocks[self._to_commit : done.task.number + 1]
        self._to_commit = done.task.number + 1
        units = [unit for block in through for unit in self._present(block.units)]
        new = {unit: self._record(unit) for unit in units if unit not in self._known}
        self._known |= new.keys()
        for side, unit in itertools.product(set(self._lead), new):
            del self._records[side, unit]
        return new

    def _tell(self) -> None:
        """Show how many units are computed; those that are computed again are not counted."""
        computed = sum(stream.computed for stream in self._streams.values())
        if new := min(computed - self._shown, (self._bar.total or 0) - self._bar.done):
            self._shown += new
            self._bar.advance(new)

    def _allow(self, blocks: int) -> None:
        """The models may compute what so many blocks want, from the first on."""
        if blocks < 1:  # all that is asked for was taken in before
            return
        until = self._until[min(blocks, len(self._until)) - 1]
        for side, stream in self._streams.items():
            stream.allow(until[side])

    def _is_time(self) -> bool:
        """Whether moments are to be kept with the next block."""
        now = time.monotonic()
        if now - self._last_kept < kept_every(self._keeping):
            return False
        self._last_kept = now
        return True

    def _present(self, units: Sequence[int]) -> tuple[int, ...]:
        return tuple(unit for unit in units if unit not in self._absent)

    def _is_there(self, block: Block) -> bool:
        """Whether all is known of a block's units and partners; some may be found absent."""
        return all(self._is_known(side, unit) for side, unit in self._wants(block))

    def _is_known(self, side: Side, unit: int) -> bool:
        lead = self._lead[side]
        if unit in self._absent:
            return True
        outcome = self._streams[lead].outcome(unit)
        if outcome is None:
            return False
        if isinstance(outcome, Done):
            if (lead, unit) not in self._records and unit not in self._known:
                self._records[lead, unit] = self._record_of(lead, outcome)
            return True
        if unit in self._known or unit in self._kept:
            raise IncompleteError(
                f"unit {unit} was computed before, and its states cannot be had now "
                f"({outcome.reason}); once that is mended, run the same command again"
            )
        self._absent.add(unit)
        self._quarantine(lead, unit, outcome.reason)
        return True

    def _held(self, block: Block) -> dict[Place, Handle]:
        wanted = [(side, unit) for side in Side for unit in block.units]
        wanted += [(Side.TARGET, unit) for unit in block.partners]
        held: dict[Place, Handle] = {}
        for side, unit in wanted:
            outcome = self._streams[self._lead[side]].outcome(unit)
            assert isinstance(outcome, Done), f"unit {unit} is gone"
            for layer, handle in outcome.contents.items():
                held[side, unit, layer] = handle
        return held

    def _known_facts(self) -> RowFacts | None:
        """What is known of all rows, once enough norms are there.

        Raises:
            LrtError: no unit is left whose norms could be there.
        """
        if self._row_facts is None:
            usual = usual_units(
                self._index,
                (unit for block in self._blocks for unit in self._present(block.units)),
            )
            if not usual:
                raise LrtError("every unit was quarantined: there is nothing to fit")
            if not self._known.issuperset(usual):
                last = next(n for n, block in enumerate(self._blocks) if usual[-1] in block.units)
                self._allow(last - self._first + 1)
            if not all(self._is_computed(unit) for unit in usual):
                return None
            if set(usual) & self._absent:
                return None  # others take their place
            known = [unit for unit in usual if unit in self._known]
            new = {unit: self._record(unit) for unit in usual if unit not in self._known}
            records = self._known_records(known) | new
            self._row_facts = row_facts(
                self._run,
                self._index,
                self._facts,
                len(self._blocks),
                Sided.of(lambda side: median_norms(self._run, side, records)),
            )
        return self._row_facts

    def _is_computed(self, unit: int) -> bool:
        return unit in self._known or all(self._is_known(side, unit) for side in Side)

    def _record(self, unit: int) -> Sided[UnitRecord]:
        """Of a unit that came in since moments were kept."""
        source, target = (self._records[side, unit] for side in self._lead)
        return Sided(source, target)

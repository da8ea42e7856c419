"""What processes hold in memory may be lost with them: then work goes on from what was kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from lrt_dist.errors import LostError, LrtError, NoPlaceError, NoReplicaError, UserError
from lrt_dist.workspace.run import Run

P = TypeVar("P")

LOOK = 5.0
"""Seconds between two looks at the nodes, while there is no room."""
IN_VAIN = 2
"""Times in a row that lost moments may be begun again without getting any further."""


def through_losses(
    run: Run, place: Callable[[], P], go_on: Callable[[P], None], reached: Callable[[], object]
) -> None:
    """Do the rest of some work on the nodes that there are, and again after each loss.

    Args:
        place: says what goes where on the nodes that there are now; raises UserError, or
            NoPlaceError, without room.
        go_on: does the rest there.
        reached: how far it is, by what was kept.

    Raises:
        LostError: it was lost twice in a row without getting any further.
        NoReplicaError: no room is left after a loss, and no node came.
        UserError, NoPlaceError: there is no room to begin with.
    """
    in_vain = 0
    ends: tuple[type[LrtError], ...] = (LostError, NoReplicaError)
    placed = place()
    while True:
        before = reached()
        try:
            go_on(placed)
        except ends as error:
            ends = (LostError, NoReplicaError, NoPlaceError)  # of nodes that still counted
            in_vain = in_vain + 1 if reached() == before else 0
            if in_vain >= IN_VAIN:
                raise LostError(f"{error}; run the same command again") from error
            run.progress.note("moments", f"{error}; it goes on from what was kept last")
            placed = _placed_again(run, place)
        else:
            return


def _placed_again(run: Run, place: Callable[[], P]) -> P:
    """The same after nodes were lost: others may come."""
    began, patience = time.monotonic(), run.config.cluster.placement_timeout
    while True:
        try:
            return place()
        except (UserError, NoPlaceError) as error:
            if time.monotonic() - began >= patience:
                raise NoReplicaError(
                    "the nodes that are left have no room for what was begun; add nodes, and run "
                    f"the same command again ({error})"
                ) from error
            time.sleep(LOOK)

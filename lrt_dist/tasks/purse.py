"""What calls cost, and may cost: never more, however many are on their way."""

from __future__ import annotations

import threading
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lrt_dist.errors import IncompleteError

MILLION = 1_000_000


class Price(BaseModel):
    """Of a million tokens, in any currency."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """The cost of so many tokens that were sent, and written."""
        return (self.input * tokens_in + self.output * tokens_out) / MILLION


class Purse:
    """A budget from which calls are paid."""

    def __init__(self, price: Price, budget: float | None, spent: float) -> None:
        """Some of it may be spent already; without a budget there is no limit."""
        self._price, self._budget = price, budget
        self._spent, self._reserved = spent, 0.0
        self._lock = threading.Lock()

    def reserve(self, tokens_in: int, tokens_out: int) -> float:
        """Lay aside what a call costs at most.

        Raises:
            IncompleteError: it may cost more than there is.
        """
        most = self._price.of(tokens_in, tokens_out)
        with self._lock:
            committed = self._spent + self._reserved
            if self._budget is not None and committed + most > self._budget:
                raise IncompleteError(
                    f"{committed:.6g} of the budget of {self._budget:g} is spent or on its way, "
                    f"and the next call may cost {most:.6g}; what was judged is kept: raise budget "
                    "and run the same command again"
                )
            self._reserved += most
        return most

    def settle(self, reserved: float, tokens_in: int, tokens_out: int) -> None:
        """A call has ended, and cost so much."""
        with self._lock:
            self._reserved -= reserved
            self._spent += self._price.of(tokens_in, tokens_out)

    def __str__(self) -> str:
        of = "" if self._budget is None else f" of {self._budget:g}"
        return f"{self._spent:.6g}{of} spent"

"""Named choices that a run can make, open to a user's own code."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from types import UnionType
from typing import Generic, TypeVar

from lrt_dist.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Choices of one kind by name.

    A run names a choice that is registered here, or, as `module:attribute`, one of the user's own
    that any installed module holds. `docs/extending.md` walks through an example of each kind.
    """

    def __init__(self, kind: str, types: type | UnionType) -> None:
        """An empty registry.

        Args:
            kind: what an error calls a choice, e.g. `vector method`.
            types: of which a choice must be an instance.
        """
        self.kind = kind
        self._types = types
        self._choices: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """A decorator that registers what it decorates.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._choices:
            raise ValueError(f"there is a {self.kind} called {name!r} already")

        def register(choice: T) -> T:
            self._choices[name] = choice
            return choice

        return register

    @property
    def names(self) -> tuple[str, ...]:
        """Of all registered choices, in the order in which they were registered."""
        return tuple(self._choices)

    def find(self, name: str) -> T:
        """The choice of a name, or what `module:attribute` names.

        Raises:
            UserError: no such name, with the nearest known one; or a thing of another type.
        """
        if name in self._choices:
            return self._choices[name]
        module, colon, attribute = name.partition(":")
        if not colon:
            raise UserError(f"no {self.kind} is called {name!r}; {self._hint(name)}")
        try:
            choice: T = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.kind} {name!r} cannot be imported: {error}; the module must be installed, "
                "or lie in a folder on PYTHONPATH, for the driver and for every worker"
            ) from error
        if not isinstance(choice, self._types):
            wanted = getattr(self._types, "__name__", str(self._types))
            raise UserError(
                f"{self.kind} {name!r} is a {type(choice).__name__} where a {wanted} was expected; "
                "docs/extending.md has an example"
            )
        return choice

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.0)
        if not near:
            return "write module:attribute for one of your own"
        known = ", ".join(self.names)
        return (
            f"did you mean {near[0]!r}? (known: {known}; or module:attribute for one of your own)"
        )

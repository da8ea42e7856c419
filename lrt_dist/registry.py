"""Named choices that a run can make, open to a user's own code."""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Generic, TypeVar

from lrt_dist.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Choices of one kind by name.

    A run names a choice that is registered here, or, as `module:attribute`, one of the user's own
    that any installed module holds. `docs/extending.md` walks through an example of each kind.
    """

    def __init__(self, kind: str, accepts: Callable[[object], bool], expected: str) -> None:
        """An empty registry.

        Args:
            kind: what an error calls a choice, e.g. `vector method`.
            accepts: whether a thing can be such a choice.
            expected: what an error calls things that can, e.g. `a function`.
        """
        self.kind = kind
        self._accepts, self._expected = accepts, expected
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

    def __contains__(self, choice: object) -> bool:
        """Whether a choice, not its name, is registered."""
        return choice in self._choices.values()

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
            imported = import_module(module)
        except Exception as error:
            raise UserError(
                f"{self.kind} {name!r} cannot be imported: {type(error).__name__}: {error}; the "
                "module must be installed, or lie in a folder on PYTHONPATH, for the driver and "
                "for every worker"
            ) from error
        if not hasattr(imported, attribute):
            near = difflib.get_close_matches(attribute, dir(imported), n=1)
            hint = f"; did you mean '{module}:{near[0]}'?" if near else ""
            raise UserError(f"{self.kind} {name!r}: {module} has no {attribute!r}{hint}")
        choice: T = getattr(imported, attribute)
        if not self._accepts(choice):
            raise UserError(
                f"{self.kind} {name!r} is a {type(choice).__name__} where {self._expected} was "
                "expected; docs/extending.md has an example"
            )
        return choice

    def identity(self, name: str) -> str:
        """What a fingerprint has of a choice: its name, and of one's own code also its digest.

        Raises:
            UserError: see `find`.
        """
        if name in self._choices:
            return name
        self.find(name)
        source = inspect.getsource(import_module(name.partition(":")[0]))
        return f"{name} {hashlib.sha256(source.encode()).hexdigest()[:16]}"

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.0)
        if not near:
            return "write module:attribute for one of your own"
        known = ", ".join(self.names)
        return (
            f"did you mean {near[0]!r}? (known: {known}; or module:attribute for one of your own)"
        )

"""An endpoint that speaks OpenAI's chat protocol: asked again when it fails, and not too often."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from lrt_dist.errors import IncompleteError

LONGEST_WAIT = 60.0
"""Seconds between two attempts, at most, whatever the endpoint asks for."""
PASSING = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Status codes of failures that pass."""
SHOWN = 200
"""Characters of an endpoint's own words in an error."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: of the first choice.
        tokens_in: tokens that were sent; None where the endpoint does not count.
        tokens_out: tokens that were written.
    """

    text: str
    tokens_in: int | None
    tokens_out: int | None


class Failed(Exception):  # noqa: N818 (one attempt; `Endpoint.pause` makes an error of the last one)
    """An attempt that failed.

    Attributes:
        wait: seconds that the endpoint asks for; None where it asks for none.
        again: whether another attempt may help.
        charged: whether it may have been charged all the same.
    """

    def __init__(
        self, reason: str, *, wait: float | None = None, again: bool = True, charged: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait, self.again, self.charged = wait, again, charged


@dataclass(frozen=True)
class Patience:
    """How long and how often an endpoint is asked.

    Attributes:
        timeout: seconds for one attempt.
        retries: further attempts.
        wait: seconds before the second attempt; doubled before each further one.
        requests_per_minute: over all threads; None without limit.
    """

    timeout: float
    retries: int
    wait: float
    requests_per_minute: float | None


class Endpoint:
    """May be used by several threads."""

    def __init__(self, base_url: str, patience: Patience) -> None:
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._patience = patience
        self._lock = threading.Lock()
        self._next = 0.0

    def attempt(self, body: Mapping[str, Any], key: str | None) -> Answer:
        """Ask once, when it is time.

        Raises:
            Failed: nothing usable came back. The key is in no message.
        """
        self._wait_for_turn()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with httpx2.Client(timeout=self._patience.timeout) as client:
                response = client.post(self._url, json=body, headers=headers)
        except httpx2.TimeoutException as error:
            seconds = f"{self._patience.timeout:g} s"
            raise Failed(f"no answer within {seconds}", charged=True) from error
        except httpx2.TransportError as error:
            raise Failed(_hidden(f"{type(error).__name__}: {error}", key)) from error
        if response.status_code != httpx2.codes.OK:
            said = _hidden(response.text, key)[:SHOWN]
            raise Failed(
                f"HTTP {response.status_code}: {said}",
                wait=_seconds(response.headers.get("retry-after")),
                again=response.status_code in PASSING,
            )
        try:
            content = response.json()
            text = content["choices"][0]["message"]["content"] or ""
            usage = content.get("usage") or {}
            return Answer(
                _hidden(str(text), key), usage.get("prompt_tokens"), usage.get("completion_tokens")
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            said = _hidden(response.text, key)[:SHOWN]
            raise Failed(f"no chat completion: {said}", charged=True) from error

    def pause(self, failed: Failed, attempt: int) -> None:
        """Wait before the next attempt.

        Raises:
            IncompleteError: there is none left.
        """
        patience = self._patience
        if not failed.again or attempt >= patience.retries:
            raise IncompleteError(
                f"{self._url} could not be asked ({attempt + 1} attempts): {failed}; what was "
                "judged is kept: run the same command again"
            ) from failed
        own = patience.wait * 2**attempt
        time.sleep(min(LONGEST_WAIT, own if failed.wait is None else failed.wait))

    def _wait_for_turn(self) -> None:
        if self._patience.requests_per_minute is None:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + 60 / self._patience.requests_per_minute
        time.sleep(max(0.0, turn - time.monotonic()))


def _hidden(text: str, key: str | None) -> str:
    return text.replace(key, "***") if key else text


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:  # a date
        return None

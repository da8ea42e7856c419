"""A judge behind any endpoint that speaks OpenAI's chat protocol: a rubric, a text, 0 to 10.

What was paid for is kept: a run that ends because the judge is out of reach, answers nonsense, or
has cost what it may, goes on later and asks for nothing twice. The key comes from an environment
variable, and goes into requests alone.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, validate_call

from lrt_dist.config import fingerprint_of
from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import IncompleteError, UserError
from lrt_dist.store.replies import ReplyStore
from lrt_dist.store.tables import ReplyRow
from lrt_dist.tasks.endpoint import Answer, Endpoint, Failed, Patience
from lrt_dist.tasks.purse import Price, Purse
from lrt_dist.tasks.scores import GeneratedScore

QUESTION = """{rubric}

Prompt:
{prompt}

Text that was written after it:
{text}

Answer with one number from 0 to 10 and nothing else."""

_NUMBER = re.compile(
    r"[^\w-]*(?:(?:score|rating|answer)[^\w-]+)?(\d+(?:\.\d+)?)(?:\s*/\s*10)?\W*", re.IGNORECASE
)
_THOUGHT = "</think>"
_FORM_TOKENS = 64
"""More than a chat format adds to a message."""


def value_of(reply: str) -> float:
    """The number from 0 to 10 that a reply consists of; NaN of any other reply.

    What a model thinks aloud before it (up to `</think>`) is left out.
    """
    found = _NUMBER.fullmatch(reply.rpartition(_THOUGHT)[2].strip())
    value = float(found[1]) if found else math.nan
    return value if value <= 10 else math.nan


def _without_key(url: str) -> str:
    if not re.match(r"https?://[^/@?#]+(/[^@?#]*)?$", url):
        raise ValueError(
            "must be http://… or https://…, without a user, a key or a question mark: name the "
            "environment variable that holds the key as key_from"
        )
    return url


Url = Annotated[str, AfterValidator(_without_key)]
Variable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]


@validate_call
def judge(
    *,
    folder: Path,
    model: Annotated[str, Field(min_length=1)],
    rubric: Annotated[str, Field(min_length=1)],
    base_url: Url = "https://api.openai.com/v1",
    key_from: Variable | None = "OPENAI_API_KEY",
    max_tokens: Annotated[int, Field(ge=1)] = 16,
    body: dict[str, Any] | None = None,
    price: Price | None = None,
    budget: Annotated[float, Field(gt=0)] | None = None,
    timeout: Annotated[float, Field(gt=0)] = 60.0,
    retries: Annotated[int, Field(ge=0)] = 4,
    wait: Annotated[float, Field(ge=0)] = 1.0,
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None,
    at_once: Annotated[int, Field(ge=1)] = 4,
) -> GeneratedScore:
    """A number from 0 to 10 that a chat model gives to a text by a rubric.

    Args:
        folder: where replies are kept, those of each judge apart.
        model: name of the model at the endpoint.
        rubric: what the number means.
        base_url: of the endpoint; `/chat/completions` is added.
        key_from: environment variable that holds the key; None for an endpoint without keys.
        max_tokens: most tokens of a reply.
        body: further fields of every request; null leaves a field out.
        price: of a million tokens.
        budget: most that all calls of this judge may cost, those of earlier runs included.
        timeout: seconds for one call.
        retries: further calls after a failure or a reply that is no number.
        wait: seconds before the second call; doubled before each further one.
        requests_per_minute: at most.
        at_once: calls at once.

    Raises:
        UserError: a budget without a price.
    """
    if budget is not None and price is None:
        raise UserError(
            "score 'judge': a budget needs a price: {input: …, output: …}, of a million tokens"
        )
    asked = {"model": model, "max_tokens": max_tokens, "temperature": 0, **(body or {})}
    made = Judge(
        folder,
        {name: value for name, value in asked.items() if value is not None},
        rubric,
        base_url,
        key_from,
        max_tokens,
        price,
        budget,
        Patience(timeout, retries, wait, requests_per_minute),
    )
    return GeneratedScore(
        made,
        "change of the judge's number",
        at_once=at_once,
        prepare=made.prepare,
        account=made.account,
        paid=True,
    )


class Judge:
    """See `judge`; reads its earlier replies when it is first asked."""

    def __init__(
        self,
        folder: Path,
        body: dict[str, Any],
        rubric: str,
        base_url: str,
        key_from: str | None,
        max_tokens: int,
        price: Price | None,
        budget: float | None,
        patience: Patience,
    ) -> None:
        self._folder, self._body, self._rubric = folder, body, rubric
        self._base_url, self._key_from, self._max_tokens = base_url, key_from, max_tokens
        self._price, self._budget = price, budget
        self._attempts = 1 + patience.retries
        self._endpoint = Endpoint(base_url, patience)
        self._lock = threading.Lock()
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._opened: tuple[ReplyStore, Purse] | None = None
        self._new = 0

    def prepare(self) -> None:
        """Look for the key.

        Raises:
            UserError: the environment variable is not set.
        """
        if self._key_from and not os.environ.get(self._key_from):
            raise UserError(
                f"score 'judge': the environment variable {self._key_from} is not set; put the key "
                f"for {self._base_url} there, or set key_from: null if there is none"
            )

    def account(self) -> str:
        """What was asked and paid."""
        if self._opened is None:
            return ""
        replies, purse = self._opened
        tokens = f"{replies.tokens_in} tokens sent and {replies.tokens_out} written in all"
        paid = f"; {purse}" if self._price else ""
        return f"{self._body['model']}: {self._new} new replies, {tokens}{paid}"

    def __call__(self, item: Item, text: str) -> float:
        """The number of a text.

        Raises:
            IncompleteError: the endpoint could not be asked, said nothing that can be read, or the
                budget is spent.
        """
        question = QUESTION.format(rubric=self._rubric, prompt=item.prompts[0], text=text)
        body = {**self._body, "messages": [{"role": "user", "content": question}]}
        request = self._identity(body)
        replies, purse = self._open()
        with self._lock:
            asking = self._asking[request]
        with asking:  # the same text twice is asked for once
            known = replies.value(request)
            if known is not None:
                return known
            last = ""
            for _ in range(self._attempts):
                answer = self._paid(body, purse)
                last, value = answer.text, value_of(answer.text)
                replies.add(self._row(request, value, answer, body))
                if not math.isnan(value):
                    return value
        raise IncompleteError(
            f"{self._body['model']} at {self._base_url} answered {last[:80]!r} where a number from "
            f"0 to 10 was asked for ({self._attempts} replies); what was judged is kept: change "
            "rubric or max_tokens, or run the same command again"
        )

    def _open(self) -> tuple[ReplyStore, Purse]:
        with self._lock:
            if self._opened is None:
                own = self._identity({**self._body, "rubric": self._rubric})
                replies = ReplyStore(self._folder / own)
                price = self._price or Price(input=0, output=0)
                spent = price.of(replies.tokens_in, replies.tokens_out)
                self._opened = replies, Purse(price, self._budget, spent)
            return self._opened

    def _identity(self, body: dict[str, Any]) -> str:
        """Of a request. A number is the same however many tokens there was room for."""
        asked = {name: value for name, value in body.items() if not name.startswith("max_")}
        return fingerprint_of({"base_url": self._base_url, **asked})

    def _paid(self, body: dict[str, Any], purse: Purse) -> Answer:
        """An answer, after as many attempts as it takes."""
        key = os.environ.get(self._key_from) if self._key_from else None
        most = self._most(body)
        attempt = 0
        while True:
            reserved = purse.reserve(*most)
            used = (0, 0)
            try:
                answer = self._endpoint.attempt(body, key)
                used = _counted(answer, most)
                return answer
            except Failed as failed:
                used = most if failed.charged else used
                failure = failed
            finally:
                purse.settle(reserved, *used)
            self._endpoint.pause(failure, attempt)
            attempt += 1

    def _most(self, body: dict[str, Any]) -> tuple[int, int]:
        """Tokens that a call may take: none is shorter than a byte."""
        written = max(self._max_tokens, body.get("max_completion_tokens", 0))
        return len(json.dumps(body["messages"]).encode()) + _FORM_TOKENS, written

    def _row(self, request: str, value: float, answer: Answer, body: dict[str, Any]) -> ReplyRow:
        tokens_in, tokens_out = _counted(answer, self._most(body))
        with self._lock:
            self._new += 1
        return ReplyRow(
            request=request,
            value=value,
            reply=answer.text,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
        )


def _counted(answer: Answer, most: tuple[int, int]) -> tuple[int, int]:
    """Tokens that an answer took; where the endpoint does not say it, the most."""
    return (
        most[0] if answer.tokens_in is None else answer.tokens_in,
        most[1] if answer.tokens_out is None else answer.tokens_out,
    )

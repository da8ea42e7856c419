"""A judge over real HTTP: what it says is read and kept, what it fails at is asked again, what it
costs has a limit, and its key is nowhere."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from judge_server import TOKENS_IN, TOKENS_OUT, JudgeServer, Reply, judge_server

from lrt_dist.config import ScoreConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import IncompleteError, UserError
from lrt_dist.store.replies import ReplyStore
from lrt_dist.store.tables import ReplyRow
from lrt_dist.tasks.judge import value_of
from lrt_dist.tasks.purse import Price, Purse
from lrt_dist.tasks.score_choice import make_score, make_text_score
from lrt_dist.tasks.scores import GeneratedScore

ITEM = Item(("The film was", "The film was"), (" good",), (" bad",))
KEY = "SECRET-abc123"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


def judge_at(server: JudgeServer, folder: Path, **parameters: Any) -> GeneratedScore:
    usual = {
        "base_url": server.url, "model": "m", "rubric": "How warm?", "key_from": "JUDGE_KEY",
        "wait": 0.0,
    }  # fmt: skip
    config = ScoreConfig.model_validate({"method": "judge", **usual, **parameters})
    return make_text_score(config, folder)


@pytest.mark.parametrize(
    ("reply", "value"),
    [("7", 7.0), (" 8.5\n", 8.5), ("Score: 3", 3.0), ("**10**", 10.0), ("4/10", 4.0),
     ("<think>maybe 3 or 9</think>\n6", 6.0), ("0", 0.0)],
)  # fmt: skip
def test_a_number_is_read(reply: str, value: float) -> None:
    assert value_of(reply) == value


@pytest.mark.parametrize(
    "reply", ["", "warm", "11", "-1", "between 0 and 10", "7 or 8", "From 0 to 10: 8", "1e3", "NaN"]
)
def test_what_is_no_number_from_0_to_10_is_nonsense(reply: str) -> None:
    assert math.isnan(value_of(reply))


def test_what_is_asked_and_what_is_said(tmp_path: Path) -> None:
    with judge_server() as server:
        score = judge_at(server, tmp_path, body={"top_p": 1, "temperature": None})
        assert score.judge(ITEM, "a joy") == 7.0
    (body,) = server.bodies
    assert (body["model"], body["max_tokens"], body["top_p"]) == ("m", 16, 1)
    assert "temperature" not in body
    (question,) = server.questions
    assert all(part in question for part in ("How warm?", "The film was", "a joy"))
    assert server.keys == [f"Bearer {KEY}"]


def test_no_key_where_none_is_wanted(tmp_path: Path) -> None:
    with judge_server() as server:
        score = judge_at(server, tmp_path, key_from=None)
        score.prepare()
        score.judge(ITEM, "a joy")
    assert server.keys == [None]


def test_what_was_answered_is_never_asked_again(tmp_path: Path) -> None:
    """Not for the same text, not by another process, not with room for a longer reply; but for
    another rubric."""
    with judge_server() as server:
        first = judge_at(server, tmp_path)
        assert [first.judge(ITEM, text) for text in ("a", "b", "a")] == [7.0] * 3
        for other in (judge_at(server, tmp_path), judge_at(server, tmp_path, max_tokens=99)):
            assert other.judge(ITEM, "b") == 7.0
        assert server.asked == 2
        judge_at(server, tmp_path, rubric="How cold?").judge(ITEM, "a")
        assert server.asked == 3


def test_equal_texts_at_once_are_asked_for_once(tmp_path: Path) -> None:
    with judge_server(lambda n, body: Reply(seconds=0.05)) as server:
        score = judge_at(server, tmp_path)
        with ThreadPoolExecutor(8) as pool:
            values = list(pool.map(lambda _: score.judge(ITEM, "a"), range(8)))
    assert (values, server.asked) == ([7.0] * 8, 1)


PASSING: list[Reply] = [
    Reply(status=500),
    Reply(status=429, headers={"Retry-After": "0"}),
    Reply(raw="no JSON"),
    Reply(raw='{"choices": []}'),
    Reply("I would rather not say"),
    Reply(seconds=0.6),
]


@pytest.mark.parametrize("bad", PASSING)
def test_what_fails_is_asked_again(tmp_path: Path, bad: Reply) -> None:
    with judge_server(lambda n, body: bad if n < 2 else Reply("3")) as server:
        score = judge_at(server, tmp_path, timeout=0.3)
        assert score.judge(ITEM, "a") == 3.0
    assert server.asked == 3


def test_the_second_wait_is_twice_the_first(tmp_path: Path) -> None:
    times: list[float] = []

    def script(number: int, body: dict[str, Any]) -> Reply:
        times.append(time.monotonic())
        return Reply(status=503)

    with judge_server(script) as server:
        score = judge_at(server, tmp_path, wait=0.1, retries=2)
        with pytest.raises(IncompleteError, match=r"\(3 attempts\): HTTP 503"):
            score.judge(ITEM, "a")
    assert times[1] - times[0] >= 0.1
    assert times[2] - times[1] >= 0.2


@pytest.mark.parametrize(
    ("bad", "message", "asked"),
    [
        (
            Reply(status=401, raw=f"wrong key {KEY}"),
            r"\(1 attempts\): HTTP 401: wrong key \*\*\*",
            1,
        ),
        (Reply(status=404, raw="no such model"), "HTTP 404: no such model", 1),
        (Reply(seconds=0.6), "no answer within 0.3 s", 3),
        (Reply(f"{KEY} is warm"), r"answered '\*\*\* is warm' where a number .* \(3 replies\)", 3),
    ],
    ids=["key", "model", "time-out", "nonsense"],
)
def test_what_stays_bad_ends_the_run_until_later(
    tmp_path: Path, bad: Reply, message: str, asked: int
) -> None:
    """With exit code 3, without the key; and then it goes on, for what is missing alone."""
    texts: dict[str, Reply] = {"bad": bad}

    def script(number: int, body: dict[str, Any]) -> Reply:
        asked = str(body["messages"][0]["content"])
        return texts.get("bad", Reply()) if "written after it:\nbad" in asked else Reply()

    with judge_server(script) as server:
        score = judge_at(server, tmp_path, timeout=0.3, retries=2)
        assert score.judge(ITEM, "good") == 7.0
        with pytest.raises(IncompleteError, match=message) as caught:
            score.judge(ITEM, "bad")
        assert server.asked == 1 + asked
        shown = [str(caught.value), str(caught.value.__cause__), score.account()]
        assert not any(KEY in text for text in shown)
        texts.clear()
        again = judge_at(server, tmp_path, timeout=0.3, retries=2)
        assert [again.judge(ITEM, text) for text in ("good", "bad")] == [7.0, 7.0]
        assert server.asked == 2 + asked
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert not any(KEY.encode() in path.read_bytes() for path in kept)


def test_nobody_there(tmp_path: Path) -> None:
    with judge_server() as server:
        pass
    with pytest.raises(IncompleteError, match=r"could not be asked \(2 attempts\): ConnectError"):
        judge_at(server, tmp_path, retries=1).judge(ITEM, "a")


COST = (TOKENS_IN + TOKENS_OUT * 10) / 1e6


def test_a_budget_holds_and_what_was_paid_is_remembered(tmp_path: Path) -> None:
    """Largest cost of a call: its bytes and 64 tokens at 1, and 16 tokens at 10, a million."""
    price = {"input": 1.0, "output": 10.0}
    with judge_server() as server:
        first = judge_at(server, tmp_path, price=price, budget=20 * COST, at_once=8)
        with pytest.raises(IncompleteError, match=r"of the budget of .* raise budget"):
            list(map(partial(first.judge, ITEM), map(str, range(99))))
        judged = server.asked
        assert 5 < judged < 20
        paid = f"{judged * COST:.6g} of {20 * COST:g} spent"
        tokens = f"{judged * TOKENS_IN} tokens sent and {judged * TOKENS_OUT} written in all"
        assert first.account() == f"m: {judged} new replies, {tokens}; {paid}"
        again = judge_at(server, tmp_path, price=price, budget=20 * COST)
        assert again.judge(ITEM, "0") == 7.0  # kept
        with pytest.raises(IncompleteError, match="of the budget"):
            again.judge(ITEM, "another")
        more = judge_at(server, tmp_path, price=price, budget=1.0)
        assert more.judge(ITEM, "another") == 7.0
        assert more.account().startswith("m: 1 new replies")
        assert more.account().endswith(f"; {(judged + 1) * COST:.6g} of 1 spent")


def test_a_purse_never_overspends_whatever_is_on_its_way() -> None:
    purse = Purse(Price(input=1e6, output=0), 100.0, 0.0)
    paid = []

    def calls() -> None:
        for _ in range(50):
            try:
                reserved = purse.reserve(3, 0)
            except IncompleteError:
                return
            time.sleep(0.0005)
            purse.settle(reserved, 2, 0)
            paid.append(2)

    threads = [threading.Thread(target=calls) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 70 < sum(paid) <= 100


def test_requests_keep_their_distance(tmp_path: Path) -> None:
    with judge_server() as server:
        score = judge_at(server, tmp_path, requests_per_minute=600)
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: score.judge(ITEM, str(n)), range(4)))
        assert time.monotonic() - began >= 0.3


def test_replies_come_back_as_they_went(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path)
    for value in (math.nan, 4.0):
        store.add(ReplyRow(request="r", value=value, reply="?", tokens_in=3, tokens_out=1))
    again = ReplyStore(tmp_path)
    assert (again.value("r"), again.value("other")) == (4.0, None)
    assert (again.tokens_in, again.tokens_out) == (6, 2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rubrik": "x"}, "rubrik"),
        ({"retries": -1}, "retries: Input should be greater than or equal to 0"),
        ({"budget": 1.0}, "a budget needs a price"),
        ({"base_url": "ftp://x"}, "must be http"),
        ({"base_url": f"https://user:{KEY}@host/v1"}, "without a user, a key"),
        ({"key_from": "sk-abc"}, "key_from: String should match pattern"),
        ({"price": {"input": 1.0}}, r"price\.output: Field required"),
    ],
)
def test_wrong_parameters_are_named(
    tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    usual = {"model": "m", "rubric": "How warm?"}
    config = ScoreConfig.model_validate({"method": "judge", **usual, **parameters})
    with pytest.raises(UserError, match=message) as caught:
        make_score(config, tmp_path)
    assert KEY not in str(caught.value)
    assert "sk-abc" not in str(caught.value)


def test_a_key_that_is_not_set_is_missed_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with judge_server() as server:
        score = judge_at(server, tmp_path)
        score.prepare()
        monkeypatch.delenv("JUDGE_KEY")
        with pytest.raises(UserError, match="environment variable JUDGE_KEY is not set"):
            score.prepare()
    assert server.asked == 0

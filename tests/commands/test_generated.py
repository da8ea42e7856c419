"""Texts are written and judged in a whole run: killed, it goes on and pays for nothing twice."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_server import Reply, judge_server
from tiny_run import fork, write_tiny_run

from lrt_dist import api
from lrt_dist.errors import IncompleteError, UserError
from lrt_dist.plan.conditions import Arm
from lrt_dist.runfile import load_run
from lrt_dist.store.tables import GeneratedRow, Table
from lrt_dist.tasks import model_stage

KEY = "SECRET-abc123"
TEXTS = 7 * 2 * 2
"""Seven conditions, two items, two samples."""
GENERATE: dict[str, Any] = {"tokens": 3, "items": 2, "samples": 2, "temperature": 1.5}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_target: Path) -> Path:
    """A RUN file, and its extraction, fit and an evaluation without texts in `out` beside it."""
    folder = tmp_path_factory.mktemp("generated")
    run_file = write_tiny_run(folder, tiny_source, tiny_target)
    with api.open_run(folder / "out", load_run(run_file, ["evaluate.generate.tokens=0"])) as run:
        for step in (api.index, api.extract, api.fit, api.evaluate):
            step(run)
    return run_file


def prepared(fitted: Path, tmp_path: Path, *scores: dict[str, Any], **generate: Any) -> Path:
    """A RUN file that writes and judges, with a copy of the fitted output beside it."""
    shutil.copytree(fitted.parent / "out", tmp_path / "out")
    values = yaml.safe_load(fitted.read_text())
    values["evaluate"]["generate"] = {**GENERATE, **generate, "scores": list(scores)}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def evaluated(run_file: Path) -> list[GeneratedRow]:
    out = run_file.parent / "out"
    with api.open_run(out, load_run(run_file)) as run:
        api.evaluate(run)
    return list(Table.read(out / "generated.parquet", GeneratedRow))


def judge(url: str, **parameters: Any) -> dict[str, Any]:
    usual = {"base_url": url, "model": "m", "rubric": "How warm?", "key_from": "JUDGE_KEY"}
    return {"method": "judge", "name": "warmth", "wait": 0.0, **usual, **parameters}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


def test_every_arm_writes_and_is_judged(fitted: Path, tmp_path: Path) -> None:
    letters = {"method": "words", "words": ["the", "a", "of"], "name": "articles"}
    rows = evaluated(prepared(fitted, tmp_path, letters, "refusal_phrases"))  # type: ignore[arg-type]
    assert len(rows) == TEXTS
    assert Counter(row.arm for row in rows) == {
        Arm.NONE: 4, Arm.NATIVE: 8, Arm.TRANSFERRED: 8, Arm.RANDOM: 8,
    }  # fmt: skip
    assert {row.scores for row in rows} == {("articles", "refusal_phrases")}
    for row in rows:
        words = row.text.lower().split()
        if all(word.isalpha() for word in words):
            share = sum(word in letters["words"] for word in words) / max(1, len(words))
            assert row.values[0] == pytest.approx(share)
        assert row.prompt.endswith("the whole evening was")
    assert len({row.text for row in rows}) > TEXTS / 2  # samples do differ


def test_a_concept_may_bring_open_questions(fitted: Path, tmp_path: Path) -> None:
    """Those of `data` are left out; vectors and scores stay what they are."""
    run_file = prepared(fitted, tmp_path, samples=1, temperature=0.0, items="all")
    values = yaml.safe_load(run_file.read_text())
    seen = json.loads(Path(values["concepts"][0]["data"]).read_text().splitlines()[0])["prompt"]
    asked = ["How was your evening?", "What did you see?", seen]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"question": question}) for question in asked))
    values["concepts"][0]["prompts"] = "questions.jsonl"
    run_file.write_text(yaml.safe_dump(values))
    rows = evaluated(run_file)
    assert {(row.item, row.question) for row in rows} == {
        (0, "how was your evening?"), (1, "what did you see?"),
    }  # fmt: skip
    assert len(rows) == 2 * 7
    path.write_text(json.dumps({"question": seen}))
    with pytest.raises(UserError, match=r"questions.jsonl has no prompt that \S+ has not"):
        evaluated(run_file)


def test_by_default_one_text_of_each_arm_and_no_score(fitted: Path, tmp_path: Path) -> None:
    run_file = prepared(fitted, tmp_path)
    values = yaml.safe_load(run_file.read_text())
    del values["evaluate"]["generate"]
    run_file.write_text(yaml.safe_dump(values))
    rows = evaluated(run_file)
    assert len(rows) == 7
    assert {(row.item, row.sample, row.scores) for row in rows} == {(0, 0, ())}


def test_what_is_written_needs_no_model_again(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another score judges the texts that are there."""
    run_file = prepared(fitted, tmp_path, "refusal_phrases")  # type: ignore[arg-type]
    before = evaluated(run_file)
    values = yaml.safe_load(run_file.read_text())
    values["evaluate"]["generate"]["scores"] = [{"method": "words", "words": ["the"]}]
    run_file.write_text(yaml.safe_dump(values))

    def load(*arguments: object, **named: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(model_stage, "load_blocks", load)
    after = evaluated(run_file)
    assert [row.text for row in after] == [row.text for row in before]
    assert {row.scores for row in after} == {("words",)}


def test_more_samples_keep_those_that_are_there(fitted: Path, tmp_path: Path) -> None:
    run_file = prepared(fitted, tmp_path)
    before = evaluated(run_file)
    values = yaml.safe_load(run_file.read_text())
    values["evaluate"]["generate"] |= {"samples": 3, "random_draws": 2}
    run_file.write_text(yaml.safe_dump(values))
    after = {
        (row.arm, row.draw, row.strength, row.item, row.sample): row.text
        for row in evaluated(run_file)
    }
    assert len(after) == 9 * 2 * 3
    for row in before:
        assert after[row.arm, row.draw, row.strength, row.item, row.sample] == row.text


def test_a_judged_run_that_is_killed_pays_once(fitted: Path, tmp_path: Path) -> None:
    """Whatever was answered before a kill is not asked again, but for the call on its way then."""
    said: dict[str, float] = {}

    def script(number: int, body: dict[str, Any]) -> Reply:
        question = body["messages"][0]["content"]
        said[question] = len(question) % 11
        return Reply(str(said[question]), seconds=0.05)

    with judge_server(script) as server:
        run_file = prepared(fitted, tmp_path, judge(server.url, at_once=1))
        out = tmp_path / "out"
        killed, code = False, None
        while code != 0:
            already = server.asked
            process = fork("evaluate", str(run_file), "--out", str(out))
            deadline = time.monotonic() + 120
            while process.is_alive() and (server.asked < already + 5 or killed):
                assert time.monotonic() < deadline, "no progress"
                time.sleep(0.002)
            if process.is_alive():
                process.kill()
                killed = True
            process.join()
            code = process.exitcode
    assert killed
    assert len(said) > 10
    assert len(said) <= server.asked <= len(said) + 1
    for row in Table.read(out / "generated.parquet", GeneratedRow):
        text = f"\n{row.text}\n\nAnswer"
        assert row.values[0] in [value for question, value in said.items() if text in question]
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"price": {"input": 1, "output": 1}, "budget": 0.001}, "of the budget of 0.001"),
        ({"rubric": "Say nonsense.", "retries": 1}, "answered 'nonsense' where a number"),
    ],
    ids=["budget", "nonsense"],
)
def test_a_judge_that_stops_ends_the_run_with_3_and_it_goes_on(
    fitted: Path,
    tmp_path: Path,
    lrt_dist: Callable[..., tuple[int, str]],
    parameters: dict[str, Any],
    message: str,
) -> None:
    healed: list[bool] = []

    def script(number: int, body: dict[str, Any]) -> Reply:
        nonsense = "nonsense" in str(body) and number >= 5 and not healed
        return Reply("nonsense" if nonsense else "4")

    with judge_server(script) as server:
        run_file = prepared(fitted, tmp_path, judge(server.url, at_once=1, **parameters))
        arguments: tuple[str, ...] = ("evaluate", str(run_file), "--out", str(tmp_path / "out"))
        code, printed = lrt_dist(*arguments)
        assert code == 3
        assert message in printed
        assert "what was judged is kept" in printed
        good = sum(1 for body in server.bodies[:5])
        assert 0 < good < TEXTS
        asked = server.asked
        healed.append(True)
        if "budget" in parameters:
            richer = judge(server.url, **parameters | {"budget": 1})
            arguments += ("--set", f"evaluate.generate.scores=[{json.dumps(richer)}]")
        code, printed = lrt_dist(*arguments)
        assert code == 0, printed
        counts = Counter(server.questions)
        answered_twice = [q for q, n in counts.items() if n > 1]
        assert len(answered_twice) <= (1 if "retries" in parameters else 0)
        assert server.asked - asked <= TEXTS - (asked if "budget" in parameters else 5)


def test_a_missing_key_is_missed_before_anything_starts(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file = prepared(fitted, tmp_path, judge("http://127.0.0.1:9/v1"))
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match="JUDGE_KEY is not set"):
        evaluated(run_file)


def test_a_judge_may_choose_the_layers(fitted: Path, tmp_path: Path) -> None:
    """As `evaluate.score`: texts of the search are judged, too; equal ones are asked for once."""
    with judge_server(lambda n, body: Reply(str(len(str(body)) % 11))) as server:
        run_file = prepared(fitted, tmp_path, samples=1, temperature=0.0, items=1)
        values = yaml.safe_load(run_file.read_text())
        values["evaluate"]["score"] = judge(server.url)
        values["fit"] = {"folds": 3, "pairs": [[1, 0]]}
        values["evaluate"]["exact_draws"] = 1
        run_file.write_text(yaml.safe_dump(values))
        out = run_file.parent / "out"
        with api.open_run(out, load_run(run_file)) as run:
            run.check()
            api.fit(run)
            scores = api.evaluate(run)
        assert set(scores.column("metric")) == {"warmth", "cross_entropy"}
        assert len(server.questions) == len(set(server.questions)) > 20


def test_the_plan_counts_texts_and_calls(
    fitted: Path, tmp_path: Path, lrt_dist: Callable[..., tuple[int, str]]
) -> None:
    with judge_server() as server:
        run_file = prepared(fitted, tmp_path, judge(server.url), "refusal_phrases")  # type: ignore[arg-type]
        code, printed = lrt_dist("plan", str(run_file))
        assert code == 0, printed
        assert f"{TEXTS} texts written, {TEXTS} judged by warmth;" in printed
        assert server.asked == 0


@pytest.mark.parametrize(
    ("generate", "message"),
    [
        ({"samples": 2, "temperature": 0}, "2 samples without a temperature are all the same"),
        ({"tokens": 0, "scores": ["refusal_phrases"]}, "there are scores, but tokens: 0"),
        (
            {"scores": ["refusal_phrases"] * 2},
            "two scores are called 'refusal_phrases'",
        ),
        ({"scores": ["propensity"]}, "propensity is a score of given texts"),
        ({"scores": ["judgement"]}, "did you mean 'judge'"),
    ],
)
def test_what_cannot_be_written_or_judged(
    fitted: Path, tmp_path: Path, generate: dict[str, Any], message: str
) -> None:
    values = yaml.safe_load(fitted.read_text())
    values["evaluate"]["generate"] = generate
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=message), api.open_run(tmp_path / "o", load_run(path)):
        pass
    assert not (tmp_path / "o").exists()


def test_a_score_that_fails_leaves_its_reason(fitted: Path, tmp_path: Path) -> None:
    with judge_server(lambda n, body: Reply(status=401, raw=f"no {KEY}")) as server:
        run_file = prepared(fitted, tmp_path, judge(server.url, at_once=2))
        with pytest.raises(IncompleteError, match=r"HTTP 401: no \*\*\*"):
            evaluated(run_file)
        assert server.asked <= 4  # the others are not tried

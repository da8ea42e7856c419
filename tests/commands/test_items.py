"""Items in a run: kept beside their scores, refused before a model is loaded, and warned of."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import documentation
from tiny_run import write_tiny_run

import lrt_dist
from lrt_dist import api
from lrt_dist.commands import _overlap
from lrt_dist.errors import UserError
from lrt_dist.runfile import load_run
from lrt_dist.store.tables import OverlapRow, Table

WriteRun = Callable[..., Path]


def choice(n: int, letter: str) -> dict[str, str]:
    return {
        "question": f"Do you like number {n}?\n\nChoices:\n (A) I do\n (B) I do not",
        "answer_matching_behavior": f"({letter})",
        "answer_not_matching_behavior": f"({'B' if letter == 'A' else 'A'})",
    }


def concept(folder: Path, records: list[Any], **settings: Any) -> list[dict[str, Any]]:
    """A run's section `concepts`, of one concept of these records."""
    path = folder / "letters.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return [{"name": "letters", "data": str(path), **settings}]


def index(run_file: Path, out: Path, *overrides: str) -> None:
    with api.open_run(out, load_run(run_file, overrides)) as run:
        api.index(run)


def test_items_are_kept_as_they_are_scored_and_one_sided_letters_are_told(
    write_run: WriteRun, tmp_path: Path
) -> None:
    records = [choice(n, "AAAB"[n % 4]) for n in range(32)]
    settings = {"split": {"dev": 4, "test": 6}, "template": {"separator": "\nAnswer: "}}
    run_file = write_run(concepts=concept(tmp_path, records, **settings))
    results = lrt_dist.run(run_file, out=tmp_path / "out")
    items = list(results.items)
    for split, size in {"vector": 22, "dev": 4, "test": 6}.items():
        assert [row.item for row in items if row.split == split] == list(range(size))
        if split != "vector":
            scored = {row.item for row in results.scores if row.split == split}
            assert scored == set(range(size))
    assert len({row.question for row in items}) == 32
    texts = {(row.prompt, row.positive, row.negative) for row in items}
    assert texts == {
        (
            record["question"],
            (f"\nAnswer: {record['answer_matching_behavior']}",),
            (f"\nAnswer: {record['answer_not_matching_behavior']}",),
        )
        for record in records
    }
    assert all(row.negative_prompt == row.prompt for row in items)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    notes = [line["message"] for line in lines if line["event"] == "items"]
    assert any("positive answer is (A) in" in note for note in notes)
    assert "positive answer is (A) in" in results.report.read_text("utf-8")
    vectors = [x for x in lines if x["event"] == "progress" and x["phase"].startswith("vectors")]
    assert {(x["total"], x["unit"]) for x in vectors} == {(44, "texts")}
    assert vectors[0]["done"] < vectors[0]["total"]  # it moves within a concept
    assert sum(x["done"] == x["total"] for x in vectors) == 2


def test_a_split_of_one_letter_is_refused(write_run: WriteRun, tmp_path: Path) -> None:
    run_file = write_run(concepts=concept(tmp_path, [choice(n, "A") for n in range(16)]))
    with pytest.raises(UserError, match=r"would measure a letter; set swap_letters: true"):
        index(run_file, tmp_path / "out")
    swapping = concept(tmp_path, [choice(n, "A") for n in range(16)], swap_letters=True)
    index(write_run(concepts=swapping), tmp_path / "out")


def test_classes_make_a_vector_and_open_questions_a_generated_score(
    write_run: WriteRun, tmp_path: Path
) -> None:
    """Of a forced score they are refused, since there is nothing to compare."""
    classes = {
        "positive": [f"Guest {n} laughed." for n in range(6)],
        "negative": [f"Guest {n} wept all day." for n in range(9)],
    }
    open_questions = [{"question": f"How was number {n}?"} for n in range(8)]
    for name, content in {**classes, "open": open_questions}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = {side: str(tmp_path / f"{side}.json") for side in classes}
    concepts = [{"name": "mood", "data": data, "items": str(tmp_path / "open.json")}]
    run_file = write_run(concepts=concepts)
    told = (
        r"concept mood: an item has no answers \('How was number \d\?'\), so evaluate\.score prop"
    )
    with pytest.raises(UserError, match=told):
        index(run_file, tmp_path / "out")
    generated = load_run(run_file, ["evaluate.score=my_lab:VOWELS"])
    results = lrt_dist.run(generated, out=tmp_path / "out")
    sizes = Counter(row.split for row in results.items)
    assert sizes == {"vector": 6, "dev": 4, "test": 4}
    assert all(not row.positive for row in results.items if row.split == "test")
    assert {row.item for row in results.scores if row.split == "test"} == set(range(4))
    page = results.report.read_text("utf-8")
    assert "3 of the larger class have no partner and are left out" in page


def long_choice(n: int, letter: str) -> dict[str, str]:
    record = choice(n, letter)
    return {**record, "question": f"{n}: {documentation(1)[0]} {record['question']}"}


def test_an_item_of_the_vector_that_is_longer_than_a_context_is_named(
    write_run: WriteRun, tmp_path: Path
) -> None:
    """The context of the tiny models holds 256 tokens."""
    run_file = write_run(
        concepts=concept(tmp_path, [long_choice(n, "AB"[n % 2]) for n in range(12)])
    )
    told = r"concept letters: an item of the vector split has \d+ tokens in .*tiny-llama, whose "
    with pytest.raises(UserError, match=told + "context holds 256: "):
        index(run_file, tmp_path / "out")


def test_an_item_to_score_that_is_longer_than_the_targets_context_is_named(
    write_run: WriteRun, tmp_path: Path
) -> None:
    other = tmp_path / "items.jsonl"
    asked = [*(choice(n, "AB"[n % 2]) for n in range(20, 28)), long_choice(99, "B")]
    other.write_text("\n".join(map(json.dumps, asked)))
    records = [choice(n, "AB"[n % 2]) for n in range(12)]
    run_file = write_run(concepts=concept(tmp_path, records, items=str(other)))
    told = r"an item of the (dev|test) split has \d+ tokens in .*tiny-gemma"
    with pytest.raises(UserError, match=told):
        index(run_file, tmp_path / "out")


def test_a_model_without_a_chat_format_is_named(write_run: WriteRun, tmp_path: Path) -> None:
    records = [choice(n, "AB"[n % 2]) for n in range(12)]
    run_file = write_run(concepts=concept(tmp_path, records, template={"chat": True}))
    with pytest.raises(UserError, match="tiny-llama has no chat format"):
        index(run_file, tmp_path / "out")


def test_a_chat_format_is_a_template_around_every_prompt(
    tmp_path: Path, tiny_source: Path, tiny_target: Path
) -> None:
    """Where both models have the same one, the template can say it as well: equal vectors, equal
    scores."""
    models = []
    for model in (tiny_source, tiny_target):
        models.append(shutil.copytree(model, tmp_path / model.name))
        chat_format = "[user] {{ messages[0].content }} [model] "
        (tmp_path / model.name / "chat_template.jinja").write_text(chat_format)
    records = [
        {"prompt": f"What was number {n}?", "positive": "Good.", "negative": "Bad."}
        for n in range(12)
    ]

    fitted = write_tiny_run(tmp_path, *models, concepts=[])
    lrt_dist.run(fitted, out=tmp_path / "fitted")

    def run(name: str, **template: Any) -> lrt_dist.Results:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "fitted", folder / "out")
        concepts = concept(folder, records, template={"separator": "", **template})
        return lrt_dist.run(write_tiny_run(folder, *models, concepts=concepts), out=folder / "out")

    chat, said = run("chat", chat=True), run("said", prefix="[user] ", suffix=" [model] ")
    plain = run("plain", separator=" ")
    assert chat.scores.arrow == said.scores.arrow
    assert chat.vectors.arrow == said.vectors.arrow
    assert chat.scores.arrow != plain.scores.arrow  # the control
    assert {row.prompt for row in chat.items} == {record["prompt"] for record in records}


def test_texts_of_every_split_are_looked_for_in_the_corpus_once(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that the corpus holds without its answer, in whichever split it is."""
    records = [choice(n, "AB"[n % 2]) for n in range(12)]
    for record in records:
        record["question"] = record["question"].replace("like", "like, above all others, the")
    run_file = write_run(concepts=concept(tmp_path, records))
    index(run_file, tmp_path / "clean")
    corpus = tmp_path / "corpus.jsonl"
    documents = corpus.read_text()
    for record in records[:4]:
        corpus.write_text(documents + json.dumps({"text": record["question"]}) + "\n")
        with pytest.raises(UserError, match=r"concept letters: \d+ of its texts occur"):
            index(run_file, tmp_path / f"out{records.index(record)}")
    out = tmp_path / "out0"
    assert record_of(out)
    corpus.write_text(documents + json.dumps({"text": records[0]["question"]}) + "\n")
    monkeypatch.setattr(_overlap, "look_through", None)
    with pytest.raises(UserError, match=r"concept letters: \d+ of its texts occur"):
        index(run_file, out)
    index(run_file, out, "fit.allow_fit_on_concepts=true")
    monkeypatch.undo()
    other = write_run(concepts=concept(tmp_path, records[1:]))
    index(other, out)  # other texts: searched again, and none is there
    assert not record_of(out)


def record_of(out: Path) -> list[OverlapRow]:
    return list(Table.read(out / "overlap.parquet", OverlapRow))

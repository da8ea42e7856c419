"""Forms beyond the pair of answers: classes of texts, tables, several answers, open questions."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrt_dist.config import ConceptConfig, DataConfig, TemplateConfig
from lrt_dist.corpus.confounds import concept_warnings
from lrt_dist.corpus.contrast import ClassText, Item, paired
from lrt_dist.corpus.forms import FORMS, form_of
from lrt_dist.corpus.items import Items, read_items
from lrt_dist.corpus.splits import load_concept
from lrt_dist.errors import UserError

HAPPY = [f"A friend smiles {n} times." for n in range(7)]
OTHER = [f"The train is {n} hours late." for n in range(12)]


def read(template: TemplateConfig | None = None, **data: Any) -> Items:
    return read_items(DataConfig.model_validate(data), template or TemplateConfig())


def test_every_form_of_the_readme_is_one() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "prompt" in b]
    records = [json.loads(line) for line in block.splitlines()]
    assert {form_of(record, "README").name for record in records} == {form.name for form in FORMS}
    assert all(list(form_of(record, "README").read(record, "README")) for record in records)


def as_json(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def as_class(path: Path, texts: list[str]) -> str:
    """Texts in a file of the kind that its suffix says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(texts))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"instruction": text, "id": 1}) for text in texts))
    elif path.suffix == ".txt":
        path.write_text("\n".join([*texts, ""]), newline="\r\n")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    else:
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([["sentence", "note"], *([text, "x"] for text in texts)])
    return str(path)


def sides(items: Items) -> tuple[list[str], list[str]]:
    assert all(item.prompts == ("", "") for item in items.items)
    return (
        [text for item in items.items for text in item.positive],
        [text for item in items.items for text in item.negative],
    )


@pytest.mark.parametrize("suffix", ["json", "jsonl", "txt", "parquet", "csv"])
def test_a_file_of_texts_is_a_class(tmp_path: Path, suffix: str) -> None:
    """Of whatever kind; several files are one class."""
    happy = as_class(tmp_path / f"happy.{suffix}", HAPPY)
    others = [as_class(tmp_path / f"{n}.{suffix}", OTHER[n::2]) for n in (0, 1)]
    items = read(positive=happy, negative=others)
    positive, negative = sides(items)
    assert sorted(positive) == HAPPY
    assert len(set(negative)) == len(HAPPY)
    assert set(negative) < set(OTHER)
    assert items.unpaired == len(OTHER) - len(HAPPY)
    reference = {"positive": HAPPY, "negative": OTHER}
    assert items == read(file=as_json(tmp_path / "both.json", reference))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    random=st.randoms(use_true_random=False),
    seed=st.integers(0, 3),
)
def test_partners_depend_on_what_the_texts_say_alone(
    sizes: tuple[int, int], random: Any, seed: int
) -> None:
    """Not on their order, nor on how often one stands there; each has one partner at most."""
    texts = [
        ClassText(f"{positive} {n}", positive, f"place {n}")
        for positive, size in zip((True, False), sizes, strict=True)
        for n in range(size)
    ]
    items, unpaired = paired(texts, seed)
    shuffled = [*texts, texts[0]]
    random.shuffle(shuffled)
    again, unpaired_again = paired(shuffled, seed)
    assert ([item for item, _ in again], unpaired_again) == ([item for item, _ in items], unpaired)
    assert len(items) == min(sizes)
    assert unpaired == abs(sizes[0] - sizes[1])
    for side, shows in (("positive", True), ("negative", False)):
        (*used,) = (getattr(item, side)[0] for item, _ in items)
        assert len(set(used)) == len(used)
        assert all(text.startswith(str(shows)) for text in used)


def test_another_seed_draws_other_partners() -> None:
    texts = [ClassText(f"{shows} {n}", shows, "") for shows in (True, False) for n in range(20)]
    drawn = [{item for item, _ in paired(texts, seed)[0]} for seed in (0, 1)]
    assert len(drawn[0] & drawn[1]) < 8


def test_lists_of_one_length_are_pairs(tmp_path: Path) -> None:
    lists = {"positive": HAPPY, "negative": OTHER[:7]}
    items = read(file=as_json(tmp_path / "c.json", lists))
    assert [(i.positive[0], i.negative[0]) for i in items.items] == list(
        zip(HAPPY, OTHER[:7], strict=True)
    )
    assert items.unpaired == 0


STATEMENTS = [("Rome is in Italy.", 1, "Rome"), ("Rome is in Peru.", 0, "Rome"),
              ("Lima is in Peru.", 1, "Lima"), ("Lima, too, is in Italy.", 0, "Lima"),
              ("Bonn is in Peru.", 0, "Bonn")]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("key", ["statement", "text", "sentence"])
def test_statements_with_labels(tmp_path: Path, suffix: str, key: str) -> None:
    """As in the geometry of truth: other columns are left unread."""
    path = tmp_path / f"cities.{suffix}"
    rows = [{key: text, "label": label, "city": city} for text, label, city in STATEMENTS]
    if suffix == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [key, "label", "city"])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    items = read(file=str(path))
    positive, negative = sides(items)
    true = {text for text, label, _ in STATEMENTS if label}
    assert set(positive) == true
    assert set(negative) < {text for text, _, _ in STATEMENTS} - true
    assert (len(items.items), items.unpaired) == (2, 1)


def test_correct_and_incorrect_answers(tmp_path: Path) -> None:
    """As TruthfulQA is published, and with the short names."""
    published = {
        "type": "Adversarial",
        "category": "Biology",
        "question": "Do fish sleep?",
        "best_answer": "Yes",
        "correct_answers": ["Yes", "Some rest"],
        "incorrect_answers": ["No"],
        "source": "x",
    }
    short = {"prompt": "Do fish sleep?", "correct": ["Yes", "Some rest"], "incorrect": "No"}
    expected = Item(("Do fish sleep?",) * 2, (" Yes", " Some rest"), (" No",))
    for record in (published, short):
        assert read(file=as_json(tmp_path / "c.json", [record])).items == (expected,)


@pytest.mark.parametrize("key", ["question", "prompt"])
def test_open_questions(tmp_path: Path, key: str) -> None:
    path = as_json(tmp_path / "open.json", [{key: "How are you?"}, {key: "And you?"}])
    template = TemplateConfig(prefix="Q: ", suffix="\nA:")
    first, second = read(template, file=path).items
    assert first == Item(("Q: How are you?\nA:",) * 2, (), ())
    assert set(second.texts()) == {"Q: And you?\nA:"}
    assert not first.has_answers
    assert not first.has_contrast


def test_open_questions_make_no_vector(tmp_path: Path) -> None:
    path = as_json(tmp_path / "open.json", [{"question": f"Number {n}?"} for n in range(8)])
    with pytest.raises(UserError, match=r"concept c: .*open\.json has an open question, 'Number"):
        load_concept(ConceptConfig(name="c", data=DataConfig(file=path)))


def test_in_a_chat_a_text_without_a_prompt_is_the_users_turn(tmp_path: Path) -> None:
    data = {"positive": ["Help me."], "negative": ["Bomb it.", "Burn it."]}
    template = TemplateConfig(chat=True, suffix=" Please.")
    (item,) = read(template, file=as_json(tmp_path / "c.json", data)).items
    assert item.prompts[0] == "Help me. Please."
    assert item.prompts[1] in ("Bomb it. Please.", "Burn it. Please.")
    assert not item.has_answers
    assert item.has_contrast
    asked = TemplateConfig(chat=True, prefix="What now?")
    (item,) = read(asked, file=as_json(tmp_path / "c.json", data)).items
    assert (item.prompts, item.positive) == (("What now?",) * 2, ("Help me.",))


def test_a_concept_tells_how_many_texts_have_no_partner(tmp_path: Path) -> None:
    happy, other = (as_json(tmp_path / f"{n}.json", t) for n, t in (("h", HAPPY), ("o", OTHER)))
    more = as_json(tmp_path / "m.json", {"positive": ["a", "b", "c", "d"], "negative": ["e", "f"]})
    config = ConceptConfig.model_validate(
        {
            "name": "happy",
            "data": {"positive": happy, "negative": [other]},
            "items": more,
            "split": {"dev": 1 / 2, "test": 1 / 2},
        }
    )
    with pytest.raises(UserError, match="1 items in the dev split"):
        load_concept(config)
    data = load_concept(config.model_copy(update={"items": None, "split": config.split}))
    assert data.unpaired == 5
    (warning,) = concept_warnings("happy", data)
    assert "paired at random, and 5 of the larger class have no partner" in warning


@pytest.mark.parametrize(
    ("positive", "negative", "told"),
    [
        (["a", "b"], ["c", "b"], r"p\.json, record 2 and .*n\.json, record 2: the same text"),
        (["a", 1], ["c"], r"p\.json, record 2: the text of a class must be a text, got 1"),
        (["a", ""], ["c"], r"p\.json, record 2: .* got ''"),
        (["a"], [{"words": "c"}], r"n\.json, record 1: a record of a class is .*it has: words"),
        (["a"], [], r"p\.json, record 1: this text and all others are positive, and there is none"),
    ],
)
def test_a_text_that_cannot_be_of_a_class_is_named(
    tmp_path: Path, positive: list[Any], negative: list[Any], told: str
) -> None:
    one, other = as_json(tmp_path / "p.json", positive), as_json(tmp_path / "n.json", negative)
    with pytest.raises(UserError, match=told):
        read(positive=one, negative=other)


def test_a_dataset_holds_the_same_forms(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"statement": text, "label": label} for text, label, _ in STATEMENTS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    items = read(dataset=f"{tmp_path}:train")
    assert items == read(file=str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match="cannot be loaded"):
        read(dataset=f"{tmp_path}:no_such_split")
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=rf"dataset {tmp_path}:train, row 0: no known form"):
        read(dataset=f"{tmp_path}:train")


def test_prompts_may_be_a_text_on_each_line(tmp_path: Path) -> None:
    """As `jobs/lrt-refusal.yaml` has them."""
    data = as_json(
        tmp_path / "c.json", {"positive": list("abcdefgh"), "negative": list("ijklmnop")}
    )
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("How do I bake bread?\nWhat is a lock?\n")
    concept = ConceptConfig(
        name="c", data=DataConfig(file=data), prompts=DataConfig(file=str(prompts))
    )
    asked = [item.prompts[0] for item in load_concept(concept).prompts]
    assert asked == ["How do I bake bread?", "What is a lock?"]

"""Scores of text are what a reader would count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import byte_level_tokenizer

from lrt_dist.config import ScoreConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import UserError
from lrt_dist.tasks.score_choice import make_score, make_text_score, score_identity

ITEM = Item(("The film was", "The film was"), (" good",), (" bad",))


def value(method: str, text: str, **parameters: Any) -> float:
    config = ScoreConfig.model_validate({"method": method, **parameters})
    return make_text_score(config, Path()).judge(ITEM, text)


@pytest.mark.parametrize(
    ("text", "share"),
    [("Good, good: it's bad.", 0.5), ("goodness", 0.0), ("", 0.0), ("...", 0.0), ("FINE", 1.0)],
)
def test_words(text: str, share: float) -> None:
    assert value("words", text, words=["good", "Fine"]) == share


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I’m sorry, but no.", 1.0),
        ("Of course! I CANNOT wait.", 1.0),
        ("Here is how.", 0.0),
        ("", 0.0),
    ],
)
def test_refusals(text: str, refuses: float) -> None:
    assert value("refusal_phrases", text) == refuses


def test_ones_own_phrases() -> None:
    assert value("refusal_phrases", "Nope.", phrases=["nope"]) == 1.0
    assert value("refusal_phrases", "I cannot.", phrases=["nope"]) == 0.0


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_level_tokenizer()
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=32,
        id2label={0: "COLD", 1: "MILD", 2: "WARM"},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


def test_a_classifier_is_the_librarys_own(classifier: Path) -> None:
    """To rounding. The last text is longer than its context."""
    pipeline = transformers.pipeline(
        "text-classification", str(classifier), top_k=None, truncation=True, max_length=32
    )
    for text in ("a joy from its first minute", " ", "cold " * 50):
        expected = {found["label"]: found["score"] for found in pipeline([text])[0]}
        for label, p in expected.items():
            got = value("classifier", text, model=str(classifier), label=label)
            assert got == pytest.approx(p, abs=1e-6)


def test_an_empty_text_is_judged_too(classifier: Path) -> None:
    known = {"model": str(classifier), "label": "WARM"}
    assert value("classifier", "", **known) == value("classifier", " ", **known)


def test_a_label_that_is_not_there_is_missed_before_anything_starts(classifier: Path) -> None:
    config = ScoreConfig.model_validate(
        {"method": "classifier", "model": str(classifier), "label": "HOT"}
    )
    with pytest.raises(UserError, match="no label 'HOT'; it has COLD, MILD, WARM"):
        make_text_score(config, Path()).prepare()
    config = ScoreConfig.model_validate(
        {"method": "classifier", "model": "/no/where", "label": "x"}
    )
    with pytest.raises(UserError, match="/no/where cannot be loaded"):
        make_text_score(config, Path()).prepare()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"method": "words"}, "missing a required .*'words'"),
        ({"method": "words", "words": []}, "words: .* at least 1 item"),
        ({"method": "words", "words": ["a"], "wrods": 1}, "unexpected keyword argument 'wrods'"),
        ({"method": "propensity", "penalty": 1}, "takes no parameters, got penalty"),
        ({"method": "wrods"}, "no score is called 'wrods'; did you mean 'words'"),
        ({"method": f"{__name__}:no_score"}, "made a int where a ForcedScore or"),
    ],
)
def test_what_no_score_can_be_made_of(score: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_score(ScoreConfig.model_validate(score), Path())


def no_score() -> int:
    return 1


def test_a_score_of_given_texts_judges_no_other() -> None:
    with pytest.raises(UserError, match="propensity is a score of given texts"):
        make_text_score(ScoreConfig(), Path())


def test_parameters_are_part_of_a_scores_identity_and_its_name_is_not() -> None:
    def identity(**values: Any) -> dict[str, Any]:
        return score_identity(ScoreConfig.model_validate({"method": "words", **values}))

    assert identity(words=["a"]) == identity(words=["a"], name="A") != identity(words=["b"])

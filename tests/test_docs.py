"""The documentation says what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from docs.generate import OWN_CODE, attributes, kind_of, pages, replace_part, sections
from lrt_dist.config import (
    ConceptConfig,
    EvaluateConfig,
    FitConfig,
    ReportConfig,
    ScoreConfig,
    VectorConfig,
)
from lrt_dist.linear.methods import FIT_METHODS
from lrt_dist.maps.vectors import VECTOR_METHODS
from lrt_dist.models.injection import OPERATORS, POSITIONS
from lrt_dist.registry import Registry
from lrt_dist.report.figures import FIGURES
from lrt_dist.tasks.score_choice import SCORES


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_generated_pages_are_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == pages()[path], (
        f"{path.name} is not what the code says; run `python docs/generate.py` or `make docs`"
    )


@pytest.mark.parametrize(
    ("section", "key", "registry"),
    [
        (FitConfig, "method", FIT_METHODS),
        (VectorConfig, "method", VECTOR_METHODS),
        (EvaluateConfig, "operator", OPERATORS),
        (EvaluateConfig, "positions", POSITIONS),
        (ScoreConfig, "method", SCORES),
        (ReportConfig, "figures", FIGURES),
    ],
)
def test_a_key_describes_every_registered_choice(
    section: type[BaseModel], key: str, registry: Registry[Any]
) -> None:
    description = section.model_fields[key].description or ""
    assert tuple(re.findall(r"`(\w+)`: ", description)) == registry.names
    assert OWN_CODE in description


def test_no_other_key_claims_to_take_own_code() -> None:
    keys = [
        (section, key)
        for _, section in sections()
        for key, field in section.model_fields.items()
        if OWN_CODE in (field.description or "")
    ]
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        (FitConfig, "folds", "whole number from 2"),
        (FitConfig, "pairs", "`all` or list of pairs of whole numbers from 0"),
        (FitConfig, "joint", "list of lists of whole numbers from 0"),
        (FitConfig, "shrink_norm_above", "number above 1 or null"),
        (FitConfig, "reverse", "`true` or `false`"),
        (ConceptConfig, "at", "`last` or `answer`"),
    ],
)
def test_a_type_in_plain_words(section: type[BaseModel], key: str, words: str) -> None:
    field = section.model_fields[key]
    assert kind_of(field.annotation, field.metadata) == words


def test_attributes_of_a_docstring() -> None:
    class Documented:
        """A class.

        Attributes:
            one: first line,
                second line.
            two: `{key: value}`.

        Raises:
            ValueError: never.
        """

    assert attributes(Documented) == {"one": "first line, second line.", "two": "`{key: value}`."}


@pytest.mark.parametrize(
    "page",
    ["", "<!-- generated: a -->", "<!-- end: a --><!-- generated: a -->",
     "<!-- generated: a --><!-- end: a --><!-- generated: a --><!-- end: a -->"],
)  # fmt: skip
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        replace_part(page, "a", "content")


def test_what_is_written_by_hand_stays() -> None:
    page = "above\n<!-- generated: a -->\nold\n<!-- end: a -->\nbelow"
    new = replace_part(page, "a", "new")
    assert new == "above\n<!-- generated: a -->\n\nnew\n\n<!-- end: a -->\nbelow"
    assert replace_part(new, "a", "new") == new

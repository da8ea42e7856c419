"""Tokenizers of two families, loaded as a run loads them."""

from __future__ import annotations

import pytest
from tiny_models import byte_level_tokenizer, metaspace_tokenizer
from tiny_tokenizers import closing_tokenizer, load_tokenizer, one_word_tokenizer

from lrt_dist.models.tokens import SiteTokenizer


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("byte-level"), byte_level_tokenizer())


@pytest.fixture(scope="session")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("metaspace"), metaspace_tokenizer())


@pytest.fixture(scope="session")
def closing(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("closing"), closing_tokenizer())


@pytest.fixture(scope="session")
def one_word(tmp_path_factory: pytest.TempPathFactory) -> SiteTokenizer:
    return load_tokenizer(tmp_path_factory.mktemp("one-word"), one_word_tokenizer())

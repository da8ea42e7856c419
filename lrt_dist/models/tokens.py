"""Text to tokens, with the character at which each token ends.

A causal model's state at the token that ends at character c summarises exactly the text up to c;
that is what lets the states of two models with different tokenizers be compared.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jinja2
import numpy as np
import tokenizers
import torch
import transformers
from numpy.typing import NDArray

from lrt_dist.config import ModelConfig
from lrt_dist.errors import UserError
from lrt_dist.models.sources import import_modules, load_config, open_source
from lrt_dist.models.spelling import NO_END, Spelling

PROBE = "The cafés' 1 ½ “word”,\n\n\t漢 ends.  So "
"""A tokenizer whose tokens spell this text is expected to spell others."""
CHAT_DATE = "01 Jan 2026"
"""Some chat formats print the date; this one, so that a run is the same tomorrow."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """A text as one model sees it.

    Attributes:
        numbers: token ids, int32, with the special tokens that the tokenizer puts in front by
            itself, and without those that it puts behind: they would end the text, which may go on.
        ends: for each token the character offset at which it ends, int32, ascending; `NO_END` for
            special tokens and for pieces whose last character goes on in the next piece.
    """

    numbers: NDArray[np.int32]
    ends: NDArray[np.int32]

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """`numbers`, as Python has them."""
        return tuple(self.numbers.tolist())

    def positions(self, length: int) -> NDArray[np.int32]:
        """At each offset into a text of `length` characters, the index of the token that ends
        there: `[length + 1]`, `NO_END` where none does."""
        found = np.full(length + 1, NO_END, dtype=np.int32)
        (ending,) = np.nonzero(self.ends != NO_END)
        found[self.ends[ending]] = ending
        return found


class SiteTokenizer:
    """A tokenizer that knows where its tokens end in the text."""

    def __init__(
        self,
        name: str,
        backend: tokenizers.Tokenizer,
        chat_format: Callable[[str], str] | None = None,
    ) -> None:
        self.name = name
        self._backend = backend
        self._chat_format = chat_format
        self._backend.no_truncation()
        self._backend.no_padding()
        mask = self._backend.encode("a", add_special_tokens=True).special_tokens_mask
        self.special_tokens = sum(1 for _ in itertools.takewhile(bool, mask))
        self._closing_tokens = sum(1 for _ in itertools.takewhile(bool, reversed(mask)))

    @classmethod
    def load(cls, config: ModelConfig) -> SiteTokenizer:
        """Load the tokenizer of a model.

        Raises:
            UserError: the model has no tokenizer, or one without character offsets.
        """
        import_modules(config)
        source = open_source(config)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source, revision=config.revision, trust_remote_code=config.trust_remote_code
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{config.model} has no tokenizer that loads ({first_line}); put tokenizer.json "
                "and tokenizer_config.json beside the weights"
            ) from error
        if not getattr(tokenizer, "is_fast", False) or not tokenizer.backend_tokenizer:
            raise UserError(
                f"the tokenizer of {config.model} ({type(tokenizer).__name__}) has no character "
                "offsets, so sites cannot be found; convert it to a fast one (tokenizer.json)"
            )
        if tokenizer.backend_tokenizer.get_vocab_size() == 0:
            raise UserError(f"the tokenizer of {config.model} has an empty vocabulary")
        chat_format = (lambda prompt: _chat(tokenizer, prompt)) if tokenizer.chat_template else None
        backend = _with_whole_offsets(tokenizer.backend_tokenizer)
        return cls(config.model, backend, chat_format)

    def encode(self, text: str) -> Encoding:
        """Token ids and ends of `text`, with the special tokens the tokenizer puts in front."""
        return self._known(text, self._backend.encode(text, add_special_tokens=True))

    def encode_all(self, texts: Sequence[str]) -> list[Encoding]:
        """`encode` of many texts at once: on all cores, or on one where others have theirs."""
        # A task of a cluster is told how many cores it has through torch's number of threads.
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if torch.get_num_threads() > 1 else "false"
        if self._spelling is None:
            encoded = self._backend.encode_batch(list(texts), add_special_tokens=True)
            return [self._known(text, one) for text, one in zip(texts, encoded, strict=True)]
        without_offsets = self._backend.encode_batch_fast(list(texts), add_special_tokens=True)
        return [
            self._spelled(text, one.ids, self._spelling) or self.encode(text)
            for text, one in zip(texts, without_offsets, strict=True)
        ]

    @cached_property
    def _spelling(self) -> Spelling | None:
        """What the tokens spell; None where that is not the text."""
        spelling = Spelling.of(self._backend)
        ids = self._backend.encode(PROBE, add_special_tokens=True).ids
        return spelling if spelling and self._spelled(PROBE, ids, spelling) else None

    def _spelled(self, text: str, ids: list[int], spelling: Spelling) -> Encoding | None:
        """The encoding of a text, if its tokens spell it."""
        length = len(ids) - self._closing_tokens
        numbers = np.fromiter(ids, dtype=np.int32, count=length)
        found = spelling.ends(numbers[self.special_tokens :], text)
        if found is None:
            return None
        ends = np.full(length, NO_END, dtype=np.int32)
        ends[self.special_tokens :] = found
        return Encoding(numbers, ends)

    def _known(self, text: str, encoded: tokenizers.Encoding) -> Encoding:
        """What is wanted of an encoding of the library's."""
        ids, offsets = encoded.ids, encoded.offsets
        length = len(ids) - self._closing_tokens
        flat = itertools.chain.from_iterable(offsets[self.special_tokens : length])
        spans = np.fromiter(flat, dtype=np.int32).reshape(-1, 2)
        (filled,) = np.nonzero(spans[:, 0] < spans[:, 1])
        starts, stops = spans[filled].T
        # A piece that overlaps the next one stops inside a character: it ends nowhere.
        whole = stops <= np.append(starts[1:], len(text))
        ends = np.full(length, NO_END, dtype=np.int32)
        ends[filled[whole] + self.special_tokens] = stops[whole]
        return Encoding(np.fromiter(ids, dtype=np.int32, count=length), ends)

    def chat(self, prompt: str) -> str:
        """A prompt as a user's turn in the model's chat format, up to where the model answers.

        The special tokens that `encode` puts in front by itself are left out.

        Raises:
            UserError: the model has no chat format, or one that refuses the prompt.
        """
        if self._chat_format is None:
            raise UserError(
                f"{self.name} has no chat format (its tokenizer has no chat_template); set "
                "template.chat: false in the concept, or use a model that was tuned for chat"
            )
        try:
            text = self._chat_format(prompt)
        except (jinja2.TemplateError, ValueError) as error:
            raise UserError(f"the chat format of {self.name} cannot be used: {error}") from error
        for token in self._backend.encode("", add_special_tokens=True).tokens[
            : self.special_tokens
        ]:
            text = text.removeprefix(token)
        return text

    def decode(self, ids: list[int]) -> str:
        """Token ids as text, special tokens left out."""
        text: str = self._backend.decode(ids, skip_special_tokens=True)
        return text


def stop_tokens(config: ModelConfig) -> tuple[int, ...]:
    """Token ids with which a model ends a text, ascending."""
    known = [load_config(config).get_text_config().eos_token_id]
    try:
        settings = transformers.GenerationConfig.from_pretrained(
            open_source(config), revision=config.revision
        )
        known.append(settings.eos_token_id)
    except OSError:  # the model brings none
        pass
    ids = itertools.chain.from_iterable(
        one if isinstance(one, list) else [one] for one in known if one is not None
    )
    return tuple(sorted(set(ids)))


def _chat(tokenizer: transformers.PreTrainedTokenizerFast, prompt: str) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        date_string=CHAT_DATE,
    )
    return text


def _with_whole_offsets(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, whose offsets keep the blanks.

    Byte-level tokenizers trim blanks from the offsets they report (`trim_offsets`), so a token
    ` \\n` would seem to end before it does. Only the two small parts that trim are rebuilt.
    """

    def keep_blanks(node: object) -> object:
        if isinstance(node, dict):
            return {k: False if k == "trim_offsets" else keep_blanks(v) for k, v in node.items()}
        if isinstance(node, list):
            return [keep_blanks(item) for item in node]
        return node

    for name in ("pre_tokenizer", "post_processor"):
        part = getattr(backend, name)
        if part is not None:
            state = json.loads(part.__getstate__())
            part.__setstate__(json.dumps(keep_blanks(state)).encode())
            setattr(backend, name, part)  # the getter gave a copy
    return backend

"""A text classifier of transformers, on the CPU of whoever asks it."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from lrt_dist.errors import UserError
from lrt_dist.models.sources import quiet


class TextClassifier:
    """The probability that a classifier gives to one of its labels."""

    def __init__(self, model: str, label: str, *, revision: str | None = None) -> None:
        """Load it.

        Args:
            model: a folder, or a name at the hub.

        Raises:
            UserError: it cannot be loaded, or has no such label.
        """
        self._label = self.check(model, label, revision=revision)
        quiet()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision)
            self._model = transformers.AutoModelForSequenceClassification.from_pretrained(
                model, revision=revision, dtype=torch.float32
            ).eval()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"the classifier {model} cannot be loaded: {error}") from error

    @staticmethod
    def check(model: str, label: str, *, revision: str | None = None) -> int:
        """The number of a label, from the classifier's configuration alone.

        Raises:
            UserError: there is no configuration, or no such label.
        """
        try:
            config: Any = transformers.AutoConfig.from_pretrained(model, revision=revision)
        except (OSError, ValueError) as error:
            raise UserError(f"the classifier {model} cannot be loaded: {error}") from error
        labels = {name: number for number, name in config.id2label.items()}
        if label not in labels:
            raise UserError(
                f"the classifier {model} has no label {label!r}; it has {', '.join(labels)}"
            )
        return int(labels[label])

    def probability(self, text: str) -> float:
        """Of the label; a text longer than the classifier's context is cut, an empty one is a
        blank, since it may be no token at all."""
        longest = getattr(self._model.config, "max_position_embeddings", None)
        encoded = self._tokenizer(
            text or " ", return_tensors="pt", truncation=longest is not None, max_length=longest
        )
        with torch.inference_mode():
            logits = self._model(**encoded).logits[0]
        p = logits.softmax(-1)[self._label] if len(logits) > 1 else logits.sigmoid()[0]
        return float(p)

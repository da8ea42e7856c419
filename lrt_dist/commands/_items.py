"""The items of a run: refused where they cannot be read, kept beside the scores, warned of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lrt_dist.config import ConceptConfig
from lrt_dist.corpus.confounds import concept_warnings
from lrt_dist.corpus.contrast import Item
from lrt_dist.errors import UserError
from lrt_dist.models.injection import chosen_positions
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.sites import Side
from lrt_dist.store.tables import ItemRow, Table, is_current
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.scores import ForcedScore, GeneratedScore
from lrt_dist.workspace.run import Run

PROMPTS = "prompts"
"""Name of what the model continues, beside those of the splits."""

ADDED_TOKENS = 64
"""More than the special tokens that any tokenizer adds to a text."""


def check_items(run: Run) -> None:
    """Whether both models can read the items; asked before a model is loaded.

    Raises:
        UserError: an item is longer than a model's context; a model has no chat format; the score
            finds nothing to read in an item, or nothing of it would be steered.
    """
    for side in Side:
        _check_side(run, side)
    if run.concepts and isinstance(run.score, ForcedScore):
        _check_reads(run, run.score)


def write_items(run: Run, fingerprint: str) -> None:
    """Write `items.parquet`, unless it is current."""
    if not is_current(run.folder.items, fingerprint):
        Table.of(ItemRow, _item_rows(run)).save(run.folder.items, fingerprint)


def item_warnings(run: Run) -> list[str]:
    """What the items of all concepts confound with them, or lack."""
    return [
        warning for name, data in run.concepts.items() for warning in concept_warnings(name, data)
    ]


def _item_rows(run: Run) -> Iterator[ItemRow]:
    for name, data in run.concepts.items():
        for split, items in data.splits().items():
            for number, item in enumerate(items):
                yield ItemRow(
                    concept=name,
                    split=split,
                    item=number,
                    question=item.question,
                    prompt=item.prompts[0],
                    negative_prompt=item.prompts[1],
                    positive=item.positive,
                    negative=item.negative,
                )


def _check_side(run: Run, side: Side) -> None:
    context = run.facts[side].context
    tokenizer: SiteTokenizer | None = None
    for concept in run.config.concepts:
        data = run.concepts[concept.name]
        read = {"vector": data.vector}
        if side is Side.TARGET:
            read = {**data.splits(), PROMPTS: data.prompts}
        for split, items in read.items():
            room = None if context is None else context - run.config.evaluate.generate.tokens
            if not concept.template.chat and (room is None or _surely_short(items, room)):
                continue  # a tokenizer takes seconds to load
            tokenizer = tokenizer or SiteTokenizer.load(run.model(side))
            as_read = rendered(items, concept.template, tokenizer)
            if context is not None:
                _check_lengths(run, concept, split, as_read, tokenizer, context)


def _check_reads(run: Run, score: ForcedScore) -> None:
    """Every item must have something to read; and what is not steered cannot change."""
    tokenizer = SiteTokenizer.load(run.model(Side.TARGET))
    for name, data in run.concepts.items():
        for item in rendered((*data.dev, *data.test), data.template, tokenizer):
            sequences = score.read([item], tokenizer).sequences
            if not any(chosen_positions(run.positions, s.parts) for s in sequences):
                raise UserError(
                    f"concept {name}: evaluate.positions {run.config.evaluate.positions} steers "
                    f"no token of an item ({item.texts()[0]!r}): what is read of it is predicted "
                    "by tokens before; use all or from_prompt_end"
                )


def _surely_short(items: Sequence[Item], room: int) -> bool:
    """Whether no text can be too long: no token is shorter than a byte."""
    longest = max(len(text.encode()) for item in items for text in item.texts())
    return longest + ADDED_TOKENS <= room


def _check_lengths(
    run: Run,
    concept: ConceptConfig,
    split: str,
    items: Sequence[Item],
    tokenizer: SiteTokenizer,
    context: int,
) -> None:
    config = run.config.evaluate.generate
    judged = isinstance(run.score, GeneratedScore) and split != "vector"
    if split == PROMPTS and config.items != "all":
        items = items[: config.items]
    written = config.tokens if judged or split == PROMPTS else 0
    what = "a prompt" if split == PROMPTS else f"an item of the {split} split"
    for item in items:
        longest = max(len(tokenizer.encode(text).ids) for text in item.texts())
        longest = max(longest, len(tokenizer.encode(item.prompts[0]).ids) + written)
        if longest > context:
            raise UserError(
                f"concept {concept.name}: {what} has {longest} tokens"
                f"{f', {written} written ones included,' if written else ''} in {tokenizer.name}, "
                f"whose context holds {context}: {item.texts()[0][:80]!r} …; shorten or remove it"
            )

"""Texts of the target model at the chosen layers and strength, and how they are judged."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from lrt_dist.commands.evaluation.generation import Writer, Writing
from lrt_dist.corpus.contrast import Item
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import compared_conditions
from lrt_dist.sites import LayerPair
from lrt_dist.store.tables import GeneratedRow
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.scores import GeneratedScore
from lrt_dist.workspace.run import Run

BEGINNING = 5
"""Tokens of a text without a prompt from which the model goes on."""


def generated(
    run: Run,
    writer: Writer,
    tokenizer: SiteTokenizer,
    chosen: Mapping[str, tuple[LayerPair, float]],
) -> list[GeneratedRow]:
    """What the model writes after the first prompts of each concept, judged by every score.

    Args:
        chosen: pair of layers and strength of each concept.

    Raises:
        IncompleteError: a judge could not be asked to the end; what it said is kept.
    """
    config = run.config.evaluate.generate
    if not config.tokens:
        return []
    writings: list[Writing] = []
    items: list[tuple[Item, ...]] = []
    for name, (pair, strength) in chosen.items():
        data = run.concepts[name]
        items.append(data.prompts if config.items == "all" else data.prompts[: config.items])
        prompts = [_beginning(i, tokenizer) for i in rendered(items[-1], data.template, tokenizer)]
        conditions = compared_conditions(pair.source, strength, config.random_draws)
        writings.append(Writing(name, pair.target, tuple(conditions), tuple(prompts)))
    texts = writer.write("generate", writings)
    places = [
        (writing, condition, number, item, sample)
        for writing, items_of in zip(writings, items, strict=True)
        for condition, (number, item), sample in itertools.product(
            writing.conditions, enumerate(items_of), range(config.samples)
        )
    ]
    flat = [text for texts_of in texts for text in texts_of]
    judged = [(place[3], text) for place, text in zip(places, flat, strict=True)]
    values = {
        title: judge(run, f"judge ({title})", score, judged)
        for title, score in run.text_scores.items()
    }
    return [
        GeneratedRow(
            concept=writing.concept,
            item=number,
            question=item.question,
            sample=sample,
            source_layer=condition.source_layer,
            target_layer=writing.target,
            arm=condition.arm,
            draw=condition.draw,
            strength=condition.strength,
            prompt=tokenizer.decode(list(writing.prompts[number])),
            text=text,
            scores=tuple(values),
            values=tuple(of_score[place] for of_score in values.values()),
        )
        for place, ((writing, condition, number, item, sample), text) in enumerate(
            zip(places, flat, strict=True)
        )
    ]


def judge(
    run: Run, name: str, score: GeneratedScore, texts: Sequence[tuple[Item, str]]
) -> list[float]:
    """The value of each text.

    Args:
        name: of the phase, for the progress bar.
        texts: with the items whose prompts they continue.

    Raises:
        IncompleteError: see `generated`.
    """
    with run.progress.phase(name, len(texts), "texts") as phase:
        values = []
        try:
            for value in _values(score, texts):
                values.append(value)
                phase.advance()
        finally:
            if message := score.account():
                run.progress.note("judge", message)
        return values


def _values(score: GeneratedScore, texts: Sequence[tuple[Item, str]]) -> Iterator[float]:
    """In order; as many at once as the score allows. After a failure no further text is begun;
    those on their way are waited for, and kept."""
    failed = threading.Event()

    def value(item: Item, text: str) -> float:
        if failed.is_set():
            return math.nan  # which nobody will read
        try:
            return score.judge(item, text)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(score.at_once) as pool:
        waiting = [pool.submit(value, item, text) for item, text in texts]
        try:
            for begun in waiting:
                yield begun.result()
        finally:
            failed.set()


def _beginning(item: Item, tokenizer: SiteTokenizer) -> tuple[int, ...]:
    """Tokens of an item's prompt; where it has none, the first words of its text."""
    prompt = tokenizer.encode(item.prompts[0]).ids
    if len(prompt) > tokenizer.special_tokens:
        return prompt
    return tokenizer.encode(item.texts()[0]).ids[:BEGINNING]

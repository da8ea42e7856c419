"""What an evaluation would take: passes through the target model, and the search in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrt_dist.commands.evaluation.choice import ITEMS
from lrt_dist.commands.evaluation.screening import MOST_SAMPLED_ROWS
from lrt_dist.corpus.contrast import Item
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import (
    DRAWN,
    band_conditions,
    compared_conditions,
    dev_conditions,
    test_conditions,
)
from lrt_dist.plan.cost import forward_flops
from lrt_dist.sites import Side
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.scores import GeneratedScore
from lrt_dist.tasks.sequences import contrast_texts
from lrt_dist.tasks.token_trees import trees_of
from lrt_dist.workspace.run import Run


@dataclass(frozen=True)
class EvaluationPlan:
    """Evaluation of all concepts; without kept cells, that is from the beginning.

    Attributes:
        concepts: number of concepts.
        items: development and test items of all of them.
        gradients: items that are run forward and back.
        passes: items that are run under steering, each once for every condition.
        texts: that the target model writes.
        paid: of these, those that judges are asked for, by the judge's name.
        draws: of drawn controls, over all concepts and pairs of layers.
        model_flops: operations of both models.
        search_flops: operations of the search over the grid.
    """

    concepts: int
    items: int
    gradients: int
    passes: int
    texts: int
    paid: dict[str, int]
    draws: int
    model_flops: int
    search_flops: int


def plan_evaluation(run: Run) -> EvaluationPlan | None:
    """Count what `evaluate` does; None without concepts.

    A backward pass counts as two forward ones. Under steering only blocks behind the steered layer
    count, on average over the target layers: those before it are shared.
    """
    if not run.config.concepts:
        return None
    facts, config = run.facts, run.config.evaluate
    tokenizer = SiteTokenizer.load(run.model(Side.TARGET))
    writes = isinstance(run.score, GeneratedScore)
    generate = config.generate
    whole, parameters = facts.target.layers - 1, facts.target.active_parameters
    behind = [sum(parameters[layer + 1 :]) for layer in run.layers.target]
    share = sum(behind) / len(behind) / sum(parameters)
    concepts, pair = len(run.concepts), run.pairs[0]
    on_dev = dev_conditions(config.strengths, pair.source, predicted=run.predictable)
    on_test = test_conditions(
        config.strengths,
        config.strengths[-1],
        pair.source,
        mismatched=run.config.fit.mismatched_draws,
        foreign=range(1, concepts),
        concept_maps=() if run.config.fit.on == "corpus" else range(concepts),
        detours=len(config.detours),
        identity=run.widths.source == run.widths.target,
    )
    compared = len(compared_conditions(pair.source, config.strengths[-1], generate.random_draws))
    banded = len(run.bands) * len(config.strengths)
    in_bands = len(run.bands) * len(
        band_conditions(config.strengths, config.strengths[-1], config.exact_draws)
    )
    searched, controls = (0, 0) if run.predictable else _steered_search(run)
    items = passes = gradients = judged = shown = model_flops = 0
    for concept in run.config.concepts:
        data = run.concepts[concept.name]
        contrast = contrast_texts(data.vector, tokenizer, concept.at)
        read = sum(map(len, contrast.ids))
        for side in Side:
            model_flops += forward_flops(read, facts[side].active_parameters, max(run.layers[side]))
        for split, conditions in (
            (data.dev[:ITEMS], len(on_dev) + searched + banded),
            (data.dev[ITEMS:], searched + banded),
            (data.test, len(on_test) + controls + in_bands),
        ):
            tokens = _tokens(run, concept.name, split, tokenizer)
            one = forward_flops(tokens, parameters, whole)
            items += len(split)
            if writes:
                texts = conditions * len(split) * generate.samples
                judged += texts
                model_flops += conditions * generate.samples * one
                model_flops += forward_flops(texts * generate.tokens, parameters, whole)
                continue
            back = 3 if run.predictable else 0
            model_flops += int((back + conditions * share) * one)
            passes += conditions * len(split)
            gradients += len(split) if run.predictable else 0
        if generate.tokens:
            continued = data.prompts if generate.items == "all" else data.prompts[: generate.items]
            texts = compared * generate.samples
            tokens = _prompt_tokens(run, concept.name, continued, tokenizer)
            tokens += len(continued) * generate.tokens
            shown += texts * len(continued)
            model_flops += forward_flops(texts * tokens, parameters, whole)
    draws = config.control_draws if run.predictable else config.exact_draws
    d, e = run.widths
    mapped = 2 * draws * (1 + concepts) * d * e
    at_target = 2 * draws * concepts * e * MOST_SAMPLED_ROWS
    return EvaluationPlan(
        concepts=concepts,
        items=items,
        gradients=gradients,
        passes=passes,
        texts=judged + shown,
        paid=_paid(run, judged, shown),
        draws=draws * len(DRAWN) * concepts * len(run.pairs),
        model_flops=model_flops,
        search_flops=len(run.pairs) * (mapped + at_target),
    )


def _steered_search(run: Run) -> tuple[int, int]:
    """Conditions of each development item and of each test item where effects are not predicted;
    see `search`."""
    config = run.config.evaluate
    drawn = 2 * len(DRAWN) * config.exact_draws
    natives = len({pair.target for pair in run.pairs}) * len(config.strengths)
    return natives + len(run.pairs) * (2 + drawn), drawn


def _tokens(run: Run, concept: str, items: Sequence[Item], tokenizer: SiteTokenizer) -> int:
    """Tokens of some items in one pass; continuations share their prompt."""
    score = run.score
    if isinstance(score, GeneratedScore):
        return _prompt_tokens(run, concept, items, tokenizer)
    as_read = rendered(items, run.concepts[concept].template, tokenizer)
    readouts = (score.read([item], tokenizer) for item in as_read)
    trees = (trees_of(r.sequences, run.positions, shared=True) for r in readouts)
    return sum(len(tree.ids) for of_item in trees for tree in of_item)


def _prompt_tokens(run: Run, concept: str, items: Sequence[Item], tokenizer: SiteTokenizer) -> int:
    as_read = rendered(items, run.concepts[concept].template, tokenizer)
    return sum(len(tokenizer.encode(item.prompts[0]).ids) for item in as_read)


def _paid(run: Run, judged: int, shown: int) -> dict[str, int]:
    """Texts for which each judge is asked, those of the search and those of the report."""
    calls = {title: shown for title, score in run.text_scores.items() if score.paid}
    title = run.config.evaluate.score.title
    if isinstance(run.score, GeneratedScore) and run.score.paid:
        calls[title] = calls.get(title, 0) + judged
    return calls

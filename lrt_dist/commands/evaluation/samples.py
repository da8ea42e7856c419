"""What the target model writes under steering, for people to read."""

from __future__ import annotations

import json

from lrt_dist.commands.evaluation.chains import OnDemandChains
from lrt_dist.commands.evaluation.displacements import Displacements
from lrt_dist.commands.evaluation.generation import Prompts, continuations
from lrt_dist.commands.evaluation.scored_items import score_context
from lrt_dist.corpus.splits import ConceptData
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.plan.conditions import sample_conditions
from lrt_dist.sites import LayerPair
from lrt_dist.store.cells import address
from lrt_dist.store.tables import SampleRow, Table, concat, is_current
from lrt_dist.tasks.chat import rendered
from lrt_dist.tasks.token_trees import SteeredSequence
from lrt_dist.workspace.run import Run

BEGINNING = 5
"""Tokens of a text without a prompt from which the model goes on."""


def samples(
    run: Run,
    chains: OnDemandChains,
    displacements: Displacements,
    tokenizer: SiteTokenizer,
    chosen: dict[str, tuple[LayerPair, float]],
) -> Table[SampleRow]:
    """Greedy continuations of one test prompt per concept; what is there is read.

    Args:
        chosen: pair of layers and strength of each concept.
    """
    length, context = run.config.evaluate.sample_tokens, score_context(run)
    prompts: dict[str, Prompts] = {}
    addresses: dict[str, str] = {}
    conditions = {n: sample_conditions(pair.source, s) for n, (pair, s) in chosen.items()}
    for name, (pair, _) in chosen.items():
        ids = _beginning(run.concepts[name], tokenizer)
        begin = SteeredSequence(ids, len(ids), special=tokenizer.special_tokens)
        steering = displacements.of(name, pair.target, conditions[name])
        what = json.dumps([name, ids, begin.special, pair.target, length])
        addresses[name] = address(context, what.encode(), *steering.contents).hex()
        count = len(conditions[name])
        prompts[name] = Prompts(name, pair.target, steering, tuple(range(count)), (begin,) * count)
    paths = {name: run.folder.continuations(key) for name, key in addresses.items()}
    missing = [p for name, p in prompts.items() if not is_current(paths[name], addresses[name])]
    with run.progress.phase("samples", length * len(chosen), "tokens") as phase:
        phase.resume(length * (len(chosen) - len(missing)))
        written = continuations(
            chains,
            missing,
            run.positions,
            tokens=length if missing else 0,
            token_budget=run.config.evaluate.batch_tokens,
            on_token=lambda: phase.advance(len(missing)),
        )
    for name, texts in written.items():
        rows = [
            SampleRow(
                concept=name,
                prompt=tokenizer.decode(list(prompts[name].sequences[0].ids)),
                arm=condition.arm,
                strength=condition.strength,
                text=tokenizer.decode(list(ids)),
            )
            for condition, ids in zip(conditions[name], texts, strict=True)
        ]
        Table.of(SampleRow, rows).save(paths[name], addresses[name])
    return concat([Table.read(path, SampleRow) for path in paths.values()], SampleRow)


def _beginning(data: ConceptData, tokenizer: SiteTokenizer) -> tuple[int, ...]:
    """Tokens of a test item's prompt; where items have none, the first words of its text."""
    (item,) = rendered(data.test[:1], data.template, tokenizer)
    prompt = tokenizer.encode(item.prompts[0]).ids
    if len(prompt) > tokenizer.special_tokens:
        return prompt
    return tokenizer.encode(item.texts()[0]).ids[:BEGINNING]

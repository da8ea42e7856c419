"""Steering many vectors on multiple-choice items, beside the loops that people write.

`evaluation_loop`: one full forward pass for each vector and strength over both answers of each
item, batched over items, with a hook that adds the displacement; logits at every position.
`evaluation_reads`: the same, with the language-model head applied only where an answer is read.

All three give the same propensities, which is checked to 1e-4. The model is the demo's target; the
items are as long as those of Rimsky et al. (arXiv 2312.06681), about 110 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pydoc_data.topics import topics

import torch
import transformers
from rich.console import Console

from benchmarks.harness import Result, result, seconds, versions
from lrt_dist.config import ModelConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.demo.run import demo_config
from lrt_dist.models.anatomy import find_blocks
from lrt_dist.models.hooks import block_output, change_output
from lrt_dist.models.injection import POSITIONS, Intervention, Steering
from lrt_dist.models.loading import load_blocks
from lrt_dist.models.sources import open_source
from lrt_dist.models.tokens import SiteTokenizer
from lrt_dist.tasks.score import ScoreTask
from lrt_dist.tasks.sequences import propensity_sequences
from lrt_dist.tasks.token_trees import Read, SteeredSequence, trees_of

TARGETS = {"evaluation_loop": 8.0, "evaluation_reads": 4.0}
CONDITIONS = 23
"""No steering, two vectors at four strengths, seven controls at two: the test items of the demo."""

Propensities = Callable[[], torch.Tensor]


def measure(names: Sequence[str], *, quick: bool) -> list[Result]:
    """Seconds of each loop and of ours, in turns."""
    items, conditions = (1, 3) if quick else (2, CONDITIONS)
    contenders = _contenders(demo_config(Console(), ()).target, questions(items), conditions)
    expected = contenders["ours"]()
    for name in names:  # which warms them up as well
        torch.testing.assert_close(contenders[name](), expected, rtol=0, atol=1e-4)
    wanted = {name: contenders[name] for name in (*names, "ours")}
    rounds = [
        {name: seconds(contender) for name, contender in wanted.items()}
        for _ in range(1 if quick else 3)
    ]
    facts = f"{items} items, {conditions} conditions, {versions('torch', 'transformers')}"
    return [
        result(
            name,
            [{**times, "ratio": times[name] / times["ours"], "of": facts} for times in rounds],
            TARGETS[name],
            higher_is_better=True,
        )
        for name in names
    ]


def questions(count: int) -> list[Item]:
    """Two-choice questions of about 110 tokens, answered by a letter."""
    texts = [text for _, text in sorted(topics.items()) if len(text) > 2000]
    items = []
    for text in texts[:count]:
        words = " ".join(text.split()[20:]).split()
        body = " ".join(words[:45])
        choices = f"(A) {' '.join(words[45:52])}\n (B) {' '.join(words[52:59])}"
        prompt = f"{body}: which of the two follows?\n\nChoices:\n {choices}\n\nAnswer:"
        items.append(Item((prompt, prompt), ("\n (A)",), ("\n (B)",)))
    return items


def _contenders(
    config: ModelConfig, items: Sequence[Item], conditions: int
) -> dict[str, Propensities]:
    tokenizer = SiteTokenizer.load(config)
    readout, plain = propensity_sequences(items, tokenizer), _plain(items, tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(open_source(config)).float().eval()
    layers = len(find_blocks(model))
    stack, layer = load_blocks(config, range(layers), head=True), layers // 2
    width = int(model.config.get_text_config().hidden_size)
    displacements = torch.randn(conditions, width, generator=torch.Generator().manual_seed(0))
    displacements[0] = 0
    positions = POSITIONS.find("all")

    def ours() -> torch.Tensor:
        trees = trees_of(readout.sequences, positions, shared=True)
        steered = Intervention({layer: Steering.adding(displacements)})
        task = ScoreTask("b", steered, trees, readout.slots, 4096)
        work = task.start(stack)
        for batch in range(task.batches):
            work.step(batch, None)
        sums = work.finish()
        assert sums is not None
        return readout.of(sums)

    def loop(read: Callable[..., torch.Tensor]) -> torch.Tensor:
        ids, places, tokens, slots = _padded(plain)
        sums = torch.zeros(conditions, len(plain), dtype=torch.float64)
        for number, displacement in enumerate(displacements):

            def steer(output: object, added: torch.Tensor = displacement) -> torch.Tensor:
                return block_output(output) + added

            with torch.inference_mode(), change_output(find_blocks(model)[layer], steer):
                log_p = read(ids, places, tokens)
            sums[number].index_add_(0, slots, log_p.double())
        return sums[:, ::2] - sums[:, 1::2]

    def everywhere(ids: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        log_p: torch.Tensor = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        return log_p[places[:, 0], places[:, 1], tokens]

    def where_read(ids: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits: torch.Tensor = model.lm_head(hidden[places[:, 0], places[:, 1]])
        return logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]

    return {
        "ours": ours,
        "evaluation_loop": lambda: loop(everywhere),
        "evaluation_reads": lambda: loop(where_read),
    }


def _plain(items: Sequence[Item], tokenizer: SiteTokenizer) -> list[SteeredSequence]:
    """Both whole texts of each item, every token of the answers read."""
    sequences: list[SteeredSequence] = []
    for item in items:
        prompt = len(tokenizer.encode(item.prompts[0]).ids)
        for text in item.texts():
            ids, slot = tokenizer.encode(text).ids, len(sequences)
            reads = tuple(Read(p - 1, ids[p], slot) for p in range(prompt, len(ids)))
            sequences.append(SteeredSequence(ids, prompt, reads))
    return sequences


def _padded(
    sequences: Sequence[SteeredSequence],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids right-padded, and what is read: (sequence, position), token, slot."""
    rows = [torch.tensor(sequence.ids) for sequence in sequences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    reads = [
        (row, read.position, read.token, read.slot)
        for row, sequence in enumerate(sequences)
        for read in sequence.reads
    ]
    table = torch.tensor(reads)
    return ids, table[:, :2], table[:, 2], table[:, 3]

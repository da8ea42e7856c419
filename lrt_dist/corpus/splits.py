"""Which items make a concept's vector, which choose, and which are reported.

The division is random by seed, depends on what the items say and not on their order, gives every
split its share of each kind of answer, and never divides the items that ask one question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrt_dist.config import ConceptConfig, DataConfig, SplitConfig, TemplateConfig
from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.items import NO_TEMPLATE, Items, read_items
from lrt_dist.errors import UserError

SPLITS = ("vector", "dev", "test")


@dataclass(frozen=True)
class ConceptData:
    """A concept's items, split so that nothing is tested on what made the vector or chose it.

    Attributes:
        vector: items that make the vector.
        dev: items on which layers and strength are chosen.
        test: items that are reported.
        template: what is still to be put around the prompts, see `tasks.chat`.
        left_out: items of the second file that ask a question of the first one.
        unpaired: texts of the larger of two classes that are in no item.
        prompts: what the model continues; the test items unless the concept brings others.
    """

    vector: tuple[Item, ...]
    dev: tuple[Item, ...]
    test: tuple[Item, ...]
    template: TemplateConfig = NO_TEMPLATE
    left_out: int = 0
    unpaired: int = 0
    prompts: tuple[Item, ...] = ()

    def splits(self) -> dict[str, tuple[Item, ...]]:
        """The items of each split, by its name."""
        return {"vector": self.vector, "dev": self.dev, "test": self.test}

    @property
    def digest(self) -> str:
        """Of all that the items say, in their splits: the same data in another file is the same."""
        said = {
            name: [(*_content(item), item.question) for item in items]
            for name, items in {**self.splits(), "prompts": self.prompts}.items()
        }
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def check_files(concepts: Iterable[ConceptConfig]) -> None:
    """Whether all files of some concepts are there: a recipe may name many that are a user's to
    bring.

    Raises:
        UserError: some are not; all of them are named.
    """
    missing = [
        f"{concept.name}: {file}"
        for concept in concepts
        for data in (concept.data, concept.items, concept.prompts)
        for file in (data.files if data else ())
        if not Path(file).is_file()
    ]
    if missing:
        raise UserError(
            f"no contrast data at {len(missing)} of the paths that the concepts name:\n  "
            + "\n  ".join(missing)
            + "\nput the files there, or change the paths (--set concepts=… for all concepts)"
        )


def load_concept(config: ConceptConfig) -> ConceptData:
    """Read and split a concept's data; see `config.SplitConfig` for what goes where.

    Raises:
        UserError: unreadable data (file and line), more items asked for than there are, a split
            with fewer than two items, an item for the vector that is an open question, or no
            prompts to go on from.
    """
    read = _read(config, config.data)
    data, unpaired = list(dict.fromkeys(read.items)), read.unpaired
    asked = {name: getattr(config.split, name) for name in SPLITS}
    left_out = 0
    if config.items is None:
        split = divide(data, _numbers(len(data), asked, config), config.split)
    else:
        vector = asked["vector"] if isinstance(asked["vector"], int) else len(data)
        evaluated = {name: asked[name] for name in ("dev", "test")}
        questions = {item.question for item in data}
        read = _read(config, config.items)
        everything, unpaired = list(dict.fromkeys(read.items)), unpaired + read.unpaired
        items = [item for item in everything if item.question not in questions]
        left_out = len(everything) - len(items)
        split = {
            **divide(data, _numbers(len(data), {"vector": vector}, config), config.split),
            **divide(items, _numbers(len(items), evaluated, config), config.split),
        }
    for name, chosen in split.items():
        if len(chosen) < 2:
            source = data if name == "vector" or config.items is None else items
            raise UserError(_too_few(config, name, len(chosen), source, left_out))
    for item in split["vector"]:
        if not item.has_contrast:
            raise UserError(
                f"concept {config.name}: {config.data} has an open question, "
                f"{item.prompts[0][:80]!r}, which has no answers to make a vector of; open "
                "questions can be `items` of a score of generated text"
            )
    return ConceptData(
        **split,
        template=config.template,
        left_out=left_out,
        unpaired=unpaired,
        prompts=_prompts(config, data) if config.prompts else split["test"],
    )


def divide(
    items: Iterable[Item], numbers: Mapping[str, int], config: SplitConfig
) -> dict[str, tuple[Item, ...]]:
    """Items dealt out to splits.

    Questions are shuffled by a hash of the seed and what they ask, those of equal answers (letter;
    yes or no) stand together, and each goes to the split that is furthest behind its share. So
    every split has its share of each kind of answer, to within one question.

    Args:
        numbers: size of each split; a split is smaller by less than a question where questions
            have several items. What is in no split is left over.
    """
    questions: dict[str, list[Item]] = {}
    for item in items:
        questions.setdefault(item.question, []).append(item)
    groups = [sorted(group, key=_content) for group in questions.values()]
    groups.sort(key=lambda group: (_kind(group), _shuffled(config.seed, group[0].question)))
    total = sum(map(len, groups))
    room = {**numbers, "": total - sum(numbers.values())}  # "" is what is left over
    dealt: dict[str, list[Item]] = {name: [] for name in room}
    seen = 0
    for group in groups:
        seen += len(group)
        behind = {
            name: room[name] * seen - len(dealt[name]) * total
            for name in room
            if len(dealt[name]) + len(group) <= room[name]
        }
        dealt[max(behind, key=lambda name: behind[name]) if behind else ""] += group
    return {
        name: tuple(sorted(dealt[name], key=lambda i: (_shuffled(config.seed, i.question),
                                                       _content(i))))
        for name in numbers
    }  # fmt: skip


def _prompts(config: ConceptConfig, data: Sequence[Item]) -> tuple[Item, ...]:
    """What the model continues, in the order of the file."""
    assert config.prompts is not None, "the concept brings none"
    questions = {item.question for item in data}
    read = dict.fromkeys(_read(config, config.prompts, texts_ask=True).items)
    prompts = tuple(item for item in read if item.question not in questions)
    if not prompts or not all(item.prompts[0] for item in prompts):
        raise UserError(
            f"concept {config.name}: {config.prompts} has "
            f"{'an item without a prompt' if prompts else f'no prompt that {config.data} has not'}"
            ", and a model can only go on from a prompt"
        )
    return prompts


def _read(config: ConceptConfig, data: DataConfig, *, texts_ask: bool = False) -> Items:
    return read_items(
        data,
        config.template,
        swap_letters=config.swap_letters,
        seed=config.split.seed,
        texts_ask=texts_ask,
    )


def _numbers(
    available: int, asked: Mapping[str, int | float], config: ConceptConfig
) -> dict[str, int]:
    """Shares made numbers: they divide what the numbers leave, in their ratio."""
    fixed = sum(amount for amount in asked.values() if isinstance(amount, int))
    if fixed > available:
        wanted = ", ".join(f"{name}: {n}" for name, n in asked.items() if isinstance(n, int))
        raise UserError(
            f"concept {config.name}: split asks for {fixed} items ({wanted}), and "
            f"{config.data if 'vector' in asked else config.items} has {available}"
            f"{'' if 'vector' in asked else f' that ask no question of {config.data}'}; "
            "ask for fewer, or add items"
        )
    shares = sum(amount for amount in asked.values() if isinstance(amount, float))
    numbers: dict[str, int] = {}
    before = 0.0
    for name, amount in asked.items():
        if isinstance(amount, int):
            numbers[name] = amount
        else:
            ends = [
                int((available - fixed) * part / shares + 0.5) for part in (before, before + amount)
            ]
            numbers[name] = ends[1] - ends[0]
            before += amount
    return numbers


def _kind(group: list[Item]) -> str:
    """The answers of a question's items: their letters, and whether they say yes or no."""
    return " ".join(sorted(f"{i.letter} {i.says}" for i in group))


def _shuffled(seed: int, question: str) -> str:
    return hashlib.sha256(f"{seed}\n{question}".encode()).hexdigest()


def _content(item: Item) -> tuple[tuple[str, ...], ...]:
    return item.prompts, item.positive, item.negative


def _too_few(config: ConceptConfig, name: str, count: int, items: list[Item], left_out: int) -> str:
    file = config.data if name == "vector" or config.items is None else config.items
    message = (
        f"concept {config.name}: {count} items in the {name} split, at least 2 are needed; add "
        f"items to {file} or change split"
    )
    questions = len({item.question for item in items})
    if questions < len(items):
        message += (
            f" (its {len(items)} items ask only {questions} questions, and items that ask the same "
            "question stay together)"
        )
    if left_out and name != "vector":
        message += f" ({left_out} items ask a question of {config.data} and are left out)"
    return message

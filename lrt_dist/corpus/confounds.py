"""What else than the concept could tell the positive answers of a split from the negative ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lrt_dist.corpus.contrast import Item
from lrt_dist.corpus.splits import ConceptData
from lrt_dist.errors import UserError

ONE_SIDED = 2 / 3
"""Share of a split's items from which on their most frequent answer is warned of."""


def check_letters(concept: str, data: ConceptData) -> None:
    """Whether the positive answers of every split have several letters.

    Raises:
        UserError: in one split they all have the same one: then it would measure a letter.
    """
    for split, items in data.splits().items():
        letter = items[0].letter
        if letter and all(item.letter == letter for item in items):
            raise UserError(
                f"concept {concept}: all {len(items)} positive answers of the {split} split are "
                f"({letter}), so it would measure a letter; set swap_letters: true in the concept, "
                "or add items whose positive answer has another letter"
            )


def concept_warnings(concept: str, data: ConceptData) -> list[str]:
    """Sentences on what the items of a concept confound with it, or lack."""
    warnings = []
    if data.left_out:
        warnings.append(
            f"Concept {concept}: {data.left_out} items ask a question that also makes the vector, "
            "and are left out."
        )
    if data.unpaired:
        warnings.append(
            f"Concept {concept}: the texts of its two classes were paired at random, and "
            f"{data.unpaired} of the larger class have no partner and are left out."
        )
    for split, items in data.splits().items():
        for value, name, way_out in (
            (lambda item: item.letter, "({})", "set swap_letters: true"),
            (lambda item: item.says, "“{}”", "add items whose positive answer is the opposite"),
        ):
            found = _one_sided(items, value)
            if found:
                answer, count, of = found
                shown = name.format(answer)
                warnings.append(
                    f"Concept {concept}: in the {split} split the positive answer is {shown} in "
                    f"{count} of {of} items, so a liking for {shown} counts as the concept; "
                    f"{way_out}."
                )
    return warnings


def _one_sided(items: Sequence[Item], value: Callable[[Item], str]) -> tuple[str, int, int] | None:
    """The most frequent value, how often, of how many; None where it is no more than usual."""
    values = Counter(v for item in items if (v := value(item)))
    if not values:
        return None
    ((answer, count),) = values.most_common(1)
    return (answer, count, len(items)) if count > ONE_SIDED * len(items) else None

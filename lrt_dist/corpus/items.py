"""All items of contrast data, whatever its files and forms; prompts and answers are joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrt_dist.config import DataConfig, TemplateConfig
from lrt_dist.corpus.choices import described, is_multiple_choice, swapped
from lrt_dist.corpus.contrast import ClassText, Item, paired
from lrt_dist.corpus.forms import class_text, form_of
from lrt_dist.corpus.hub import dataset_rows
from lrt_dist.corpus.records import records_of
from lrt_dist.corpus.template import joined
from lrt_dist.errors import UserError

NO_TEMPLATE = TemplateConfig()


@dataclass(frozen=True)
class Items:
    """What contrast data says.

    Attributes:
        items: in the order of the data; those of classes without pairs come last.
        unpaired: texts of the larger of two classes that have no partner, and are in no item.
    """

    items: tuple[Item, ...]
    unpaired: int = 0


def read_items(
    data: DataConfig,
    template: TemplateConfig = NO_TEMPLATE,
    *,
    swap_letters: bool = False,
    seed: int = 0,
    texts_ask: bool = False,
) -> Items:
    """All items, prompts and answers joined by the template.

    Args:
        swap_letters: whether every item of two choices is followed by the same one with its
            letters swapped.
        seed: of the pairing of texts that come in two classes, without pairs.
        texts_ask: whether a text alone is an open question, not one of a class.

    Raises:
        UserError: a file is missing, not what its suffix says, or a record has no known form, an
            unknown key, or the same text on both sides; with `swap_letters`, an item that is not
            multiple choice. File and record are named.
    """
    read: list[tuple[Item, str, str | None]] = []
    classes: list[ClassText] = []
    for contrast, origin, separator in _contrasts(data, texts_ask=texts_ask):
        if isinstance(contrast, ClassText):
            classes.append(contrast)
        else:
            read.append((contrast, origin, separator))
    pairs, unpaired = paired(classes, seed)
    read += [(item, origin, None) for item, origin in pairs]
    items: list[Item] = []
    for undescribed, origin, separator in read:
        item = described(undescribed)
        added = _with_letters_swapped(item, origin) if swap_letters else None
        items += [joined(one, template, separator, origin) for one in (item, added) if one]
    return Items(tuple(items), unpaired)


def _contrasts(
    data: DataConfig, *, texts_ask: bool
) -> Iterator[tuple[Item | ClassText, str, str | None]]:
    """What every record says, with its place and the separator of its form."""
    for files, shows in ((data.positive, True), (data.negative, False)):
        for file in files:
            for origin, record in records_of(Path(file)):
                yield ClassText(class_text(record, origin), shows, origin), origin, None
    for origin, found in _records(data):
        record = {"question": found} if texts_ask and isinstance(found, str) else found
        form = form_of(record, origin)
        for contrast in form.read(record, origin):
            yield contrast, origin, form.separator


def _records(data: DataConfig) -> Iterator[tuple[str, Any]]:
    if data.dataset:
        yield from dataset_rows(data.dataset)
    elif data.file:
        yield from records_of(Path(data.file))


def _with_letters_swapped(item: Item, origin: str) -> Item | None:
    if not item.has_answers:
        return None
    if not is_multiple_choice(item):
        raise UserError(
            f"{origin}: swap_letters is on, but this is not multiple choice: its prompt needs "
            "lines that begin with (A) and (B), and its answers these letters; the positive one is "
            f"{item.positive[0]!r}. Set swap_letters: false, or remove the item"
        )
    other = swapped(item)
    return described(other) if other else None

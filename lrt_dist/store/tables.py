"""The result tables: typed rows, the Parquet schema that follows from them, reading and writing.

A row is a frozen dataclass; its fields are the columns. `docs/store-format.md` lists them all.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from lrt_dist.errors import CorruptionError
from lrt_dist.files import atomic_write, is_file
from lrt_dist.linear.fit import FitMetrics

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)
else:
    Row = TypeVar("Row")

_FINGERPRINT = b"lrt_dist_fingerprint"


@dataclass(frozen=True, kw_only=True)
class MapRow(FitMetrics):
    """What is known of every map, whichever way it goes; the metrics of its fit are columns too.

    Attributes:
        source_model: name of the model where the map begins.
        target_model: name of the model where the map ends.
        target_layer: layer where the map ends.
        method: fit method.
        documents: documents that have a row.
        d_source: width where the map begins, over all its layers.
        d_target: width where the map ends.
        rows_shrunk_source: rows that were scaled down to the layer's usual norm where the map
            begins, since their norm was far above it; of several layers or runs the most.
        rows_shrunk_target: the same where the map ends.
        shrunk_share_source: share of the squared norms that these rows held before.
        shrunk_share_target: the same where the map ends.
        folds: cross-validation folds.
        seconds: time of the whole fit command, all maps together.
    """

    source_model: str
    target_model: str
    target_layer: int
    method: str
    documents: int
    d_source: int
    d_target: int
    rows_shrunk_source: int
    rows_shrunk_target: int
    shrunk_share_source: float
    shrunk_share_target: float
    folds: int
    seconds: float

    def from_layer(self, source_layer: int) -> FitRow:
        """The row of a map from one layer."""
        return FitRow(**vars(self), source_layer=source_layer)

    def from_layers(self, source_layers: tuple[int, ...]) -> JointFitRow:
        """The row of a joint map."""
        return JointFitRow(**vars(self), source_layers=source_layers)


@dataclass(frozen=True, kw_only=True)
class FitRow(MapRow):
    """One map from one layer: `fits.parquet`, and `fits-reverse.parquet` for reverse maps.

    Attributes:
        source_layer: layer where the map begins.
    """

    source_layer: int


@dataclass(frozen=True, kw_only=True)
class JointFitRow(MapRow):
    """One map from several layers side by side: `fits-joint.parquet`.

    Attributes:
        source_layers: layers where the map begins.
    """

    source_layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SolvedRow(FitMetrics):
    """What was found of one map as it was solved: `maps/{s}-{t}.parquet`.

    Attributes:
        target_layer: layer where the map ends.
    """

    target_layer: int


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer of one model, over all rows of the run: `moments/{fingerprint}/layers.parquet`.

    Attributes:
        side: source or target.
        layer: block index.
        median_norm: median Euclidean norm of its hidden states.
        usual_norm: the same of the first units of the fit's random order, 32,768 rows or so.
        shrunk: rows that are scaled down to the usual norm, since theirs is far above it.
        shrunk_share: share of the sum of squared norms that these rows held before.
    """

    side: str
    layer: int
    median_norm: float
    usual_norm: float
    shrunk: int
    shrunk_share: float


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One item under one condition: `scores.parquet`.

    Attributes:
        concept: name of the concept.
        split: dev, test or neutral.
        item: number of the item within its split.
        target_layer: layer of the target model that was steered.
        arm: what was injected; `docs/glossary.md` lists the arms.
        source_layer: layer whose vector was mapped; -1 for arms that do not depend on it.
        draw: number of the draw, of the mismatched map, or of the concept whose vector it is; 0
            for the other arms.
        vector: concept from whose texts the injected vector was made, or for arm `concept_map`
            on whose texts its map was fitted, or for `detour` the third model; empty where there is
            none.
        strength: in the unit of `evaluate.scale`; 0 for `none`.
        metric: what was measured, e.g. propensity; cross_entropy on neutral text.
        value: of the metric. Propensity: log-odds of the positive continuation, in nats;
            cross_entropy: nats per token.
    """

    concept: str
    split: str
    item: int
    target_layer: int
    arm: str
    source_layer: int
    draw: int
    vector: str
    strength: float
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class ItemRow:
    """One item: `items.parquet`. The chat format of a model is not part of it.

    Attributes:
        concept: name of the concept.
        split: vector, dev or test.
        item: number of the item within its split, as in `scores.parquet`.
        question: what it asks, without case and letters. Items with the same one are not
            independent of each other.
        prompt: text before the positive continuations.
        negative_prompt: text before the negative continuations; the same in most data.
        positive: positive continuations, alternatives of each other.
        negative: negative continuations.
    """

    concept: str
    split: str
    item: int
    question: str
    prompt: str
    negative_prompt: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OverlapRow:
    """A text of a concept that the corpus holds, or that holds a document: `overlap.parquet`.

    Attributes:
        concept: name of the concept.
        text: a prompt, or a prompt with a continuation.
        share: share of the text's runs of 8 words that occur in the corpus; or, where it holds a
            document, of the document's that occur in the text.
        document: document that the text holds; empty where the corpus holds the text.
    """

    concept: str
    text: str
    share: float
    document: str


@dataclass(frozen=True, kw_only=True)
class VectorRow:
    """A concept's vectors at one pair of layers: `vectors.parquet`.

    Attributes:
        concept: name of the concept.
        source_layer: layer of the source model.
        target_layer: layer of the target model.
        native_dev: effect of the native vector on the development items, as predicted for strength
            1; NaN where nothing was predicted.
        transferred_dev: the same of the transferred vector.
        cosine: between the transferred and the native vector.
        cosine_mismatched: the same under the maps of mismatched rows, their mean.
        norm_ratio: norm of the transferred over that of the native vector.
        projection: of the transferred on the native vector, over the native norm.
        heavy_share: share of the transferred vector's squared norm in its largest 1 % of channels.
        chosen: whether this pair was chosen on the development items.
        strength: the positive strength that was chosen for the concept.
        length: of what the transferred vector adds to hidden states at that strength; NaN for an
            operator whose strengths are no lengths.
        native_length: of what the native vector adds; the same unless `evaluate.scale` is raw.
        pairs: contrast pairs behind the vectors.
        overlap: whether texts of the concept occur in the corpus of the map.
    """

    concept: str
    source_layer: int
    target_layer: int
    native_dev: float
    transferred_dev: float
    cosine: float
    cosine_mismatched: float
    norm_ratio: float
    projection: float
    heavy_share: float
    chosen: bool
    strength: float
    length: float
    native_length: float
    pairs: int
    overlap: bool


@dataclass(frozen=True, kw_only=True)
class ControlRow:
    """One draw of a control, at the pair where it would have been chosen: `controls.parquet`.

    Attributes:
        concept: name of the concept.
        arm: which control.
        draw: its number.
        source_layer: of the pair that was chosen for it on the development items.
        target_layer: of the same pair.
        effect: on the test items: measured at the concept's strength if `steered`, else predicted
            for strength 1.
        share: effect over the best native effect on the test items, measured or predicted alike.
        steered: whether controls were steered.
    """

    concept: str
    arm: str
    draw: int
    source_layer: int
    target_layer: int
    effect: float
    share: float
    steered: bool


@dataclass(frozen=True, kw_only=True)
class AgreementRow:
    """A predicted effect beside the measured one, on development items: `agreement.parquet`.

    Attributes:
        concept: name of the concept.
        arm: what was injected.
        source_layer: layer whose vector was mapped; -1 for arms that do not depend on it.
        target_layer: the layer that was steered.
        draw: see `scores.parquet`.
        strength: the positive strength.
        predicted: mean effect by gradients, in units of the score.
        measured: mean effect under steering.
    """

    concept: str
    arm: str
    source_layer: int
    target_layer: int
    draw: int
    strength: float
    predicted: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """What the test items say of one concept: `verdicts.parquet`.

    An *effect* is (score at +strength - score at -strength) / 2, in units of the score. Intervals
    are 95 % ones; NaN stands for what is undefined, an infinite end for an interval without end.

    Attributes:
        concept: name of the concept.
        source_layer: of the chosen pair.
        target_layer: of the chosen pair.
        strength: the positive strength that was chosen.
        items: test items.
        questions: different questions among them.
        pairs: contrast pairs behind the vectors.
        overlap: whether texts of the concept occur in the corpus of the map.
        native: mean effect of the native vector.
        native_interval: its interval.
        transferred: mean effect of the transferred vector.
        transferred_interval: its interval.
        retention: transferred over native effect.
        retention_interval: its interval.
        best_layer: target layer whose native vector had the largest effect on development items.
        best_strength: the strength that was chosen there.
        best_native: mean effect of that vector at that strength.
        share_of_best: transferred effect over it.
        share_interval: its interval.
        p_permuted: share of the control's draws, each at its own best pair, whose effect is as
            large as the transferred vector's, with that vector counted among them. So for the next
            three.
        p_random_source: see `p_permuted`.
        p_covariance: see `p_permuted`.
        p_random: see `p_permuted`.
        p_adjusted: the largest of the four, by Holm's method over all concepts.
        statistic: share of the best native effect that was compared with those of the controls:
            predicted if `screened`, else measured.
        screened: whether controls were judged by predicted effects.
        agreement: correlation of predicted and measured effects at the chosen strength.
        slope: of measured over predicted effects there.
        pairs_vary: whether intervals hold the contrast pairs behind the vectors.
        documents_vary: whether intervals hold the documents behind the map.
        pairs_searched: pairs of layers among which the best was chosen.
    """

    concept: str
    source_layer: int
    target_layer: int
    strength: float
    items: int
    questions: int
    pairs: int
    overlap: bool
    native: float
    native_interval: tuple[float, float]
    transferred: float
    transferred_interval: tuple[float, float]
    retention: float
    retention_interval: tuple[float, float]
    best_layer: int
    best_strength: float
    best_native: float
    share_of_best: float
    share_interval: tuple[float, float]
    p_permuted: float
    p_random_source: float
    p_covariance: float
    p_random: float
    p_adjusted: float
    statistic: float
    screened: bool
    agreement: float
    slope: float
    pairs_vary: bool
    documents_vary: bool
    pairs_searched: int


@dataclass(frozen=True, kw_only=True)
class BandRow:
    """One arm at one strength, at several target layers at once: `bands.parquet`.

    An *effect* is as in `verdicts.parquet`. Intervals are 95 % ones over items alone.

    Attributes:
        concept: name of the concept.
        source_layers: whose vectors were mapped, one for each target layer.
        target_layers: that were steered.
        arm: what was injected.
        draw: number of the draw; 0 for other arms.
        strength: positive, of every layer.
        chosen: whether development items chose this strength.
        items: test items.
        effect: mean effect.
        effect_interval: its interval.
        retention: over the native effect at the same layers and strength.
        retention_interval: its interval.
    """

    concept: str
    source_layers: tuple[int, ...]
    target_layers: tuple[int, ...]
    arm: str
    draw: int
    strength: float
    chosen: bool
    items: int
    effect: float
    effect_interval: tuple[float, float]
    retention: float
    retention_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class AtlasRow(VerdictRow):
    """A verdict between two of many models: `atlas.parquet`; p-values are adjusted over all rows.

    Attributes:
        source: name of the model of the vector.
        target: name of the model that is steered.
        source_depth: share of the source model's blocks up to and with the chosen layer.
        target_depth: the same of the target model.
        word: what the numbers say.
        run: directory of the run, below that of the atlas.
    """

    source: str
    target: str
    source_depth: float
    target_depth: float
    word: str
    run: str


@dataclass(frozen=True, kw_only=True)
class GeneratedRow:
    """A text that the target model wrote, and how it was judged: `generated.parquet`.

    Attributes:
        concept: name of the concept.
        item: number of the prompt that was continued: of the test item, or of the concept's
            `prompts`.
        question: what it asks, as in `items.parquet`.
        sample: number of the continuation of this prompt under this condition.
        source_layer: layer whose vector was mapped; -1 for arms that do not depend on it.
        target_layer: layer of the target model that was steered.
        arm: what was injected; see `scores.parquet`.
        draw: see `scores.parquet`.
        strength: in the unit of `evaluate.scale`; 0 for `none`.
        prompt: text that the model continued.
        text: the continuation, without the prompt.
        scores: names of the scores.
        values: the text's value of each score.
    """

    concept: str
    item: int
    question: str
    sample: int
    source_layer: int
    target_layer: int
    arm: str
    draw: int
    strength: float
    prompt: str
    text: str
    scores: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """A text that the target model wrote: `cells/texts/*.parquet`.

    Attributes:
        address: hash of all that decides the text.
        text: the continuation, without the prompt.
    """

    address: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ReplyRow:
    """A reply of a judge, kept since it was paid for: `cells/replies/{judge}/*.parquet`.

    Attributes:
        request: hash of all that was asked.
        value: what it says; NaN where it says nothing that can be read.
        reply: the text of the reply.
        tokens_in: tokens that were sent, as the endpoint counts them.
        tokens_out: tokens that it wrote.
    """

    request: str
    value: float
    reply: str
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Table(Generic[Row]):
    """Rows of one type, kept as columns.

    Attributes:
        row: the type of the rows.
        arrow: the columns; `table.arrow.to_pandas()` for a notebook.
    """

    row: type[Row]
    arrow: pa.Table

    @classmethod
    def of(cls, row: type[Row], rows: Iterable[Row]) -> Table[Row]:
        """A table of some rows."""
        listed = list(rows)
        columns = {f.name: [getattr(r, f.name) for r in listed] for f in fields(row)}
        return cls(row, pa.table(columns, schema=schema(row)))

    @classmethod
    def read(cls, path: Path, row: type[Row]) -> Table[Row]:
        """Read what `save` wrote.

        Raises:
            CorruptionError: the file is no Parquet file, or lacks a column.
            FileNotFoundError: there is none.
        """
        try:
            table = pq.read_table(pa.BufferReader(path.read_bytes()))
        except (FileNotFoundError, PermissionError):
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptionError(
                f"{path} cannot be read as Parquet ({error}): delete it and run its step again"
            ) from error
        wanted = schema(row)
        missing = [name for name in wanted.names if name not in table.column_names]
        if missing:
            raise CorruptionError(
                f"{path} has no column {', '.join(missing)}: it was written by another version; "
                "delete it and run its step again"
            )
        return cls(row, table.select(wanted.names).replace_schema_metadata(None).cast(wanted))

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the table, with the fingerprint of what it was made from.

        Raises:
            DiskFullError: there is no space left.
        """
        marked = self.arrow.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()})
        with atomic_write(path) as partial:
            pq.write_table(marked, partial)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __iter__(self) -> Iterator[Row]:
        hints = get_type_hints(self.row)
        for values in self.arrow.to_pylist():
            yield self.row(**{name: _typed(hints[name], value) for name, value in values.items()})

    def filter(self, condition: pa.compute.Expression) -> Table[Row]:
        """The rows for which an Arrow expression holds."""
        return Table(self.row, self.arrow.filter(condition))

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        values: list[Any] = self.arrow[name].to_pylist()
        return values


def concat(tables: Iterable[Table[Row]], row: type[Row]) -> Table[Row]:
    """All rows of some tables, in their order."""
    return Table(row, pa.concat_tables([table.arrow for table in tables]).cast(schema(row)))


def is_current(path: Path, fingerprint: str) -> bool:
    """Whether a table exists, can be read, and was made from the same things."""
    if not is_file(path):
        return False
    try:
        return made_from(path) == fingerprint
    except (pa.ArrowInvalid, OSError):
        return False


def made_from(path: Path) -> str:
    """The fingerprint that a table was saved with; empty for one without."""
    with path.open("rb") as stream:
        metadata = pq.read_schema(stream).metadata or {}
    return str(metadata.get(_FINGERPRINT, b"").decode())


def schema(row: type[Row]) -> pa.Schema:
    """The columns of a row type: a subclass's own fields first, inherited ones after them."""
    own = inspect.get_annotations(row)
    names = [field.name for field in fields(row)]
    ordered = [*(n for n in names if n in own), *(n for n in names if n not in own)]
    hints = get_type_hints(row)
    return pa.schema([(name, _arrow_type(hints[name])) for name in ordered])


_SCALARS = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def _arrow_type(hint: Any) -> pa.DataType:
    if hint in _SCALARS:
        return _SCALARS[hint]
    assert get_origin(hint) is tuple, hint
    items = get_args(hint)
    # A pair of numbers is kept as a list of floats, which Arrow reads in any language.
    return pa.list_(_arrow_type(items[0]) if items[1] is ... else pa.float64())


def _typed(hint: Any, value: Any) -> Any:
    """A value as Arrow gives it, as the row's field has it."""
    if hint is float:
        return math.nan if value is None else value
    if get_origin(hint) is not tuple:
        return hint(value)
    items = get_args(hint)
    if items[1] is ...:
        return tuple(_typed(items[0], item) for item in value)
    return tuple(_typed(kind, item) for kind, item in zip(items, value, strict=True))

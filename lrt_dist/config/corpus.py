"""The text on which models are run, and where in it their states are compared."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from lrt_dist.config.base import NonNegative, Positive, Strict


class TextConfig(Strict):
    """Where text comes from, and how documents are made of it."""

    place: ClassVar[str] = "corpus"

    paths: tuple[str, ...] = Field(
        (), description="Files or globs: `.txt`, `.md`, `.rst`, `.jsonl` or `.parquet`."
    )
    dataset: str | None = Field(
        None,
        description="Hugging Face dataset, as `NAME`, `NAME:SPLIT` or `NAME:CONFIG:SPLIT`; the "
        "split is `train` if none is named. Needs the extra `datasets`.",
    )
    text_field: str = Field(
        "text",
        description="Field or column of `.jsonl`, `.parquet` and datasets that holds the text, or "
        "a conversation: a list of `{role, content}`.",
    )
    turn: str = Field(
        "{role}: {content}\n\n",
        description="How one turn of a conversation is written, with `{role}` and `{content}`. "
        "Both models read the same text, whatever their own chat formats.",
    )
    separator: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Text at which a text file is cut into documents. `null` means that each file "
        "is one document.",
    )

    @field_validator("turn")
    @classmethod
    def _turn_has_its_content(cls, turn: str) -> str:
        if "{content}" not in turn:
            raise ValueError("a turn needs {content}, and may name its {role}")
        return turn

    def __str__(self) -> str:
        """What an error calls it."""
        return self.dataset or ", ".join(self.paths)


class PartConfig(TextConfig):
    """One of the texts of a mixture."""

    place: ClassVar[str] = "corpus.mixture[]"

    weight: Annotated[float, Field(gt=0)] = Field(
        description="Its share of the characters, in proportion to the weights of all parts."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> PartConfig:
        if bool(self.paths) == bool(self.dataset):
            raise ValueError("needs either `paths` or `dataset`")
        return self


class CorpusConfig(TextConfig):
    """The text on which both models are run: `paths`, a `dataset`, or a `mixture` of several."""

    mixture: tuple[PartConfig, ...] = Field(
        (),
        description="Several texts by weight. The next document is always of the part that is "
        "furthest behind its share of the characters; the mixture ends where a part ends.",
    )
    max_documents: Positive | None = Field(
        None,
        description="Number of documents that are read, from the first one on. `null` means all.",
    )
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.7,
        description="Documents that share at least this part of their runs of five words stay in "
        "one cross-validation fold. `null`: each document is by itself.",
    )
    max_tokens: Positive = Field(
        256,
        description="Largest length of a segment, in tokens of either model, special tokens "
        "included.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> CorpusConfig:
        if [bool(self.paths), bool(self.dataset), bool(self.mixture)].count(True) != 1:
            raise ValueError("needs one of `paths`, `dataset` and `mixture`")
        if len(self.mixture) == 1:
            raise ValueError("a mixture has two parts or more; write a single one without it")
        fields = TextConfig.model_fields
        said = [key for key in fields if getattr(self, key) != fields[key].default]
        if self.mixture and said:
            raise ValueError(f"with a mixture, `{said[0]}` belongs to each of its parts")
        return self

    @property
    def parts(self) -> tuple[TextConfig, ...]:
        """The texts of a mixture, or the only one."""
        return self.mixture or (self,)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the characters, for each part."""
        weights = [part.weight for part in self.mixture] or [1.0]
        return tuple(weight / sum(weights) for weight in weights)

    def without_paths(self) -> dict[str, Any]:
        """All but where its files lie, as plain JSON types."""
        return self.model_dump(
            mode="json", exclude={"paths": True, "mixture": {"__all__": {"paths"}}}
        )

    def __str__(self) -> str:
        return " + ".join(
            f"{share:.0%} {part}" if self.mixture else TextConfig.__str__(part)
            for share, part in zip(self.shares, self.parts, strict=True)
        )


class SitesConfig(Strict):
    """Where in the text hidden states are compared."""

    mode: Literal["tokens", "last"] = Field(
        "tokens",
        description="`tokens` takes characters at which a token of both models ends; `last` takes "
        "only the last such character of each document's first segment, as L-Cross does.",
    )
    per_segment: Positive = Field(32, description="Number of sites sampled in each segment.")
    min_context: NonNegative = Field(
        8,
        description="Number of tokens before the first site of a segment, special tokens not "
        "counted. Not used in mode `last`.",
    )
    seed: NonNegative = Field(0, description="Seed of the sampling of sites.")
    rows_of: str | None = Field(
        None,
        description="Output directory of an earlier run on the same corpus, whose rows are taken: "
        "a model that both runs have needs no second extraction (see `extract.store_url`). Rows at "
        "which no token of a model ends are left out of its fits. `null` means rows of this run's "
        "own.",
    )

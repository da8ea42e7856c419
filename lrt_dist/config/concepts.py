"""Concepts: contrast data, how it is divided, and how a vector is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from lrt_dist.config.base import MethodConfig, NonNegative, Strict


class VectorConfig(MethodConfig):
    """How a steering vector is made from contrasting states; other keys are the method's own
    parameters, e.g. `{method: logistic, penalty: 0.1}`."""

    method: str = Field(
        "mean_difference",
        description="`mean_difference`: difference of the mean states; `pca`: first principal "
        "component of the differences; `logistic`: normal of a logistic regression, with the "
        "parameter `penalty`; or `module:attribute`, a function of your own.",
    )
    source: str | None = Field(
        None,
        description="File with the source model's vectors, used in place of vectors made from "
        "`data`: a control vector of repeng or llama.cpp (`.gguf`), `.pt` of steering-vectors or "
        "torch, `.npy`, `.safetensors`. It has a vector for each wanted layer.",
    )
    target: str | None = Field(
        None, description="The same of the target model: its native vectors."
    )

    @property
    def files(self) -> dict[str, str]:
        """Files of vectors that are not made from data, by side."""
        return {side: file for side in ("source", "target") if (file := getattr(self, side))}


def _share_or_number(amount: int | float) -> int | float:
    if not (0 < amount < 1 or (isinstance(amount, int) and amount >= 2)):
        raise ValueError("must be a share between 0 and 1, or a number of items from 2 on")
    return amount


Amount = Annotated[int | float, AfterValidator(_share_or_number)]


class SplitConfig(Strict):
    """Which items make the vector, which choose (dev), and which are reported (test). Each is a
    number of items, from 2 on, or a share between 0 and 1: shares divide what the numbers leave,
    in their ratio. With `items`, all of `data` makes the vector unless `vector` is a number, and
    `dev` and `test` divide `items`."""

    vector: Amount = Field(0.5, description="Items that make the vector.")
    dev: Amount = Field(0.25, description="Items on which layers and strength are chosen.")
    test: Amount = Field(0.25, description="Items that are reported.")
    seed: NonNegative = Field(0, description="Seed of the division.")


class TemplateConfig(Strict):
    """How a text is made of an item: prefix, prompt, suffix, separator, answer, in this order."""

    prefix: str = Field("", description="Text in front of every prompt.")
    separator: str | None = Field(
        None,
        description="Text between prompt and answer. `null` means that of the data's form: a line "
        "break for `answer_matching_behavior`, for the others a blank where none is there; with "
        "`chat`, nothing.",
    )
    suffix: str = Field("", description="Text behind every prompt.")
    chat: bool = Field(
        False,
        description="Whether prefix, prompt and suffix are put to each model as a user's turn, in "
        "its own chat format.",
    )


class DataConfig(Strict):
    """Contrast data: a `file` or `dataset` of items, or files with the texts of two classes. A
    path alone is a `file`."""

    file: str | None = Field(
        None, description="A `.jsonl`, `.json`, `.csv` or `.parquet` file of items."
    )
    dataset: str | None = Field(
        None,
        description="Hugging Face dataset of items, as `NAME`, `NAME:SPLIT` or "
        "`NAME:CONFIG:SPLIT`. Needs the extra `datasets`.",
    )
    positive: tuple[str, ...] = Field(
        (), description="Files of the texts that show the concept; `.txt` too, a text a line."
    )
    negative: tuple[str, ...] = Field((), description="Files of the texts that do not show it.")

    @model_validator(mode="before")
    @classmethod
    def _a_path_is_a_file(cls, value: Any) -> Any:
        if not isinstance(value, str | dict | DataConfig):
            raise ValueError("must be the path of a file, or a section")
        return {"file": value} if isinstance(value, str) else value

    @field_validator("positive", "negative", mode="before")
    @classmethod
    def _one_file_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_one_source(self) -> DataConfig:
        classes = [bool(self.positive), bool(self.negative)]
        if [bool(self.file), bool(self.dataset), any(classes)].count(True) != 1:
            raise ValueError("needs one of `file`, `dataset`, and `positive` with `negative`")
        if any(classes) and not all(classes):
            raise ValueError("`positive` and `negative` each need a file")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """All of its files."""
        return (*((self.file,) if self.file else ()), *self.positive, *self.negative)

    def __str__(self) -> str:
        """What an error calls it."""
        classes = f"{', '.join(self.positive)} against {', '.join(self.negative)}"
        return self.file or self.dataset or classes


class ConceptConfig(Strict):
    """A concept: contrast data for its vector, and items to measure steering on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="Name, made of letters, digits, `_`, `.` and `-`; it is part of file names."
    )
    data: DataConfig = Field(
        description="Contrast data: the path of a file of items, or the section below."
    )
    items: DataConfig | None = Field(
        None,
        description="Items for the evaluation, given as `data` is. `null` means that `data` is "
        "divided. Items that ask a question of `data` are left out.",
    )
    prompts: DataConfig | None = Field(
        None,
        description="What the model continues under `evaluate.generate`, given as `data` is; open "
        "questions will do, and a text on each line. `null` means the prompts of the test items. "
        "Those that ask a question of `data` are left out.",
    )
    split: SplitConfig = Field(SplitConfig(), description="How many items there are of each kind.")
    swap_letters: bool = Field(
        False,
        description="Whether every item of two lettered choices is also used with its letters "
        "swapped, so that no letter stands for an answer.",
    )
    template: TemplateConfig = Field(
        TemplateConfig(), description="How prompt and answer become a text."
    )
    vector: VectorConfig = Field(
        VectorConfig(),
        description="How the vector is made: the name of a method, or the section below.",
    )
    at: Literal["last", "answer"] = Field(
        "last",
        description="Token whose hidden state is taken: the `last` of each text, or the first of "
        "the `answer`, where the positive and the negative text differ.",
    )

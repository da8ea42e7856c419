"""A run as one strict, frozen value: read from YAML, checked, resolved, fingerprinted.

Every unknown key is an error that names the nearest known one. The value says *what* is computed;
only the section `cluster` says *where*, and takes part in no fingerprint (though what the machines
are does: without GPUs everything is computed in float32).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
LayerChoice = Literal["all"] | tuple[NonNegative, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Strict):
    """A causal language model and which of its layers are wanted."""

    model: str = Field(description="Hub name, local folder or `.gguf` file of the model.")
    layers: LayerChoice = Field(
        "all", description="Blocks whose outputs are stored: indices 0 … L-1, or all blocks."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Dtype of the computation on a GPU; `auto` is the dtype of the checkpoint. "
        "A CPU always computes in float32.",
    )
    revision: str | None = Field(
        None,
        description="Revision at the hub: a commit hash, tag or branch. `null` means the default "
        "branch.",
    )
    imports: tuple[str, ...] = Field(
        (),
        description="modules of your own that register the model's class with transformers; they "
        "are imported by the driver and by every worker",
    )
    trust_remote_code: bool = Field(
        False, description="Whether to run Python code that the model's repository ships."
    )

    @field_validator("layers")
    @classmethod
    def _layers_are_a_set(cls, layers: LayerChoice) -> LayerChoice:
        if layers == "all":
            return layers
        if not layers:
            raise ValueError("no layers; name at least one, or write `layers: all`")
        return tuple(sorted(set(layers)))


class TextConfig(_Strict):
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


class SitesConfig(_Strict):
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


class ExtractConfig(_Strict):
    """How hidden states become an activation store."""

    rows_per_unit: Positive = Field(
        4096, description="Number of rows of a unit, which is one row chunk of the store."
    )
    batch_tokens: Positive = Field(
        8192, description="Number of tokens of a batch, padding included. Fewer need less memory."
    )
    store_dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="Dtype of the stored hidden states: 2 bytes a number, or 4.",
    )
    compress: Literal["none", "zstd"] = Field(
        "none", description="Compression of the stored chunks."
    )
    store_url: str | None = Field(
        None,
        description="Folder or URL for the activation stores, e.g. `s3://bucket/run`; `gs://` and "
        "`az://` work too. `null` means `OUT/activations`.",
    )


class FitConfig(_Strict):
    """How maps are fitted."""

    method: str = Field(
        "affine",
        description="How a map is fitted. `affine`: ridge regression with an intercept (LRT); "
        "`low_rank`: the same, cut to a cross-validated rank; `linear`: minimum-norm regression "
        "without an intercept (L-Cross); `orthogonal`: Procrustes with one scale; or "
        "`module:attribute`, a `Method` of your own.",
    )
    on: Literal["corpus", "own", "others"] = Field(
        "corpus",
        description="What the maps that carry vectors are fitted on. `corpus`: hidden states of "
        "the corpus; `own`: those behind the concept's own vector, as in the first experiment of "
        "L-Cross (arXiv 2501.02009), which proves nothing: with no more texts than dimensions the "
        "native vector comes out by algebra; `others`: those of all other concepts, as in its "
        "second. With `own` and `others` every vector is also steered under the map of each single "
        "concept.",
    )
    folds: Annotated[int, Field(ge=2)] = Field(
        5, description="Number of cross-validation folds, among which whole documents are divided."
    )
    pairs: Literal["all"] | tuple[tuple[NonNegative, NonNegative], ...] = Field(
        "all",
        description="Pairs `[source layer, target layer]` that are fitted; `all` means every "
        "wanted layer of the source model with every wanted layer of the target model.",
    )
    reverse: bool = Field(
        False, description="Whether to fit also maps from the target model to the source model."
    )
    joint: tuple[tuple[NonNegative, ...], ...] = Field(
        (),
        description="Groups of two source layers or more. For each group, one more map is fitted "
        "from all of its layers side by side to each target layer.",
    )
    shrink_norm_above: Annotated[float, Field(gt=1)] | None = Field(
        4.0,
        description="A hidden state whose norm exceeds this many times its layer's median norm "
        "(an attention sink) is scaled down to the median norm in every fit, at that layer alone. "
        "`null`: never.",
    )
    mismatched_draws: Positive = Field(
        3,
        description="Number of random pairings of rows of different documents. Beside every map, "
        "one is fitted to each of them: the control of the fit.",
    )
    tile_bytes: ByteSize = Field(
        ByteSize(512 * 2**20),
        description="Largest size of the moments that one task holds, in bytes or with a unit, "
        "e.g. `2GiB`. One pair of layers may exceed it.",
    )
    keep_moments: bool = Field(
        True,
        description="Whether the moments stay on disk after the fit: for other methods later, and "
        "for runs that name this one in `moments_of`.",
    )
    moments_of: tuple[str, ...] = Field(
        (),
        description="Output directories of finished runs of the same models, whose moments are "
        "added to those of this run.",
    )
    allow_fit_on_concepts: bool = Field(
        False,
        description="Whether the corpus may hold texts of the concepts. The report then warns.",
    )

    @field_validator("pairs")
    @classmethod
    def _pairs_are_some(cls, pairs: Any) -> Any:
        if pairs == ():
            raise ValueError("no pairs; name at least one, or write `pairs: all`")
        return pairs

    @field_validator("joint")
    @classmethod
    def _groups_are_several(
        cls, groups: tuple[tuple[int, ...], ...]
    ) -> tuple[tuple[int, ...], ...]:
        chosen = tuple(sorted({tuple(sorted(set(group))) for group in groups}))
        if any(len(group) < 2 for group in chosen):
            raise ValueError(f"got {[list(g) for g in groups]}; a group has two layers or more")
        return chosen


class VectorConfig(_Strict):
    """How a steering vector is made from contrasting states; other keys are the method's own
    parameters, e.g. `{method: logistic, penalty: 0.1}`."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

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

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_method(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the method, by name."""
        return dict(self.model_extra or {})

    @property
    def files(self) -> dict[str, str]:
        """Files of vectors that are not made from data, by side."""
        return {side: file for side in ("source", "target") if (file := getattr(self, side))}


def _share_or_number(amount: int | float) -> int | float:
    if not (0 < amount < 1 or (isinstance(amount, int) and amount >= 2)):
        raise ValueError("must be a share between 0 and 1, or a number of items from 2 on")
    return amount


Amount = Annotated[int | float, AfterValidator(_share_or_number)]


class SplitConfig(_Strict):
    """Which items make the vector, which choose (dev), and which are reported (test). Each is a
    number of items, from 2 on, or a share between 0 and 1: shares divide what the numbers leave,
    in their ratio. With `items`, all of `data` makes the vector unless `vector` is a number, and
    `dev` and `test` divide `items`."""

    vector: Amount = Field(0.5, description="Items that make the vector.")
    dev: Amount = Field(0.25, description="Items on which layers and strength are chosen.")
    test: Amount = Field(0.25, description="Items that are reported.")
    seed: NonNegative = Field(0, description="Seed of the division.")


class TemplateConfig(_Strict):
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


class DataConfig(_Strict):
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


class ConceptConfig(_Strict):
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
        "questions will do. `null` means the prompts of the test items. Those that ask a question "
        "of `data` are left out.",
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


class ScoreConfig(_Strict):
    """What is measured of an item, or of a text that the model wrote; other keys are the score's
    own parameters, e.g. `{method: words, words: [good, fine]}`."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: str = Field(
        "propensity",
        description="`propensity`: log-odds of an item's positive continuation against its "
        "negative one, in nats; `letter_logits`: the same of the first token alone in which they "
        "differ, as in LRT (arXiv 2506.00653); `probability`: that of the positive one of these "
        "two tokens, as in CAA (arXiv 2312.06681) and L-Cross (arXiv 2501.02009); `refusal`: "
        "log-odds, log p − log(1 − p), of the first token of a positive continuation, as in LRT "
        "and Arditi et al. (arXiv 2406.11717). Of a text that the model writes: `words`: share of "
        "its words that are in a list; `refusal_phrases`: whether it holds a phrase by which "
        "refusals are known; `classifier`: probability that a text classifier gives to a label; "
        "`judge`: number from 0 to 10 that a chat model gives by a rubric "
        "([generation](generation.md) has their parameters). Or `module:attribute`, a "
        "`ForcedScore` or `GeneratedScore` of your own, or a function that returns one.",
    )
    name: str | None = Field(
        None, description="What tables and the report call it. `null` means its method."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_method(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @property
    def title(self) -> str:
        """What tables and the report call it."""
        return self.name or self.method

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the score, by name."""
        return dict(self.model_extra or {})


class GenerateConfig(_Strict):
    """What the target model writes under steering, at the pair of layers and the strength that were
    chosen: unsteered, with the native and the transferred vector, and with random directions."""

    tokens: NonNegative = Field(
        16, description="Most tokens of a continuation. 0: the model writes nothing."
    )
    items: Literal["all"] | Positive = Field(
        1,
        description="Number of prompts that are continued, from the first on: of the concept's "
        "`prompts`, or of its test items.",
    )
    samples: Positive = Field(1, description="Number of continuations of each prompt.")
    temperature: Annotated[float, Field(ge=0)] = Field(
        0.0, description="By which logits are divided. 0 takes the likeliest token."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Tokens are drawn from the likeliest ones that have this probability together.",
    )
    random_draws: Positive = Field(
        1, description="Number of random directions, which are the control."
    )
    scores: tuple[ScoreConfig, ...] = Field(
        (), description="How texts are judged; each is the name of a score or a section."
    )

    @model_validator(mode="after")
    def _says_something(self) -> GenerateConfig:
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"{self.samples} samples without a temperature are all the same; set temperature, "
                "e.g. to 1.0, or samples: 1"
            )
        if self.scores and not self.tokens:
            raise ValueError("there are scores, but tokens: 0; set tokens, e.g. to 64")
        titles = [score.title for score in self.scores]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"two scores are called {twice[0]!r}; give each a name")
        return self


class EvaluateConfig(_Strict):
    """How steering is measured."""

    strengths: tuple[float, ...] = Field(
        (-0.1, -0.05, 0.05, 0.1),
        description="Strengths α, in the unit of `scale`. Each is given with both signs; 0 is not.",
    )
    scale: Literal["median_norm", "unit", "raw", "equalised"] = Field(
        "median_norm",
        description="What a strength of 1 adds. `median_norm`: a displacement as long as the "
        "layer's median hidden state, so that a strength means the same in every model; `unit`: "
        "one of length 1, so that α is a length, as in LRT (arXiv 2506.00653); `raw`: the vector "
        "itself, native or mapped, as in L-Cross (arXiv 2501.02009), and controls as long as the "
        "mapped one; `equalised`: one as long as the native vectors of all concepts at that layer "
        "are on average, as in CAA (arXiv 2312.06681).",
    )
    operator: str = Field(
        "add",
        description="What is done along a vector's direction v̂ to a hidden state h at strength α. "
        "`add`: `h + α s v̂`, s being what `scale` says; `ablate`: `h + α (h·v̂) v̂`, of which -1 "
        "removes the component along v̂ (directional ablation, arXiv 2406.11717) and 1 doubles it, "
        "so strengths are e.g. [-1, 1], `scale` plays no part, and controls are steered; `clamp`: "
        "the component becomes α s; or `module:attribute`, an `Operator` of your own.",
    )
    map_bias: bool = Field(
        False,
        description="Whether a map's bias is added to what goes through it, controls too: "
        "`A v + p`, as LRT prints it (arXiv 2506.00653), in place of `A v`. In a difference of "
        "hidden states a bias cancels, so all that is mapped has its direction in common.",
    )
    control_draws: Annotated[int, Field(ge=20)] = Field(
        1000,
        description="Number of draws of each drawn control (permuted labels, random vectors), "
        "whose effects are predicted by gradients.",
    )
    exact_draws: Positive = Field(
        19,
        description="Number of draws of each drawn control that are steered where effects cannot "
        "be predicted.",
    )
    positions: str = Field(
        "all",
        description="Which tokens are steered. `all`: every token, as in LRT (arXiv 2506.00653); "
        "`all_but_special`: those behind `<bos>` and what else the tokenizer puts in front; "
        "`from_prompt_end`: the prompt's last token and all behind it, as in CAA (arXiv "
        "2312.06681); `last`: the prompt's last token alone; `answer`: what follows the prompt; or "
        "`module:attribute`, `Positions` of your own.",
    )
    score: ScoreConfig = Field(
        ScoreConfig(),
        description="What is measured of an item, and by which layers and strength are chosen: the "
        "name of a score, or the section below.",
    )
    generate: GenerateConfig = Field(
        GenerateConfig(), description="What the model writes, and how it is judged."
    )
    batch_tokens: Positive = Field(
        4096, description="Number of tokens of a batch, over all its conditions, padding included."
    )
    neutral_segments: Positive = Field(
        8, description="Number of corpus segments on which the price of steering is measured."
    )
    seed: NonNegative = Field(
        0, description="Seed of the random directions, and of the tokens that are drawn."
    )

    @field_validator("strengths")
    @classmethod
    def _both_signs(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        chosen = tuple(sorted(set(strengths)))
        if not chosen or 0.0 in chosen or any(-s not in chosen for s in chosen):
            raise ValueError(
                f"got {list(strengths)}; give every strength with both signs and without 0, "
                "e.g. [-0.1, -0.05, 0.05, 0.1]"
            )
        return chosen


class ClusterConfig(_Strict):
    """Where the work runs. Never part of a result's identity."""

    address: str = Field(
        "auto",
        description="`auto` means the Ray cluster that `RAY_ADDRESS` or `ray start` makes known, "
        "or a local one if there is none; `serial` means this process, without Ray; anything else "
        "is the address of a Ray cluster.",
    )
    stages: Literal["auto"] | Positive = Field(
        "auto",
        description="Number of stages of one replica of a model; `auto` is the fewest that fit "
        "the memory of the GPUs, and one without GPUs.",
    )
    replicas: Literal["auto"] | Positive = Field(
        "auto",
        description="Number of replicas of each model; `auto` is as many as the GPUs hold, those "
        "of nodes that join later too, and up to four without GPUs. Work begins with the first.",
    )
    placement_timeout: Positive = Field(
        300,
        description="Time to wait for resources that the cluster does not have, in seconds, before "
        "the run ends. For resources that others use it waits as long as it takes.",
    )


class ReportConfig(_Strict):
    """What the report shows beside its own tables and figures."""

    figures: tuple[str, ...] = Field(
        (), description="Further figures, each `module:attribute`, a function of your own."
    )


class RunConfig(_Strict):
    """Everything a run depends on."""

    name: str = Field("run", description="Name of the run, and the title of its report.")
    source: ModelConfig = Field(description="Model from which vectors are taken.")
    target: ModelConfig = Field(description="Model in which they are used.")
    corpus: CorpusConfig = Field(description="Text on which both models are run.")
    sites: SitesConfig = Field(SitesConfig(), description="Where hidden states are compared.")
    extract: ExtractConfig = Field(ExtractConfig(), description="How hidden states are stored.")
    fit: FitConfig = Field(FitConfig(), description="How maps are fitted.")
    concepts: tuple[ConceptConfig, ...] = Field(
        (), description="Concepts whose vectors are transferred. Without any, only maps are fitted."
    )
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="How steering is measured.")
    report: ReportConfig = Field(ReportConfig(), description="What the report shows.")
    cluster: ClusterConfig = Field(ClusterConfig(), description="Where the work runs.")

    @field_validator("concepts")
    @classmethod
    def _names_are_unique(cls, concepts: tuple[ConceptConfig, ...]) -> tuple[ConceptConfig, ...]:
        names = [concept.name for concept in concepts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two concepts are called {twice[0]!r}; rename one")
        return concepts

    def dump(self) -> dict[str, Any]:
        """The whole run as plain JSON types, defaults included."""
        return self.model_dump(mode="json")


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change whenever anything in `identity` (JSON types) changes."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class _Absent:
    """Stands for a key that is not there, which is not the same as null."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`["fit.folds: 5 -> 10", …]`: the leaves in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            path = f"{prefix}.{key}" if prefix else str(key)
            lines += differing_keys(old.get(key, _ABSENT), new.get(key, _ABSENT), path)
        return lines
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]

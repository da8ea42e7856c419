"""How steering is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from lrt_dist.config.base import MethodConfig, NonNegative, Positive, Strict


class ScoreConfig(MethodConfig):
    """What is measured of an item, or of a text that the model wrote; other keys are the score's
    own parameters, e.g. `{method: words, words: [good, fine]}`."""

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

    @property
    def title(self) -> str:
        """What tables and the report call it."""
        return self.name or self.method


class GenerateConfig(Strict):
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


class DetourConfig(Strict):
    """A way round, by maps of other runs."""

    first: str = Field(
        description="Output directory of a run from this source model to a third model."
    )
    then: str = Field(
        description="Output directory of a run from that third model to this target model."
    )


class EvaluateConfig(Strict):
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
    detours: tuple[DetourConfig, ...] = Field(
        (),
        description="Ways round, from the source model by a third one to the target model: each "
        "concept's vector is also carried there by two maps, one after the other.",
    )
    bands: tuple[tuple[NonNegative, ...], ...] = Field(
        (),
        description="Groups of two target layers or more that are steered at once, as in RepE "
        "(arXiv 2310.01405), each layer with its own vector at the whole strength. Beside the "
        "choice of a single pair of layers, e.g. [[8, 9, 10]].",
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

    @field_validator("bands")
    @classmethod
    def _several_layers(cls, bands: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        for band in bands:
            if len(set(band)) < 2:
                raise ValueError(f"got {list(band)}; a band has two different layers or more")
        return tuple(tuple(sorted(set(band))) for band in bands)

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

"""Which scores there are, and from what a run says of one to the score."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lrt_dist.config import ScoreConfig
from lrt_dist.errors import UserError
from lrt_dist.registry import Registry
from lrt_dist.tasks import judge, text_scores
from lrt_dist.tasks.first_tokens import letter_logits, probability, refusal
from lrt_dist.tasks.scores import ForcedScore, GeneratedScore, Score
from lrt_dist.tasks.sequences import propensity_sequences

SCORES: Registry[Score | Callable[..., Score]] = Registry(
    "score",
    lambda choice: isinstance(choice, ForcedScore | GeneratedScore) or callable(choice),
    "a ForcedScore, a GeneratedScore, or a function that returns one,",
)
"""Scores, and functions that make one: their keyword arguments are the parameters that a RUN.yaml
sets, and `folder`, if there is one, is where the score may keep what it must not ask for twice."""

SCORES.add("propensity")(ForcedScore(propensity_sequences, "change of log-odds"))
SCORES.add("letter_logits")(ForcedScore(letter_logits, "change of the logit difference"))
SCORES.add("probability")(ForcedScore(probability, "change of the probability"))
SCORES.add("refusal")(ForcedScore(refusal, "change of the refusal's log-odds"))
SCORES.add("words")(text_scores.words)
SCORES.add("refusal_phrases")(text_scores.refusal_phrases)
SCORES.add("classifier")(text_scores.classifier)
SCORES.add("judge")(judge.judge)


def make_score(config: ScoreConfig, folder: Path) -> Score:
    """The score that a run names, with its parameters.

    Args:
        folder: where it may keep what must not be asked for twice.

    Raises:
        UserError: there is no such score, or it does not take these parameters.
    """
    choice = SCORES.find(config.method)
    if isinstance(choice, ForcedScore | GeneratedScore):
        if config.parameters:
            raise UserError(
                f"score {config.method!r} takes no parameters, got {', '.join(config.parameters)}"
            )
        return choice
    known: dict[str, Any] = dict(config.parameters)
    if "folder" in inspect.signature(choice).parameters:
        known["folder"] = folder
    try:
        inspect.signature(choice).bind(**known)
    except TypeError as error:
        raise UserError(f"score {config.method!r}: {error}") from error
    try:
        score = choice(**known)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise UserError(f"score {config.method!r}: {told}") from None  # which shows what was given
    if not isinstance(score, ForcedScore | GeneratedScore):
        raise UserError(
            f"score {config.method!r} made a {type(score).__name__} where a ForcedScore or "
            "GeneratedScore was expected; docs/extending.md has an example"
        )
    return score


def make_text_score(config: ScoreConfig, folder: Path) -> GeneratedScore:
    """The score of generated text that a run names.

    Raises:
        UserError: see `make_score`; or it is a score of given texts.
    """
    score = make_score(config, folder)
    if not isinstance(score, GeneratedScore):
        raise UserError(
            f"evaluate.generate.scores: {config.title} is a score of given texts, and judges no "
            "text that a model writes; evaluate.score is the place for it"
        )
    return score


def score_identity(config: ScoreConfig) -> dict[str, Any]:
    """What a fingerprint has of a score: its code and its parameters, not its name.

    Raises:
        UserError: there is no such score.
    """
    return {"method": SCORES.identity(config.method), **config.parameters}

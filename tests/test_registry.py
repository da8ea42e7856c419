"""A choice is found by its name or its module, or the error names the way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lrt_dist.errors import UserError
from lrt_dist.linear.methods import FIT_METHODS, Method
from lrt_dist.maps.vectors import VECTOR_METHODS
from lrt_dist.models.injection import POSITIONS
from lrt_dist.registry import Registry
from lrt_dist.tasks.score_choice import SCORES


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour", lambda choice: isinstance(choice, int), "a number")
    registry.add("red")(1)
    registry.add("green")(2)
    return registry


def test_a_choice_is_found_by_its_name(colours: Registry[int]) -> None:
    assert (colours.find("red"), colours.find("green")) == (1, 2)
    assert colours.names == ("red", "green")


def test_what_is_registered_stays_what_it_is() -> None:
    registry: Registry[Callable[[int], int]] = Registry("function", callable, "a function")

    @registry.add("double")
    def double(number: int) -> int:
        return 2 * number

    assert double(3) == 6
    assert registry.find("double") is double


def test_a_name_is_taken_once(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="there is a colour called 'red' already"):
        colours.add("red")
    assert colours.find("red") == 1


def test_registries_keep_to_themselves(colours: Registry[int]) -> None:
    other: Registry[int] = Registry("colour", lambda choice: isinstance(choice, int), "a number")
    other.add("red")(5)
    assert (colours.find("red"), other.find("red")) == (1, 5)


@pytest.mark.parametrize("name", ["grene", "Green", ""])
def test_an_unknown_name_is_told_the_nearest_and_all_others(
    colours: Registry[int], name: str
) -> None:
    with pytest.raises(UserError) as caught:
        colours.find(name)
    message = str(caught.value)
    assert message.startswith(f"no colour is called {name!r}; did you mean ")
    assert "known: red, green; or module:attribute for one of your own" in message
    assert not name or "did you mean 'green'?" in message


def test_ones_own_choice_is_named_by_module_and_attribute(colours: Registry[int]) -> None:
    own = f"{__name__}:OWN"
    assert colours.find(own) == OWN
    assert colours.names == ("red", "green")  # it is not registered by that


OWN = 17
TEXT = "blue"


def test_a_thing_of_another_type_is_refused(colours: Registry[int]) -> None:
    with pytest.raises(UserError, match="is a str where a number was expected; docs/extending"):
        colours.find(f"{__name__}:TEXT")


def test_an_empty_registry_asks_for_ones_own() -> None:
    registry: Registry[int] = Registry("colour", lambda choice: isinstance(choice, int), "a number")
    with pytest.raises(UserError, match="no colour is called 'red'; write module:attribute"):
        registry.find("red")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module_anywhere:thing", "No module named 'no_such_module_anywhere'"),
        (":thing", "Empty module name"),
        (".relative:thing", "relative"),
    ],
)
def test_what_cannot_be_imported_says_why_and_where_it_must_be(
    colours: Registry[int], name: str, reason: str
) -> None:
    with pytest.raises(UserError) as caught:
        colours.find(name)
    message = str(caught.value)
    assert message.startswith(f"colour {name!r} cannot be imported: ")
    assert reason in message
    assert "PYTHONPATH, for the driver and for every worker" in message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("math:sqr", "math has no 'sqr'; did you mean 'math:sqrt'?"),
        ("math:", "math has no ''"),
    ],
)
def test_what_a_module_does_not_have_is_told_the_nearest(
    colours: Registry[int], name: str, reason: str
) -> None:
    with pytest.raises(UserError) as caught:
        colours.find(name)
    assert str(caught.value) == f"colour {name!r}: {reason}"


def test_the_packages_own_choices() -> None:
    assert FIT_METHODS.names == ("affine", "low_rank", "linear", "orthogonal")
    assert VECTOR_METHODS.names == ("mean_difference", "pca", "logistic")
    assert POSITIONS.names == ("all", "all_but_special", "from_prompt_end", "last", "answer")
    assert SCORES.names == (
        *("propensity", "letter_logits", "probability", "refusal"),
        *("words", "refusal_phrases", "classifier", "judge"),
    )
    assert all(isinstance(FIT_METHODS.find(name), Method) for name in FIT_METHODS.names)

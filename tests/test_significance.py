"""p-values that are honest under the null, and a correction that never flatters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.significance import empirical_p, holm

P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def test_holm_of_a_case_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(P_VALUES)
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    pairs = sorted(zip(p, adjusted, strict=True))
    assert [after for _, after in pairs] == sorted(adjusted)
    for raw, after in pairs:
        assert raw <= after <= min(1.0, len(p) * raw)


@given(P_VALUES, st.floats(0, 1), st.data())
def test_holm_does_not_fall_where_a_p_value_rises(
    p: list[float], other: float, data: st.DataObject
) -> None:
    p = [*p, other]
    index = data.draw(st.integers(0, len(p) - 1))
    higher = [*p[:index], max(p[index], other), *p[index + 1 :]]
    assert all(a <= b for a, b in zip(holm(p), holm(higher), strict=True))


def test_holm_errs_at_most_as_often_as_its_level() -> None:
    generator = torch.Generator().manual_seed(0)
    trials = torch.rand(4000, 4, generator=generator, dtype=torch.float64).tolist()
    wrong = sum(min(holm(p)) <= 0.05 for p in trials) / len(trials)
    assert 0.035 <= wrong <= 0.06
    assert sum(min(p) <= 0.05 for p in trials) / len(trials) > 0.15


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_p_value(wrong: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, wrong])


NUMBERS = st.floats(-10, 10)


@given(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=30))
def test_an_empirical_p_counts_and_is_never_zero(value: float, null: list[float]) -> None:
    draws = torch.tensor(null, dtype=torch.float64)
    p = empirical_p(value, draws)
    assert p == (1 + sum(draw >= value for draw in null)) / (1 + len(null))
    assert 0 < p <= 1
    assert empirical_p(value + 1, draws) <= p


def test_under_the_null_p_values_are_uniform() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(4000, 20, generator=generator, dtype=torch.float64)
    p = torch.tensor([empirical_p(float(row[0]), row[1:]) for row in draws])
    for level in (0.05, 0.1, 0.25, 0.5, 0.9):
        # Within four standard errors of the level.
        error = 4 * (level * (1 - level) / len(p)) ** 0.5
        assert float((p <= level + 1e-9).double().mean()) == pytest.approx(level, abs=error)


def test_what_is_not_a_number_counts_against_the_claim() -> None:
    null = torch.tensor([0.0, 1.0, math.nan])
    assert empirical_p(math.nan, null) == 1
    assert empirical_p(5.0, null) == 2 / 4
    assert empirical_p(math.inf, null) == 2 / 4
    with pytest.raises(ValueError, match="at least one"):
        empirical_p(1.0, torch.zeros(0))

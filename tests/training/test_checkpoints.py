"""The document's rule for checkpoints, and the bill."""

from __future__ import annotations

from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosyforge.training.checkpoints import billed_tokens, plan_checkpoints, saved_epochs, select_epochs
from cosyforge.training.hyper_parameters import MAX_VALUE, HyperParameters


def hyper(lm: tuple[int, int, int], fm: tuple[int, int, int]) -> HyperParameters:
    """max_epoch, step and num of both networks."""
    return HyperParameters(*lm, 1000, *fm, 2000)


def names(parameters: HyperParameters) -> list[str]:
    return [candidate.name for candidate in plan_checkpoints(parameters)]


def test_the_documents_table() -> None:
    candidates = plan_checkpoints(hyper((4, 1, 2), (4, 2, 2)))

    assert [(c.lm_epoch, c.fm_epoch, c.product, c.name) for c in candidates] == [
        (4, 4, 16, "checkpoint-00040004"),
        (3, 4, 12, "checkpoint-00030004"),
        (4, 2, 8, "checkpoint-00040002"),
        (3, 2, 6, "checkpoint-00030002"),
    ]
    assert candidates[0].step == 40004


def test_the_recommended_values_give_nine() -> None:
    recommended = hyper((60, 5, 3), (100, 10, 3))

    assert len(plan_checkpoints(recommended)) == 9
    assert names(recommended)[0] == "checkpoint-00600100"
    assert saved_epochs(recommended) == ({60, 55, 50}, {100, 90, 80})


def test_at_equal_products_the_higher_lm_epoch_comes_first() -> None:
    candidates = plan_checkpoints(hyper((4, 1, 4), (4, 1, 4)))

    assert [(c.lm_epoch, c.fm_epoch) for c in candidates][:7] == [
        (4, 4),
        (4, 3),
        (3, 4),
        (3, 3),
        (4, 2),
        (2, 4),
        (3, 2),
    ]


def test_steps_that_would_pass_epoch_one_give_fewer() -> None:
    assert list(select_epochs(5, 2, 10)) == [5, 3, 1]
    assert list(select_epochs(4, 4, 10)) == [4]
    assert list(select_epochs(1, 1, 1)) == [1]
    assert names(hyper((3, 5, 4), (2, 1, 9))) == ["checkpoint-00030002", "checkpoint-00030001"]


def test_at_most_ten_are_kept_and_the_largest_numbers_cost_nothing() -> None:
    candidates = plan_checkpoints(hyper((MAX_VALUE, 1, MAX_VALUE), (MAX_VALUE, 1, MAX_VALUE)))

    assert len(candidates) == 10
    assert candidates[0].product == MAX_VALUE**2


small = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 15))


@given(small, small)
def test_the_plan_is_the_documents_rule_spelt_out(lm: tuple[int, int, int], fm: tuple[int, int, int]) -> None:
    def selected(max_epoch: int, step: int, num: int) -> list[int]:
        return [epoch for i in range(num) if (epoch := max_epoch - i * step) >= 1]

    pairs = sorted(product(selected(*lm), selected(*fm)), key=lambda pair: (-pair[0] * pair[1], -pair[0]))

    assert [(c.lm_epoch, c.fm_epoch) for c in plan_checkpoints(hyper(lm, fm))] == pairs[:10]


@given(small, small)
def test_names_are_unique_and_all_their_weights_are_saved(lm: tuple[int, int, int], fm: tuple[int, int, int]) -> None:
    parameters = hyper(lm, fm)
    lm_epochs, fm_epochs = saved_epochs(parameters)

    assert len(set(names(parameters))) == len(names(parameters))
    assert all(c.lm_epoch in lm_epochs and c.fm_epoch in fm_epochs for c in plan_checkpoints(parameters))


def test_the_documents_benchmark_is_billed_to_the_token() -> None:
    assert billed_tokens(497.03, hyper((4, 1, 2), (4, 2, 2))) == 99406


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(0.01, 1), (0.009, 0), (0.03, 2), (Decimal("0.05"), 3), (0.0, 0), (1.0, 50)]
)
def test_half_a_token_is_rounded_up(seconds: float | Decimal, tokens: int) -> None:
    assert billed_tokens(seconds, hyper((1, 1, 1), (1, 1, 1))) == tokens


def test_the_largest_job_is_billed_exactly() -> None:
    assert billed_tokens(36_000, hyper((MAX_VALUE, 1, 1), (MAX_VALUE, 1, 1))) == 2 * MAX_VALUE * 25 * 36_000

"""Batches by budget: every item once, within the budget, in an order that (seed, epoch) alone decide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cosyforge.dataset.batches import plan_batches

lengths = st.lists(st.integers(1, 3000), max_size=200)


@given(lengths, st.integers(1, 4000), st.integers(0, 9), st.integers(0, 9))
def test_every_item_comes_once_and_no_batch_exceeds_the_budget(
    lengths: list[int], budget: int, seed: int, epoch: int
) -> None:
    batches = plan_batches(lengths, budget, seed=seed, epoch=epoch)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget


def test_an_item_larger_than_the_budget_is_a_batch_of_its_own() -> None:
    batches = plan_batches([10, 5000, 12], 1000, seed=1, epoch=1)

    assert sorted(map(sorted, batches)) == [[0, 2], [1]]


def test_the_order_is_the_same_in_every_process_and_another_in_every_epoch() -> None:
    lengths = [50 + 7 * (i % 40) for i in range(120)]

    first = plan_batches(lengths, 1000, seed=1986, epoch=1)

    assert first == plan_batches(lengths, 1000, seed=1986, epoch=1)
    assert first != plan_batches(lengths, 1000, seed=1986, epoch=2)
    assert first != plan_batches(lengths, 1000, seed=1987, epoch=1)


def test_little_is_padding() -> None:
    lengths = [25 + (i * 37) % 700 for i in range(300)]

    batches = plan_batches(lengths, 2000, seed=0, epoch=0)

    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.2 * sum(lengths)


def test_nothing_gives_no_batch() -> None:
    assert plan_batches([], 1000, seed=0, epoch=0) == []

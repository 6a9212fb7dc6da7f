"""Order is a pure function of numbers: a permutation, and exact shares."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.data.ordering import BLOCK, Mix, permute

EXPECTED = [3, 6, 9, 8, 2, 7, 4, 5, 0, 1]


@given(st.integers(1, 400), st.integers(0, 2**40))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


def test_permute_takes_constant_time_at_a_hundred_million() -> None:
    size = 100_000_000
    places = {permute(index, size, 7) for index in range(1000)}
    assert len(places) == 1000 and max(places) > size // 2
    with pytest.raises(ValueError, match="outside"):
        permute(size, size, 7)


def test_another_key_is_another_order() -> None:
    orders = {tuple(permute(index, 50, key) for index in range(50)) for key in range(20)}
    assert len(orders) == 20


def test_the_order_of_a_run_never_changes_between_machines_or_versions() -> None:
    assert [permute(index, 10, 42) for index in range(10)] == EXPECTED


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 3000), st.floats(0.05, 1)), min_size=1, max_size=5), st.integers(0, 99))
def test_a_block_holds_every_source_by_its_weight(sources: list[tuple[int, float]], seed: int) -> None:
    sizes, weights = [size for size, _ in sources], [weight for _, weight in sources]
    mix = Mix(sizes, weights, seed)
    counts = Counter(mix[position][0] for position in range(2 * BLOCK))
    for number, weight in enumerate(weights):
        assert abs(counts[number] - 2 * BLOCK * weight / sum(weights)) <= 2


def test_every_epoch_shows_every_row_once() -> None:
    mix = Mix([100, 37], [1, 2], seed=3)
    seen: dict[tuple[int, int], list[int]] = {}
    for position in range(3 * BLOCK):
        source, epoch, index = mix[position]
        seen.setdefault((source, epoch), []).append(index)
    assert sorted(seen[0, 0]) == list(range(100)) and sorted(seen[1, 0]) == sorted(seen[1, 3]) == list(range(37))
    assert seen[1, 0] != seen[1, 1]


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 99))
def test_neighbouring_rows_come_in_runs_and_every_epoch_shows_each_once(size: int, run: int, seed: int) -> None:
    mix = Mix([size, 50], [1, 1], seed, [run, 1])
    drawn = [mix[position] for position in range(2 * BLOCK)]
    mine = [(epoch, index) for source, epoch, index in drawn if source == 0]
    whole_epochs = max(epoch for epoch, _ in mine)
    for number in range(whole_epochs):
        assert sorted(index for epoch, index in mine if epoch == number) == list(range(size))
    together = sum(
        a[:2] == b[:2] and b[2] == a[2] + 1 and b[2] // run == a[2] // run for a, b in pairwise(drawn) if a[0] == 0
    )
    inside = sum(index % run != 0 for _, index in mine)  # every row of a run but its first follows another
    assert together >= inside - 3  # a run may be cut where a block ends, or where the drawing begins and ends


def test_empty_sources_and_wrong_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="empty sources"):
        Mix([0], [1], 0)
    with pytest.raises(ValueError, match="one weight a source"):
        Mix([1, 2], [1], 0)

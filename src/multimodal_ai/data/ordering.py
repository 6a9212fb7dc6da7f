"""Order without memory: which sample stands at which position is a pure function of a few numbers.

A keyed permutation shuffles an epoch, and a fixed quota per block mixes the sources. So the state of the
data is one position; resuming, or going on with another number of processes, needs nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

BLOCK = 1024  # positions over which the mix holds its weights exactly


def mixed_hash(*numbers: int) -> int:
    """A 64-bit hash of integers, the same on every machine and in every version of Python."""
    data = b"".join(number.to_bytes(16, "little", signed=True) for number in numbers)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@lru_cache(maxsize=4096)
def _round_keys(key: tuple[int, ...], rounds: int = 6) -> tuple[int, ...]:
    return tuple(mixed_hash(*key, number) | 1 for number in range(rounds))


def permute(index: int, size: int, *key: int) -> int:
    """The place of `index` in a keyed permutation of range(size): a Feistel network with cycle walking
    (Black & Rogaway, 2002). Constant time and memory, for any size.
    """
    if not 0 <= index < size:
        raise ValueError(f"index {index} is outside range({size})")
    half = max((size - 1).bit_length() + 1, 2) // 2
    mask = (1 << half) - 1
    keys = _round_keys(key)
    while True:
        left, right = index >> half, index & mask
        for number in keys:
            scrambled = (right * 0x9E3779B97F4A7C15 + number) & 0xFFFFFFFFFFFFFFFF
            scrambled = ((scrambled ^ (scrambled >> 29)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((scrambled ^ (scrambled >> 32)) & mask)
        index = (left << half) | right
        if index < size:
            return index


class Mix:
    """Sources with sizes and weights as one endless sequence of (source, epoch, index).

    runs: for each source, how many neighbouring rows follow each other (1: every row for itself), so that
    what they share, such as an image, meets in one batch.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], seed: int, runs: Sequence[int] | None = None
    ) -> None:
        if len(sizes) != len(weights) or not sizes:
            raise ValueError(f"{len(sizes)} sources and {len(weights)} weights: give one weight a source")
        empty = [number for number, size in enumerate(sizes) if size < 1]
        if empty or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"every source needs a row and a weight of at least 0 (empty sources: {empty})")
        total = sum(weights)
        self.sizes, self.seed, self.runs = list(sizes), seed, list(runs or [1] * len(sizes))
        self._shares = [weight / total for weight in weights]
        self._last: tuple[int, list[tuple[int, int, int]]] = (-1, [])

    def _taken(self, source: int, blocks: int) -> int:
        """How many samples of a source the first `blocks` blocks hold."""
        cumulative = [0.0]
        for share in self._shares:
            cumulative.append(cumulative[-1] + share)
        # Differences of rounded cumulative shares: the quotas of all sources always add up to the block.
        low, high = cumulative[source], cumulative[source + 1] if source + 1 < len(self._shares) else 1.0
        return round(high * blocks * BLOCK) - round(low * blocks * BLOCK)

    def __getitem__(self, position: int) -> tuple[int, int, int]:
        """Position in the endless sequence -> source, epoch, index of the row within the source."""
        block, offset = divmod(position, BLOCK)
        if self._last[0] != block:
            self._last = (block, self._block(block))
        return self._last[1][offset]

    def _block(self, block: int) -> list[tuple[int, int, int]]:
        """All samples of a block: every source's quota, cut into runs, and these shuffled."""
        runs: list[list[tuple[int, int, int]]] = []
        for source, (size, run) in enumerate(zip(self.sizes, self.runs, strict=True)):
            before, current = None, list[tuple[int, int, int]]()
            for number in range(self._taken(source, block), self._taken(source, block + 1)):
                epoch, index = divmod(number, size)
                if (epoch, index // run) != before:
                    before, current = (epoch, index // run), []
                    runs.append(current)
                whole = size // run  # the rows behind the last whole run end every epoch
                place = permute(index // run, whole, self.seed, source, epoch) if index // run < whole else whole
                current.append((source, epoch, place * run + index % run))
        order = (permute(number, len(runs), self.seed, -1, block) for number in range(len(runs)))
        return [sample for number in order for sample in runs[number]]

"""tiles.reduce against np.sort and Python's fractions, over shapes, types, contents, ranks and threads."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_bgstat.backends import cpu, moments, order, tiles

Samples = NDArray[Any]


def float32_of(value: Fraction) -> np.float32:
    """value >= 0 rounded to float32, half to even, by integer arithmetic alone (no subnormals)."""
    if value == 0:
        return np.float32(0)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if value < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    return np.float32(float(round(value / unit) * unit))  # round() of a Fraction is half to even


def variances(block: Samples) -> NDArray[np.float32]:
    """The variance of each column by its definition: the mean squared distance from the mean, in fractions."""
    out = []
    for column in block.T.tolist():
        mean = Fraction(sum(column), len(column))
        squares = Fraction(sum(x * x for x in column), len(column))
        out.append(float32_of(squares - mean * mean))
    return np.array(out, np.float32)


def check(block: Samples, ranks: list[int], threads: int | None = None, columns: int = 40) -> None:
    """Every order statistic, and the variance of at most `columns` columns."""
    before = block.copy()
    variance, found = tiles.reduce(block, ranks, threads)
    assert variance.dtype == np.float32 and variance.shape == block.shape[1:]
    assert found.dtype == block.dtype and found.shape == (len(ranks), block.shape[1])
    np.testing.assert_array_equal(found, np.sort(block, axis=0)[ranks])
    some = np.unique(np.linspace(0, block.shape[1] - 1, columns).astype(int))
    np.testing.assert_array_equal(variance[some], variances(block[:, some]))
    np.testing.assert_array_equal(block, before)


def constant(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    return np.broadcast_to(rng.integers(0, peak + 1, shape[1]), shape)


def uniform(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    return rng.integers(0, peak + 1, shape)


def extremes(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    return np.where(rng.random(shape) < rng.random(shape[1]), peak, 0)


def narrow(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    return rng.normal(rng.uniform(0, peak, shape[1]), 2, shape)


def wide(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    return rng.normal(rng.uniform(0, peak, shape[1]), peak / 30, shape)


def bimodal(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    return np.where(rng.random(shape) < 0.5, rng.normal(peak / 4, 3, shape), rng.normal(peak * 3 / 4, 3, shape))


def skewed(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    return peak * rng.random(shape) ** 8


def drifting(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    """Sorted in time, so that no subset of rows is typical."""
    return np.sort(rng.normal(peak / 2, peak / 10, shape), axis=0)


def with_visitor(rng: np.random.Generator, shape: tuple[int, int], peak: int) -> NDArray[Any]:
    """Noise around a level, and something dark in 30 % of the samples."""
    return np.where(rng.random(shape) < 0.3, peak / 8, narrow(rng, shape, peak))


CONTENTS = [constant, uniform, extremes, narrow, wide, bimodal, skewed, drifting, with_visitor]
DTYPES = [np.uint8, np.uint16]


def make(content: Any, shape: tuple[int, int], dtype: Any, seed: int = 0) -> Samples:
    peak = int(np.iinfo(dtype).max)
    values = content(np.random.default_rng(seed), shape, peak)
    block: Samples = np.ascontiguousarray(np.clip(np.rint(values), 0, peak).astype(dtype))
    return block


def middles(count: int) -> list[int]:
    return [(count - 1) // 2, count // 2]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_block(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 700) | st.integers(1, 40))
    values = data.draw(st.integers(1, 300) | st.sampled_from([1023, 1025, 2049]))
    if count * values > 300_000:
        values = max(1, 300_000 // count)
    content = data.draw(st.sampled_from(CONTENTS))
    block = make(content, (count, values), data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(0, 99)))
    ranks = data.draw(st.just(middles(count)) | st.lists(st.integers(0, count - 1), max_size=5))
    check(block, ranks, data.draw(st.integers(1, 3)), columns=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("count", [600, 601])
def test_contents_at_a_usual_size(count: int, content: Any, dtype: Any) -> None:
    check(make(content, (count, 701), dtype), [0, *middles(count), count // 10, count - 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 254, 255, 256, 257, 511, 512, 513])
def test_counts_around_the_limits_of_each_method(count: int, dtype: Any) -> None:
    for content in (uniform, narrow):
        check(make(content, (count, 67), dtype), sorted({0, *middles(count), count - 1}), columns=5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [257, 258, 259, 516, 517])
def test_sums_stay_exact_where_float32_would_not(count: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peak = np.iinfo(dtype).max
    block = np.full((count, 5), peak, dtype)
    block[count // 2, 1] = peak - 1
    block[:: count - 1, 2] = 1
    check(block, middles(count))
    monkeypatch.setattr(moments, "_SUM_BYTES", 1)  # one accumulator for all samples, as in a wide strip
    check(block, middles(count))


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_many_samples_as_there_may_be(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peak = int(np.iinfo(dtype).max)
    block = np.full((65535, 3), peak, dtype)
    block[::2, 1] = 0
    block[7, 2] = 0
    monkeypatch.setattr(moments, "_SUM_BYTES", 1 << 12)
    check(block, [0, *middles(65535), 65534])
    assert tiles.reduce(block, [])[0][0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", [1, 1023, 1024, 1025, 3000, 60_001])
def test_all_columns_whatever_the_width(values: int, dtype: Any) -> None:
    for count in (5, 64, 66):
        block = make(wide, (count, values), dtype)
        for threads in (1, 2, 5):
            check(block, middles(count), threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_and_few_unfinished_columns(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny chunks, and columns gathered as soon as one is finished, or never before all are."""
    block = make(with_visitor, (611, 97), dtype)
    for chunk in (1, 200, 5000):
        monkeypatch.setattr(order, "_CHUNK_BYTES", chunk)
        for few in (1, 1000):
            monkeypatch.setattr(order, "_FEW", few)
            check(block, [*middles(611), 306, 17], columns=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [2, 63, 200, 1001])
def test_equals_the_specification(count: int, dtype: Any) -> None:
    block = make(with_visitor, (count, 333), dtype)
    variance, found = tiles.reduce(block, middles(count))
    np.testing.assert_array_equal(found, cpu.ranks(block, middles(count)))
    np.testing.assert_array_equal(variance, cpu.variance(block))


@pytest.mark.parametrize("count", [1, 9, 40, 600])
def test_the_front_of_a_ring_and_a_cut_out_of_its_rows(count: int) -> None:
    ring = make(with_visitor, (count + 3, 501), np.uint8)
    ring.setflags(write=False)
    check(ring[:count], middles(count))
    check(ring[:count, 3:444], middles(count))


def test_ranks_in_any_order_and_twice() -> None:
    block = make(uniform, (120, 50), np.uint8)
    check(block, [60, 3, 59, 3, 119, 61, 0, 1, 2])
    check(block, list(range(120)))
    check(block, [])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples that each count looked at."""
    sizes: list[int] = []
    count = order._count

    def spy(strip: Samples, probe: moments.Singles) -> moments.Singles:
        sizes.append(strip.size)
        return count(strip, probe)

    monkeypatch.setattr(order, "_count", spy)
    return sizes


def test_noise_takes_two_counts_and_its_second_middle_none(counted: list[int]) -> None:
    block = make(narrow, (600, 2000), np.uint8)
    tiles.reduce(block, [299], threads=1)
    alone = sum(counted)
    assert alone < 2.8 * block.size  # one of a fifth of the samples, two of all, few columns once more
    counted.clear()
    tiles.reduce(block, [299, 300], threads=1)
    assert sum(counted) == alone


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("content", CONTENTS)
def test_no_content_takes_many_counts(
    content: Any, dtype: Any, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "_FEW", 10_000)  # never gather: each count is one turn
    tiles.reduce(make(content, (300, 400), dtype), [150], threads=1)
    assert len(counted) <= 5 + 1 + 8 * dtype().itemsize


@pytest.mark.parametrize(
    "block, ranks",
    [
        (np.zeros((3, 4), np.int16), [1]),
        (np.zeros((3, 4), np.float32), [1]),
        (np.zeros(3, np.uint8), [1]),
        (np.zeros((3, 4, 2), np.uint8), [1]),
        (np.zeros((0, 4), np.uint8), []),
        (np.zeros((4, 0), np.uint8), []),
        (np.zeros((65536, 1), np.uint8), [1]),
        (np.zeros((3, 4), np.uint8), [3]),
        (np.zeros((3, 4), np.uint8), [-1]),
        (np.zeros((4, 3), np.uint8).T, [1]),
        (np.zeros((3, 8), np.uint8)[:, ::2], [1]),
        (np.zeros((3, 4), np.uint8)[::-1], [1]),
    ],
)
def test_wrong_blocks_and_ranks_are_refused(block: Samples, ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="give"):
        tiles.reduce(block, ranks)


def test_rounding_oracle_agrees_with_numpy_where_float64_is_exact() -> None:
    rng = np.random.default_rng(0)
    exact = rng.integers(1, 1 << 53, 500) / 2.0 ** rng.integers(0, 60, 500)
    tie = (np.arange(1 << 24, (1 << 24) + 40) * 2 + 1) / 2.0**30
    for value in [*exact, *tie]:
        assert float32_of(Fraction(value)) == np.float32(value)


@pytest.mark.parametrize("peak", [255, 65535])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 255, 600, 768, 4096, 65535])
def test_variance_of_random_sums(count: int, peak: int) -> None:
    rng = np.random.default_rng(count)
    total = [int(x) for x in rng.integers(0, count * peak + 1, 300)]
    lowest = [-(-t * t // count) for t in total]  # sum(x**2) is at least sum(x)**2 / T, at most peak * sum(x)
    total_sq = [int(rng.integers(low, peak * t + 1)) for low, t in zip(lowest, total, strict=True)]
    compare_variances(count, total, total_sq)


def compare_variances(count: int, total: list[int], total_sq: list[int]) -> None:
    got = moments.exact_variance(count, np.array(total, np.uint64), np.array(total_sq, np.uint64))
    pairs = zip(total, total_sq, strict=True)
    expected = [float32_of(Fraction(count * sq - t * t, count * count)) for t, sq in pairs]
    np.testing.assert_array_equal(got, np.array(expected, np.float32))


def beside_middles(count: int, peak: int, wanted: int) -> tuple[list[int], list[int]]:
    """Sums whose variance lies on the middle of two float32, or as close beside it as whole numbers can be."""
    rng = np.random.default_rng(count)
    root = {r * r % count: r for r in range(count)}
    total: list[int] = []
    total_sq: list[int] = []
    while len(total) < wanted:
        shift = 24 - int(rng.integers(2, 2 * peak.bit_length() - 3))
        middle = int(rng.integers(1 << 24, 1 << 25)) | 1  # times 2**-shift
        if shift > 0 and count % 2 and rng.random() < 0.5:
            # middle * count**2 = +-1 or +-3 modulo 2**shift: so near to a whole number, in units of 2**-shift
            inverse = int(rng.choice([-3, -1, 1, 3])) * pow(count, -2, 1 << shift)
            middle = (middle >> shift << shift) + inverse % (1 << shift)
        exact = middle * Fraction(2) ** -shift * count * count
        for numerator in range(int(exact) - 1, int(exact) + 3):
            if -numerator % count in root:  # then count * total_sq - total**2 can be this
                total.append(root[-numerator % count] + count * (peak // 2))
                total_sq.append((numerator + total[-1] ** 2) // count)
    assert all(sq <= peak * t for t, sq in zip(total, total_sq, strict=True)), "there are such samples"
    return total, total_sq


@pytest.mark.parametrize("peak", [255, 65535])
@pytest.mark.parametrize("count", [3, 601, 768, 4095, 46337, 65521, 65535])
def test_variance_close_to_the_middle_of_two_floats(count: int, peak: int) -> None:
    compare_variances(count, *beside_middles(count, peak, 300))


@pytest.mark.parametrize("peak", [255, 65535])
def test_rounding_twice_would_be_noticed(peak: int) -> None:
    total, total_sq = beside_middles(65521, peak, 300)
    exact = [Fraction(65521 * sq - t * t, 65521**2) for t, sq in zip(total, total_sq, strict=True)]
    assert any(np.float32(float(ratio)) != float32_of(ratio) for ratio in exact)


def test_threads_share_the_strips_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    meeting = threading.Barrier(2)
    add_up = moments.moments

    def spy(strip: Samples) -> tuple[moments.Doubles, moments.Doubles]:
        seen.add(threading.current_thread().name)
        meeting.wait(timeout=10)
        return add_up(strip)

    monkeypatch.setattr(tiles, "moments", spy)
    tiles.reduce(make(uniform, (20, 20_000), np.uint8), [10], threads=2)  # 8 strips
    assert len(seen) == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bgstat")]


def test_an_interrupt_cancels_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def stop(strip: Samples) -> tuple[moments.Doubles, moments.Doubles]:
        begun.append(1)
        if len(begun) > 1:
            threading.Event().wait(0.2)  # holds this thread while the interrupt arrives
        raise KeyboardInterrupt

    monkeypatch.setattr(tiles, "moments", stop)
    monkeypatch.setattr(tiles, "_STRIP_VALUES", 10)
    with pytest.raises(KeyboardInterrupt):
        tiles.reduce(np.zeros((20, 200), np.uint8), [10], threads=2)  # 20 strips
    assert len(begun) <= 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_strips_are_short_and_share_the_work(dtype: Any) -> None:
    for count, values in [(1, 1), (2, 10**7), (600, 921_600), (20_000, 307_200), (65_535, 10**6)]:
        block = np.broadcast_to(dtype(0), (count, values))
        for threads in (1, 2, 64):
            parts = tiles._parts(block, threads)
            assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
            assert parts[-1].stop == values
            assert max(part.stop - part.start for part in parts) * count * block.itemsize <= 1 << 26
            assert len(parts) >= min(2 * threads, values // 1024)

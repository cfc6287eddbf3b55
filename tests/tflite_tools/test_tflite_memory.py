"""Peak and arena of lifetimes: by hand, and by laws on random ones."""

from hypothesis import given
from hypothesis import strategies as st

from tflite_tools.memory import ALIGNMENT, Lifetime, arena_bytes, peak_bytes


def test_a_chain_holds_two_tensors_at_a_time():
    chain = [Lifetime(-1, 0, 64), Lifetime(0, 1, 256), Lifetime(1, 2, 128), Lifetime(2, 3, 64)]
    assert peak_bytes(chain) == 256 + 128
    assert arena_bytes(chain) == 256 + 128


def test_nothing_needs_nothing():
    assert peak_bytes([]) == arena_bytes([]) == 0


def test_a_small_tensor_goes_into_the_tightest_gap():
    """[a][ gap 192 ][b][ gap 64 ][c]: 64 bytes fit into both gaps, which d and e leave behind."""
    a, d, b, e, c = (Lifetime(*x) for x in [(0, 9, 640), (0, 1, 192), (0, 9, 576), (0, 1, 64), (0, 9, 512)])
    late = Lifetime(2, 3, 64)
    assert arena_bytes([a, b, c, d, e]) == 640 + 576 + 512 + 192 + 64
    assert arena_bytes([a, b, c, d, e, late]) == 640 + 576 + 512 + 192 + 64


def test_offsets_are_aligned():
    assert arena_bytes([Lifetime(0, 1, 100), Lifetime(0, 1, 10)]) == 2 * ALIGNMENT + 10
    assert peak_bytes([Lifetime(0, 1, 100), Lifetime(0, 1, 10)]) == 110


def test_the_greedy_arena_may_exceed_the_peak():
    """Both large tensors get offset 0; of the small ones, alive together, one then has to go above the other."""
    tensors = [Lifetime(0, 0, 192), Lifetime(3, 3, 192), Lifetime(2, 3, 128), Lifetime(0, 2, 128)]
    assert (peak_bytes(tensors), arena_bytes(tensors)) == (320, 448)


lifetimes = st.builds(
    lambda first, span, size: Lifetime(first, first + span, size),
    st.integers(0, 8),
    st.integers(0, 4),
    st.integers(0, 999),
)


@given(st.lists(lifetimes, max_size=12))
def test_the_arena_holds_at_least_what_is_alive(tensors):
    peak, arena = peak_bytes(tensors), arena_bytes(tensors)
    assert max((t.size for t in tensors), default=0) <= peak <= arena
    assert arena <= sum(t.size + ALIGNMENT for t in tensors)
    assert peak == max((sum(t.size for t in tensors if t.first <= m <= t.last) for m in range(13)), default=0)

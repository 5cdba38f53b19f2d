"""The two solvers behind gauges, against numpy.linalg: ratios (a union-find) and offsets (elimination)."""

from collections import deque

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export.fold.gauges.blame import shortest_way
from export.fold.gauges.offsets import Offsets
from export.fold.gauges.ratios import Ratios

many = settings(max_examples=150)
sizes = st.integers(2, 9)
FACTORS = (-2.0, -1.0, -0.5, 0.25, 1.0, 3.0)


@st.composite
def links(draw):
    """Unknowns, then batches of equations v[i] = factor · v[j]; most hold for one hidden answer."""
    size = draw(sizes)
    hidden = np.array([1.0, *(draw(st.sampled_from(FACTORS)) for _ in range(size - 1))])
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        pairs = draw(st.lists(st.tuples(*[st.integers(0, size - 1)] * 2), min_size=1, max_size=5))
        first, second = np.array(pairs).T
        count = len(pairs)
        wrong = draw(st.lists(st.sampled_from([1.0] * 6 + [-1.0, 2.0]), min_size=count, max_size=count))
        batches.append((first, second, hidden[first] / hidden[second] * np.array(wrong)))
    return size, batches


def logs(size, equations):
    """log|v[i]| − log|v[j]| = log|f| and v[0] = 1, as a matrix and a right side."""
    matrix, right = np.zeros((len(equations) + 1, size)), np.zeros(len(equations) + 1)
    matrix[-1, 0] = 1
    for row, (i, j, factor) in enumerate(equations):
        matrix[row, i] += 1
        matrix[row, j] -= 1
        right[row] = np.log(abs(factor))
    return matrix, right


def solvable(matrix, right):
    answer = np.linalg.lstsq(matrix, right, rcond=None)[0]
    return bool(np.abs(matrix @ answer - right).max(initial=0) < 1e-9)


def signs_agree(size, equations):
    """By trying every choice of signs."""
    return any(
        all((bits >> i & 1) ^ (bits >> j & 1) == (factor < 0) for i, j, factor in equations)
        for bits in range(0, 1 << size, 2)
    )


@many
@given(links())
def test_ratios_refuse_what_numpy_cannot_solve(case):
    size, batches = case
    ratios, accepted = Ratios(size), []
    for first, second, factor in batches:
        batch = list(zip(first.tolist(), second.tolist(), factor.tolist(), strict=True))
        trial = ratios.copy()
        wrong = trial.tie(first, second, factor)
        together = accepted + batch
        possible = solvable(*logs(size, together)) and signs_agree(size, together)
        assert wrong.shape == first.shape
        assert wrong.any() != possible
        kept = [equation for equation, is_wrong in zip(batch, wrong, strict=True) if not is_wrong]
        values = trial.ratio * np.exp(np.arange(size))[trial.root] / np.exp(trial.root == 0)
        assert all(np.isclose(values[i], f * values[j], rtol=1e-11) for i, j, f in accepted + kept)
        if possible:
            ratios, accepted = trial, together


@many
@given(links())
def test_ratios_point_right_at_their_root_and_keep_the_number_1(case):
    size, batches = case
    ratios = Ratios(size)
    for batch in batches:
        ratios.tie(*batch)
        assert (ratios.root[ratios.root] == ratios.root).all()
        assert (ratios.root <= np.arange(size)).all()
        assert (ratios.ratio[ratios.root] == 1).all()
        assert (ratios.root[0], ratios.ratio[0]) == (0, 1)


@many
@given(links())
def test_a_copy_of_ratios_leaves_the_original_alone(case):
    size, (first_batch, *others) = case
    ratios = Ratios(size)
    ratios.tie(*first_batch)
    root, ratio = ratios.root.copy(), ratios.ratio.copy()
    twin = ratios.copy()
    for batch in others:
        twin.tie(*batch)
    np.testing.assert_array_equal(ratios.root, root)
    np.testing.assert_array_equal(ratios.ratio, ratio)


def test_a_long_chain_of_ratios_keeps_its_precision():
    """500 links in one call and in 500 calls: every unknown within 1e-12."""
    factors = np.random.default_rng(0).uniform(0.5, 2, 500)
    chain = np.arange(500)
    truth = np.array([1.0, *1 / np.cumprod(factors)])
    together, one_by_one = Ratios(501), Ratios(501)
    together.tie(chain, chain + 1, factors)
    for index in reversed(chain.tolist()):
        one_by_one.tie(*(np.array([number]) for number in (index, index + 1, factors[index])))
    for ratios in (together, one_by_one):
        assert (ratios.root == 0).all()
        np.testing.assert_allclose(ratios.ratio, truth, rtol=1e-12)


@st.composite
def sums(draw):
    """Unknowns, and equations Σ c · b = k of which most hold for one answer; an unknown may come twice."""
    size = draw(sizes)
    hidden = np.array([0.0, *(draw(st.integers(-3, 3)) for _ in range(size - 1))])
    equations = []
    for _ in range(draw(st.integers(1, 12))):
        term = st.tuples(st.integers(0, size - 1), st.sampled_from(FACTORS))
        terms = draw(st.lists(term, min_size=1, max_size=4))
        right = sum(c * hidden[i] for i, c in terms)
        equations.append((terms, right + draw(st.sampled_from([0.0] * 10 + [1.0, 1e-6]))))
    return size, equations


def as_matrix(size, equations):
    """With b[0] = 0 as its last row."""
    matrix = np.zeros((len(equations) + 1, size))
    matrix[-1, 0] = 1
    for row, (terms, _) in enumerate(equations):
        for i, c in terms:
            matrix[row, i] += c
    return matrix, np.array([*(right for _, right in equations), 0.0])


def rarity(size, equations):
    return np.bincount([i for terms, _ in equations for i, _ in terms], minlength=size)


ZERO_BY_ROUNDING = (
    4,
    [
        ([(3, -2.0), (3, -1.0), (2, -2.0)], np.float64(-5.0)),
        ([(2, -2.0), (1, -2.0)], np.float64(-2.0)),
        ([(3, -2.0)], np.float64(-2.0)),
        ([(1, -2.0)], np.float64(0.0)),  # b[1] is 1.6e-16 by then
    ],
)


@many
@given(sums(), st.booleans())
@example(ZERO_BY_ROUNDING, False)
def test_offsets_take_what_numpy_can_solve_and_solve_it(case, is_counted):
    size, equations = case
    offsets = Offsets(rarity(size, equations) if is_counted else np.zeros(size, dtype=int))
    accepted = []
    for terms, right in equations:
        possible = solvable(*as_matrix(size, [*accepted, (terms, right)]))
        assert offsets.require(terms, right) == possible
        accepted += [(terms, right)] if possible else []
        matrix, wanted = as_matrix(size, accepted)
        np.testing.assert_allclose(matrix @ offsets.values(), wanted, atol=1e-9)


@many
@given(sums(), st.data())
def test_rollback_leaves_exactly_what_was_before(case, data):
    size, equations = case
    cut = data.draw(st.integers(0, len(equations)))
    once, twice = (Offsets(rarity(size, equations)) for _ in range(2))
    for terms, right in equations[:cut]:
        assert once.require(terms, right) == twice.require(terms, right)
    mark, values = twice.mark(), twice.values()
    for terms, right in equations[cut:]:
        twice.require(terms, right)
    twice.rollback(mark)
    np.testing.assert_array_equal(twice.values(), values)
    assert twice.mark() == mark
    for terms, right in reversed(equations):
        assert once.require(terms, right) == twice.require(terms, right)
    np.testing.assert_array_equal(once.values(), twice.values())


@st.composite
def edges(draw):
    size = draw(st.integers(2, 10))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, size - 1)] * 2), min_size=1, max_size=15))
    start, goal = (draw(st.integers(0, size - 1)) for _ in range(2))
    return np.array(pairs).T, start, goal


def distance(first, second, start, goal):
    """Breadth first, one node at a time; None if there is no way."""
    far, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for i, j in [*zip(first, second, strict=True), *zip(second, first, strict=True)]:
            if i == node and j not in far:
                far[j] = far[node] + 1
                queue.append(j)
    return far.get(goal)


@many
@given(edges())
def test_the_way_leads_from_goal_to_start(case):
    (first, second), start, goal = case
    way = shortest_way(first, second, start, goal)
    expected = distance(first.tolist(), second.tolist(), start, goal)
    here = goal
    for edge in way:
        assert here in (first[edge], second[edge])
        here = first[edge] + second[edge] - here
    assert here == start if expected is not None else not way
    assert bool(way) == bool(expected)


@pytest.mark.parametrize("start", [0, 2])
def test_no_way_out_of_an_island(start):
    assert shortest_way(np.array([0]), np.array([1]), start, 3) == []


def test_offsets_of_a_ladder_take_no_exponential_time():
    """b[n] = b[n−1] + b[n−2] has 10⁸ ways from its end to its start."""
    size = 40
    for order in (range(3, size), reversed(range(3, size))):
        offsets = Offsets(np.full(size, 3))
        for n in order:
            assert offsets.require([(n, 1.0), (n - 1, -1.0), (n - 2, -1.0)], 0.0)
        assert offsets.require([(1, 1.0)], 1.0)
        assert offsets.require([(2, 1.0)], 1.0)
        fibonacci = [0.0, 1.0, 1.0]
        while len(fibonacci) < size:
            fibonacci.append(fibonacci[-1] + fibonacci[-2])
        np.testing.assert_allclose(offsets.values(), fibonacci, rtol=1e-12)
        assert not offsets.require([(size - 1, 1.0)], 1.0)

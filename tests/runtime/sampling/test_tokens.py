"""The executor of token plans, compared with exact distributions: a Markov chain with known conditionals."""

import math
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest

from fewstep.plans.compile_tokens import compile_tokens
from fewstep.plans.errors import UserError
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.tokens.plan import TokenPlan, TokenStep
from fewstep.runtime.sampling.tokens import execute_tokens, finish_tokens

V, L = 3, 6
FIRST = np.array([0.5, 0.3, 0.2])
NEXT = np.array([[0.5, 0.3, 0.2], [0.25, 0.5, 0.25], [0.3, 0.25, 0.45]])
STATES = np.array(list(product(range(V), repeat=L)))
DATA = FIRST[STATES[:, 0]] * np.prod([NEXT[STATES[:, i], STATES[:, i + 1]] for i in range(L - 1)], axis=0)
FACTS = DenoiserFacts(ScheduleSpec("flow"), "logits")


@cache
def conditionals():
    """[4 ** 6, L, V]: the probability of each token given the known ones; the id V stands for an open position."""
    table = np.empty(((V + 1) ** L, L, V))
    for place, known in enumerate(product(range(V + 1), repeat=L)):
        fits = np.all((np.array(known) == V) | (known == STATES), axis=1)
        weights = DATA[fits]
        for position in range(L):
            sums = np.bincount(STATES[fits, position], weights, V)
            table[place, position] = sums / weights.sum()
    return table


def number(ids):
    return ids @ (V + 1) ** np.arange(L - 1, -1, -1)


def network(index, step, ids):
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(conditionals()[number(ids)]), -80.0).astype(np.float32)


def score(name, share):
    if name == "entropy":
        return np.sum(share * np.log(np.maximum(share, 1e-300)))
    ends = np.sort(share)
    return ends[-1] - ends[-2] if name == "margin" else ends[-1]


def law(name, counts):
    """The distribution of finished tokens, over STATES, by enumeration of all outcomes of a sampler."""
    laws = {(V,) * L: 1.0}
    for count in counts:
        after: dict = {}
        for known, mass in laws.items():
            share = conditionals()[number(np.array(known))]
            opened = [i for i in range(L) if known[i] == V]
            if name == "random":
                orders = list(combinations(opened, count))
                choices = [(1 / len(orders), order) for order in orders]
            elif name != "drawn":
                scores = np.round([score(name, share[i]) for i in opened], 6)  # as float32 logits tell them apart
                choices = [(1.0, [opened[i] for i in np.argsort(-scores, kind="stable")[:count]])]
            else:
                choices = []
            for weight, some in choices:
                for tokens in product(range(V), repeat=len(some)):
                    chance = np.prod([share[i][t] for i, t in zip(some, tokens, strict=True)])
                    reached = list(known)
                    for i, t in zip(some, tokens, strict=True):
                        reached[i] = t
                    after[tuple(reached)] = after.get(tuple(reached), 0.0) + mass * weight * chance
            if name == "drawn":
                for tokens in product(range(V), repeat=len(opened)):
                    shares = np.array([share[i][t] for i, t in zip(opened, tokens, strict=True)])
                    reached = list(known)
                    for i in np.argsort(-np.round(shares, 6), kind="stable")[:count]:
                        reached[opened[i]] = tokens[i]
                    after[tuple(reached)] = after.get(tuple(reached), 0.0) + mass * np.prod(shares)
        laws = after
    return np.array([laws.get(tuple(state), 0.0) for state in STATES])


def variation(p, q):
    return np.abs(p - q).sum() / 2


def plan_of(steps):
    return TokenPlan(1, "own", "", V, (L,), None, tuple(steps))


@pytest.mark.parametrize(
    ("name", "counts"),
    [("random", [2, 2, 2]), ("entropy", [2, 2, 2]), ("margin", [3, 3]), ("probability", [1] * 6), ("drawn", [2, 4])],
)
@pytest.mark.parametrize("samples", [50_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_the_executor_has_the_enumerated_law(name, counts, samples):
    plan = plan_of(TokenStep(reveal=count, score=name) for count in counts)
    check_law(plan, law(name, counts), samples)


def check_law(plan, exact, count=50_000):
    """Check the chi-square of a number of samples within three standard errors, over states that are not rare."""
    ids = finish_tokens(plan, execute_tokens(plan, network, range(count), V))
    counted = np.bincount(ids @ V ** np.arange(L - 1, -1, -1), minlength=len(STATES))
    common = exact * count > 5
    expected = np.append(exact[common] * count, exact[~common].sum() * count)
    observed = np.append(counted[common], counted[~common].sum())
    keep = expected > 0
    chi = np.sum((observed[keep] - expected[keep]) ** 2 / expected[keep])
    freedom = keep.sum() - 1
    assert counted[exact == 0].sum() == 0
    assert abs(chi - freedom) < 3 * np.sqrt(2 * freedom)


@pytest.mark.slow
def test_first_hitting_has_the_law_of_ancestral_sampling_in_fewer_calls():
    """With many steps ancestral sampling approaches the data's distribution, which First-Hitting has with one step
    per position.
    """
    plans = {steps: compile_tokens(f"mdlm:{steps}", FACTS, (L,), V) for steps in (4, 16)}
    off = []
    for plan in plans.values():
        laws = law_of_chances([step.chance for step in plan.steps])
        off.append(variation(laws, DATA))
    check_law(plan, laws)
    assert off[0] / 3 > off[1] > 0.01
    hitting = compile_tokens(f"first_hitting:{L}", FACTS, (L,), V)
    check_law(hitting, DATA)
    assert calls(hitting, range(20)) == L


def test_first_hitting_reveals_positions_in_every_order_alike():
    """The data's distribution does not distinguish orders; a network with errors does."""
    count = 50 * math.factorial(L)
    states = execute_tokens(compile_tokens(f"first_hitting:{L}", FACTS, (L,), V), network, range(count), V)
    orders, times = np.unique(sum(state.is_open.astype(int) for state in states), axis=0, return_counts=True)
    freedom = math.factorial(L) - 1
    assert len(orders) == freedom + 1
    assert abs(np.sum((times - 50) ** 2 / 50) - freedom) < 4 * np.sqrt(2 * freedom)


def law_of_chances(chances):
    """`law` with a separate chance for each step. The outcome of a state is a product over positions."""
    known = np.array(list(product(range(V + 1), repeat=L)))
    is_open = known[..., None] == V
    stays, reveals = np.eye(V + 1), np.insert(conditionals(), V, 0.0, axis=2)
    mass = np.zeros(len(known))
    mass[-1] = 1.0
    for chance in chances:
        each = np.where(is_open, chance * reveals + (1 - chance) * stays[V], stays[known])
        first, last = (np.einsum("sa,sb,sc->sabc", *half).reshape(len(known), -1) for half in halves(each))
        mass = ((mass[:, None] * first).T @ last).ravel()
    return mass[np.all(known < V, axis=1)]


def halves(each):
    return [each[:, i] for i in range(L // 2)], [each[:, i] for i in range(L // 2, L)]


def calls(plan, seeds, **settings):
    return sum(state.is_evaluated for state in execute_tokens(plan, network, seeds, V, **settings))


def test_an_evaluation_without_news_is_left_out_for_a_network_that_reads_no_time():
    plan = compile_tokens("mdlm:200", FACTS, (L,), V)
    assert calls(plan, [3], reads_time=False) <= L < 30 < calls(plan, [3])
    kept, all_of = (
        finish_tokens(plan, execute_tokens(plan, network, [3, 4], V, reads_time=reads)) for reads in (False, True)
    )
    assert (kept == all_of).all()


@pytest.mark.parametrize("name", ["maskgit:4", "mdlm:5", "remdm:12", "block_entropy(size=3):4", "omnivoice:3"])
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(name):
    plan = compile_tokens(name, FACTS, (L,), V)
    together = finish_tokens(plan, execute_tokens(plan, network, range(64), V))
    for seed in (0, 17, 63):
        assert (finish_tokens(plan, execute_tokens(plan, network, [seed], V)) == together[seed]).all()


@pytest.mark.slow
def test_remasking_comes_to_the_data_s_law():
    plan = compile_tokens("remdm(cap=0.05):32", FACTS, (L,), V)
    ids = finish_tokens(plan, execute_tokens(plan, network, range(20_000), V))
    counted = np.bincount(ids @ V ** np.arange(L - 1, -1, -1), minlength=len(STATES)) / 20_000
    few = compile_tokens("remdm(cap=0.05):2", FACTS, (L,), V)
    rough = finish_tokens(few, execute_tokens(few, network, range(20_000), V))
    roughly = np.bincount(rough @ V ** np.arange(L - 1, -1, -1), minlength=len(STATES)) / 20_000
    assert variation(counted, DATA) < 0.09 < variation(roughly, DATA)  # 0.07 is the noise of 20 000 samples


def test_known_tokens_stay_and_counts_are_of_what_is_open():
    known = np.full((2, L), -1)
    known[0, :4], known[1, 5] = [0, 1, 1, 2], 2
    plan = compile_tokens("first_hitting:3", FACTS, (L,), V)
    states = list(execute_tokens(plan, network, [1, 2], V, known))
    assert [state.is_open.sum(1).tolist() for state in states] == [[1, 3], [0, 1], [0, 0]]
    assert (states[-1].ids[known >= 0] == known[known >= 0]).all()
    assert (known[0, 4:] == -1).all()  # the caller's array is as it was


def test_thresholds_and_bounds_end_a_block_early():
    sure = np.full((1, L, V), -40.0, np.float32)
    sure[..., 1] = 0.0
    for name in ("block_dynamic(size=3):6", "block_entropy(size=3):6"):
        plan = compile_tokens(name, FACTS, (L,), V)
        states = list(execute_tokens(plan, lambda index, step, ids: sure, [0], V))
        assert sum(state.is_evaluated for state in states) == 2  # of six: one for each block
        assert (states[-1].ids == 1).all()


@pytest.mark.parametrize(("unsure", "left"), [([2, 5], [4, 3, 1, 0]), (range(L), [5, 4, 3, 2, 1, 0])])
def test_a_dynamic_block_reveals_what_is_sure_and_else_as_many_as_even_steps(unsure, left):
    logits = np.full((1, L, V), -40.0, np.float32)
    logits[..., 1] = logits[:, list(unsure), 2] = 0.0
    plan = compile_tokens("block_dynamic(size=3):6", FACTS, (L,), V)
    states = execute_tokens(plan, lambda index, step, ids: logits, [0], V)
    assert [int(state.is_open.sum()) for state in states if state.is_evaluated] == left


def test_a_dynamic_block_reveals_the_surest_first_where_too_few_are_sure():
    logits = np.full((1, L, V), -40.0, np.float32)
    logits[..., 1], logits[..., 2] = 0.0, -np.arange(L) / 10
    plan = compile_tokens("block_dynamic(size=3, temperature=0):6", FACTS, (L,), V)
    states = execute_tokens(plan, lambda index, step, ids: logits, [0], V)
    opened = [[0, 1, 3, 4, 5], [0, 3, 4, 5], [3, 4, 5], [3, 4], [3], []]
    assert [np.flatnonzero(state.is_open[0]).tolist() for state in states] == opened


def test_a_dynamic_block_goes_by_the_probability_of_what_is_drawn():
    """Above 0.9, and at least the most certain: a threshold of 0 reveals all at the first step."""
    likely, seeds = np.array([0.92, 0.88, 0.95] * 2), range(64)
    chances = np.full((64, L, V), 1e-30)
    chances[..., 1], chances[..., 2] = likely, 1 - likely
    plans = (compile_tokens(f"block_dynamic(size=3{more}):6", FACTS, (L,), V) for more in ("", ", threshold=0"))
    logits = np.log(chances).astype(np.float32)
    first, every = (next(iter(execute_tokens(plan, lambda *_: logits, seeds, V))) for plan in plans)
    drawn = np.take_along_axis(chances[:, :3], every.ids[:, :3, None], 2)[..., 0]
    shown = (drawn > 0.9) | (drawn == drawn.max(1, keepdims=True))
    np.testing.assert_array_equal(~first.is_open[:, :3], shown)
    assert 0 < (drawn[:, 0] < 0.5).sum() < 20 and (~every.is_open[:, :3]).all()


def test_a_bound_of_0_reveals_one_position_in_any_batch():
    """The second sample has two open positions, of which the plan reveals none at the first step."""
    plan = plan_of([TokenStep(reveal=count, score="entropy", bound=0.0) for count in (1, 1, 4)])
    known = np.full((2, L), -1)
    known[1, 2:] = 0
    both = [state.is_open.sum(1) for state in execute_tokens(plan, network, [1, 2], V, known)]
    alone = [state.is_open.sum(1) for state in execute_tokens(plan, network, [2], V, known[1:])]
    assert [each[1] for each in both] == [each[0] for each in alone] == [1, 0, 0]


def test_a_sample_of_one_axis_has_one_codebook():
    flat = np.zeros((1, L, V), np.float32)
    flat[0, 4, 1] = 1.0  # the surest by less than a penalty
    plan = plan_of([TokenStep(reveal=1, temperature=0.0, penalty=5.0), TokenStep(reveal=5)])
    first, _ = execute_tokens(plan, lambda index, step, ids: flat, [0], V)
    assert np.flatnonzero(~first.is_open[0]).tolist() == [4]


def test_guided_logarithms_penalties_and_the_mask_id():
    logits = np.zeros((2, 2, 2, 4), np.float32)  # branches of one sample, codebooks, frames, ids
    logits[0, ..., 2], logits[1, ..., 1] = 1.0, 2.0
    logits[..., 3] = 9.0  # the mask's own logit
    step = {"temperature": 0.0, "branches": ("cond", "uncond"), "weights": (3.0, -2.0)}
    plan = TokenPlan(1, "own", "", 4, (2, 2), None, tuple(TokenStep(reveal=2, penalty=5.0, **step) for _ in range(2)))
    first, last = execute_tokens(plan, lambda index, step, ids: logits, [0], 3)
    assert first.is_open.tolist() == [[[False, False], [True, True]]]
    assert (last.ids == 2).all()
    p = np.exp(3 * logits[0, 0, 0, :3] - 2 * logits[1, 0, 0, :3])
    drawn = TokenPlan(1, "own", "", 4, (2, 2), None, (TokenStep(reveal=4, **{**step, "temperature": 1.0}),))
    many = np.repeat(logits.reshape(2, 1, 2, 2, 4), 4000, 1).reshape(-1, 2, 2, 4)
    ids = finish_tokens(drawn, execute_tokens(drawn, lambda index, step, ids: many, range(4000), 3))
    np.testing.assert_allclose(np.bincount(ids.ravel(), minlength=3) / ids.size, p / p.sum(), atol=0.015)


def test_open_positions_and_bad_logits_are_one_line():
    half = TokenPlan(1, "own", "", V, (L,), None, (TokenStep(chance=1e-9),))
    with pytest.raises(UserError, match="leaves 6 positions masked"):
        finish_tokens(half, execute_tokens(half, network, [0], V))
    whole = plan_of([TokenStep(reveal=6)])
    with pytest.raises(UserError, match="logits are not finite"):
        list(execute_tokens(whole, lambda index, step, ids: np.full((1, L, V), np.nan, np.float32), [0], V))

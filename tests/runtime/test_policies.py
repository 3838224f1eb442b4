from functools import partial

from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Affine, Condition, Description, Policy

SEQUENCE = (8, 3)
described = partial(Description, "policy", SEQUENCE, prediction="epsilon", schedule=ScheduleSpec("cosine"))
DECIDED = (Condition("prefix", "prefix", SEQUENCE, "float32"), Condition("delay", "delay", (1,), "float32"))


def test_a_rhythm_that_does_not_fit_is_named() -> None:
    assert "actions 1 .. 8 of samples [8, 3]" in (Policy(2, 1, 8).problem(described(())) or "")
    for policy, said in (
        (Policy(2, 1, 0), "actions=0, and at least 1 is needed"),
        (Policy(0, 1, 2), "observations=0, and at least 1 is needed"),
        (Policy(2, -1, 2), "first=-1, and at least 0 is needed"),
    ):
        assert policy.problem(described(())) == said
    assert Policy(2, 1, 7).problem(described(())) is None
    across = Affine((1.0,) * 8, (0.0,) * 8, axis=-2)
    assert "axis -2 of samples [8, 3]" in (Policy(2, 1, 7).problem(described((), units=across)) or "")


def test_decided_actions_are_two_conditions_and_fit_between_the_executed_ones() -> None:
    def wrong(policy: Policy, conditions: tuple[Condition, ...] = DECIDED) -> str:
        return policy.problem(described(conditions)) or ""

    assert wrong(Policy(1, 0, 4, prefix="prefix", delay="delay", most_delay=4)) == ""
    assert "its most_delay is 5, and from 1 to 4, its horizon less" in wrong(
        Policy(1, 0, 4, prefix="prefix", delay="delay", most_delay=5)
    )
    assert "its first is 1, and with a prefix it is 0" in wrong(
        Policy(1, 1, 4, prefix="prefix", delay="delay", most_delay=3)
    )
    assert "go together" in wrong(Policy(1, 0, 4, prefix="prefix", most_delay=3))
    assert "without prefix and delay" in wrong(Policy(1, 0, 4, most_delay=3))
    whole = Policy(1, 0, 4, prefix="prefix", delay="delay", most_delay=4)
    assert "a condition 'prefix' of the shape [8, 3]" in wrong(whole, DECIDED[1:])
    assert "a condition 'delay' of the shape [1]" in wrong(whole, DECIDED[:1])


def test_discrete_actions_have_places_and_values() -> None:
    def wrong(discrete: dict[int, tuple[float, ...]]) -> str:
        return Policy(1, 0, 4, discrete=discrete).problem(described(())) or ""

    assert wrong({2: (-1.0, 0.5, 1.0)}) == ""
    assert "discrete place 3 of 3" in wrong({3: (0.0, 1.0)})
    for levels in ((1.0,), (1.0, 0.0), (0.0, 0.0), (0.0, float("nan"))):
        assert "two or more that increase" in wrong({2: levels})

"""Modules that keep a value of their first call, and modules that draw random numbers rarely."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fewstep.export.tracing.kept_values import refuse_kept_values
from fewstep.plans.errors import UserError
from tests.export.denoisers import Tiny, source
from tests.refusals import refuses


class Kept(Tiny):
    """Keeps what `value` returns at the first call."""

    def __init__(self, value: Callable[[Tensor, Tensor], Tensor | float]) -> None:
        super().__init__()
        self.value, self.kept = value, {}

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if "first" not in self.kept:
            self.kept["first"] = self.value(x, time)
        return super().forward(x, time) * self.kept["first"]


class Cache:
    kept: Tensor | None = None


class WithHelper(Tiny):
    """Keeps the mean time of the first call in an object that is not a module."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if self.cache.kept is None:
            self.cache.kept = time.mean()
        return super().forward(x, time) * self.cache.kept


class RarelyDropping(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 1e-9), time)


class ReturnsNothing(Tiny):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


@pytest.mark.parametrize(
    "value",
    [lambda x, time: time.mean(), lambda x, time: x.std(), lambda x, time: float(time[0]) + 1],
    ids=["time", "x", "number"],
)
def test_a_value_of_the_first_inputs_is_refused(value: Callable[[Tensor, Tensor], Tensor | float]) -> None:
    with refuses("Kept keeps values of its first call in kept", "in each call, or once in __init__"):
        source(Kept(value)).trace()


def test_a_value_in_an_object_of_the_users_is_refused() -> None:
    with refuses("WithHelper keeps values of its first call in cache.kept"):
        source(WithHelper()).trace()


def test_a_table_that_depends_on_shapes_only_is_kept() -> None:
    module = Kept(lambda x, time: torch.arange(x.shape[3]).float())
    source(module).trace()
    assert module.kept["first"].tolist() == [0, 1, 2, 3]


def test_a_value_that_each_call_replaces_is_no_fault() -> None:
    module = Tiny()

    def call(time: float) -> Tensor:
        module.last = torch.tensor(time)
        return module.last * 2

    assert refuse_kept_values(module, lambda: call(1.0), lambda: call(3.0)) == 2
    assert module.last == 1


def test_a_dropout_that_rarely_drops_is_refused() -> None:
    with pytest.raises(UserError, match=r"RarelyDropping draws random numbers \(aten.native_dropout in RarelyDropping"):
        source(RarelyDropping()).trace()


def test_a_train_method_that_returns_nothing_is_no_fault() -> None:
    assert source(ReturnsNothing()).trace().graph.nodes

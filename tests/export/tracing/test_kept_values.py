"""Modules that keep a value of their first call, and modules that draw random numbers rarely."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable

import numpy as np
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


class WithParameter(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if not hasattr(self, "gain"):
            self.gain = nn.Parameter(time.mean().clone())
        return super().forward(x, time) * self.gain


class Writer(nn.Module):
    """Writes its input into a dictionary that other modules read."""

    def __init__(self, shared: dict[str, Tensor]) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        self.shared["x"] = x
        return x


class Reader(Writer):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.shared["x"]


class Counting(nn.Module):
    """Counts its calls, and returns what `result` returns."""

    def __init__(self, result: Callable[[], object]) -> None:
        super().__init__()
        self.result, self.calls = result, 0

    def forward(self) -> object:
        self.calls += 1
        return self.result()


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


@pytest.mark.parametrize("cache", [OrderedDict(), defaultdict(float)], ids=["ordered", "default"])
def test_a_value_in_a_dictionary_of_another_class_is_refused(cache: dict[str, Tensor]) -> None:
    module = Kept(lambda x, time: time.mean())
    module.kept = cache
    with refuses("Kept keeps values of its first call in kept"):
        source(module).trace()


@pytest.mark.parametrize(
    "write",
    [lambda module, time: module.nested["a"].update(b=time), lambda module, time: setattr(module, "array", np.ones(1))],
    ids=["nested", "array"],
)
def test_a_value_in_a_container_or_an_array_is_found(write: Callable[[nn.Module, float], None]) -> None:
    module = Tiny()
    module.nested, module.array = {"a": {}}, None

    def call(time: float) -> Tensor:
        is_first = not module.nested["a"] and module.array is None
        write(module, time)
        return torch.tensor(time if is_first else 0.0)

    with refuses("Tiny keeps values of its first call in "):
        refuse_kept_values(module, lambda: call(1.0), lambda: call(3.0))


def test_a_parameter_that_the_first_call_makes_is_refused() -> None:
    with refuses("WithParameter keeps values of its first call in gain"):
        source(WithParameter()).trace()


def test_a_layer_with_random_weights_that_the_first_call_makes_is_kept() -> None:
    module = nn.Module()

    def call(x: Tensor) -> Tensor:
        if not hasattr(module, "layer"):
            module.layer = nn.Linear(1, 1)
        found: Tensor = module.layer(x)
        return found

    x = torch.ones(1, 1)
    torch.testing.assert_close(refuse_kept_values(module, lambda: call(x), lambda: call(2 * x)), module.layer(x))


@pytest.mark.parametrize("is_second", [False, True], ids=["first output", "second output"])
def test_a_value_in_an_object_of_a_list_changes_an_output(is_second: bool) -> None:
    module = Tiny()
    module.caches = [Cache()]

    def call(time: float) -> tuple[Tensor, Tensor]:
        (cache,) = module.caches
        if cache.kept is None:
            cache.kept = torch.tensor(time)
        own = torch.tensor(time)
        return (own, cache.kept) if is_second else (cache.kept, own)

    with refuses("Tiny keeps values of its first call in caches.0.kept"):
        refuse_kept_values(module, lambda: call(1.0), lambda: call(3.0))


def test_modules_may_share_a_dictionary_that_each_call_writes() -> None:
    shared: dict[str, Tensor] = {}
    module = nn.Sequential(Writer(shared), Reader(shared))
    first, second = torch.ones(2), torch.full((2,), 3.0)
    assert refuse_kept_values(module, lambda: module(first), lambda: module(second)).tolist() == [2, 2]
    assert module[0].shared is module[1].shared is shared and shared["x"] is first


@pytest.mark.parametrize("result", [lambda: {"sample": 1}, lambda: (), lambda: None, lambda: torch.rand(4)])
def test_results_that_later_checks_refuse_are_returned(result: Callable[[], object]) -> None:
    module = Counting(result)
    assert type(refuse_kept_values(module, module, module)) is type(result())


def test_a_value_in_an_object_of_the_users_is_refused() -> None:
    with refuses("WithHelper keeps values of its first call in cache.kept"):
        source(WithHelper()).trace()


def test_a_first_call_of_another_type_is_refused() -> None:
    module = Tiny()

    def call() -> Tensor:
        module.calls = vars(module).get("calls", 0) + 1
        return torch.ones(2, dtype=torch.float64 if module.calls == 1 else torch.float32)

    with refuses("Tiny keeps values of its first call in calls"):
        refuse_kept_values(module, call, call)


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

"""The checks of a pipeline's first x: independent standard normal noise passes, dependent noise is refused. So is a
network that fails for several samples. A small network is compared at two numbers of steps."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from fewstep.pipelines import compared_size, comparison
from fewstep.pipelines.comparison import _check_noise, compare_samples
from fewstep.pipelines.network_outputs import evaluate
from fewstep.pipelines.recording.settings import CallSettings
from fewstep.pipelines.recording.stand_ins import recording_error
from tests.refusals import refuses


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 4, 2, 2), (2, 8, 2, 2, 2), (1, 16, 8), (2, 4, 64, 64)])
def test_independent_noise_passes(shape: tuple[int, ...]) -> None:
    for seed in range(200 if np.prod(shape) < 1000 else 20):
        _check_noise("Pipe", noise(seed, *shape).numpy())


def test_a_million_independent_numbers_pass_though_some_are_equal() -> None:
    values = noise(0, 1, 4, 500, 500).numpy()
    assert len(np.unique(values)) < values.size
    _check_noise("Pipe", values)


def test_a_frame_that_is_repeated_is_refused() -> None:
    repeated = noise(0, 1, 8, 1, 8, 8).expand(1, 8, 4, 8, 8)
    with refuses(("Pipe", "many of its values are equal")):
        _check_noise("Pipe", repeated.numpy())


@pytest.mark.parametrize("distance", [1, 3])
def test_frames_that_share_a_part_are_refused(distance: int) -> None:
    parts = noise(0, 1, 8, 8 + distance, 8, 8)
    mixed = (parts[:, :, distance:] + parts[:, :, :-distance]) / 2**0.5
    with refuses(("Pipe", "correlated along axis 2")):
        _check_noise("Pipe", mixed.numpy())


class NeedsTwo(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * [1.0][len(x) - 1]


def test_a_network_with_a_list_for_each_sample_is_refused_in_words() -> None:
    assert evaluate(NeedsTwo(), (torch.ones(1, 2),)).shape == (1, 2)
    with refuses(("fails for 2 samples", "IndexError")):
        evaluate(NeedsTwo(), (torch.ones(2, 2),))


class Comparison:
    """Compares a pipeline whose runs take the place of real ones. `compared`: the numbers of steps, in order."""

    def __init__(self, width: int, monkeypatch: pytest.MonkeyPatch, padding_is_read: bool = False) -> None:
        self.compared: list[int] = []
        self.modules: Any = SimpleNamespace(modules={"net": SimpleNamespace(network=meta_network(width))})

        def compare_run(_: Any, modules: Any, call: Any, *others: Any) -> float:
            self.compared.append(call["num_inference_steps"])
            if padding_is_read and call.get("prompt") == "short":
                raise recording_error("the samples differ")
            return 1e-6 * self.compared[-1]

        run = SimpleNamespace(record=SimpleNamespace(steps=()))
        monkeypatch.setattr(comparison, "run_networks", lambda *_: run)
        monkeypatch.setattr(comparison, "compare_run", compare_run)
        monkeypatch.setattr(comparison, "NetworkOutputs", lambda *_: None)

    def run(self, settings: CallSettings) -> dict[int, float]:
        none: Any = None
        return compare_samples(cast(Any, SimpleNamespace(name="Pipe")), self.modules, settings, {}, none)


def meta_network(width: int) -> torch.nn.Module:
    return torch.nn.Linear(width, width, device="meta")


@pytest.mark.parametrize(
    ("width", "usual", "counts"),
    [(8, 3, [3, 8]), (8, 8, [8, 3]), (8200, 3, [3])],  # 8200 x 8200 are 67 million weights
)
def test_a_small_network_is_compared_at_three_and_eight_steps(
    width: int, usual: int, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Comparison(width, monkeypatch)
    assert made.run(CallSettings({"num_inference_steps": usual})) == {count: 1e-6 * count for count in counts}
    assert made.compared == counts


def test_padding_that_is_read_is_found_before_more_steps_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Comparison(8, monkeypatch, padding_is_read=True)
    usual = {"num_inference_steps": 3, "prompt": ["long", "short"]}
    texts = tuple({**usual, "prompt": text} for text in ("long", "short"))
    with refuses(("Pipe", "reads the padding of shorter texts")):
        made.run(CallSettings(usual, texts=texts))
    assert made.compared == [3, 3, 3]


def test_a_large_network_is_compared_in_two_steps_with_its_shortest_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compared_size, "LARGE", 10)
    checked = list[dict[str, Any]]()
    monkeypatch.setattr(comparison, "check_updates", lambda *given: checked.append(given[2]))
    made, usual = Comparison(8, monkeypatch), {"num_inference_steps": 3, "prompt": ["long", "short"]}
    texts = tuple({**usual, "prompt": text} for text in ("long", "short"))
    monkeypatch.setattr(comparison, "is_small", lambda _: False)
    monkeypatch.setattr(comparison, "record", lambda *given: None)
    assert made.run(CallSettings(usual, texts=texts)) == {2: 2e-6}
    assert made.compared == [2]
    assert checked == [usual, usual, {**usual, "num_inference_steps": 8}]  # the second has the (empty) batch
    assert "comparing samples with those of Pipe takes about" in caplog.text


def test_the_arguments_of_a_network_that_is_too_large_to_run_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared_size, "LARGE", 10)
    monkeypatch.setattr(comparison, "are_comparable", lambda _: False)
    checked = list[dict[str, Any]]()
    monkeypatch.setattr(comparison, "check_updates", lambda *given: checked.append(given[2]))
    made, usual = Comparison(8, monkeypatch), {"num_inference_steps": 3}
    assert made.run(CallSettings(usual)) == {} and made.compared == []
    assert [call["num_inference_steps"] for call in checked] == [3, 3, 8]


def compare_growing(monkeypatch: pytest.MonkeyPatch, error: float, steps: int = 7, wrong: int = 7) -> float:
    """Compare a pipeline whose steps multiply differences by up to 5, with a plan whose network has an error in its
    first `wrong` steps."""
    own = [np.linspace(-1, 1, 64)]
    for _ in range(steps):
        own.append(5 * np.sin(own[-1]))

    def sample(*given: Any) -> tuple[Any, Any]:
        network, u = given[-1](None), own[0]
        for index in range(steps):
            (u,) = network(index, None, u)
        return u, own[steps]

    monkeypatch.setattr(comparison, "sample_plan", sample)
    monkeypatch.setattr(comparison, "_network_x", lambda step, _: own[step])
    none, made = cast(Any, None), cast(Any, SimpleNamespace(record=SimpleNamespace(steps=range(steps))))
    pipeline = cast(Any, SimpleNamespace(name="Pipe"))

    def run(index: int, _: Any, u: Any) -> list[Any]:
        return [5 * np.sin(u) + (error if index < wrong else 0)]

    return comparison.compare_run(pipeline, none, {}, none, made, run)


def test_a_difference_that_rounding_explains_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e-4 < compare_growing(monkeypatch, 3e-7) < 1e-3


def test_a_wrong_step_is_refused_though_it_differs_by_less_than_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """By 5e-5 of x in one step, where rounding changes 1e-6 of it; rounding of the first x changes everything."""
    with refuses(("Pipe", "differ by", "after 16 steps")):
        compare_growing(monkeypatch, 5e-4, steps=16, wrong=1)


@pytest.mark.parametrize("error", [1e-5, 1e-3])
def test_a_larger_difference_is_refused(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    with refuses(("Pipe", "differ by", "after 7 steps")):
        compare_growing(monkeypatch, error)


def test_an_error_of_an_early_step_is_refused_though_rounding_changes_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The final x of this plan follows from its last step alone, if that gets the pipeline's own x."""
    with refuses(("Pipe", "differ by", "after 16 steps")):
        compare_growing(monkeypatch, 0.5, steps=16, wrong=1)

"""Operations of a decoder that stay in float: those that cause much of the error of pictures for little time."""

import numpy as np
import pytest

from fewstep.calibration import decoder_precision
from fewstep.calibration.decoder_precision import DecodedSamples, select_decodable, select_decoder_floats
from fewstep.calibration.lowering.quantize import select_measured_ops
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.policy import POLICY
from fewstep.calibration.precision.operation_errors import OperationErrors, measure_operation_errors
from fewstep.calibration.second_moments import FloatSample
from fewstep.graph.graph import Graph
from fewstep.graph.session import open_session
from tests.calibration.latent_bundle import convolutions
from tests.calibration.lowering.bodies.small_body import table
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

LATENTS = np.random.default_rng(1).standard_normal((2, 32, 8, 8)).astype(np.float32)
STEPS = 10**8  # multiply-accumulates of the steps; the decoder has 1.2 million


def decoder() -> Graph:
    return convolutions("latent", "picture", (32, 32, 32), 7)


def samples() -> DecodedSamples:
    pictures = open_session(decoder(), optimize=True)({"latent": LATENTS})["picture"]
    return DecodedSamples(decoder(), LATENTS, {}, [pictures])


def test_float32_makes_the_pictures_with_which_others_are_compared() -> None:
    made = samples()
    np.testing.assert_allclose(made.run_samples([open_session(decoder(), optimize=True)]), made.sample, atol=1e-6)
    assert made.sample.shape == (2, 32 * 8 * 8)


def test_errors_of_operations_are_those_of_pictures() -> None:
    graph, target = decoder(), load_target("cpu-x86")
    errors = measure_operation_errors(graph, table(graph), target, samples(), None, 9)
    assert errors.operations == tuple(op.name for op in select_measured_ops(graph, table(graph), target.scheme))
    assert errors.errors.min() > 0 and errors.errors.max() < 1e-2 * errors.signal


@pytest.mark.parametrize(
    ("body_psnr", "count"), [(60.0, 1), (20.0, 0)], ids=["a near body", "a body of a larger error"]
)
def test_an_operation_stays_in_float_if_its_error_is_large_next_to_that_of_the_body(
    body_psnr: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, target = decoder(), load_target("cpu-x86")
    names = tuple(op.name for op in select_measured_ops(graph, table(graph), target.scheme))
    errors = OperationErrors(names, np.array([1e-8, 1e-4]), 1.0)  # 40 dB by the second convolution
    monkeypatch.setattr(decoder_precision, "measure_operation_errors", lambda *_: errors)
    chosen = select_decoder_floats(samples(), table(graph), target, np.array([body_psnr]), [np.inf], STEPS, 9, POLICY)
    assert chosen == [names[1:][:count]]


def select(errors: list[float], most_losses: list[float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many of two operations of these errors stay in float next to pictures of 40 dB."""
    graph, target = decoder(), load_target("cpu-x86")
    names = tuple(op.name for op in select_measured_ops(graph, table(graph), target.scheme))
    measured = OperationErrors(names, np.array(errors), 1.0)
    monkeypatch.setattr(decoder_precision, "measure_operation_errors", lambda *_: measured)
    psnr = np.array([40.0])
    return [*map(len, select_decoder_floats(samples(), table(graph), target, psnr, most_losses, 0, 9, POLICY))]


def test_more_operations_stay_in_float_if_pictures_lose_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is half of all work, and adds 2.2 dB to the error of 40 dB, which is 4e-4."""
    monkeypatch.setattr(decoder_precision, "float_times", lambda *_: np.array([0.4, 0.4]))
    assert select([2.6e-4, 2.6e-4], [4.0], monkeypatch) == [0]
    assert select([2.6e-4, 2.6e-4], [2.5], monkeypatch) == [1]
    assert select([2.6e-4, 2.6e-4], [4.0, 2.5, 2.4], monkeypatch) == [0, 1]
    assert select([2.6e-4, 2.6e-4], [2.0], monkeypatch) == [0], "two would take too long"


def test_all_operations_may_lose_more_than_they_are_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_precision, "float_times", lambda *_: np.array([1e-3, 1e-3]))
    assert select([1.0, 1.0], [1.5], monkeypatch) == [2]


def of_size(height: int, width: int) -> FloatSample:
    return FloatSample(np.zeros((1, 32, height, width), np.float32), {})


def test_samples_of_other_sizes_are_left_out() -> None:
    small, tall = of_size(8, 8), of_size(16, 8)
    assert select_decodable(decoder(), [tall, small, tall]) == [small]


def test_a_decoder_of_a_free_height_takes_samples_of_each() -> None:
    free = graph_of_text("(float[batch, 32, height, 8] z) => (float[batch, 32, height, 8] y) { y = Identity(z) }")
    small, tall, wide = of_size(8, 8), of_size(16, 8), of_size(8, 16)
    assert select_decodable(free, [small, tall, wide]) == [small, tall]


def test_samples_of_other_sizes_alone_are_refused() -> None:
    with refuses("samples that give its ranges have another size", "calibrate without --size"):
        select_decodable(decoder(), [of_size(16, 16)])

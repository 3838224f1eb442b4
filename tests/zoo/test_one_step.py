"""A student of one and two steps: its losses on velocities with known answers."""

import one_step
import pytest
import straight
import torch
from torch import Tensor

NOISE = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
SAMPLE = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(1)) / 2
LABEL = torch.arange(64) % 10


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def test_reflow_learns_the_straight_line_of_a_pair() -> None:
    """The network sees (1 - t) sample + t noise at 1000 t, and its answer is noise - sample."""

    def exact(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        at = time[:, None, None, None] / 1000
        torch.testing.assert_close(x, (1 - at) * SAMPLE + at * NOISE)
        torch.testing.assert_close(label, LABEL)
        return NOISE - SAMPLE

    assert straight.reflow(exact, NOISE, SAMPLE, LABEL, seeded()) == pytest.approx(0, abs=1e-6)  # of 28: rounding
    off = straight.reflow(lambda *of: exact(*of) + 1.0, NOISE, SAMPLE, LABEL, seeded())
    assert off == pytest.approx(28 - straight.HUBER, rel=1e-4)  # |d| of 784 ones


def test_times_lean_to_both_ends() -> None:
    """Their density is proportional to e^(4 t) + e^(4 (1 - t)), so that 0.58 of them are within a fifth of an end."""
    times = straight.draw_times(20_000, seeded())
    near = ((times < 0.2) | (times > 0.8)).float().mean().item()
    ends = torch.tensor([0.0, 0.2, 0.8, 1.0]).mul(4).exp()
    expected = 2 * (ends[1] - ends[0] + ends[3] - ends[2]) / (2 * (ends[3] - ends[0]))
    assert near == pytest.approx(expected.item(), abs=0.01) and abs(times.mean() - 0.5) < 0.01


def test_the_second_step_begins_where_the_first_one_led() -> None:
    """Half of the noise is put back, and the first step's sample gets no gradient from there."""
    weight, calls = torch.tensor(0.5, requires_grad=True), list[tuple[Tensor, Tensor]]()

    def network(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        calls.append((x, time))
        return weight * x

    loss = one_step.distill(network, NOISE, SAMPLE, LABEL, seeded())
    (first, start), (second, middle) = calls
    torch.testing.assert_close(first, NOISE)
    assert (start.unique().tolist(), middle.unique().tolist()) == ([1000.0], [500.0])
    torch.testing.assert_close(second, 0.5 * (0.5 * NOISE[:32]) + 0.5 * NOISE[:32])
    assert not second.requires_grad
    result = (second - 0.5 * weight * second).detach()
    expected = [(0.5 * NOISE - SAMPLE), (result - SAMPLE[:32])]
    assert loss.item() == pytest.approx(
        sum(straight.pseudo_huber(difference).item() for difference in expected) / 2, rel=1e-5
    )


def test_no_folder_of_pairs_is_refused() -> None:
    with pytest.raises(SystemExit, match="name the folder of pairs: --data PAIRS"):
        straight.training(None, "train")

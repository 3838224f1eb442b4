"""Plan a run from prompt to picture for a budget of memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fewstep.plans.errors import UserError
from fewstep.report.choosing.stage_memory import DENOISER_STAGE, Stage, stage_bytes
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import DECODER, TEXT_ENCODER
from fewstep.runtime.machine.memory import held_bytes
from fewstep.runtime.memory_size import format_bytes

LEFT = 16 * 10**6  # bytes that earlier stages leave, such as libraries, and the file of the picture (measured: 3 to 12)
DECODED, DRAWN = 2, 5  # times the bytes of all pictures that decoding and drawing hold at once (measured)
DRAWING = "drawing of the pictures"
SPREAD = 0.03  # by which the peaks of two runs of one stage differ: threads allocate in another order


class TooLittleMemory(UserError):
    """No plan of a run fits a budget. needed: the least budget in bytes, which the message has. samples: those that fit
    in a call, if fewer than are asked for."""

    needed = samples = 0


@dataclass(frozen=True)
class StagePeak:
    """The expected peak of the process during a stage, in bytes."""

    stage: str
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """How a run stays within a budget: stages that follow each other, and `batch` samples in a call of the denoiser.

    in_turns: whether the denoiser has one of its graphs in memory at a time. keeps_memory: whether it keeps the memory
    of its activations between calls. in_bands: whether the decoder runs in bands, or as it does without a budget.
    """

    budget: int
    batch: int
    in_turns: bool
    keeps_memory: bool
    in_bands: bool
    peaks: tuple[StagePeak, ...]

    @property
    def expected(self) -> int:
        """The expected peak of the run, in bytes."""
        return max(peak.bytes for peak in self.peaks)

    def describe(self) -> str:
        """Return the plan as one line."""
        stages = ", ".join(f"{peak.stage} {format_bytes(peak.bytes)}" for peak in self.peaks)
        calls = f"{self.batch} sample{'s' if self.batch > 1 else ''} in a call"
        calls += "" if self.keeps_memory else ", freed after each"
        total = f"{format_bytes(self.expected)} expected of {format_bytes(self.budget)}"
        return f"memory, one stage after the other: {stages} ({calls}); {total}"


def plan_memory(
    bundle: Bundle,
    body: str,
    budget: int,
    *,
    samples: int,
    branches: int,
    prompts: Sequence[str],
    pictures: int,
    threads: int,
    base: int | None = None,
) -> MemoryPlan:
    """Return a plan for a run of a body within `budget` bytes.

    samples: in a call, if memory suffices. branches: those of a guided step, whose rows run at once. prompts: texts
    that are encoded at once. pictures: bytes of those of all samples in float32, 0 if the samples are not decoded.
    base: the bytes that a process holds before its run; None for those of this process.

    Raises TooLittleMemory if no plan is possible, and UserError for what cannot be planned.
    """
    if bundle.manifest.networks:
        raise UserError("a budget of memory is for bundles with one network", "leave --memory out")
    base = held_bytes() if base is None else base
    if base is None:
        raise UserError("this system does not report the memory of a process", "leave --memory out")

    def expect(stage: str, added: int, held: int = 0) -> StagePeak:
        return StagePeak(stage, round((base + added + held + LEFT) * (1 + SPREAD)))

    def peak(rows: int, in_turns: bool, keeps_memory: bool) -> StagePeak:
        stage = Stage(DENOISER_STAGE, body, rows, in_turns, keeps_memory)
        return expect(DENOISER_STAGE, stage_bytes(bundle, stage, threads))

    before = list[StagePeak]()
    if prompts and bundle.manifest.text is not None:
        stage = Stage(TEXT_ENCODER, body, prompts=tuple(prompts))
        before = [expect(TEXT_ENCODER, stage_bytes(bundle, stage, threads))]

    after, in_bands = list[StagePeak](), False
    if pictures and bundle.manifest.autoencoder is not None:
        expected = partial(expect, DECODER, held=DECODED * pictures)
        decoder, in_bands = _fit_decoder(bundle, body, budget, threads, expected)
        after = [decoder]
    if pictures:
        after.append(expect(DRAWING, DRAWN * pictures))
    for in_turns in (False, True):  # loading conditioner and prologue again costs least
        denoiser = peak(samples * branches, in_turns, keeps_memory=True)
        if max(each.bytes for each in (*before, denoiser, *after)) <= budget:
            return MemoryPlan(budget, samples, in_turns, True, in_bands, (*before, denoiser, *after))
    denoiser = peak(branches, in_turns=True, keeps_memory=False)
    largest = max((*before, denoiser, *after), key=lambda each: each.bytes)
    if largest.bytes > budget:
        raise _too_little(budget, largest)
    batch = 1
    if samples > 1:
        most = peak(samples * branches, in_turns=True, keeps_memory=False)
        denoiser, batch = _fit_samples(denoiser, most, samples, budget)
    return MemoryPlan(budget, batch, True, False, in_bands, (*before, denoiser, *after))


def _fit_decoder(
    bundle: Bundle, body: str, budget: int, threads: int, expect: Callable[[int], StagePeak]
) -> tuple[StagePeak, bool]:
    """Return the expected peak of a decoder, and whether it runs in bands: only if it must."""
    whole = expect(stage_bytes(bundle, Stage(DECODER, body), threads))
    if whole.bytes <= budget:
        return whole, False
    return expect(stage_bytes(bundle, Stage(DECODER, body, in_bands=True), threads)), True


def _fit_samples(one: StagePeak, all_samples: StagePeak, samples: int, budget: int) -> tuple[StagePeak, int]:
    """Return the expected peak of the most samples in a call that fit, and their number, from those of one and all."""
    step = max(1, -(-(all_samples.bytes - one.bytes) // (samples - 1)))
    batch = min(samples, 1 + (budget - one.bytes) // step)
    return StagePeak(one.stage, one.bytes + step * (batch - 1)), batch


def _too_little(budget: int, largest: StagePeak) -> TooLittleMemory:
    what = f"{format_bytes(budget)} of memory is too little: the {largest.stage} needs {format_bytes(largest.bytes)}"
    error = TooLittleMemory(what, f"give --memory {_round_up(largest.bytes)}MB or more")
    error.needed = largest.bytes
    return error


def _round_up(size: int) -> int:
    """Return at least the megabytes of a size, in tens: what the process takes before the run differs a little."""
    return -(-size // 10**7) * 10 + 10

"""The pictures, videos or sounds that judge the autoencoder of a body: those of float32's samples, of the body's own
samples, and of its own decoder and encoder. They are all called pictures here."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.calibrated_body import AnyRecipe, CalibratedBody
from fewstep.calibration.decoded import decode, measure_decoded_psnr
from fewstep.calibration.float_runs import FloatRuns
from fewstep.calibration.graph_verdict import PairedQuality
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.recipe import open_graphs
from fewstep.calibration.sample_space import ContinuousJudgingRun
from fewstep.graph.graph import Graph
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.rollouts.nearness import NEAR_PSNR
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.kinds.companions import DECODER, ENCODER

NO_CONDITIONS: Arrays = MappingProxyType({})
PICTURES = 4  # samples whose pictures judge an autoencoder at a time: decoding takes longer than a step


@dataclass(frozen=True)
class PicturePart:
    """Up to PICTURES samples of a recorded run: `rows` of it, their latents and conditions, and what float32's decoder
    returns for them."""

    run: RecordedRun
    rows: slice
    latents: Floats
    conditions: Arrays
    pictures: list[Floats]


@dataclass(frozen=True)
class PictureJudge:
    """Judges the graphs of an autoencoder by pictures, PICTURES at a time.

    exported: the decoder, and the encoder if there is one, by name. x_shape: the shape of the latents that the decoder
    takes. with_graphs: returns a recorded run with the inputs that the graphs of a body compute. threads: those of one
    evaluation.
    """

    runs: FloatRuns
    exported: Mapping[str, Graph]
    x_shape: tuple[int, ...]
    with_graphs: Callable[[AnyRecipe, RecordedRun], RecordedRun]
    threads: int
    _parts: list[PicturePart] = field(default_factory=list)
    _of_body: list["_BodySamples"] = field(default_factory=list)  # of the last body
    _encoded_and_decoded: list[list[Floats]] = field(default_factory=list)  # pictures of each part, in float32

    def judge_decoder(
        self, body: CalibratedBody[AnyRecipe], decoder: Graph, target: Target
    ) -> Generator[PairedQuality]:
        """Yield the PSNR of the pictures of a body's samples, by float32's decoder and by this one, part by part.
        Errors of the body and of the graph add up."""
        opened = open_rows(decoder, target)
        for part in self.parts():
            before = self._float_decoder_psnr(body, part)
            own = decode(opened, decoder, part.latents, part.conditions)
            after = _add_errors(before, measure_decoded_psnr(own, part.pictures))
            yield PairedQuality(before.tolist(), after.tolist(), after.tolist())

    def judge_encoder(self, encoder: Graph, target: Target) -> Generator[PairedQuality]:
        """Yield the PSNR of pictures that an encoder and float32's decoder make of pictures, against those of both in
        float32, next to pictures of NEAR_PSNR."""
        exported, opened = self.exported[ENCODER], open_rows(encoder, target)
        for index, part in enumerate(self.parts()):
            shown = np.clip(part.pictures[0], -1, 1)
            if index == len(self._encoded_and_decoded):  # the first body
                float32 = open_session(exported, optimize=True, threads=self.threads)
                self._encoded_and_decoded.append(self.decode(run_one(float32, exported, shown)))
            exact, own = self._encoded_and_decoded[index], self.decode(run_one(opened, exported, shown))
            alone, before = measure_decoded_psnr(own, exact), np.full(len(shown), NEAR_PSNR)
            yield PairedQuality(before.tolist(), _add_errors(before, alone).tolist(), alone.tolist())

    def judge_body(self, body: CalibratedBody[AnyRecipe], decoder: Graph | None, target: Target) -> NDArray[np.float64]:
        """Return the PSNR of the first pictures of a body's samples, by its own decoder or by float32's (None)."""
        part = next(self.parts())
        if decoder is None:
            return self._float_decoder_psnr(body, part)
        own = decode(open_rows(decoder, target), decoder, self._samples_of(body).latents(part), part.conditions)
        return measure_decoded_psnr(own, part.pictures)

    def decode(self, latents: Floats, conditions: Arrays = NO_CONDITIONS) -> list[Floats]:
        """Return what float32's decoder returns for latents and the conditions that it takes besides."""
        return decode(self._decoder, self.exported[DECODER], latents, conditions)

    @property
    def has_samples(self) -> bool:
        """Whether samples that judge all bodies have the size that the decoder takes."""
        return any(run.batch.x_shape == self.x_shape for run in self._judging.recorded)

    def parts(self) -> Iterator[PicturePart]:
        """Yield the samples of the decoder's size: those that judge all bodies, and then further ones."""
        yield from self._parts
        for index, (run, rows) in enumerate(self._rows()):
            if index >= len(self._parts):
                conditions = {name: value[rows] for name, value in run.batch.conditions.items()}
                decoded = self.decode(run.sample[rows], conditions)
                self._parts.append(PicturePart(run, rows, run.sample[rows], conditions, decoded))
                yield self._parts[index]

    def _rows(self) -> Iterator[tuple[RecordedRun, slice]]:
        yield from self._split(self._judging.recorded)
        with closing(self.runs.record_further()) as further:
            yield from self._split(further)

    def _split(self, runs: Iterable[RecordedRun]) -> Iterator[tuple[RecordedRun, slice]]:
        for run in runs:
            if run.batch.x_shape == self.x_shape:
                yield from ((run, slice(at, at + PICTURES)) for at in range(0, len(run.batch.seeds), PICTURES))

    @property
    def _judging(self) -> ContinuousJudgingRun:
        judging = self.runs.judging
        assert isinstance(judging, ContinuousJudgingRun), "others are not replaced"
        return judging

    @cached_property
    def _decoder(self) -> LoadedGraph:
        return open_session(self.exported[DECODER], optimize=True, threads=self.threads)

    def _float_decoder_psnr(self, body: CalibratedBody[AnyRecipe], part: PicturePart) -> NDArray[np.float64]:
        """Return the PSNR of the pictures of a body's samples, from the noise of a part, by float32's decoder."""
        samples, place = self._samples_of(body), (id(part.run), part.rows.start)
        if place not in samples.psnr:
            pictures = self.decode(samples.latents(part), part.conditions)
            samples.psnr[place] = measure_decoded_psnr(pictures, part.pictures)
        return samples.psnr[place]

    def _samples_of(self, body: CalibratedBody[AnyRecipe]) -> "_BodySamples":
        """Return the samples of a body. Those of the last one are kept."""
        if not self._of_body or self._of_body[0].trial is not body.trial:

            def run(run: RecordedRun) -> Floats:
                recipe, given = body.recipe, self.with_graphs(body.recipe, run)
                graphs = open_graphs([(until, lowered.graph) for until, lowered in recipe.graphs], recipe.target, True)
                return given.final_samples(given.run(graphs))

            self._of_body[:] = [_BodySamples(body.trial, run)]
        return self._of_body[0]


@dataclass(frozen=True)
class _BodySamples:
    """Samples of the body of a trial. `run` returns those of a recorded run. `psnr`: that of their pictures by
    float32's decoder, by the run and the first row of a part."""

    trial: Trial
    run: Callable[[RecordedRun], Floats]
    psnr: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)
    _runs: dict[int, Floats] = field(default_factory=dict)

    def latents(self, part: PicturePart) -> Floats:
        """Return the samples from the noise of a part."""
        if id(part.run) not in self._runs:
            self._runs[id(part.run)] = self.run(part.run)
        return self._runs[id(part.run)][part.rows]


def open_rows(graph: Graph, target: Target) -> LoadedGraph:
    """Open a graph as its target runs it, one row at a time."""
    return run_row_by_row(target.runs(graph), graph.inputs)


def run_one(network: LoadedGraph, graph: Graph, values: Floats) -> Floats:
    """Return the only output of a graph for values [N, *shape] of its only input, row by row."""
    (given,), (output,) = graph.inputs, graph.outputs
    return run_row_by_row(network, graph.inputs)({given.name: values})[output.name]


def _add_errors(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the PSNR in dB of the sums of two independent errors."""
    total: NDArray[np.float64] = -10 * np.log10(10 ** (-first / 10) + 10 ** (-second / 10))
    return total

"""The graphs that a body runs instead of those that all bodies share: conditioner, prologue, text encoder, and the
decoder and encoder of an autoencoder, with integers as in the body itself.

A graph is kept if what it saves is worth its loss, within what all may cost together. A conditioner, a prologue and a
text encoder are judged by the samples that their outputs lead to. A decoder is judged by what it makes of float32's
samples, with the error of the body's own samples. An encoder is judged alone, by the pictures that float32's decoder
makes of its latents: a call from noise does not run it. Seeds are added until others would hardly decide otherwise.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from statistics import fmean
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from fewstep.calibration.calibrated_body import AnyRecipe, CalibratedBody
from fewstep.calibration.decoded import DECODED
from fewstep.calibration.decoder_precision import decode_first, select_decodable, select_decoder_floats
from fewstep.calibration.failed_bodies import target_body_name
from fewstep.calibration.float_runs import FloatRuns
from fewstep.calibration.graph_forms import describe_share, has_own_graphs, has_weights_to_store, store_graph
from fewstep.calibration.graph_verdict import GraphVerdict, Losses, PairedQuality, decide
from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.picture_quality import PictureJudge, open_rows
from fewstep.calibration.policy import POLICY
from fewstep.calibration.precision.recipe import OtherGraph, Recipe, open_graphs
from fewstep.calibration.precision.stored_weights import WeightRecipe, constant_bytes
from fewstep.calibration.ranges.moments import Moments, MomentSums
from fewstep.calibration.ranges.observe import open_observed
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.sample_space import ContinuousJudgingRun
from fewstep.calibration.second_moments import FloatSample
from fewstep.calibration.shared_graph_ranges import measure_ranges, setup_feeds, split_rows
from fewstep.calibration.task import Task
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.graph import Graph
from fewstep.graph.passes.stored_embeddings import store_embeddings
from fewstep.graph.passes.stored_weights import can_have_4_bits, select_stored_ops
from fewstep.graph.prepare import simplify
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.record_sizes import select_records
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, RUN_ONCE, Arrays
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.platforms import CPU_ARM, INT8_WEIGHTS, cpu_kind
from fewstep.runtime.kinds.companions import DECODER, ENCODER, TEXT_ENCODER
from fewstep.runtime.machine.cpu import this_cpu
from fewstep.runtime.text import format_prompt, open_text_encoder

LOG = logging.getLogger("fewstep")
POSITIONS = 256  # rows of a text encoder's layer that enter second moments for one prompt: more than most prompts have
NO_PROMPTS = "no prompts are given that could judge it (--prompts FILE)"
SEES_PICTURE = "it also gets features of a picture"
COMPANIONS = (TEXT_ENCODER, DECODER, ENCODER)
Graphs = Mapping[str, OtherGraph]
_Tried = tuple[Losses, str, CalibratedBody[AnyRecipe]]  # with the form of the graph


@dataclass(frozen=True)
class GraphReplacer:
    """Makes the graphs that the bodies of one network run instead of shared ones. `runs` judge them, `samples`, of
    float32, give the ranges of an autoencoder, and `error_runs` is the maximum number of runs that measure the errors
    of a decoder's operations."""

    task: Task
    runs: FloatRuns
    samples: Sequence[FloatSample]
    error_runs: int = POLICY.most_error_runs
    _encoded: dict[int, tuple[Graph, Mapping[str, NDArray[Any]]]] = field(default_factory=dict)
    _tables: dict[str, tuple[Graph, RangesTable]] = field(default_factory=dict)

    def replace_graphs(
        self,
        body: CalibratedBody[AnyRecipe],
        judge: Callable[[AnyRecipe], CalibratedBody[AnyRecipe]],
        judge_further: Callable[[CalibratedBody[AnyRecipe]], CalibratedBody[AnyRecipe]],
    ) -> CalibratedBody[AnyRecipe]:
        """Return the body with those graphs that are worth their loss, and with the reasons why it shares the others. A
        line of the log names each graph that was tried. All stay as they are for tokens and under a bound, and those
        that several networks read. With activations in int8 they are for an engine on a CPU. Text encoder and
        autoencoder have the form for ONNX Runtime, which runs them for every engine.

        judge: returns the body of a recipe with the measured quality of its samples. If the user's measure scored
            them, it decides instead of PSNR. judge_further: returns a judged body with its quality on more seeds.
        """
        shared = shared_graphs(self.task.sampler.bundle.manifest)
        if (reason := self._why_all_shared(body)) is not None:
            body = replace(body, reasons={name: reason for name in (CONDITIONER, *COMPANIONS) if name in shared})
            return self._judge_pictures(body) if self._may_judge_pictures else body
        body, lost = replace(body, reasons=self.unjudged_graphs), Losses()
        for name in (*RUN_ONCE, *COMPANIONS):
            if name in self.exported:
                before = Losses() if name == ENCODER else lost  # a call from noise does not run it
                body, cost = self._replace(body, name, before, judge, judge_further)
                lost = lost.add(cost)
        return self._judge_pictures(body) if DECODER in self.exported else body

    @property
    def _may_judge_pictures(self) -> bool:
        """Whether a body may be run once more, for its pictures: not a large one."""
        is_judged = isinstance(self.runs.judging, ContinuousJudgingRun) and DECODER in self.exported
        return is_judged and not self.task.sampler.body.graph.data

    def _why_all_shared(self, body: CalibratedBody[AnyRecipe]) -> str | None:
        """Return why a body has no graph of its own in the place of a shared one; None if it may have some."""
        target: Target = body.recipe.target
        if not isinstance(self.runs.judging, ContinuousJudgingRun):
            return "the bundle samples tokens"
        if body.search is not None:
            return "--quality and --speed choose the precision of the steps alone: calibrate without them"
        if not has_own_graphs(target):
            return f"no int8 form for {target.name}: targets of CPUs and {INT8_WEIGHTS.name} have one"
        return None

    def with_graphs(self, replaces: Graphs, target: Target, run: RecordedRun) -> RecordedRun:
        """Return a recorded run with the inputs that the graphs of a body compute. Its conditions stay those of
        float32, which the user's measure gets."""
        names = {*RUN_ONCE, TEXT_ENCODER} & replaces.keys()
        if not names:
            return run
        fed = run
        if TEXT_ENCODER in names:
            graph = replaces[TEXT_ENCODER].graph
            if id(graph) not in self._encoded:
                self._encoded[id(graph)] = graph, self._encode_prompts(graph, _companion_target(target))
            encoded = self._encoded[id(graph)][1]
            rows = select_records(encoded, np.asarray(run.batch.seeds) % len(self.task.judging.prompts))
            # a graph returns conditions of the longest text, of which a run takes the part that its own text has
            rows = {name: row[tuple(map(slice, run.batch.conditions[name].shape))] for name, row in rows.items()}
            fed = replace(run, batch=replace(run.batch, conditions={**run.batch.conditions, **rows}))
        opened: dict[str, Any] = {name: open_rows(replaces[name].graph, target) for name in RUN_ONCE if name in names}
        return replace(fed.with_setup(self.task.sampler.with_network_parts(**opened)), batch=run.batch)

    @cached_property
    def unjudged_graphs(self) -> dict[str, str]:
        """The names of shared graphs that nothing can judge, each with the reason: a text encoder without prompts, what
        several networks read, an autoencoder without samples of its size, and an encoder without a decoder of
        pictures."""
        manifest, reasons = self.task.sampler.bundle.manifest, dict[str, str]()
        entries = shared_graphs(manifest)
        if manifest.text is not None and (manifest.text.reads or not self.task.prompts):
            reasons[TEXT_ENCODER] = SEES_PICTURE if manifest.text.reads else NO_PROMPTS
        if (decoder := entries.get(DECODER)) is not None:
            if not self._pictures.has_samples:
                reasons |= dict.fromkeys((DECODER, ENCODER), "no samples of its size could judge it")
            elif [output.role for output in decoder.outputs] != ["image"]:
                reasons[ENCODER] = "no decoder of pictures could judge it"
        if (networks := self.task.all_networks) is not None:
            parts = networks.denoiser.networks
            others = [part.bundle.manifest for name, part in parts.items() if name != self.task.network]
            read = [name for name in RUN_ONCE if entries.get(name) in [getattr(other, name) for other in others]]
            reasons |= dict.fromkeys((*read, TEXT_ENCODER), "several networks share it")
        return {name: reason for name, reason in reasons.items() if name in entries}

    @cached_property
    def exported(self) -> dict[str, Graph]:
        """The shared graphs as exported, except `unjudged_graphs`."""
        bundle = self.task.sampler.bundle
        entries = shared_graphs(bundle.manifest).items()
        return {name: load_stored(bundle, entry) for name, entry in entries if name not in self.unjudged_graphs}

    @cached_property
    def _pictures(self) -> PictureJudge:
        bundle, task = self.task.sampler.bundle, self.task
        entries = shared_graphs(bundle.manifest)
        exported = {name: load_stored(bundle, entries[name]) for name in (DECODER, ENCODER) if name in entries}

        def with_graphs(recipe: AnyRecipe, run: RecordedRun) -> RecordedRun:
            return self.with_graphs(recipe.replaces, recipe.target, run)

        return PictureJudge(self.runs, exported, bundle.manifest.x_shape, with_graphs, task.threads)

    def _judge_pictures(self, body: CalibratedBody[AnyRecipe]) -> CalibratedBody[AnyRecipe]:
        """Return the body with the quality of its pictures: of its own samples, text encoder and decoder."""
        own = body.recipe.replaces.get(DECODER)
        target = _companion_target(body.recipe.target)
        quality = self._pictures.judge_body(body, None if own is None else own.graph, target)
        return replace(body, trial=structs.replace(body.trial, picture_psnr=round(float(quality.mean()), 2)))

    def _replace(
        self,
        body: CalibratedBody[AnyRecipe],
        name: str,
        lost: Losses,
        judge: Callable[[AnyRecipe], CalibratedBody[AnyRecipe]],
        judge_further: Callable[[CalibratedBody[AnyRecipe]], CalibratedBody[AnyRecipe]],
    ) -> tuple[CalibratedBody[AnyRecipe], Losses]:
        """Return the body with the coarsest form of a shared graph whose loss is small enough, or else with the nearest
        form if its loss is hidden, and what it costs; without either, the body with the reason why there is none.
        `lost` is what other graphs of the body have cost."""
        maker, hidden = target_body_name(body.recipe.target), list[_Tried[AnyRecipe]]()
        reason = "no weights that could be stored as integers"
        for form, make in self._forms(body, name, lost):
            try:
                graph = make()
            except UserError as error:
                LOG.info("%s: %s not in %s: %s", maker, name, form, error)
                reason = error.what
                continue
            tried = replace(body, recipe=_with_graph(body.recipe, name, graph))
            if name not in (DECODER, ENCODER):
                tried = replace(judge(tried.recipe), reasons=body.reasons)
            verdict, tried = self._judge_graph(body, tried, name, form, lost, judge_further)
            choice, quality = form if verdict.is_taken else f"float32, not {form}", verdict.quality
            before, after = fmean(quality.before), fmean(quality.after)
            both = f"{verdict.seen} have {after:.1f} dB with it in {form}, and {before:.1f} dB with it in float32"
            loss = f"a loss of {verdict.loss_text} on {len(quality.after)} seeds"
            LOG.info("%s: %s in %s (%s, %s, for %s)", maker, name, choice, both, loss, verdict.saved)
            if verdict.is_taken:
                return tried, Losses() if verdict.judged else verdict.losses
            reason = verdict.reason
            hidden += [(verdict.losses, form, tried)] * verdict.is_hidden
        if hidden:
            losses, form, tried = min(hidden, key=lambda entry: entry[0].seen)
            what = "%s: %s in %s after all: a loss of %.1f dB next to errors of %g dB"
            LOG.info(what, maker, name, form, losses.hidden, self.task.policy.enough_psnr)
            return tried, losses
        if name == PROLOGUE and not has_weights_to_store(self.exported[name]):
            return body, Losses()  # it has no weights to speak of
        return replace(body, reasons={**body.reasons, name: reason}), Losses()

    def _judge_graph(
        self,
        body: CalibratedBody[AnyRecipe],
        tried: CalibratedBody[AnyRecipe],
        name: str,
        form: str,
        lost: Losses,
        judge_further: Callable[[CalibratedBody[AnyRecipe]], CalibratedBody[AnyRecipe]],
    ) -> tuple[GraphVerdict, CalibratedBody[AnyRecipe]]:
        """Return whether a body takes a form of a graph, and the body that has it, with its quality on all seeds that
        were needed to decide: as many as make the verdict certain, or all."""
        graph, judged = tried.recipe.replaces[name], None
        if name == DECODER:
            parts = self._pictures.judge_decoder(body, graph.graph, _companion_target(body.recipe.target))
        elif name == ENCODER:
            parts = self._pictures.judge_encoder(graph.graph, _companion_target(body.recipe.target))
        else:
            parts, judged = self._sample_qualities(body, tried), tried.trial.judged
            if judged is not None and judged.score.is_kept and not judged.is_certain:
                tried = judge_further(tried)
                judged = tried.trial.judged
        worth, saved = self._saving(tried.recipe, name, graph)
        entries = shared_graphs(self.task.sampler.bundle.manifest)
        seen = DECODED[entries[DECODER].outputs[0].role] if name in (DECODER, ENCODER) else "samples"
        with closing(parts):
            first = GraphVerdict(form, seen, next(parts), judged, worth, saved, lost, self.task.policy)
            return decide(first, parts), tried

    def _sample_qualities(
        self, body: CalibratedBody[AnyRecipe], tried: CalibratedBody[AnyRecipe]
    ) -> Generator[PairedQuality]:
        """Yield the PSNR of the samples of two bodies: those of the seeds that judged both, and then further ones."""
        trial = tried.trial
        signal = None if trial.snr is None else trial.snr - trial.psnr
        yield PairedQuality(body.values, tried.values, tried.values, signal, trial.unrelated)
        target, graphs = body.recipe.target, [(until, part.graph) for until, part in body.recipe.graphs]
        opened = open_graphs(graphs, target, True)  # both bodies have the same steps
        with closing(self.runs.record_further()) as further:
            for run in further:
                fed = [self.with_graphs(judged.recipe.replaces, target, run) for judged in (body, tried)]
                before, after = (psnr(batch.final_samples(batch.run(opened)), run.sample).tolist() for batch in fed)
                yield PairedQuality(before, after, after)

    def _forms(
        self, body: CalibratedBody[AnyRecipe], name: str, lost: Losses
    ) -> Iterator[tuple[str, Callable[[], OtherGraph]]]:
        """Yield the forms of a graph for a body, the coarsest first, each with a function that makes it, or raises
        UserError if no operation can be in int8. Weights of convolutions alone would take longer than in float32."""
        target: Target = body.recipe.target
        graph, bits = self.exported[name], target.scheme.weight_bits
        if bits is None:
            own = target if name in RUN_ONCE else _companion_target(target)
            choose = cache(partial(self._select_floats, name, own, body, lost))
            yield "int8", lambda: self._lower(name, own, choose()[0])
            for in_float in choose()[1:] if choose.cache_info().currsize else ():  # otherwise all have failed
                yield "int8", partial(self._lower, name, own, in_float)
        if not has_weights_to_store(graph):
            return
        if bits == 4 and name == TEXT_ENCODER:
            yield "4 bits", lambda: store_graph(graph, 4, self._text_moments)
        if bits is not None or all(can_have_4_bits(op, graph) for op in select_stored_ops(graph)):
            yield "8 bits", lambda: store_graph(graph, 8)

    def _saving(self, recipe: Recipe | WeightRecipe, name: str, form: OtherGraph) -> tuple[float, str]:
        """Return the loss in dB that the form of a graph is worth, and what it saves, as text: a fraction of a call's
        products or, relative to the body with this graph, of bytes."""
        policy = self.task.policy
        if form.coverage is not None:
            rows = sum(len(step.branches) for step in self.task.plan.steps)
            calls = rows if name == PROLOGUE else 1
            share = calls * form.coverage.int8_macs / (calls * form.coverage.total_macs + self._step_macs)
            return share * policy.price, f"{describe_share(share)} of a call's products"
        saved = constant_bytes(self.exported[name]) - constant_bytes(form.graph)
        stored = constant_bytes(recipe.graphs[-1][1].graph, *(other.graph for other in recipe.replaces.values()))
        saved_share = f"{describe_share(saved / (saved + stored))} fewer bytes of the body"
        return min(saved / stored, 1.0) * policy.byte_price, saved_share

    # int8 with activations

    def _lower(self, name: str, target: Target, in_float: Sequence[str]) -> OtherGraph:
        """Return a graph in int8 for a target. Raises UserError if none of its operations can be."""
        graph, table = self._measure_ranges_once(name)
        lowered = lower(graph, table, target, in_float)
        return OtherGraph(store_embeddings(lowered.graph), lowered.coverage)

    def _measure_ranges_once(self, name: str) -> tuple[Graph, RangesTable]:
        """Return a graph as it is lowered, and its ranges, for all targets."""
        if name not in self._tables:
            graph = simplify(self.exported[name])
            self._tables[name] = graph, measure_ranges(self.task, graph, self._feeds(name))
        return self._tables[name]

    def _select_floats(
        self, name: str, target: Target, body: CalibratedBody[AnyRecipe], lost: Losses
    ) -> Sequence[tuple[str, ...]]:
        """Return the names of a graph's operations that stay in float: none but for a decoder next to a body. More of
        them follow, since what a decoder loses is estimated on few pictures."""
        if name != DECODER:
            return [()]
        graph, table = self._measure_ranges_once(DECODER)
        samples = decode_first(graph, select_decodable(graph, self.samples), self._pictures.decode)
        policy, quality = self.task.policy, self._pictures.judge_body(body, None, target)
        losses = [part * (policy.most_graph_loss - lost.seen) for part in (1.0, 0.5)]
        return select_decoder_floats(samples, table, target, quality, losses, self._step_macs, self.error_runs, policy)

    @property
    def _step_macs(self) -> int:
        """The multiply-accumulates of the steps of a call, with all branches."""
        rows = sum(len(step.branches) for step in self.task.plan.steps)
        return rows * sum(count_operation_macs(self.task.prepared).values())

    def _feeds(self, name: str) -> Iterator[Arrays]:
        """Return inputs of a graph that calibration has: those of its trajectories, its prompts, or float32's samples
        of its first trajectories."""
        if name in RUN_ONCE:
            return setup_feeds(self.task, name)
        if name == TEXT_ENCODER:
            return split_rows(self._ids)
        decoder = self.exported[DECODER]
        samples, (latents, *others) = select_decodable(decoder, self.samples), decoder.inputs
        if name == ENCODER:
            pictures = self.exported[name].inputs[0].name
            return ({pictures: self._pictures.decode(sample.x)[0]} for sample in samples)
        names = [entry.name for entry in others]
        return ({latents.name: sample.x, **{name: sample.conditions[name] for name in names}} for sample in samples)

    # text encoder

    @cached_property
    def _ids(self) -> Arrays:
        return self._tokenize(self.task.prompts)

    def _tokenize(self, prompts: Sequence[str]) -> Arrays:
        text = open_text_encoder(self.task.sampler.bundle, network=_refuse)
        return text.ids([format_prompt(prompt, text.form) for prompt in prompts])

    def _encode_prompts(self, graph: Graph, target: Target) -> Mapping[str, NDArray[Any]]:
        """Return the conditions of all prompts that judge."""
        return open_rows(graph, target)(self._tokenize(self.task.judging.prompts))

    @cached_property
    def _text_moments(self) -> Moments:
        """The second moments of the inputs of a text encoder's products."""
        graph = self.exported[TEXT_ENCODER]
        ops = [op for op in select_stored_ops(graph) if can_have_4_bits(op, graph)]
        network = open_observed(graph, tuple(dict.fromkeys(op.x for op in ops)), self.task.threads)
        sums = MomentSums(network, graph, (ops,), POSITIONS, 0)
        for fed in split_rows(self._ids):
            sums(fed)
        return sums.sums


def _companion_target(target: Target) -> Target:
    """Return the target whose form the text encoder and the autoencoder of a body have. On ARM, bodies of other engines
    have the form of ONNX Runtime for ARM."""
    if target.companions is not None and cpu_kind(this_cpu().architecture) == "arm":
        return load_target(CPU_ARM.name)
    return target.companions or target


def _with_graph(recipe: AnyRecipe, name: str, graph: OtherGraph) -> AnyRecipe:
    """Return the recipe of a body that runs this graph too. The graphs of its steps are not made again."""
    changed = replace(recipe, replaces={**recipe.replaces, name: graph})
    vars(changed)["graphs"] = recipe.graphs
    return changed


def _refuse(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
    raise AssertionError("only the ids of prompts are asked for")

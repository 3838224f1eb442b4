"""Make the int8 bodies of a network: lower each, compare its samples with float32, and search its precision if there is
a bound."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise

from msgspec import structs

from fewstep.calibration.activation_counts import tabulate_part
from fewstep.calibration.calibrated_body import (
    AnyBody,
    AnyRecipe,
    CalibratedBody,
    check_near,
    judge_body,
    judge_further,
)
from fewstep.calibration.commit import map_weights_from_files
from fewstep.calibration.cost import operation_error_runs
from fewstep.calibration.failed_bodies import target_body_name
from fewstep.calibration.float_runs import FloatRuns
from fewstep.calibration.lowering.quantize import make_quantizer
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.mixed_precision import keep_slower_in_float, select_float_operations
from fewstep.calibration.precision.precision_search import SearchResult, search_precision
from fewstep.calibration.precision.recipe import GraphRecipe, Recipe
from fewstep.calibration.precision.stored_weights import (
    RoundedWeights,
    WeightRecipe,
    coarsest_bits,
    refine_bits,
)
from fewstep.calibration.precision.timeable_targets import bound_applies, timeable_targets
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.replaced_graphs import GraphReplacer
from fewstep.calibration.sample_space import ContinuousJudgingRun, JudgingRun
from fewstep.calibration.second_moments import MomentsAndSamples
from fewstep.calibration.task import Task
from fewstep.graph.files.commit import Writer
from fewstep.graph.graph import Graph
from fewstep.measure.judges.judge import Judge
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.plans.errors import UserError
from fewstep.runtime.progress import Progress, prefix_stages

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class BodyMaker:
    """Makes the int8 bodies of one network. Every target's body is made, and compared with float32, in the same way.

    counts: activation counts; None if no target quantizes activations.
    tables: ranges by target name.
    first: what the first trajectories gave: moments, which determine how weights are rounded, and samples.
    runs: the float32 runs with which bodies are compared.
    writer: the writer of the bundle, which stores the weights of large bodies in files; None to keep weights in memory.
    """

    task: Task
    counts: Counts | None
    tables: Mapping[str, RangesTable]
    first: MomentsAndSamples
    runs: FloatRuns
    writer: Writer | None
    progress: Progress

    def make_body(self, target: Target) -> AnyBody:
        """Make the target's body, and compare its samples with float32. If the task has a bound for the target, search
        a body that meets it.

        Raises UserError if the body is too far from float32, if none of its operations is in int8, or if no body meets
        the bound.
        """
        if target.scheme.weight_bits is not None:
            return self._finish(self._replace_graphs(self._make_weight_body(target)))
        return self._finish(self._replace_graphs(self._make_int8_body(target)))

    def _replace_graphs(self, body: CalibratedBody[AnyRecipe]) -> CalibratedBody[AnyRecipe]:
        return self._replacer.replace_graphs(body, self._judge_samples, self._judge_further)

    @cached_property
    def _replacer(self) -> GraphReplacer:
        return GraphReplacer(self.task, self.runs, self.first.samples, operation_error_runs(self.task))

    def _finish(self, body: CalibratedBody[AnyRecipe]) -> CalibratedBody[AnyRecipe]:
        """Return the body, judged on further seeds. Raises UserError if it is too far from float32."""
        if isinstance(self.runs.judging, ContinuousJudgingRun):
            body = self._judge_further(body)
        check_near(body, self.task.sampler.bundle.manifest, self.runs.judging.is_far)
        return body

    def _judge_further(self, body: CalibratedBody[AnyRecipe]) -> CalibratedBody[AnyRecipe]:
        """Return a body with its quality on more seeds, as many as make it known."""
        further = map(partial(self._with_graphs, body.recipe), self.runs.record_further())
        judging = self._judging_of(body.recipe)
        assert isinstance(judging, ContinuousJudgingRun), "bodies of tokens are judged once"
        trial = judge_further(body, judging, further, self.task.is_large, self.task.judge)
        return replace(body, trial=trial)

    def _make_int8_body(self, target: Target) -> CalibratedBody[Recipe]:
        """Return the body in which activations are quantized too."""
        body = self._make_unbounded_body(target)
        search = self._search(body.recipe)
        if search is not None:
            return replace(self._judge(search.recipe), search=search)
        if body.recipe.is_float:
            raise UserError(
                f"no operation of graph {self.task.prepared.name!r} can run in int8 for {target.name}: each is slower"
                " in int8, loses more quality than its saved time is worth, or is kept in float by --keep-float",
                "use float, or set a limit: --quality 40dB",
            )
        return body

    def _make_weight_body(self, target: Target) -> CalibratedBody[WeightRecipe]:
        """Return the body in which weights alone are quantized."""
        rounded, policy = RoundedWeights(self.task.prepared, self.first.moments), self.task.policy
        bits = coarsest_bits(target, self.task.prepared, self.task.kept_operations)
        recipe = WeightRecipe(target, rounded, bits, self.runs.judging.groups, self._keep(target))
        if self._has_squared_error:
            recorded = self.runs.of_operations
            self.runs.close()
            recipe = refine_bits(recipe, recorded, operation_error_runs(self.task), policy)
        return self._judge(recipe)

    def _keep(self, target: Target) -> Callable[[Graph], Graph] | None:
        """Return the function that moves the weights of a large body to files; None for other bodies."""
        return None if self.writer is None else partial(map_weights_from_files, self.writer, target_body_name(target))

    def _make_unbounded_body(self, target: Target) -> CalibratedBody[Recipe]:
        """Return the body with the fewest graphs whose sample quality is high enough, or close to the best.

        Each graph has its own weights, so a large network always keeps one graph. A body also keeps one graph if its
        sample space has no squared error (tokens), because its quality is then not a PSNR, and if its target has no
        floats, because it then has one range for all steps.
        """
        policy, bodies = self.task.policy, [self._make_single_graph_body(target)]
        is_one = self.writer is not None or not self._has_squared_error or target.scheme.no_floats
        most = 1 if is_one else min(target.most_graphs, self.runs.judging.groups)
        while bodies[-1].trial.psnr < policy.enough_psnr and len(bodies) < most:
            bodies.append(self._make_split_body(bodies[0].recipe, len(bodies) + 1))
        least = min(policy.enough_psnr, max(body.trial.psnr for body in bodies) - policy.tolerated_loss)
        count = next(number for number, body in enumerate(bodies, 1) if body.trial.psnr >= least)
        if most > 1:
            tried = ", ".join(f"{body.trial.psnr:.1f} dB with {number}" for number, body in enumerate(bodies, 1))
            what = "%s has %d of at most %d graphs: mean PSNR %s (%g dB are enough, or %g dB below the best tried)"
            LOG.info(what, target_body_name(target), count, most, tried, policy.enough_psnr, policy.tolerated_loss)
        return bodies[count - 1]

    def _make_single_graph_body(self, target: Target) -> CalibratedBody[Recipe]:
        """Return the body as one graph. The operations that cause much of its error stay in float."""
        table = self.tables[target.name]
        part = GraphRecipe(
            until=self.runs.judging.groups, table=table, quantize=make_quantizer(target, self.first.moments)
        )
        recipe = Recipe(self.task.prepared, table, target, (part,), self._keep(target), kept=self.task.kept_operations)
        return self._quantize_attention(self._judge(self._select_float_operations(recipe)))

    def _quantize_attention(self, body: CalibratedBody[Recipe]) -> CalibratedBody[Recipe]:
        """Return the body with large attention in int8 where `quantize_attention` allows it. Attention stays in float
        if a bound applies to the target, since the search moves only operations with weights."""
        target, bound = body.recipe.target, self.task.bound
        is_searched = bound is not None and bound_applies(target, bound)
        if not target.scheme.int8_attention or not self._has_squared_error or is_searched or body.recipe.is_float:
            return body
        from fewstep.calibration.attention_precision import quantize_attention  # for these targets alone

        return quantize_attention(body, self.runs.of_operations, self._judge, self.task.policy)

    def _make_split_body(self, recipe: Recipe, count: int) -> CalibratedBody[Recipe]:
        """Return the body split into `count` graphs, each for an equal number of range groups and with ranges of these
        groups alone."""
        assert self.counts is not None, "int8 bodies are made from counts"
        counts = self.counts
        ends = [round(self.runs.judging.groups * number / count) for number in range(count + 1)]
        tables = [tabulate_part(recipe.table, counts, self.task.prepared, slice(*part)) for part in pairwise(ends)]
        quantize = make_quantizer(recipe.target, self.first.moments)
        graphs = tuple(GraphRecipe(until, table, quantize) for until, table in zip(ends[1:], tables, strict=True))
        return self._judge(replace(recipe, parts=graphs))

    def _select_float_operations(self, recipe: Recipe) -> Recipe:
        """Return the recipe with some operations kept in float. In a sample space without squared errors (tokens),
        these are only the operations that are slower in int8. For engines without float operations there are none."""
        if not self._has_squared_error:
            return keep_slower_in_float(recipe)
        if recipe.target.scheme.no_floats:
            return recipe
        recorded = self.runs.of_operations
        self.runs.close()  # if it was open: int8 bodies need the memory
        return select_float_operations(recipe, recorded, operation_error_runs(self.task), self.task.policy)

    def _search(self, recipe: Recipe) -> SearchResult | None:
        """Search for the body that the task's bound requires. Return None if no bound applies to the target.

        Raises UserError if no body reaches the bound.
        """
        target, bound = recipe.target, self.task.bound
        if bound is None or not bound_applies(target, bound):
            return None
        shown = prefix_stages(self.progress, f"search for {target.name}")
        is_timed = target.name in timeable_targets()
        return search_precision(recipe, *self.runs.of_search, bound, is_timed, shown, self.task.policy)

    def _judging_of(self, recipe: Recipe | WeightRecipe) -> JudgingRun:
        """Return the run with which a recipe's body is compared, with the inputs that its own graphs compute."""
        judging = self.runs.judging
        if not recipe.replaces or not isinstance(judging, ContinuousJudgingRun):
            return judging
        return replace(judging, recorded=tuple(self._with_graphs(recipe, run) for run in judging.recorded))

    def _with_graphs(self, recipe: Recipe | WeightRecipe, run: RecordedRun) -> RecordedRun:
        return self._replacer.with_graphs(recipe.replaces, recipe.target, run)

    def _judge_samples(self, recipe: AnyRecipe) -> CalibratedBody[AnyRecipe]:
        """Return the body with the measured quality of its samples, which the user's measure scores too."""
        return self._judge(recipe, self.task.judge)

    def _judge(self, recipe: AnyRecipe, judge: Judge | None = None) -> CalibratedBody[AnyRecipe]:
        """Return the body with the measured quality of its samples. judge: the user's measure, which scores them too;
        it always scores those of tokens. The body that is written is scored in `_finish`."""
        if not self._has_squared_error:
            judge = self.task.judge
        trial, values = judge_body(recipe, self._judging_of(recipe), self.task.is_large, judge)
        trial = structs.replace(
            trial,
            in_float=recipe.in_float,
            **self.task.judged_conditions,
        )
        return CalibratedBody(recipe, trial, values=values)

    @property
    def _has_squared_error(self) -> bool:
        """True if the quality of samples is a squared error; False for tokens."""
        return self.task.sampler.bundle.manifest.space.has_squared_error

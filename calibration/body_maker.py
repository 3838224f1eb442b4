"""The making of a network's bodies: each is lowered, judged by samples, and searched for where a bound asks for it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise

from msgspec import structs

from fewstep.calibration.calibrated_body import CalibratedBody, check_near, judged
from fewstep.calibration.count import of_part
from fewstep.calibration.failed_bodies import body_of
from fewstep.calibration.lowering.quantize import rounding
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.bound import describe
from fewstep.calibration.precision.native import is_bound, searched_here
from fewstep.calibration.precision.recipe import GraphRecipe, Recipe
from fewstep.calibration.precision.refine import SearchResult, refine
from fewstep.calibration.precision.sparing import spared, without_slower
from fewstep.calibration.ranges.moments import Moments
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.task import Task
from fewstep.graph import io, weights
from fewstep.graph.commit import Writer
from fewstep.graph.graph import Graph
from fewstep.measure.rollouts.course import Course, open_course, open_courses
from fewstep.measure.rollouts.on_demand import close
from fewstep.measure.rollouts.row_by_row import body_by_rows
from fewstep.measure.rollouts.seeds import OPERATION_SEEDS
from fewstep.measure.rollouts.token_course import TokenCourse
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.arguments import check_compiled
from fewstep.runtime.progress import Progress, under

LOG = logging.getLogger("fewstep")
ENOUGH, LEAST_LOSS = 44.0, 0.5  # dB of mean PSNR: so much is enough, or so little less than the most


@dataclass(frozen=True)
class BodyMaker:
    """The bodies of one network, made and judged alike for each target.

    plan: the task's, with the range groups of the counts.
    counts: of activations.
    tables: the ranges of each target, by its name.
    moments: of `second_moments`, by which weights are rounded.
    course: of `judging_course`.
    writer: of the bundle, whose files receive the weights of large bodies; None keeps weights in memory.
    """

    task: Task
    plan: AnyPlan
    counts: Counts
    tables: Mapping[str, RangesTable]
    moments: Moments
    course: Course | TokenCourse
    writer: Writer | None
    progress: Progress

    def body(self, target: Target) -> CalibratedBody:
        """The target's body, as the task's bound asks for it, if it has one. UserError if it is far from float32, or
        none reaches the bound."""
        body = self._unbounded(target)
        search = self._search(body.recipe)
        if search is not None:
            body = replace(self._judged(search.recipe), search=search)
        check_near(body, self.task.sampler.bundle.manifest)
        return body

    def _unbounded(self, target: Target) -> CalibratedBody:
        """The body in as few graphs as have quality enough by samples, or lose little by it.

        Graphs cost no byte of a step, but each has weights of its own, so a large network keeps one. So do tokens,
        whose figures are no PSNR of samples, and targets without floats, which have one range for all steps.
        """
        bodies = [self._in_one_graph(target)]
        is_one = self.writer is not None or isinstance(self.course, TokenCourse) or target.scheme.no_floats
        most = 1 if is_one else min(target.most_graphs, self.course.groups)
        while bodies[-1].trial.psnr < ENOUGH and len(bodies) < most:
            bodies.append(self._in_graphs(bodies[0].recipe, len(bodies) + 1))
        least = min(ENOUGH, max(body.trial.psnr for body in bodies) - LEAST_LOSS)
        return next(body for body in bodies if body.trial.psnr >= least)

    def _in_one_graph(self, target: Target) -> CalibratedBody:
        """The body in one graph, with what makes much of its error in float."""
        table = self.tables[target.name]
        keep = None if self.writer is None else partial(kept_in_files, self.writer, body_of(target))
        part = GraphRecipe(until=self.course.groups, table=table, quantize=rounding(target, self.moments))
        return self._judged(self._spared(Recipe(self.task.prepared, table, target, (part,), keep)))

    def _in_graphs(self, recipe: Recipe, count: int) -> CalibratedBody:
        """The body as so many graphs, each with ranges of its own steps."""
        ends = [round(self.course.groups * number / count) for number in range(count + 1)]
        tables = [of_part(recipe.table, self.counts, self.task.prepared, slice(*part)) for part in pairwise(ends)]
        quantize = rounding(recipe.target, self.moments)
        graphs = tuple(GraphRecipe(until, table, quantize) for until, table in zip(ends[1:], tables, strict=True))
        return self._judged(replace(recipe, parts=graphs))

    def _spared(self, recipe: Recipe) -> Recipe:
        """The recipe with operations in float. Samples of tokens have no squared error: there only those that int8
        makes slower are in float. Engines without floats have all in int8."""
        if isinstance(self.course, TokenCourse):
            return without_slower(recipe)
        return recipe if recipe.target.scheme.no_floats else spared(recipe, self._operations_course)

    def _search(self, recipe: Recipe) -> SearchResult | None:
        """The search of what the task's bound deploys; None where there is no bound for the target. UserError where
        no body reaches it."""
        target, bound = recipe.target, self.task.bound
        if bound is None or not is_bound(target, bound):
            return None
        shown = under(self.progress, f"search for {target.name}")
        is_timed = target.name in searched_here()
        search = refine(recipe, *self._search_courses, bound, is_timed=is_timed, progress=shown)
        if search.recipe.is_float:
            LOG.warning(
                "%s runs nothing in int8: of all that was tried, float32 itself fits %s best (the body without a bound"
                " has %.1f dB)",
                *(body_of(target), describe(bound), search.unbounded.mean),
            )
        return search

    def _judged(self, recipe: Recipe) -> CalibratedBody:
        """The body with the quality of its samples."""
        trial = judged(recipe, self.course, self.task.is_large)
        trial = structs.replace(trial, in_float=recipe.in_float, random_conditions=self.task.random)
        return CalibratedBody(recipe, trial)

    @cached_property
    def _operations_course(self) -> Course:
        """The course on which the errors of operations are measured: all targets share it."""
        task, shown = self.task, under(self.progress, "errors of operations")
        sampler, seeds = task.among(body_by_rows(task.sampler)), OPERATION_SEEDS[: len(task.seeds)]
        opened = open_course(sampler, check_compiled(self.plan), seeds, task.conditions, shown, task.network)
        close(task.sampler.network().graph)  # as in `judging_course`: int8 bodies need the memory
        return opened

    @cached_property
    def _search_courses(self) -> tuple[Course, tuple[Course, ...]]:
        """The course of the search and those that judge: all targets share them."""
        shown = under(self.progress, "search")
        opened = open_courses(self.task.sampler, check_compiled(self.plan), self.task.conditions, shown)
        close(self.task.sampler.network().graph)  # as in `judging_course`
        return opened


def kept_in_files(writer: Writer, name: str, graph: Graph) -> Graph:
    """The lowered graph with its weights mapped from files of the bundle, so that memory holds only those in use.

    The graph's own file is written too: by it the next graph finds the weights that it shares.
    """
    (mapped,) = io.keep(writer, graph)
    io.store(writer, mapped, name)
    weights.release(mapped)
    return mapped

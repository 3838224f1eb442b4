"""The batches of `fewstep run --whole-run`: files that compute all steps of a certain number of samples."""

from collections.abc import Iterator, Mapping, Sequence

from fewstep.cli.run.options import RunOptions
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.prompts import Values
from fewstep.runtime.sampling.execute import Hold
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.whole_runs import WholeRun


def whole_run_sizes(
    sampler: Sampler, plan: Plan, branches: Mapping[str, Values], options: RunOptions, hold: Hold | None = None
) -> tuple[int, ...]:
    """Return the numbers of samples of the files that compute this plan with this hold, the largest first.

    Raises UserError for a file that would compute none of the samples, unless it is of the plan and the number of
    samples of another file that does: files that differ in their hold may be given together.
    """
    runs = sampler.whole_runs
    if runs is None:
        return ()
    if branches:
        raise UserError(
            "--whole-run cannot be combined with a negative prompt", "leave out --whole-run or the negative prompt"
        )
    if outputs := [output.name for output in sampler.bundle.manifest.outputs]:
        raise UserError(f"--whole-run does not return {', '.join(outputs)}", "leave --whole-run out")
    shape, sizes = sampler.bundle.manifest.x_shape, set[int]()
    for (_, (size, *_), _), run in runs.runs.items():
        assert isinstance(size, int), "a whole run has a fixed batch"
        called = (min(size, options.count), *shape)
        equal_run = runs.find(plan, called, hold)
        if equal_run is None or _run_of(equal_run) != _run_of(run):
            unlike = "; ".join(run.differences(plan, called, hold))
            raise UserError(f"{run.name} computes a different run: {unlike}", "bake this run, or leave --whole-run out")
        sizes.add(size)
    return tuple(sorted(sizes, reverse=True))


def _run_of(run: WholeRun) -> tuple[str, tuple[int | str, ...]]:
    """Return what files have in common if they differ in their hold only."""
    return run.facts.plan_sha256, run.facts.output.shape


def batches_of(count: int, batch: int, sizes: Sequence[int]) -> Iterator[range]:
    """Yield the indices of the samples of each call. A call has the number of samples of the largest file that still
    fits, or otherwise up to `batch`.

    list(batches_of(11, 64, (4, 2))) == [range(0, 4), range(4, 8), range(8, 10), range(10, 11)]
    """
    start = 0
    while start < count:
        size = next((size for size in sizes if size <= count - start), min(batch, count - start))
        yield range(start, start + size)
        start += size

"""Runs of contenders in blocks of episodes: all run a block before any runs the next, and a stopped run goes on."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.policy.rollouts import episodes_of, run
from benchmarks.policy.verdict_store import keep
from benchmarks.policy.verdicts import Contender, Episode, Verdict, Verdicts
from benchmarks.policy.worlds import World
from fewstep.runtime import Sampler

BLOCK = 20  # episodes of each task that all contenders run before any runs more


@dataclass(frozen=True)
class Entry:
    """A contender with its sampler, None for the experts, and the tasks that it runs."""

    contender: Contender
    sampler: Sampler | None
    tasks: Sequence[str]


def run_blocks(
    world: World, entries: Sequence[Entry], verdicts: dict[str, dict[Episode, Verdict]], file: Path, seeds: range
) -> Iterator[None]:
    """Run the episodes that `verdicts` lacks, and yield after each block. New verdicts are added to `verdicts`, and
    with the known ones of their contender to the file.
    """
    bodies = [None if entry.sampler is None else body_of(entry.sampler) for entry in entries]
    for block in blocks(seeds):
        for entry, body in zip(entries, bodies, strict=True):
            contender, known = entry.contender, verdicts[entry.contender.digest]
            wanted = [episode for episode in episodes_of(len(block), entry.tasks, block.start) if episode not in known]
            for verdict in run(world, contender, entry.sampler, wanted):
                known[verdict.task, verdict.seed] = msgspec.structs.replace(verdict, body=body)
            keep([(contender, known)], file)
            print(f"{contender.name}: seeds {block.start} to {block[-1]}", flush=True)
        yield


def blocks(seeds: range) -> list[range]:
    """Return the seeds in blocks."""
    return [seeds[start : start + BLOCK] for start in range(0, len(seeds), BLOCK)]


def in_whole_blocks(verdicts: Verdicts, tasks: Sequence[str]) -> Verdicts:
    """Return the verdicts of some tasks, without those of an unfinished block: solved episodes end first, and would
    count too much. The first block may be shorter, since a run may have fewer episodes.
    """
    seeds = {seed for _, seed in verdicts if all((task, seed) in verdicts for task in tasks)}
    first = next(seed for seed in itertools.count() if seed not in seeds)
    whole = {seed for seed in seeds if seed < first < BLOCK or seeds.issuperset(_block_of(seed))}
    return {episode: verdict for episode, verdict in verdicts.items() if episode[0] in tasks and episode[1] in whole}


def _block_of(seed: int) -> range:
    start = seed // BLOCK * BLOCK
    return range(start, start + BLOCK)


def join_verdicts(*files: Mapping[str, Verdicts]) -> dict[str, dict[Episode, Verdict]]:
    """Join the verdicts of several files, by the digest of their contender; a later file takes precedence."""
    found: dict[str, dict[Episode, Verdict]] = defaultdict(dict)
    for digest, verdicts in ((digest, each) for file in files for digest, each in file.items()):
        found[digest] |= verdicts
    return found


def body_of(sampler: Sampler) -> str:
    """Return the digest of the files that decide the samples of a body on a machine; their names contain the hash of
    each.
    """
    manifest, graph = sampler.bundle.manifest, sampler.body.graph
    ahead = [each.file for each in (manifest.conditioner, manifest.prologue) if each is not None]
    files = [graph.file, *graph.data, *ahead]
    return hashlib.sha256(" ".join(sorted(files)).encode()).hexdigest()[:16]

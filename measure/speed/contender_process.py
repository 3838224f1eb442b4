"""The process that times one contender: it loads the contender's graphs and runs its turns.

For a graph it imports only numpy and onnxruntime, so that the measured time and memory are those of a small program.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

WARM_UP = 0.05  # seconds of calls before the counted ones, since caches hold another contender's data at first
LONG_CALL = 0.5  # a call of at least this many seconds is counted although it is the first
PROFILES = "*kinds*"  # name of the call that returns, for each call, seconds by operation type; empty if unknown

Call = Callable[[], Any]
Graph = tuple[Call, Callable[[], Mapping[str, float]]]  # runs it, and returns its seconds by operation type
Opener = Callable[[], Mapping[str, Call]]  # pickled to the process that calls it
Seconds = tuple[float, float]  # wall time of a call, and CPU time of all its threads

_CALLS: dict[str, Call] = {}


def open_calls(opener: Opener) -> float:
    """Open the calls of this process, and return the duration in seconds."""
    start = perf_counter()
    _CALLS.update(opener())
    return perf_counter() - start


def run_call(name: str) -> Any:
    """Return the result of a call."""
    return _CALLS[name]()


def run_turn(name: str, seconds: float, warm_up: float = WARM_UP) -> list[Seconds]:
    """Run calls for `warm_up` seconds, then a turn of about `seconds` seconds, and return the times of its calls, at
    least one."""
    call, warm = _CALLS[name], 0.0
    while warm <= warm_up:
        last = _time_call(call)
        warm += last[0]
    times = [last] if last[0] > LONG_CALL else []
    while not times or sum(wall for wall, _ in times) < seconds:
        times.append(_time_call(call))
    return times


def open_steps(graphs: Sequence[tuple[str, int, Callable[[], Graph]]]) -> Mapping[str, Call]:
    """Open the graphs that run the steps of a plan, and return calls by name: "" runs the graphs of all networks, the
    name of a network runs that network's graphs, and PROFILES returns the seconds of each call by operation type.

    graphs: for each graph, the name of its network, how often a call runs it, and the function that opens it.
    """
    opened = [(network, times, opener()) for network, times, opener in graphs]
    names = ("", *dict.fromkeys(network for network, _, _ in opened))

    def runs_of(name: str) -> list[Call]:
        return [run for network, times, (run, _) in opened if name in ("", network) for _ in range(times)]

    def kinds() -> dict[str, dict[str, float]]:
        profiles = [(network, times, profile()) for network, times, (_, profile) in opened]
        return {name: _sum_by_kind([profile[1:] for profile in profiles if name in ("", profile[0])]) for name in names}

    return {**{name: partial(_run_all, runs_of(name)) for name in names}, PROFILES: kinds}


def _run_all(runs: Sequence[Call]) -> None:
    for run in runs:
        run()


def processor_time(calls: Sequence[Seconds]) -> float:
    """Return the mean CPU time of calls: a system may count it in ticks that are longer than a call, so that most calls
    seem to take none."""
    return sum(used for _, used in calls) / len(calls)


def _sum_by_kind(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Return the seconds of a call by operation type; empty if they are unknown for one of its graphs."""
    total = defaultdict[str, float](float)
    for times, seconds in parts if all(seconds for _, seconds in parts) else ():
        for kind, each in seconds.items():
            total[kind] += times * each
    return dict(total)


def open_graph(path: str, threads: int, spinning: bool, entries: Mapping[str, str], feeds: Mapping[str, Any]) -> Graph:
    """Open a graph in onnxruntime, with these further entries of its configuration. Return a function that runs it on
    `feeds`, and one that returns the seconds of each operation type."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])]

    def kinds() -> dict[str, float]:
        from fewstep.measure.speed.profile import profile_graph  # after the measurements of a small program

        sessions.clear()  # two sessions of a large graph need too much memory, and timing is over
        return profile_graph(path, options, feeds)

    return lambda: sessions[0].run(None, feeds), kinds


def open_body(backend: str, threads: int, path: Path, network: str, body: str, feeds: Mapping[str, Any]) -> Graph:
    """Open a body of a bundle's network on a named backend. Its seconds by operation type are unknown."""
    from fewstep.runtime.backends.registry import create_backend
    from fewstep.runtime.bundle.reading import open_bundle

    run = create_backend(backend, threads).load(open_bundle(path).select_network(network), body)
    return lambda: run(feeds), dict


def _time_call(call: Call) -> Seconds:
    wall, processor = perf_counter(), process_time()
    call()
    return perf_counter() - wall, process_time() - processor

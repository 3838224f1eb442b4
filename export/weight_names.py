"""Names of stored weights: prefixes of wrappers, which no network has."""

from collections.abc import Iterable

COMPILED = "_orig_mod."  # torch.compile adds it to the names of the module that it wraps, which may be an inner one
PARALLEL = "module."  # of DataParallel, DistributedDataParallel and AveragedModel, around the whole network
COUNTERS = frozenset(  # numbers that trainers store among the weights, and on which no output depends
    ("decay", "ema_decay", "global_step", "n_averaged", "num_updates", "optimization_step", "step")
)


def strip_wrapper_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Each name without the prefixes of wrappers. `module.` is removed only where all names but counters begin so."""
    named = {name: name.replace(COMPILED, "") for name in names}
    while (weights := set(named.values()) - COUNTERS) and all(name.startswith(PARALLEL) for name in weights):
        named = {name: short.removeprefix(PARALLEL) for name, short in named.items()}
    return named


def shared_prefix(names: Iterable[str]) -> str:
    """The first part, with its dot, of the names if all of them have the same; else nothing."""
    first = {first + dot for first, dot, _ in (name.partition(".") for name in names if name not in COUNTERS)}
    return first.pop() if len(first) == 1 and all(each.endswith(".") for each in first) else ""

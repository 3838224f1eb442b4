"""Names of stored weights: strip the prefixes that wrappers add."""

from collections.abc import Iterable

COMPILED = "_orig_mod."  # added by torch.compile to names in the module that it wraps, which may be a submodule
PARALLEL = "module."  # added by DataParallel, DistributedDataParallel and AveragedModel to all names
COUNTERS = frozenset(  # numbers that trainers store among the weights; no output depends on them
    ("decay", "ema_decay", "global_step", "n_averaged", "num_updates", "optimization_step", "step")
)


def strip_wrapper_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the name without wrapper prefixes. `module.` is removed only if all names except counters begin
    with it."""
    named = {name: name.replace(COMPILED, "") for name in names}
    while (weights := set(named.values()) - COUNTERS) and all(name.startswith(PARALLEL) for name in weights):
        named = {name: short.removeprefix(PARALLEL) for name, short in named.items()}
    return named


def common_prefix(names: Iterable[str]) -> str:
    """Return the first part of the names, including the dot, if all names have the same one; otherwise ""."""
    first = {first + dot for first, dot, _ in (name.partition(".") for name in names if name not in COUNTERS)}
    return first.pop() if len(first) == 1 and all(prefix.endswith(".") for prefix in first) else ""

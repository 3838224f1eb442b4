"""The tables of cuDNN's plans on described GPUs."""

from collections.abc import Sequence

from benchmarks.gpu.results import GroupPlans
from benchmarks.markdown import table


def plan_tables(records: Sequence[GroupPlans]) -> str:
    """How many int8 groups have a plan, by denoiser; those without one; and the plans of each operation."""
    gpus = list(dict.fromkeys(record.gpu for record in records))
    parts = [summary(records, gpus), without_plan(records), by_operation(records, gpus)]
    return "\n\n".join(part for part in parts if part)


def summary(records: Sequence[GroupPlans], gpus: Sequence[str]) -> str:
    """A row for each denoiser."""
    head = ("denoiser", "int8 groups", "of the MACs of all groups", *(f"with a plan, {gpu}" for gpu in gpus))
    rows = []
    for name in dict.fromkeys(record.denoiser for record in records):
        own = [record for record in records if record.denoiser == name]
        first = [each for each in own if each.gpu == gpus[0]]
        int8 = [each for each in first if each.precision == "int8"]
        share = sum(each.macs for each in int8) / sum(each.macs for each in first)
        have = [
            sum(each.count for each in own if each.gpu == gpu and each.precision == "int8" and each.engines)
            for gpu in gpus
        ]
        rows.append([name, str(sum(each.count for each in int8)), f"{100 * share:.0f} %", *map(str, have)])
    return table(head, rows)


def without_plan(records: Sequence[GroupPlans]) -> str:
    """The operations without a plan, and cuDNN's reason."""
    rows = [
        [record.denoiser, record.gpu, record.precision, record.operation, record.epilogue, reason_of(record)]
        for record in records
        if not record.engines
    ]
    if not rows:
        return "No group is without a plan, in int8 or in 16 bits."
    return "Groups without a plan:\n\n" + table(("denoiser", "GPU", "type", "operation", "epilogue", "reason"), rows)


def reason_of(each: GroupPlans) -> str:
    """cuDNN's reason, without the configurations of engines that it tried."""
    return each.reason.partition(" ___")[0] or "no plan"


def by_operation(records: Sequence[GroupPlans], gpus: Sequence[str]) -> str:
    """A row for each operation: the groups of all denoisers, and the plans on each GPU with their engines."""
    rows = []
    for key in dict.fromkeys((record.precision, record.operation, record.epilogue) for record in records):
        own = [record for record in records if (record.precision, record.operation, record.epilogue) == key]
        users = [f"{each.count} {each.denoiser}" for each in own if each.gpu == gpus[0]]
        plans = [next(describe_plans(each) for each in own if each.gpu == gpu) for gpu in gpus]
        rows.append([key[0], key[1], key[2], ", ".join(users), *plans])
    return table(("type", "operation", "epilogue", "groups", *gpus), rows)


def describe_plans(each: GroupPlans) -> str:
    """The number of plans and their engines, such as `9 (2, 4, 7)`."""
    engines = ", ".join(sorted((name.removeprefix("eng") for name in each.engines), key=int))
    return f"{sum(each.engines.values())} ({engines})" if each.engines else "none"

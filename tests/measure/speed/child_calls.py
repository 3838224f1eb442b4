"""Calls of a contender, in a module with few imports, since the contender's process imports it."""

from collections.abc import Mapping
from time import process_time

from fewstep.measure.speed.contender_process import Call
from fewstep.plans.errors import UserError


def calls(**named: Call) -> Mapping[str, Call]:
    return named


def numbers(limit: int) -> float:
    began = process_time()
    sum(range(limit))
    return process_time() - began


def refusing() -> Mapping[str, Call]:
    raise UserError("no such engine", "install it")


class Refused(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


def far_away() -> Mapping[str, Call]:
    raise Refused(404, reason="not here")


def filling() -> Mapping[str, Call]:
    raise MemoryError

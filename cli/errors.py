"""Errors of the command line."""

from fewstep.plans.errors import UserError


class CommandLineError(UserError):
    """An invalid command line."""

    code = 2

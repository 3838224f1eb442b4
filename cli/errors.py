"""Errors of the command line."""

from fewstep.plans.errors import UserError


class CommandLineError(UserError):
    """A command line that cannot be understood."""

    code = 2

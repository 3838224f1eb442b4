"""Errors of the command line."""

from fewstep.plans.errors import UserError


class CommandLineError(UserError):
    """An error in the command line itself, such as an unknown option. Its exit code is 2."""

    code = 2

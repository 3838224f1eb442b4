"""Run `lab/claims/claims.py`: `python -m lab.claims`."""

import sys

from fewstep.runtime import UserError
from lab.claims.claims import main

try:
    sys.exit(main())
except UserError as error:
    sys.exit(f"claims: {error}")

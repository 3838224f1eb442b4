"""`python -m lab.claims` is `lab/claims/claims.py`."""

import sys

from fewstep.runtime import UserError
from lab.claims.claims import main

try:
    sys.exit(main())
except UserError as error:
    sys.exit(f"claims: {error}")

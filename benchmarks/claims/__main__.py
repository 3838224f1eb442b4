"""`python -m benchmarks.claims` is `benchmarks/claims/claims.py`."""

import sys

from benchmarks.claims.claims import main

sys.exit(main())

"""`python -m fewstep.cli`."""

import sys

from fewstep.cli.main import main

sys.exit(main())

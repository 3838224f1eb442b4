"""Let recipes import the modules in their folder."""

import sys

from lab.zoo.members import FOLDER

sys.path.append(str(FOLDER))

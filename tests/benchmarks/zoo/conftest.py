"""Recipes import what lies next to them."""

import sys

from benchmarks.zoo.members import FOLDER

sys.path.append(str(FOLDER))

"""Recipes import what lies next to them."""

import sys

from lab.zoo.members import FOLDER

sys.path.append(str(FOLDER))

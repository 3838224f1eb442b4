"""The packages of fewstep: each folder with an `__init__.py`, under the name `fewstep`. All else is in pyproject.toml.

`fewstep` is a namespace without an `__init__` of its own, and setuptools finds no packages under another name.
"""

from setuptools import find_packages, setup

FOUND = find_packages(exclude=["tests*", "benchmarks*", "lab*", "docs*"])
setup(packages=[f"fewstep.{name}" for name in FOUND], package_dir={"fewstep": "."})

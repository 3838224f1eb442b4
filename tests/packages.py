"""The folders of the packages, for tests that read all sources. `test_packaging` compares them with pyproject."""

PACKAGES = (
    "calibration",
    "cli",
    "control",
    "engines",
    "evaluation",
    "export",
    "fitting",
    "graph",
    "machine",
    "models",
    "plans",
    "runs",
    "runtime",
)

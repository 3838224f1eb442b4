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
    "lowering",
    "machine",
    "models",
    "plans",
    "ranges",
    "rollouts",
    "runs",
    "runtime",
    "workers",
)

"""With `--dist loadgroup` the tests of a file share a process, and so the exports that they prepare."""

import pytest


def test_a_test_is_sent_by_its_file(request: pytest.FixtureRequest) -> None:
    """pytest-xdist 3.8 marks no test for pytest 9.2: each process would silently prepare each export again."""
    group = request.node.get_closest_marker("xdist_group")
    assert group is not None and group.args == ("tests/test_groups.py",)
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@tests/test_groups.py"), "take the pytest of .ci/constraints.txt"

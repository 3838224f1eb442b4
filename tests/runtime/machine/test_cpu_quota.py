"""The CPU quota of described control groups."""

from pathlib import Path

import pytest

from fewstep.runtime.machine import cpu_quota as module
from fewstep.runtime.machine.cpu_quota import cpu_quota

V1 = "4:memory:/a\n3:cpu,cpuacct:/docker/b\n"
V2 = "0::/user.slice/robot.service\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        (V2, {"user.slice/robot.service/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"user.slice/robot.service/cpu.max": "max 100000\n"}, None),
        (V2, {"user.slice/robot.service/cpu.max": "300000 100000", "user.slice/cpu.max": "200000 100000"}, 2.0),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),  # in a container
        (V2, {"cpu.max": "50000 100000\n"}, 0.5),  # the group's folder is not visible in the container
        (V1, {"cpu/docker/b/cpu.cfs_quota_us": "250000\n", "cpu/docker/b/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"a/cpu.max": "50000 100000"}, None),  # the group of another controller
        ("", {}, None),
    ],
)
def test_the_smallest_limit_of_a_group_and_its_parents_counts(
    membership: str, files: dict[str, str], quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(module, "MEMBERSHIP", tmp_path / "membership")
    assert cpu_quota() == quota

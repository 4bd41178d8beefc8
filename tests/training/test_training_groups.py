"""Memory that control groups leave, of both versions, from files as Linux writes them."""

import pytest

from autopeft.training.groups import left_bytes

V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("sys/fs/cgroup", "memory.max", "memory.current")
NO_LIMIT = 9223372036854771712
"""Of version 1, in pages of 4 KiB."""


def told(root, *lines):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def group(root, version, path, limit, used, **stat):
    mount, *names = version
    folder = root / mount / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    lines = "".join(f"{name} {value}\n" for name, value in stat.items())
    (folder / "memory.stat").write_text(f"anon 1\n{lines}pgfault 7\n")


def test_cache_of_files_is_free(tmp_path):
    told(tmp_path, "0::/")
    group(tmp_path, V2, "", 8000, 7900)
    assert left_bytes(tmp_path) == 100
    group(tmp_path, V2, "", 8000, 7900, inactive_file=5900)
    assert left_bytes(tmp_path) == 6000
    group(tmp_path, V2, "", 8000, 7900, inactive_file=3000, active_file=2900)
    assert left_bytes(tmp_path) == 6000
    # Libraries and weights that a process has mapped may be in use.
    group(tmp_path, V2, "", 8000, 7900, inactive_file=3000, active_file=2900, file_mapped=400)
    assert left_bytes(tmp_path) == 5600
    group(tmp_path, V2, "", 8000, 7900, inactive_file=3000, active_file=300, file_mapped=400)
    assert left_bytes(tmp_path) == 3100


def test_the_tightest_group_of_the_path_counts(tmp_path):
    told(tmp_path, "0::/job.slice/step_0/task")
    group(tmp_path, V2, "job.slice", 5000, 3000)
    (tmp_path / V2[0] / "job.slice/step_0").mkdir()  # has no memory controller
    group(tmp_path, V2, "job.slice/step_0/task", "max", 1000)
    assert left_bytes(tmp_path) == 2000
    group(tmp_path, V2, "job.slice/step_0/task", 1500, 1000)
    assert left_bytes(tmp_path) == 500
    group(tmp_path, V2, "job.slice/step_0/task", 900, 1000)
    assert left_bytes(tmp_path) == 0


def test_version_1_tells_it_in_other_words(tmp_path):
    told(tmp_path, "9:name=systemd:/docker/a:b", "4:cpu,memory:/docker/a", "1:cpu:/x", "0::/")
    group(tmp_path, V1, "", NO_LIMIT, 10**9)
    group(tmp_path, V1, "x", 1, 1)
    stat = {"inactive_file": 1, "total_inactive_file": 500, "total_active_file": 200}
    group(tmp_path, V1, "docker/a", 4000, 3000, total_mapped_file=150, **stat)
    assert left_bytes(tmp_path) == 1550


def test_a_path_that_only_the_host_sees_is_that_of_the_mount(tmp_path):
    told(tmp_path, "4:memory:/docker/0123")
    group(tmp_path, V1, "", 4000, 3000)
    assert left_bytes(tmp_path) == 1000


@pytest.mark.parametrize("line", ["0::/", "0::/../other", "4:memory:/", "1:cpu:/"])
def test_no_limit(tmp_path, line):
    assert left_bytes(tmp_path) is None
    told(tmp_path, line)
    assert left_bytes(tmp_path) is None
    group(tmp_path, V2, "", "max", 1000)
    assert left_bytes(tmp_path) is None

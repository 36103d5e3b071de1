"""The unit as systemd reads it: valid, and as closed as the documentation says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import program

SYSTEMD = Path(__file__).parents[1] / "systemd"
EXPOSURE_MAX = 2.0  # of 10; 1.2 when this was written


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine: systemd checks that, too."""
    text = (SYSTEMD / "pushbroker.service").read_text()
    path = tmp_path / "pushbroker.service"
    path.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE))
    for other in (*SYSTEMD.glob("*.socket"), *SYSTEMD.glob("*.timer"), SYSTEMD / "pushbroker-reload.service"):
        shutil.copy(other, tmp_path)
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_units_are_valid(unit: Path) -> None:
    units = sorted(str(path) for path in unit.parent.iterdir())
    assert len(units) == 5
    result = analyze("verify", *units)
    # A name that systemd does not know is only a warning, and a directive that is ignored closes nothing.
    assert "pushbroker" not in result.stdout + result.stderr
    assert result.returncode == 0, result.stderr


def test_the_unit_is_closed(unit: Path) -> None:
    result = analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)
    assert found, result.stdout + result.stderr
    assert float(found[1]) <= EXPOSURE_MAX, result.stdout


def test_the_check_sees_an_open_unit(unit: Path) -> None:
    """Without its restrictions the same unit is rated far worse: the rating is of this unit, not of the machine."""
    kept = [
        line for line in unit.read_text().splitlines() if not re.match(r"(Protect|Restrict|System|Cap|Dynamic)", line)
    ]
    unit.write_text("\n".join(kept))
    result = analyze("security", "--offline=true", "--no-pager", "--threshold=20", str(unit))
    assert result.returncode != 0


def test_sysctl_settings_are_settings() -> None:
    """Each line is `key = value`, and where this kernel shows the key, it takes as many numbers as we give."""
    lines = (SYSTEMD / "60-pushbroker.conf").read_text().splitlines()
    settings = [line for line in lines if line and not line.startswith("#")]
    assert settings
    for line in settings:
        found = re.fullmatch(r"(-?)([a-z_0-9.-]+) = ([0-9 ]+)", line)
        assert found, line
        path = Path("/proc/sys", *found[2].split("."))
        if path.exists():
            assert len(path.read_text().split()) == len(found[3].split()), line


def test_open_files_fit() -> None:
    """systemd refuses to start a unit whose LimitNOFILE is above fs.nr_open."""
    limit = re.search(r"^LimitNOFILE=(\d+)", (SYSTEMD / "pushbroker.service").read_text(), re.MULTILINE)
    sysctl = (SYSTEMD / "60-pushbroker.conf").read_text()
    process = re.search(r"^fs.nr_open = (\d+)", sysctl, re.MULTILINE)
    machine = re.search(r"^fs.file-max = (\d+)", sysctl, re.MULTILINE)
    assert limit
    assert process
    assert machine
    assert int(limit[1]) <= int(process[1]) <= int(machine[1])

"""A disk that takes nothing for the records: the command is refused with what to do, the broker goes on."""

import errno
from pathlib import Path

from support.faults import Faults
from support.served import Served


def test_no_room_for_the_records(tmp_path: Path, library: Path) -> None:
    faults = Faults(library, tmp_path / "control", tmp_path / "data" / "records.db")
    with Served(tmp_path, **faults.environment) as broker:
        assert broker.command("brand", "add", "acme").code == 0
        faults.set("write", error=errno.ENOSPC)
        done = broker.command("brand", "add", "rival")
        assert done.code == 1
        assert "no room left for " in done.err
        assert "records.db" in done.err
        assert "df -h" in done.err
        assert broker.journal["state"] == "ok"
        faults.clear()
        assert broker.command("brand", "add", "rival").code == 0
        broker.kill()
        broker.start()
        assert [brand["name"] for brand in broker.ask("brand.list")] == ["acme", "rival"]
        assert "Traceback" not in broker.log


def test_a_start_without_room_for_the_records(tmp_path: Path, library: Path) -> None:
    faults = Faults(library, tmp_path / "control", tmp_path / "data" / "records.db")
    broker = Served(tmp_path, **faults.environment)
    faults.set("write", error=errno.ENOSPC)
    done = broker.refused()
    assert done.code == 1
    assert "no room left for " in done.err
    assert "records.db" in done.err
    assert "Traceback" not in done.err
    faults.clear()
    with broker:
        pass

"""A small disk that can really be full."""

import subprocess
import tempfile
from pathlib import Path


class Tmpfs:
    """A file system of its own at `path`, seen by what runs `inside`; no privilege is needed, where it works at all."""

    def __init__(self, path: Path, size: str) -> None:
        path.mkdir(exist_ok=True)
        script = 'mount -t tmpfs -o size="$1" none "$0" && echo mounted && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script, path, size],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._holder.stdout is not None
        self.works = self._holder.stdout.readline() == "mounted\n"
        target = f"--target={self._holder.pid}"
        self.inside = ("nsenter", target, "--user", "--mount", "--preserve-credentials")
        self._filler = Path(f"/proc/{self._holder.pid}/root{path}/filler")

    def fill(self) -> None:
        """Leave no room."""
        with self._filler.open("ab", buffering=0) as filler:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while filler.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink()

    def close(self) -> None:
        """Unmount it."""
        self._holder.communicate()


def tmpfs_works() -> bool:
    """Whether this system lets us have one; many containers do not."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            tmpfs = Tmpfs(Path(directory) / "disk", "1m")
            works = tmpfs.works and subprocess.run([*tmpfs.inside, "true"], capture_output=True, check=False)
            tmpfs.close()
        except OSError:  # no such programs
            return False
    return bool(works) and works.returncode == 0

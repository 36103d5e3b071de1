"""The same with mosquitto, for comparison: what it has lost after each kill, counted.

PYTHONPATH=tests python -m crash.mosquitto [KILLS]
"""

import asyncio
import getpass
import sys
import tempfile
from pathlib import Path

from crash.chain import Chain
from crash.process import BrokerProcess
from support.programs import program

_CONFIG = """
listener {port} {host}
allow_anonymous true
user {user}
persistence true
persistence_location {data}/
autosave_interval 1
autosave_on_changes true
max_queued_messages 0
max_inflight_messages 0
log_dest stderr
"""


class MosquittoProcess(BrokerProcess):
    """mosquitto that keeps what it has as best it can: it writes all of it after each change."""

    @property
    def command(self) -> list[str]:
        self.data.mkdir(exist_ok=True)
        host, port = self.address
        config = self.data / "mosquitto.conf"
        config.write_text(_CONFIG.format(host=host, port=port, user=getpass.getuser(), data=self.data))
        return [program("mosquitto"), "-c", str(config)]

    async def _read(self, out: asyncio.StreamReader) -> None:
        """It does not say when it is ready."""
        while not self.ending and not out.at_eof():
            try:
                _, writer = await asyncio.open_connection(*self.address)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            self.up.set()
            break
        await out.read()

    async def leftovers(self) -> str:
        return ""

    @property
    def written_path(self) -> Path:
        return self.data / "mosquitto.db"


def main(kills: int) -> None:
    with tempfile.TemporaryDirectory(prefix="crash-") as directory:
        chain = Chain(MosquittoProcess(Path(directory)), "mosquitto", strict=False)
        asyncio.run(chain.run(kills))
        print(chain.ledger.totals)
        print(chain.ledger.kinds() or "nothing lost")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

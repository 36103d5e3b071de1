"""The CLI, one module for each noun. `main` is what the `pushbroker` script calls.

Start-up is part of the interface: a module here imports click and no more; rich, asyncio and the broker itself are
imported by the command that uses them.
"""

import gc
import os
import sys
import threading


def main() -> None:
    """Run the CLI and exit with its code (the codes are in `broker.errors` and in docs/cli.md)."""
    gc.set_threshold(50_000, 20, 100)  # what is imported is no garbage: to look for some is a seventh of a start
    try:
        from broker.command.root import run  # noqa: PLC0415 - click is not there without the extra
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "msgspec"):
            raise
        sys.stderr.write(
            f"error: the {missing.name} library is not installed: this is the client SDK without its server\n"
            "  try: pip install 'pushbroker[server]'\n"
        )
        sys.exit(1)
    code = run()
    if any(thread.name == "amqtt-plugins" for thread in threading.enumerate()):
        # It does not end, nor may what it has begun; Python would wait for that, and the supervisor in vain for us.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

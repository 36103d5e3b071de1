"""TLS 1.2 lets a client ask for a new handshake on a connection that is open, each of which costs us more than it."""

import subprocess

from hostile.target import running
from support.programs import program


def test_tls_1_2_does_not_renegotiate() -> None:
    with running() as target:
        command = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{target.tls_port}", "-tls1_2"]
        done = subprocess.run(command, input="R\n", capture_output=True, text=True, timeout=20, check=False)
        assert "Protocol  : TLSv1.2" in done.stdout
        assert "RENEGOTIATING" in done.stdout + done.stderr
        assert "no renegotiation" in done.stderr
        assert done.returncode != 0

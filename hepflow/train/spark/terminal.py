"""The driver's terminal: shows the lines of the processes of a training, and of nobody else."""

import hmac
import socketserver
from collections.abc import Iterator
from threading import Thread
from typing import Any

from pyspark.ml.torch.log_communication import LogStreamingServer, WriteLogToStdout

from hepflow.system.secret import hidden
from hepflow.system.terminal import visible
from hepflow.train.ranks import listening

POLL_S = 0.1


class Terminal(LogStreamingServer):
    """PySpark's server of lines, on the address of the driver alone, and with a password."""

    def __init__(self, password: str) -> None:
        super().__init__()
        self.password = password.encode()

    def start(self, spark_host_address: str = "") -> None:
        """Listen at a free port."""
        opened = listening(spark_host_address, 0)
        at = opened.getsockname()
        server: Any = socketserver.ThreadingTCPServer(at, _Lines, bind_and_activate=False)
        server.socket.close()
        server.socket, server.is_active, server.password = opened, True, self.password
        self.server, self.port = server, at[1]
        self.serve_thread = Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
        self.serve_thread.start()

    def shutdown(self) -> None:
        """Show the last lines, and stop."""
        server: Any = self.server
        super().shutdown()
        server.server_close()


class _Lines(WriteLogToStdout):
    """Shows the lines of one process, which begins with the password."""

    def _read_bline(self) -> Iterator[bytes]:
        lines = super()._read_bline()
        if hmac.compare_digest(next(lines, b""), self.server.password):
            for line in lines:
                yield visible(hidden(line.decode(errors="replace")), lines=True).encode()

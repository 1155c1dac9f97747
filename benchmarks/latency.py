"""A TCP proxy that passes bytes on after a delay, as a distant server's would arrive."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue

_PIPE_BYTES = 1 << 20


@contextmanager
def delayed(port: int, delay_s: float) -> Iterator[int]:
    """Yield the port of a proxy of a port of this machine.

    What a client sends arrives ``delay_s`` later; answers are passed on at once. Requests that are
    sent together are delayed together, so this is a round trip and no limit of the bandwidth.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, port, delay_s), daemon=True).start()
        yield server.getsockname()[1]


def _accept(server: socket.socket, port: int, delay_s: float) -> None:
    with suppress(OSError):  # the server is closed
        while True:
            client, _ = server.accept()
            upstream = socket.create_connection(("127.0.0.1", port))
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            there, back = (
                partial(_delay, client, upstream, delay_s),
                partial(_pass, upstream, client),
            )
            for work in (there, back):
                threading.Thread(target=work, daemon=True).start()


def _delay(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    waiting: SimpleQueue[tuple[float, bytes]] = SimpleQueue()

    def send() -> None:
        with suppress(OSError):
            while True:
                due, content = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not content:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(content)

    threading.Thread(target=send, daemon=True).start()
    with suppress(OSError):
        while content := source.recv(1 << 18):
            waiting.put((time.monotonic() + delay_s, content))
    waiting.put((time.monotonic() + delay_s, b""))


def _pass(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on within the kernel: the proxy shares the cores of the client."""
    out, into = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        while n_bytes := os.splice(source.fileno(), into, _PIPE_BYTES):
            while n_bytes:
                n_bytes -= os.splice(out, target.fileno(), n_bytes)
    for end in (out, into):
        os.close(end)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)

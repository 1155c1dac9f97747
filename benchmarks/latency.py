"""A TCP proxy that passes bytes on after a delay, as a distant server's would arrive."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue


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
            for source, target, wait in ((client, upstream, delay_s), (upstream, client, 0.0)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_pass, args=(source, target, wait), daemon=True).start()


def _pass(source: socket.socket, target: socket.socket, delay_s: float) -> None:
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

    if delay_s:
        threading.Thread(target=send, daemon=True).start()
    with suppress(OSError):
        while content := source.recv(1 << 18):
            if delay_s:
                waiting.put((time.monotonic() + delay_s, content))
            else:
                target.sendall(content)
    if delay_s:
        waiting.put((time.monotonic() + delay_s, b""))
    else:
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

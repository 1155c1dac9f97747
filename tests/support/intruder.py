"""Another user of this machine, who tries to get into every port that a process listens on."""

import asyncio
import ctypes
import multiprocessing
import os
import socket
import threading
import traceback
import urllib.error
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import torch
from distributed import Security
from distributed.comm import connect
from py4j.java_gateway import GatewayParameters, JavaGateway

from tests.support.ports import Place

NOBODY = 65534
_CLONE_FS = 0x200
_PATIENCE_S, _MOST_S = 2.0, 150.0

Tries = dict[str, Callable[[Place], bool]]


def what_another_user_can_do(places: Sequence[Place], beside: int) -> dict[Place, list[str]]:
    """Return what worked on each socket, tried by the user ``nobody`` in the place of a process."""
    if not places:
        return {}
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_try_all, args=(places, beside, send))
    process.start()
    send.close()
    assert receive.poll(_MOST_S), "the tries never end"
    found: dict[Place, list[str]] | str = receive.recv()
    process.join(30)
    assert not isinstance(found, str), found
    return found


def _try_all(places: Sequence[Place], beside: int, send: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # Libraries may have started threads after the fork, which must not share the folders.
    assert libc.unshare(_CLONE_FS) == 0, ctypes.get_errno()
    with Path(f"/proc/{beside}/ns/mnt").open() as folders:
        assert libc.setns(folders.fileno(), 0) == 0, ctypes.get_errno()
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    socket.setdefaulttimeout(_PATIENCE_S)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torch prints its stack for each port
    try:
        with ThreadPoolExecutor(len(places)) as pool:
            send.send(dict(zip(places, pool.map(_what_works, places), strict=True)))
    except BaseException:  # noqa: BLE001 - for the test to show it
        send.send(traceback.format_exc())
    send.close()
    os._exit(0)


def _what_works(place: Place) -> list[str]:
    if place.kind == "tcp":
        return [what for what, works in TRIES.items() if works(place)]
    return ["connects"] if place.kind == "unix" and _connects(place.host) else []


def _connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as own, suppress(OSError):
        own.connect(path.replace("@", "\0", 1) if path.startswith("@") else path)
        return True
    return False


def _runs_code_by_dask(place: Place) -> bool:
    other = Security.temporary()
    where = f"{_host(place)}:{place.port}"
    return _dask_answers(f"tcp://{where}", Security()) or _dask_answers(f"tls://{where}", other)


def _dask_answers(address: str, keys: Security) -> bool:
    async def identity() -> Any:
        options = keys.get_connection_args("client") if keys.tls_client_cert else {}
        comm = await connect(address, timeout=_PATIENCE_S, **options)
        try:
            await comm.write({"op": "identity", "reply": True})
            return await comm.read()
        finally:
            comm.abort()

    loop = asyncio.new_event_loop()
    try:
        answer = loop.run_until_complete(asyncio.wait_for(identity(), _PATIENCE_S))
        return "type" in answer or "id" in answer
    except Exception:  # noqa: BLE001 - what is not Dask answers with anything
        return False
    finally:
        loop.close()


def _answer(place: Place, path: str, method: str = "GET") -> tuple[int, bytes]:
    request = Request(f"http://{_host(place)}:{place.port}{path}", method=method)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=_PATIENCE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except Exception:  # noqa: BLE001 - http.client has an error of its own for every nonsense
        return 0, b""


def _reads_pages_of_dask(place: Place) -> bool:
    pages = ("/", "/status", "/info/main/workers.html", "/json/counts.json", "/metrics")
    found = [_answer(place, page) for page in pages]
    return any(status == 200 and b"Spark" not in content for status, content in found)


def _reads_pages_of_spark(place: Place) -> bool:
    return b"Spark" in _answer(place, "/environment/")[1]


def _gets_files_of_spark(place: Place) -> bool:
    """Return whether Spark sends a file of its run, for which it never asks for the secret."""
    name = b"/files/slow.py"
    request = b"\6" + len(name).to_bytes(4) + name
    with suppress(OSError), socket.create_connection((_host(place), place.port)) as own:
        own.sendall((len(request) + 8).to_bytes(8) + request)
        return own.recv(9)[8:] == b"\7"  # an answer with content
    return False


def _kills_jobs_of_spark(place: Place) -> bool:
    kills = ("/jobs/job/kill/?id=0", "/stages/stage/kill/?id=0")
    found = [_answer(place, page, how)[0] for page in kills for how in ("GET", "POST")]
    return any(status in range(200, 400) for status in found)


def _calls_java(place: Place) -> bool:
    for token in (None, "wrong"):
        with suppress(Exception):  # Py4J's own errors, and those of a port that is not its
            where = {"address": _host(place), "port": place.port, "auth_token": token}
            where |= {"read_timeout": _PATIENCE_S, "enable_memory_management": False}
            gateway = JavaGateway(gateway_parameters=GatewayParameters(**where))
            if str(gateway.jvm.java.lang.System.getProperty("user.name")):
                return True
    return False


def _writes_to_a_store_of_ranks(place: Place) -> bool:
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(_writes(place)), daemon=True)
    thread.start()  # torch waits for ever for the answer of another kind of server
    thread.join(5 * _PATIENCE_S)
    return any(done)


def _writes(place: Place) -> bool:
    with suppress(Exception):  # a RuntimeError, or one of its many children
        limit = timedelta(seconds=_PATIENCE_S)
        where = _host(place), place.port
        store = torch.distributed.TCPStore(*where, None, False, limit, wait_for_workers=False)
        store.set_timeout(limit)
        store.set("stranger", "here")
        return bool(store.get("stranger") == b"here")
    return False


def _host(place: Place) -> str:
    own = {"::", "0.0.0.0"}
    return "127.0.0.1" if place.host in own else place.host.removeprefix("::ffff:")


TRIES: Tries = {
    "runs code by Dask": _runs_code_by_dask,
    "reads Dask's pages": _reads_pages_of_dask,
    "reads Spark's pages": _reads_pages_of_spark,
    "gets files of Spark": _gets_files_of_spark,
    "kills Spark's jobs": _kills_jobs_of_spark,
    "calls Java": _calls_java,
    "writes to the ranks' store": _writes_to_a_store_of_ranks,
}

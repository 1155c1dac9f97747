"""Ports and Unix sockets on which processes wait for others."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import psutil


class Place(NamedTuple):
    """A socket that others can reach."""

    program: str
    host: str  # or path of a Unix socket, with @ in front if it has no file
    port: int = 0
    kind: str = "tcp"


def listening(process: psutil.Process) -> list[Place]:
    """Return the sockets of a process and of those that it started."""
    return listening_of((process, *process.children(recursive=True)))


def listening_of(processes: Iterable[psutil.Process]) -> list[Place]:
    """Return the sockets of processes: TCP, UDP and Unix."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            name = process.name()
            for one in process.net_connections(kind="all"):
                if one.family == socket.AF_UNIX and one.laddr:
                    found.add(Place(name, str(one.laddr), 0, "unix"))
                elif one.family == socket.AF_UNIX or not one.laddr or one.raddr:
                    continue
                elif one.type == socket.SOCK_DGRAM or one.status == psutil.CONN_LISTEN:
                    kind = "udp" if one.type == socket.SOCK_DGRAM else "tcp"
                    found.add(Place(name, one.laddr.ip, one.laddr.port, kind))
    return sorted(found)

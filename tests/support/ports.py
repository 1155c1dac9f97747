"""Ports on which processes wait for others."""

from typing import NamedTuple

import psutil


class Place(NamedTuple):
    """A port that accepts connections."""

    program: str
    host: str
    port: int


def listening(process: psutil.Process) -> list[Place]:
    """Return the ports of a process and of those that it started."""
    found = []
    for each in (process, *process.children(recursive=True)):
        try:
            connections = each.net_connections(kind="inet")
            name = each.name()
        except psutil.NoSuchProcess:
            continue
        open_ = (one.laddr for one in connections if one.status == psutil.CONN_LISTEN)
        found += [Place(name, address.ip, address.port) for address in open_]
    return found

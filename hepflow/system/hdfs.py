"""HDFS by hdfs-native, whose clients find the tokens of a container of YARN."""

import os
import socket
from pathlib import Path
from typing import Any

from hdfs_native.fsspec import HdfsFileSystem as _HdfsFileSystem


class HdfsFileSystem(_HdfsFileSystem):
    """A file system, by name service or by the address of a name node.

    In a container, Hadoop names the token of a name node by its IP address (unless the cluster sets
    ``hadoop.security.token.service.use_ip`` to false), and hdfs-native looks for the host as the
    URL names it. A name service has no port, and its token bears its own name.
    """

    def __init__(
        self, host: str | None = None, port: int | None = None, *args: Any, **options: Any
    ) -> None:
        in_container = "HADOOP_TOKEN_FILE_LOCATION" in os.environ
        where = _of_token(host, port) if host and port and in_container else host
        super().__init__(where, port, *args, **options)
        self.host = host


def _of_token(host: str, port: int) -> str:
    """Return the address of a host if there is a token for it, and else the host."""
    tokens = Path(os.environ["HADOOP_TOKEN_FILE_LOCATION"]).read_bytes()
    try:
        address = socket.gethostbyname(host)
    except OSError:  # the client says so better
        return host
    return address if f"{address}:{port}".encode() in tokens else host

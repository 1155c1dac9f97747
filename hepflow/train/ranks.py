"""The ranks of a training meet in a place of their own, and check each other before they talk.

PyTorch's rendezvous is a port that everybody may connect to, and Lightning's objects are pickles:
a stranger among the ranks could run code. On one machine the ranks meet in a private folder and
listen on loopback. On several they meet at the address of the first one. Then each rank proves to
each other one that it holds the same key, before the first pickle.
"""

import errno
import hmac
import ipaddress
import logging
import os
import pickle
import secrets
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.utilities.distributed import _init_dist_connection
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from pytorch_lightning.utilities import rank_zero_only

from hepflow.errors import HepflowError, one_line
from hepflow.system.processes import RANKS, RANKS_KEY
from hepflow.system.publishing import new_folder
from hepflow.train.callbacks import PredictionsWriter
from hepflow.train.record import RunRecord

log = logging.getLogger(__name__)
stores: Any = dist  # whose stubs lack them

SIZE = 32  # bytes of a nonce, of an answer and of a key
CHECK = timedelta(minutes=2)  # all ranks have met by then


def keep_to_themselves(trainer: pl.Trainer) -> None:
    """Let the ranks of a trainer meet where no stranger does, before the first one is started."""
    strategy = trainer.strategy
    if type(strategy) is not DDPStrategy:
        if trainer.world_size > 1 and trainer.is_global_zero:
            text = "other users may join the ranks of %s: on a shared machine, use DDPStrategy"
            log.warning(text, type(strategy).__name__)
        return
    strategy.__class__ = OwnRanks  # Lightning may have chosen it: there was no other moment
    environment: Any = strategy.cluster_environment
    if environment.creates_processes_externally:
        return
    os.environ.pop(RANKS, None)
    if strategy.num_nodes > 1:
        return
    if strategy._start_method == "popen":  # noqa: SLF001
        os.environ[RANKS], OwnRanks.met = str(new_folder()), 0
    else:
        launcher: Any = strategy.launcher
        launcher.__class__ = Forks


class OwnRanks(DDPStrategy):
    """DDP in which the ranks meet where no stranger does, and check each other's key."""

    met = 0  # process groups of this process in the folder

    def setup_distributed(self) -> None:
        """Start the process group, unless there is one from `fit` already."""
        if not dist.is_initialized():
            self.set_world_ranks()
            device, one_machine = self.root_device, self.num_nodes == 1 or RANKS in os.environ
            how: dict[str, Any] = {"timeout": self._timeout or timedelta(minutes=30)}
            how["device_id"] = None if device.type == "cpu" else device
            if one_machine:
                loopback = "lo0" if sys.platform == "darwin" else "lo"
                os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
                os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
            store = self._store(one_machine, how["timeout"])
            environment: Any = self.cluster_environment
            backend = self._get_process_group_backend()
            _init_dist_connection(environment, backend, store=store, **how)
            if self.world_size > 1:
                check(self._key(store), device)
        super().setup_distributed()

    def _store(self, one_machine: bool, timeout: timedelta) -> Any:
        """Return the place to meet; None is the one of torchrun, which has opened it."""
        if folder := os.environ.get(RANKS):
            OwnRanks.met += 1
            store = stores.FileStore(str(Path(folder) / str(OwnRanks.met)), self.world_size)
            store.set_timeout(timeout)
            return store
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return None
        environment: Any = self.cluster_environment
        address = "127.0.0.1" if one_machine else environment.main_address
        at: Any = (address, environment.main_port, self.world_size)
        if self.global_rank:
            return stores.TCPStore(*at, is_master=False, timeout=timeout)
        opened = listening(*at[:2]).detach()
        return stores.TCPStore(*at, is_master=True, timeout=timeout, master_listen_fd=opened)

    def _key(self, store: Any) -> bytes:
        """Return the secret of the ranks: a new one if they meet in a private folder."""
        if isinstance(store, stores.FileStore):
            if self.global_rank == 0:
                store.set(RANKS_KEY, secrets.token_hex(SIZE))
            return store.get(RANKS_KEY)
        key = os.environ.get(RANKS_KEY, "")
        if not key and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            advice = f"Give all of them the same secret in the variable {RANKS_KEY}."
            log.warning("the ranks do not check each other, since they share no key. %s", advice)
        return key.encode()


class Forks(_MultiProcessingLauncher):
    """Starts the ranks as forks of this process, and takes over what the first one has counted."""

    def launch(self, *arguments: Any, **options: Any) -> Any:
        """Start them, for `fit` and for `test` in a folder each."""
        os.environ[RANKS], OwnRanks.met = str(new_folder()), 0
        return super().launch(*arguments, **options)

    def get_extra_results(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Return the progress, and what callbacks have counted: the pipe holds 64 KiB."""
        counted = [
            {name: own[name] for name in own.keys() - {"log", "log_dict", "run"}}
            for own in map(vars, self._read_at_the_end(trainer))
        ]
        more = pickle.dumps((trainer.fit_loop.epoch_progress, counted))  # tensors as bytes
        return super().get_extra_results(trainer) | {"more": more}

    def update_main_process_results(self, trainer: pl.Trainer, extra: dict[str, Any]) -> None:
        """Take them over."""
        super().update_main_process_results(trainer, extra)
        progress, counted = pickle.loads(extra["more"])  # noqa: S301 - of the own fork
        trainer.fit_loop.epoch_progress = progress
        for callback, own in zip(self._read_at_the_end(trainer), counted, strict=True):
            vars(callback).update(own)

    def _read_at_the_end(self, trainer: pl.Trainer) -> list[pl.Callback]:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        read = EarlyStopping, PredictionsWriter, RunRecord
        return [callback for callback in callbacks if isinstance(callback, read)]


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address of ``host`` alone, if it is one of this machine.

    Some machines know their own name as loopback, or are behind a translated address. The others
    could not connect there, so the socket listens on all addresses.
    """
    try:
        family, _, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        meant = host == "localhost" or host == at[0]
        if meant or not ipaddress.ip_address(at[0]).is_loopback:
            return socket.create_server((str(at[0]), port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            why = f"the ranks cannot meet at {host}:{port} ({error.strerror})"
            raise HepflowError(f"{why}. Set MASTER_ADDR and MASTER_PORT.") from error
    return socket.create_server(("", port), family=family)


def check(key: bytes, device: torch.device) -> None:
    """Raise an error unless every other rank holds the key; exchange no pickles for it.

    Ranks send each other random numbers. An answer is a hash of the key and of both numbers, so
    that an old one, or one for another rank, proves nothing::

        a -> b  nonce a          a -> b  HMAC(key, a to b, nonce b, nonce a)
        b -> a  nonce b          b -> a  HMAC(key, b to a, nonce a, nonce b)
    """
    rank, world = dist.get_rank(), dist.get_world_size()

    def answer(sender: int, receiver: int, asked: bytes, sent: bytes) -> bytes:
        return hmac.digest(key, f"{sender} to {receiver}:".encode() + asked + sent, "sha256")

    sent = [secrets.token_bytes(SIZE) for _ in range(world)]
    asked = _exchanged(sent, device)
    answers = [answer(rank, other, asked[other], sent[other]) for other in range(world)]
    for other, given in enumerate(_exchanged(answers, device)):
        if not hmac.compare_digest(given, answer(other, rank, sent[other], asked[other])):
            advice = f"Another program is in its place, or the variable {RANKS_KEY} differs."
            raise HepflowError(f"rank {other} does not hold the key of rank {rank}. {advice}")


def _exchanged(sent: list[bytes], device: torch.device) -> list[bytes]:
    """Send the n-th message to rank n; return the messages of all."""
    own = torch.frombuffer(bytearray(b"".join(sent)), dtype=torch.uint8).to(device)
    received = torch.empty_like(own)
    try:
        work = dist.all_to_all_single(received, own, async_op=True)
        work.wait(CHECK)
    except RuntimeError as error:
        raise HepflowError(
            f"a rank did not prove that it holds the key: {one_line(error)}"
        ) from error
    whole = bytes(received.cpu().tolist())
    return [whole[n : n + SIZE] for n in range(0, len(whole), SIZE)]

"""Training speed of JaggedGRU against torch.nn.GRU on one CPU thread, forward and backward.

The rivals get the same batch: padded to 801 as the 2019 pipeline trains, the same with denormal
numbers flushed to zero, and packed by length. All run in turn, several times; medians of CPU time.
Floating point operations are counted once per true particle, so padding, repeated work and time
without arithmetic all increase the distance from the roofline, the speed of a large sgemm measured
in the same minutes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from rich.console import Console
from timing import timed
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from hepflow.models.gru import JaggedGRU
from hepflow.system.terminal import show, table

# B events, P particles, C channels, H hidden
P, C, H = 801, 19, 50
# forward and gradient of the weights, then gradient of the hidden state
FLOP_PER_PARTICLE = 2 * (2 * 3 * H * (C + H) + 3 * H * H)

KEYS = {
    "torch, padded to 801": "gru_vs_torch_padded",
    "torch, padded, denormals flushed": "gru_vs_torch_padded_flushed",
    "torch, packed by length": "gru_vs_torch_packed",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one batch size, three repeats and no packed rival, in under a minute",
    )
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ratios = [measure(n, quick=quick) for n in ((128,) if quick else (64, 128, 512))]
    print(
        json.dumps(
            ratios[0] if quick else {**ratios[1], "batch_64": ratios[0], "batch_512": ratios[2]}
        )
    )


def measure(n_events: int, *, quick: bool) -> dict[str, float]:
    lengths_B = torch.from_numpy(
        np.random.default_rng(0).normal(400, 110, n_events).clip(1, P).astype(np.int64)
    )
    x_BPC = torch.randn(n_events, P, C) * (torch.arange(P) < lengths_B[:, None])[..., None]
    contenders = make_contenders(x_BPC, lengths_B)
    if quick or n_events > 128:
        del contenders["torch, packed by length"]  # by far the slowest
    for train in contenders.values():
        train()  # compiles, and touches the memory
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peak = []
    for _ in range(3 if quick else 5):
        for name, train in contenders.items():
            seconds[name].append(cpu(train))
        peak.append(sgemm_gflops())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    gflop = FLOP_PER_PARTICLE * int(lengths_B.sum()) / 1e9
    print_table(n_events, median, gflop, statistics.median(peak))
    ours = median["hepflow"]
    ratios = {
        KEYS[name]: round(seconds / ours, 2) for name, seconds in median.items() if name in KEYS
    }
    return {
        **ratios,
        "gru_events_per_second": round(n_events / ours),
        "gru_of_sgemm": round(gflop / ours / statistics.median(peak), 3),
    }


def make_contenders(x_BPC: Tensor, lengths_B: Tensor) -> dict[str, Callable[[], None]]:
    ours, stock = JaggedGRU(C, H), nn.GRU(C, H, batch_first=True)
    stock.load_state_dict(ours.state_dict())
    weight_BH = torch.randn(len(x_BPC), H)  # replaces the gradient from a head

    def train_ours() -> None:
        (ours(x_BPC, lengths_B) * weight_BH).sum().backward()

    def train_padded() -> None:
        (stock(x_BPC)[1][0] * weight_BH).sum().backward()

    def train_flushed() -> None:
        torch.set_flush_denormal(True)
        train_padded()
        torch.set_flush_denormal(False)

    def train_packed() -> None:
        packed = pack_padded_sequence(x_BPC, lengths_B, batch_first=True, enforce_sorted=False)
        (stock(packed)[1][0] * weight_BH).sum().backward()

    return {
        "hepflow": train_ours,
        "torch, padded to 801": train_padded,
        "torch, padded, denormals flushed": train_flushed,
        "torch, packed by length": train_packed,
    }


cpu = partial(timed, clock=time.process_time)  # one thread each, on a machine that others may use


def sgemm_gflops(n: int = 1024) -> float:
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2e-9 * n**3 / min(cpu(lambda: a @ b) for _ in range(5))


def print_table(n_events: int, median: dict[str, float], gflop: float, peak: float) -> None:
    rows = []
    for name, seconds in median.items():
        speed, faster = gflop / seconds, seconds / median["hepflow"]
        numbers = (f"{n_events / seconds:,.0f}", f"{faster:.1f}", f"{speed:.1f}")
        rows.append((name, *numbers, f"{speed / peak:.2f}"))
    limit = f"{n_events * peak / gflop:,.0f}"
    rows.append(("large sgemm, the roofline", limit, "", f"{peak:.1f}", "1.00"))
    title = f"GRU {C} to {H}, {n_events} events per batch, forward and backward, one thread"
    columns = ("", "events/s", "hepflow is faster by", "GFLOP/s", "of sgemm")
    show(table(columns, rows, title), console=Console(width=120))


if __name__ == "__main__":
    main()

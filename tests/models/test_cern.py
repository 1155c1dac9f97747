"""Published nets: each format gives the numbers of loops over the same weights."""

import io
import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from hepflow.data.blocks import EventBlock
from hepflow.errors import DataError
from hepflow.models.cern.files import open_net
from hepflow.models.cern.inputs import RANGES, scaled, standardised
from hepflow.models.cern.net import Gru
from hepflow.physics.features import compute_features
from hepflow.schema import HLF
from tests.support.cern_nets import (
    HLF_NET,
    INCLUSIVE,
    SEQUENCE,
    Weights,
    keras_2_config,
    keras_3_config,
    plain_logits,
    random_weights,
    write_bigdl,
    write_h5,
    write_keras,
)
from tests.support.delphes_events import random_events, to_awkward

RNG = np.random.default_rng(5)
STEPS = RNG.normal(size=(4, 30, 19)).astype(np.float32)
STEPS[:, 3] = 0  # a step that Masking skips
FEATURES = RNG.uniform(size=(4, 14)).astype(np.float32)
NETS = {"inclusive": INCLUSIVE, "sequence": SEQUENCE, "HLF": HLF_NET}


def agree(net: Any, w: Weights, *, bigdl: bool) -> None:
    found = net.logits(STEPS, FEATURES)
    assert found.dtype == np.float32
    for row, x, hlf in zip(found, STEPS, FEATURES, strict=True):
        np.testing.assert_allclose(row, plain_logits(x, hlf, w, bigdl=bigdl), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("how", ["h5-2", "h5-3", "keras", "keras-2.12", "h5 named keras"])
def test_a_file_of_keras_gives_the_numbers_of_plain_loops(
    tmp_path: Path, name: str, how: str
) -> None:
    w = NETS[name]
    if how.startswith("h5"):
        path = tmp_path / ("net.keras" if "named" in how else "net.h5")
        write_h5(path, w, keras=3 if how == "h5-3" else 2)
    elif how == "keras":
        path = write_keras(tmp_path / "net.keras", w)
    else:
        above, config = "_layer_checkpoint_dependencies", keras_2_config(w)
        path = write_keras(tmp_path / "net.keras", w, above=above, config=config, version="2.12.0")
    net, content = open_net(path)
    assert net.name == name
    assert net.parameters == {"inclusive": 12353, "sequence": 10803, "HLF": 2013}[name]
    assert net.source.startswith("Keras 3." if how in {"h5-3", "keras"} else "Keras 2.")
    other = random_weights(particles=False, hlf=True)
    assert content == open_net(path)[1] != open_net(write_h5(tmp_path / "x", other))[1]
    agree(net, w, bigdl=False)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("how", ["shared storage", "a storage each", "inline", "folder"])
def test_files_of_bigdl_give_the_numbers_of_plain_loops(
    tmp_path: Path, name: str, how: str
) -> None:
    w, given = NETS[name], {"shared": how == "shared storage", "inline": how == "inline"}
    path = write_bigdl(tmp_path / ("module" if how == "folder" else "net.bigdl"), w, **given)
    net, _ = open_net(tmp_path if how == "folder" else path)
    assert (net.name, net.source) == (name, "BigDL 0.10.0")
    agree(net, w, bigdl=True)


def test_a_gate_that_acts_after_the_product_is_that_of_torch() -> None:
    w = INCLUSIVE
    n, steps = w.hidden, STEPS[:, 4:]
    other = torch.nn.GRU(19, n, batch_first=True)
    r_z_hat = np.r_[n : 2 * n, :n, 2 * n : 3 * n]
    arrays = (w.kernel.T[r_z_hat], w.recurrent.T[r_z_hat], *w.biases[:, r_z_hat])
    with torch.no_grad():
        for parameter, array in zip(other.parameters(), arrays, strict=True):
            parameter.copy_(torch.from_numpy(array))
        wanted = other(torch.from_numpy(steps))[1][0].numpy()
    found = Gru(w.kernel, w.recurrent, *w.biases).last_state(steps)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_keras_before_reset_after_acts_before_the_product(tmp_path: Path) -> None:
    config = keras_2_config(SEQUENCE)
    del config["config"]["layers"][2]["config"]["reset_after"]
    bias = SEQUENCE.biases[0]
    w = Weights(SEQUENCE.kernel, SEQUENCE.recurrent, bias, SEQUENCE.dense, with_hlf=False)
    net, _ = open_net(write_h5(tmp_path / "old.h5", w, config=config))
    assert net.gru is not None
    assert (net.gru.recurrent_bias, net.gru.hard_gates) == (None, False)


def test_the_layers_of_a_sequential_model_follow_each_other(tmp_path: Path) -> None:
    layers = keras_2_config(HLF_NET)["config"]["layers"][2:]
    layers[0]["config"]["batch_input_shape"] = [None, 14]
    config = {"class_name": "Sequential", "config": {"name": "hlf", "layers": layers}}
    agree(open_net(write_h5(tmp_path / "s.h5", HLF_NET, config=config))[0], HLF_NET, bigdl=False)


def test_the_particles_are_those_of_the_notebook_of_2019() -> None:
    """Lists, a stable sort and the standardisation of 2-FeaturePreparation.ipynb."""
    features = compute_features(to_awkward(random_events(6, seed=3)), "reference")
    n = len(features.index)
    assert n > 2
    given = (np.zeros(n, np.int8), np.arange(n))
    found = standardised(EventBlock(features.hlf, features.particles, features.offsets, *given))
    assert found.shape == (n, 801, 19)
    for i, (start, stop) in enumerate(
        zip(features.offsets[:-1], features.offsets[1:], strict=True)
    ):
        rows = [[float(v) for v in row] for row in features.particles[start:stop]]
        rows += [[0.0] * 19] * (801 - len(rows))
        eta, phi = rows[0][5], rows[0][6]

        def distance(row: list[float], eta: float = eta, phi: float = phi) -> float:
            delta = phi - row[6]
            while delta > math.pi:
                delta -= 2 * math.pi
            while delta < -math.pi:
                delta += 2 * math.pi
            return math.sqrt((eta - row[5]) ** 2 + delta**2)

        rows.sort(key=distance, reverse=True)
        assert rows[-1][5:7] == [eta, phi]
        for column, values in enumerate(zip(*rows, strict=True)):
            mean = math.fsum(values) / 801
            spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 801)
            wanted = [(v - mean) / (spread or 1) for v in values]
            np.testing.assert_allclose(found[i, :, column], wanted, rtol=1e-4, atol=1e-5)


def test_printed_rows_agree_with_the_ranges() -> None:
    """MT in GeV^2 is 2 pT MET (1 - cos), in the rows that the published notebooks print."""
    bigdl = "0.03668948 0.00687758 0.11903605 0.00322493 0.2 0.125 0.04384273 0.6820271 0.53919435"
    keras = "0.12444203 0.00433328 0.3674561 0.00366499 0.26666668 0.25 0.08757707 0.62539136"
    keras += " 0.83192486"
    names = [feature.name for feature in HLF]
    for text in (bigdl, keras):
        row = dict(zip(names, map(float, text.split()), strict=False))
        x = {
            name: low + row[name] * (RANGES[name][1] - low)
            for name, (low, _) in RANGES.items()
            if name in row
        }
        mt = 2 * x["LepPt"] * x["MET"] * (1 - math.cos(x["LepPhi"] - x["PhiMET"]))
        assert x["MT"] == pytest.approx(mt, rel=3e-4)
        for name in ("nJets", "nBJets"):
            assert x[name] == pytest.approx(round(x[name]), abs=1e-5)


def test_a_feature_at_the_ends_of_its_range_becomes_0_and_1() -> None:
    ends = np.array([RANGES[feature.name] for feature in HLF]).T
    np.testing.assert_allclose(scaled(ends), [[0] * 14, [1] * 14], atol=1e-6)


def refuse(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        open_net(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def changed(config: dict[str, Any], name: str, **options: Any) -> dict[str, Any]:
    """The description of a net of which one layer has other options."""
    found = json.loads(json.dumps(config))
    (layer,) = (one for one in found["config"]["layers"] if one["config"]["name"] == name)
    layer["class_name"] = options.pop("kind", layer["class_name"])
    layer["config"].update(options)
    return found


@pytest.mark.parametrize(
    ("layer", "options", "match"),
    [
        ("gru", {"kind": "LSTM"}, "a layer LSTM .gru., which none of them has there"),
        ("gru", {"activation": "relu"}, "activation 'relu', not 'tanh'"),
        ("gru", {"recurrent_activation": "hard_sigmoid"}, "'hard_sigmoid', not 'sigmoid'"),
        ("gru", {"return_sequences": True}, "return_sequences True, not False"),
        ("masking", {"mask_value": -1.0}, "mask_value -1.0, not 0"),
        ("dense", {"activation": "tanh"}, "activation 'tanh', not 'relu'"),
        ("dense_1", {"activation": "sigmoid"}, "activation 'sigmoid', not 'softmax'"),
        ("concatenate", {"kind": "Add"}, "a layer Add .concatenate."),
        ("hlf_input", {"batch_input_shape": [None, 15]}, r"hlf_input has the shape \[15\]"),
        ("gru_input", {"batch_input_shape": [None, 400, 19]}, r"shape \[400, 19\]"),
    ],
)
def test_another_net_of_keras_is_refused(
    tmp_path: Path, layer: str, options: dict[str, Any], match: str
) -> None:
    config = changed(keras_2_config(INCLUSIVE), layer, **options)
    refuse(write_h5(tmp_path / "other.h5", INCLUSIVE, config=config), match)


def test_layers_in_a_circle_and_under_other_names_are_refused(tmp_path: Path) -> None:
    config = keras_2_config(HLF_NET)
    config["config"]["layers"][2]["inbound_nodes"] = [[["dense_3", 0, 0, {}]]]
    refuse(write_h5(tmp_path / "circle.h5", HLF_NET, config=config), "dense follows dense_3")
    path = write_h5(tmp_path / "names.h5", HLF_NET)
    with h5py.File(path, "a") as file:
        file.move("model_weights/dense_2", "model_weights/dense_9")
    refuse(path, "no model_weights/dense_2 among its weights")


@pytest.mark.parametrize(
    ("w", "match"),
    [
        (random_weights(particles=False, hlf=True, hidden=4), None),
        (random_weights(particles=True, hlf=True, hidden=7, widths=(5,)), None),
    ],
)
def test_widths_of_hidden_layers_are_free(tmp_path: Path, w: Weights, match: None) -> None:
    agree(open_net(write_h5(tmp_path / "w.h5", w))[0], w, bigdl=False)
    agree(open_net(write_bigdl(tmp_path / "w.bigdl", w))[0], w, bigdl=True)


def test_weights_of_other_widths_or_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    kernel, bias = INCLUSIVE.dense[1]
    for name, pair, match in (
        ("wide", (np.hstack([kernel, kernel]), np.hstack([bias, bias])), "has 6 outputs, not one"),
        ("long", (np.vstack([kernel, kernel]), bias), "of shape 50 x 3 follows 25 numbers"),
        ("nan", (kernel * np.nan, bias), "weights that are not finite"),
    ):
        w = Weights(
            INCLUSIVE.kernel,
            INCLUSIVE.recurrent,
            INCLUSIVE.biases,
            (INCLUSIVE.dense[0], pair),
            True,
        )
        refuse(write_h5(tmp_path / f"{name}.h5", w), match)
    other = Weights(
        INCLUSIVE.kernel[:18], INCLUSIVE.recurrent, INCLUSIVE.biases, INCLUSIVE.dense, True
    )
    refuse(write_h5(tmp_path / "f.h5", other), "GRU takes 18 features of a particle, not 19")
    refuse(write_bigdl(tmp_path / "f.bigdl", other), "GRU takes 18 features of a particle, not 19")


@pytest.mark.parametrize(
    ("gru", "match"),
    [
        ({"cell": "LSTM"}, "a layer lstm, which none of them has"),
        ({"gate": "ELU"}, "elu, gru, tanh, not a GRU with tanh and one kind of gate"),
    ],
)
def test_another_net_of_bigdl_is_refused(tmp_path: Path, gru: dict[str, str], match: str) -> None:
    refuse(write_bigdl(tmp_path / "other.bigdl", INCLUSIVE, **gru), match)


def test_files_that_are_no_net_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "events.h5", "w") as file:
        file["x"] = [1.0]
    refuse(tmp_path / "events.h5", "an HDF5 file without model_config and model_weights")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    refuse(tmp_path / "a.zip", "no net that hepflow reads: .*config.json")
    (tmp_path / "text.bigdl").write_text("hello, this is a text")
    refuse(tmp_path / "text.bigdl", "neither HDF5, nor a zip, nor a whole module of BigDL")
    (tmp_path / "empty.h5").touch()
    refuse(tmp_path / "empty.h5", "neither HDF5, nor a zip")
    refuse(tmp_path / "missing.h5", "no such file")
    refuse(tmp_path, "a folder without module and weight of BigDL")
    (tmp_path / "net.tf").mkdir()
    (tmp_path / "net.tf" / "saved_model.pb").touch()
    refuse(tmp_path / "net.tf", "a SavedModel of TensorFlow")


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net.bigdl"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    write = {"h5": write_h5, "keras": write_keras, "bigdl": write_bigdl}[name.partition(".")[2]]
    path = write(tmp_path / name, INCLUSIVE)
    whole = path.read_bytes()
    for share in (0.002, 0.3, 0.7, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        refuse(path, "no net that hepflow reads")


def test_weights_of_bigdl_that_are_missing_or_damaged_are_refused(tmp_path: Path) -> None:
    path = write_bigdl(tmp_path / "net.bigdl", SEQUENCE)
    second = tmp_path / "net.bin"
    refuse(second, "the weights alone of a net of BigDL. Give net.bigdl")
    whole = second.read_bytes()
    for damaged, match in (
        (whole[:-20], "damaged|checksum"),
        (whole[:3000], "damaged"),
        (whole[:900] + b"\xff" + whole[901:], "does not have its own checksum"),
        (b"PK" + whole, "none of BigDL"),
        (struct.pack(">ii", 3721, 0) + whole[8:], "checksum"),
    ):
        second.write_bytes(damaged)
        refuse(path, match)
    second.unlink()
    refuse(path, "its weights are in a second file, which is not next to it")


def test_no_other_file_is_read_through_a_net(tmp_path: Path) -> None:
    """HDF5 may name data in any file of the machine."""
    secret = tmp_path / "secret.h5"
    kernel = HLF_NET.dense[0][0]
    with h5py.File(secret, "w") as file:
        file["kernel"] = kernel
    (tmp_path / "raw").write_bytes(kernel.tobytes())
    layout = h5py.VirtualLayout(kernel.shape, np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "kernel", shape=kernel.shape)
    for number in range(4):
        path = write_h5(tmp_path / f"{number}.h5", HLF_NET)
        with h5py.File(path, "a") as file:
            group = file["model_weights/dense/dense"]
            del group["kernel:0"]
            if number == 0:
                group["kernel:0"] = h5py.ExternalLink(str(secret), "kernel")
            elif number == 1:
                group["kernel:0"] = h5py.SoftLink("/model_weights/dense_1/dense_1/kernel:0")
            elif number == 2:
                group.create_virtual_dataset("kernel:0", layout)
            else:
                raw = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
                group.create_dataset("kernel:0", kernel.shape, np.float32, external=raw)
        refuse(path, "is a link" if number < 2 else "is no array of weights")


def test_a_zip_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "net.keras", HLF_NET)
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for name in ("metadata.json", "config.json"):
            new.writestr(name, old.read(name))
        with new.open("model.weights.h5", "w") as large:
            for _ in range(17):
                large.write(bytes(2**20))
    path.write_bytes(content.getvalue())
    refuse(path, "model.weights.h5 has 17,825,792 bytes")
    with h5py.File(tmp_path / "big.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(keras_3_config(HLF_NET))
        group = file.create_group("model_weights/dense_3")
        group.attrs["weight_names"] = np.array([b"kernel"])
        group.create_dataset("kernel", (10**9, 3), np.float32, chunks=(1000, 3))
    refuse(tmp_path / "big.h5", "kernel is no array of weights")

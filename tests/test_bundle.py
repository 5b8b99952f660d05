"""The checkpoint: what goes in comes out, and everything else is refused in one line."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nni_nastc.bundle import Bundle, find_checkpoint, load_bundle, require_classes, save_bundle
from nni_nastc.errors import CheckpointError, ModelError
from nni_nastc.features.store import StoreSettings
from nni_nastc.genotype import Genotype
from nni_nastc.models import NetworkSpec, build_model

BACKBONE = StoreSettings(weights="kinetics400", weights_digest="sha256:12ab", windows=64, pool=3)
BUNDLE = Bundle(
    spec=NetworkSpec(Genotype.random(3), num_classes=3, in_channels=24, num_layers=2, num_groups=2),
    classes=("wave", "bow", "Grüße"),
    task="multi-label",
    timesteps=8,
    backbone=BACKBONE,
    feature_shape=(24, 3, 3),
    draws=5,
    training={"seed": 4, "metrics": {"mAP": 0.5}},
)


def make_network(bundle: Bundle = BUNDLE) -> torch.nn.Module:
    """A network whose running statistics are not those that it is made with."""
    network = build_model(bundle.spec)
    with torch.no_grad():
        network(torch.randn(4, 24, 8, 3, 3))
    return network


def rewrite(path, *, tensors=None, metadata=None) -> None:
    """Write a checkpoint again with other tensors or another description."""
    with safe_open(path, "pt") as file:
        known = file.metadata()
    save_file(tensors or load_file(path), path, metadata=known if metadata is None else metadata)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_bundle(path, make_network(), BUNDLE)
    return path


@pytest.mark.parametrize("network", [Genotype.random(3), "pool"])
def test_round_trip(network, tmp_path):
    bundle = replace(BUNDLE, spec=replace(BUNDLE.spec, network=network))
    module = make_network(bundle)
    save_bundle(tmp_path / "a.safetensors", module, bundle)
    loaded, again = load_bundle(tmp_path / "a.safetensors")
    assert loaded == bundle
    assert loaded.spec.network == network
    assert not again.training
    features = torch.randn(2, 24, 8, 3, 3)
    assert torch.equal(again(features), module.eval()(features))
    assert {name: tuple(t.shape) for name, t in again.state_dict().items()} == {
        name: tuple(t.shape) for name, t in module.state_dict().items()
    }


def test_the_file_is_plain_safetensors_with_readable_json(checkpoint):
    with safe_open(checkpoint, "pt") as file:
        value = json.loads(file.metadata()["nni_nastc"])
    assert value["format"] == "nni_nastc.checkpoint"
    assert value["classes"] == ["wave", "bow", "Grüße"]
    assert value["backbone"]["weights_digest"] == "sha256:12ab"
    assert value["training"]["metrics"] == {"mAP": 0.5}
    assert value["spec"]["network"]["format"] == "nni_nastc.genotype"


def test_the_folder_of_a_training_will_do(checkpoint):
    assert find_checkpoint(checkpoint.parent) == checkpoint
    assert load_bundle(checkpoint.parent)[0] == BUNDLE


def test_missing_files(tmp_path):
    with pytest.raises(CheckpointError, match="holds no model.safetensors: no training has ended there"):
        load_bundle(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such checkpoint: .*nothing\.safetensors"):
        load_bundle(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("start", [b"\x80", b"P"])
def test_checkpoints_of_any_header_length_are_read(start, tmp_path):
    """The file's first byte is the lowest of the header's length, and may be that of a pickle."""
    path, network = tmp_path / "a.safetensors", make_network()
    for length in range(0, 256, 8):
        save_bundle(path, network, replace(BUNDLE, training={"note": "x" * length}))
        if path.read_bytes()[:1] == start:
            break
    else:
        pytest.fail(f"no length of the note gives the first byte {start!r}")
    assert load_bundle(path)[0].training == {"note": "x" * length}


def test_other_files_are_named_for_what_they_are(tmp_path, checkpoint):
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    (tmp_path / "text.safetensors").write_text("not tensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "half.safetensors").write_bytes(checkpoint.read_bytes()[:-100])
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (
        ("last.ckpt", "is a pickled checkpoint of PyTorch or Lightning, which can run code"),
        ("old.ckpt", "is a pickled checkpoint"),
        ("text.safetensors", "is no safetensors file, or is damaged"),
        ("empty.safetensors", "is no safetensors file, or is damaged"),
        ("half.safetensors", "is no safetensors file, or is damaged"),
        ("other.safetensors", "holds tensors but not what network they are"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            load_bundle(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_descriptions_that_cannot_be_used(checkpoint):
    good = BUNDLE.to_dict()
    for value, message in (
        ({**good, "version": 7}, "its version is 7, this release reads 1; update nni_nastc"),
        ({**good, "format": "theirs"}, '"format" must be "nni_nastc.checkpoint"'),
        ([1], '"format" must be'),
        ({key: entry for key, entry in good.items() if key != "spec"}, "'spec'"),
        ({**good, "colour": "red"}, "colour"),
        ({**good, "classes": ["wave", "bow"]}, "the network has 3 classes, 2 are named"),
        ({**good, "classes": ["wave", "bow", "bow"]}, "must be distinct"),
        ({**good, "task": "guess"}, "single-label or multi-label, got 'guess'"),
        ({**good, "feature_shape": [32, 3, 3]}, r"C = 24, got \(32, 3, 3\)"),
        ({**good, "timesteps": 6}, r"divisible by 2\^L"),
        ({**good, "draws": 0}, "from 1 to 65536, got 8 and 0"),
        ({**good, "timesteps": 10**11}, "from 1 to 65536, got 100000000000"),
        ({**good, "draws": 3.5}, "draws: input should be a valid integer.* got '3.5'"),
        ({**good, "timesteps": None, "classes": 3}, "classes: .* got '3'; timesteps: .* got 'None'"),
        ({**good, "training": []}, "training: .* got"),
        ({**good, "spec": "x"}, "an object is needed, got 'x'"),
        ({**good, "spec": {**good["spec"], "num_layers": [3]}}, "num_layers: .*integer"),
        ({**good, "backbone": {**good["backbone"], "crop": "wide"}}, "crop: .*integer.* got 'wide'"),
        ({**good, "backbone": 7}, "an object is needed, got 7"),
        ({**good, "backbone": {**good["backbone"], "lens": 50}}, "lens"),
        ({**good, "spec": {**good["spec"], "network": "magic"}}, "no network is called 'magic'"),
    ):
        rewrite(checkpoint, metadata={"nni_nastc": json.dumps(value)})
        with pytest.raises(CheckpointError, match=message) as caught:
            load_bundle(checkpoint)
        assert str(checkpoint) in str(caught.value)
        assert "\n" not in str(caught.value)
    for text in ("{", "[" * 100_000):
        rewrite(checkpoint, metadata={"nni_nastc": text})
        with pytest.raises(CheckpointError, match="cannot be used as a checkpoint"):
            load_bundle(checkpoint)


def test_loading_is_strict_about_every_tensor(checkpoint):
    good = load_file(checkpoint)
    name = next(key for key in good if key.endswith("weight"))
    spoilt = good[name].clone()
    spoilt.view(-1)[0] = float("nan")
    for tensors, message in (
        ({key: value for key, value in good.items() if key != name}, f"missing tensors: '{name}'"),
        ({**good, "extra": torch.zeros(1)}, "unknown tensors: 'extra'"),
        ({**good, name: good[name][:1].clone()}, f"other shapes: '{name} \\(1, "),
        ({**good, name: spoilt}, f"values that are not finite: '{name}'"),
    ):
        rewrite(checkpoint, tensors=tensors)
        with pytest.raises(CheckpointError, match=message):
            load_bundle(checkpoint)


def test_weights_of_another_network_or_without_sense_are_not_written(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="unknown tensors"):
        save_bundle(path, make_network(), replace(BUNDLE, spec=replace(BUNDLE.spec, network="pool")))
    network = make_network()
    with torch.no_grad():
        next(network.parameters()).fill_(float("inf"))
    with pytest.raises(CheckpointError, match="values that are not finite"):
        save_bundle(path, network, BUNDLE)
    assert not list(tmp_path.iterdir())


def test_a_bundle_must_fit_its_network():
    with pytest.raises(ModelError, match=r"T = 6 with L = 2"):
        replace(BUNDLE, timesteps=6)


def test_a_checkpoint_of_another_class_list():
    require_classes(BUNDLE, ["wave", "bow", "Grüße"])
    for classes, message in (
        (["wave", "bow", "jump"], "it lacks 'jump'; it alone has 'Grüße'"),
        (["bow", "wave", "Grüße"], "the same names in another order"),
        (["wave"], r"\(3 classes, wanted 1\): it alone has 'bow', 'Grüße'"),
        ([str(n) for n in range(5)], "it lacks '0', '1', '2' and 2 more"),
    ):
        with pytest.raises(CheckpointError, match=message):
            require_classes(BUNDLE, classes)

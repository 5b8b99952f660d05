"""ONNX export: checked against PyTorch before it is written, quiet, and complete."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nni_nastc import export
from nni_nastc.bundle import Bundle, save_bundle
from nni_nastc.errors import CheckpointError, ModelError
from nni_nastc.export import export_onnx
from nni_nastc.features.store import StoreSettings
from nni_nastc.genotype import Genotype
from nni_nastc.models import METHODS, NetworkSpec, build_model
from tests.helpers import fill

# Every operation but zero is in it.
GENOTYPE = Genotype(
    nodes=(
        (("sep_conv_3", 0), ("identity", 1)),
        (("sep_conv_5", 0), ("dil_conv_3", 2)),
        (("avg_pool", 1), ("dil_conv_5", 3)),
        (("max_pool", 2), ("sep_conv_7", 4)),
    )
)


def make_checkpoint(path, network=GENOTYPE, timesteps=8) -> torch.nn.Module:
    bundle = Bundle(
        spec=NetworkSpec(network, num_classes=3, in_channels=24, num_layers=2, num_groups=2),
        classes=("wave", "bow", "Grüße"),
        task="single-label",
        timesteps=timesteps,
        backbone=StoreSettings(weights="kinetics400", weights_digest="sha256:12ab"),
        feature_shape=(24, 3, 2),
    )
    module = build_model(bundle.spec)
    fill(module)
    save_bundle(path, module, bundle)
    return module.eval()


def _traced(module, features, opset):
    names = {"input_names": ["features"], "output_names": ["logits"], "opset_version": 17}
    with export._quiet():
        return export._convert_by_tracing(module, features, names)


@pytest.mark.parametrize("network", [GENOTYPE, "pool"])
def test_onnx_runtime_gives_the_logits_of_pytorch_at_any_batch(network, tmp_path, capfd):
    module = make_checkpoint(tmp_path / "model.safetensors", network)
    report = export_onnx(tmp_path)
    assert report.path == tmp_path / "model.onnx"
    assert 0 <= report.max_relative_difference < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.safetensors"]
    assert capfd.readouterr() == ("", ""), "the exporter's chatter reaches the user"

    session = onnxruntime.InferenceSession(report.path)
    features = torch.rand(5, 24, 8, 3, 2)
    (logits,) = session.run(None, {"features": features.numpy()})
    expected = module(features).detach().numpy()
    assert np.ptp(expected) > 0.01, "the comparison would not see an error"
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert [entry.shape[1:] for entry in session.get_inputs()] == [[24, 8, 3, 2]]


def test_the_file_says_what_its_user_must_know(tmp_path, monkeypatch):
    make_checkpoint(tmp_path / "a.safetensors")
    monkeypatch.setattr(export, "_convert", _traced)  # the quicker way
    report = export_onnx(tmp_path / "a.safetensors", tmp_path / "b.onnx")
    model = onnx.load(report.path)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["class_names"] == ["wave", "bow", "Grüße"]
    assert properties["task"] == "single-label"
    assert properties["timesteps"] == 8
    assert properties["draws"] == 10
    assert properties["feature_shape"] == [24, 3, 2]
    assert properties["backbone"]["weights_digest"] == "sha256:12ab"
    assert Genotype.from_dict(properties["network"]["network"]) == GENOTYPE
    assert [entry.version for entry in model.opset_import if not entry.domain] == [report.opset]


def test_another_opset(tmp_path, capfd):
    make_checkpoint(tmp_path / "a.safetensors", "pool")
    assert export_onnx(tmp_path / "a.safetensors", opset=20).opset == 20
    (tmp_path / "a.onnx").unlink()
    with pytest.raises(ModelError, match="opset 99"):
        export_onnx(tmp_path / "a.safetensors", opset=99)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert capfd.readouterr() == ("", "")


def assert_same_logits(module, report):
    """T = 12 is no multiple of all that heads divide it by."""
    features = torch.rand(5, 24, 12, 3, 2)
    expected = module(features).detach().numpy()
    (logits,) = onnxruntime.InferenceSession(report.path).run(None, {"features": features.numpy()})
    tolerance = 2e-5 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).min() > 20 * tolerance, "the comparison would not see an error"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exported(method, tmp_path, capfd):
    module = make_checkpoint(tmp_path / "a.safetensors", method, timesteps=12)
    assert_same_logits(module, export_onnx(tmp_path / "a.safetensors"))
    assert capfd.readouterr() == ("", ""), "the exporter's chatter reaches the user"


@pytest.mark.parametrize("network", [GENOTYPE, *METHODS], ids=["nas_tc", *METHODS])
def test_the_way_of_older_releases_of_pytorch(network, tmp_path, monkeypatch):
    module = make_checkpoint(tmp_path / "a.safetensors", network, timesteps=12)
    monkeypatch.setattr(export, "_convert", _traced)
    assert_same_logits(module, export_onnx(tmp_path / "a.safetensors"))


def test_a_network_that_differs_is_not_written(tmp_path, monkeypatch):
    make_checkpoint(tmp_path / "a.safetensors")

    def wrong(module, features, opset):
        other = build_model(NetworkSpec(GENOTYPE, num_classes=3, in_channels=24, num_layers=2, num_groups=2)).eval()
        return _traced(other, features, opset)

    monkeypatch.setattr(export, "_convert", wrong)
    with pytest.raises(ModelError, match=r"differs from PyTorch by .* allowed is 1e-04; nothing was written"):
        export_onnx(tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_batch_that_is_baked_in_is_found(tmp_path, monkeypatch):
    make_checkpoint(tmp_path / "a.safetensors", "pool")

    def fixed(module, features, opset):
        names = {"input_names": ["features"], "output_names": ["logits"]}
        with export._quiet():
            return torch.onnx.export(module, (features,), dynamo=True, verbose=False, **names).model_proto

    monkeypatch.setattr(export, "_convert", fixed)
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the exported network"):
        export_onnx(tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_bad_paths(tmp_path):
    make_checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"an \.onnx file, got 'a\.pt'"):
        export_onnx(tmp_path / "a.safetensors", tmp_path / "a.pt")
    with pytest.raises(ModelError, match="no such folder"):
        export_onnx(tmp_path / "a.safetensors", tmp_path / "nowhere" / "a.onnx")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        export_onnx(tmp_path / "b.safetensors")

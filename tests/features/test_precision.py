"""Extraction in bfloat16: near float32, how near is told, kept apart in stores, and left where hardware has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nni_nastc.cli.main import main
from nni_nastc.errors import ConfigError, FeatureStoreError
from nni_nastc.features import feature_batches
from nni_nastc.features.extractor import ExtractionSettings, extract, extract_video
from nni_nastc.features.i3d import I3D
from nni_nastc.features.store import FeatureStore
from tests.videos import TinyBackbone, numbered_frame, write_video

SIZES = {"short_side": 64, "crop": 64, "device": "cpu"}
EXACT, SHORT = ExtractionSettings(**SIZES), ExtractionSettings(**SIZES, precision="bfloat16")


@pytest.fixture
def bfloat16(monkeypatch) -> None:
    """Let the CPU take bfloat16, be it slow."""
    monkeypatch.setattr(feature_batches, "has_bfloat16", lambda device: True)


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "a.mp4", [numbered_frame(n) for n in range(24)])


@pytest.fixture
def i3d() -> I3D:
    torch.manual_seed(0)
    return I3D()


def test_how_far_the_features_are_is_told(video, tmp_path, bfloat16):
    report = extract([video], tmp_path / "store", TinyBackbone(), SHORT)
    store = FeatureStore.open(tmp_path / "store")
    assert store.settings.precision == "bfloat16"
    exact, _ = extract_video(video, TinyBackbone(), EXACT)
    difference = store.read("a", np.arange(3)).astype(float) - exact
    assert report.deviation == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(exact.astype(float)), rel=0.05)


def test_i3d(video, i3d, tmp_path, bfloat16):
    report = extract([video], tmp_path / "store", i3d, SHORT)
    assert 1e-4 < report.deviation < 0.05, "seven bits of a fraction, over many layers"
    assert next(i3d.parameters()).dtype == torch.float32, "the backbone that was given stays as it is"


def test_in_float32_there_is_nothing_to_tell(video, tmp_path):
    assert extract([video], tmp_path / "store", TinyBackbone(), EXACT).deviation is None
    assert FeatureStore.open(tmp_path / "store").settings.precision == "float32"


def test_one_store_has_one_precision(video, tmp_path, bfloat16):
    extract([video], tmp_path / "store", TinyBackbone(), EXACT)
    with pytest.raises(FeatureStoreError, match="precision: float32, bfloat16"):
        extract([video], tmp_path / "store", TinyBackbone(), SHORT)


def test_features_like_those_of_a_store_have_its_precision(video, tmp_path, bfloat16):
    extract([video], tmp_path / "store", TinyBackbone(), SHORT)
    store = FeatureStore.open(tmp_path / "store")
    like_it, _ = extract_video(video, TinyBackbone(), ExtractionSettings.of_store(store.settings, device="cpu"))
    np.testing.assert_array_equal(like_it, store.read("a", np.arange(3)))
    exact, _ = extract_video(video, TinyBackbone(), EXACT)
    assert (like_it != exact).any()


def test_hardware_without_bfloat16_computes_in_float32(video, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(feature_batches, "has_bfloat16", lambda device: False)
    report = extract([video], tmp_path / "store", TinyBackbone(), SHORT)
    assert report.deviation is None
    assert FeatureStore.open(tmp_path / "store").settings.precision == "float32"
    assert [record.getMessage() for record in caplog.records] == [
        "precision is bfloat16, which this CPU does not have; extracting with float32"
    ]


def test_no_other_precision():
    with pytest.raises(ConfigError, match="precision must be one of float32, bfloat16: given 'float16'"):
        ExtractionSettings(precision="float16")


def test_the_command_says_it(video, tmp_path, capsys, bfloat16):
    arguments = ["extract", str(video), "--out", str(tmp_path / "store"), "--weights", "random", "--device", "cpu"]
    arguments += ["--short-side", "64", "--crop", "64", "--precision", "bfloat16"]
    assert main(arguments) == 0
    assert "computed in bfloat16: the first batch differs from float32's by 0." in capsys.readouterr().out

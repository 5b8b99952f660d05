"""Every method where a genotype is taken: trained, evaluated, and used for a prediction; refused before it starts."""

from __future__ import annotations

import numpy as np
import pytest

from nni_nastc.bundle import load_bundle
from nni_nastc.config import EvaluateConfig
from nni_nastc.errors import ModelError
from nni_nastc.evaluate import evaluate
from nni_nastc.models import METHODS
from nni_nastc.predict import predict_features
from nni_nastc.training import train

QUICK = {"pool_max", "timeception", "super_events"}


@pytest.mark.parametrize(
    "name",
    [*(name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS), "random_cell:5"],
)
def test_trained_evaluated_and_predicted(toy, tmp_path, name):
    data = {**toy.data(), "timesteps": 12}
    metrics = train(toy.train(tmp_path, genotype=name, data=data, num_groups=2, epochs=1, final=True))
    assert metrics["network"] == ("nas_tc" if name.startswith("random_cell") else name)
    scores = evaluate(EvaluateConfig(checkpoint=tmp_path, draws=2, device="cpu"))
    assert 0 <= scores["accuracy"] <= 1
    bundle, module = load_bundle(tmp_path)
    assert metrics["parameters"] == sum(p.numel() for p in module.parameters())
    features = np.random.default_rng(0).random((20, 8, 2, 2)).astype(np.float16)
    times = np.stack([np.arange(20), np.arange(1, 21)], 1) / 2
    prediction = predict_features(features, times, bundle, module, draws=2, timeline=True, device="cpu")
    assert prediction.scores.sum() == pytest.approx(1)
    assert prediction.evidence is not None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("videograph", {}, "VideoGraph takes T of 9 and more.*got T = 8"),
        ("timeception", {"num_layers": 4}, "T = 8 with L = 4"),
        ("timeception", {"num_groups": 3}, "num_groups that divides in_channels.*in_channels=8.*num_groups=3"),
        ("timecption", {}, "did you mean timeception"),
    ],
)
def test_refused_before_anything_starts(toy, tmp_path, name, changes, message):
    with pytest.raises(ModelError, match=message):
        train(toy.train(tmp_path / "run", genotype=name, **changes))
    assert not (tmp_path / "run").exists()

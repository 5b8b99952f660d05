"""Order matters: on activities that differ only in the order of their parts, heads that are blind to it only guess.

All networks are trained and scored for real, by what ``nastc train`` and ``nastc evaluate`` call.
"""

from __future__ import annotations

import pytest

from nni_nastc.config import EvaluateConfig
from nni_nastc.data.synthetic import make_duration_features, make_order_features
from nni_nastc.evaluate import evaluate
from nni_nastc.training import train
from tests.toy import ToySet

pytestmark = pytest.mark.slow


def make(folder, function) -> ToySet:
    toy = ToySet(folder / "store", folder / "annotations.json")
    function(toy.store, toy.annotations, videos=256, windows=16, channels=32, size=1, classes=2)
    return toy


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("orders"), make_order_features)


def accuracy(toy: ToySet, folder, name: str) -> float:
    """Train on 192 videos for 15 epochs; score 64."""
    data = {**toy.data(), "timesteps": 16, "batch_size": 16, "cache": "memory"}
    sizes = {"num_layers": 2, "num_groups": 2}
    schedule = {"schedule": "cosine"}
    train(toy.train(folder, genotype=name, data=data, epochs=15, final=True, optimizer=schedule, **sizes))
    return evaluate(EvaluateConfig(checkpoint=folder, draws=3, device="cpu"))["accuracy"]


@pytest.mark.parametrize("name", ["pool", "pool_max"])
def test_pooling_guesses(orders, tmp_path, name):
    """Chance is 1 / 2; of 64 guesses, 97 in 100 are within 0.14 of it."""
    assert 0.3 < accuracy(orders, tmp_path, name) < 0.7


@pytest.mark.parametrize("name", ["timeception", "sep_conv_3"])
def test_who_sees_the_order_knows(orders, tmp_path, name):
    assert accuracy(orders, tmp_path, name) > 0.9


def test_pooling_tells_durations(tmp_path):
    """The long part of the activity moves the mean; only one of its maxima."""
    assert accuracy(make(tmp_path, make_duration_features), tmp_path / "run", "pool") > 0.9

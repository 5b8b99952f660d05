"""``nastc import``, and what can be done with its store: train, evaluate, but no prediction of a video file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nni_nastc.cli.main import main
from nni_nastc.config import dump_config
from nni_nastc.features.store import FeatureStore


@pytest.fixture
def features(toy, tmp_path):
    """The toy features, averaged over space, as MS-TCN has its own: C x T, one file a video."""
    store, folder = FeatureStore.open(toy.store), tmp_path / "mstcn"
    folder.mkdir()
    for name, entry in store.videos.items():
        averaged = store.read(name, range(entry.windows)).astype(np.float32).mean(axis=(2, 3))
        np.save(folder / f"{name}.npy", averaged.T)
    return folder


def test_from_files_to_scores(toy, features, tmp_path, capsys):
    store = tmp_path / "store"
    assert main(["import", str(features), "--out", str(store), "--layout", "CT", "--fps", "16", "--stride", "8"]) == 0
    assert "videos imported: 32 (512 windows), already there: 0" in capsys.readouterr().out
    run, config = tmp_path / "run", tmp_path / "train.yaml"
    config.write_text(dump_config(toy.train(run, epochs=1)))
    data = [f"data.store={store}", "data.workers=2", "data.cache=memory"]
    assert main(["train", str(config), *data]) == 0
    assert main(["evaluate", str(run), "draws=2", "cache=device", "device=cpu"]) == 0
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert metrics["videos"] == 8
    capsys.readouterr()
    assert main(["predict", "clip.mp4", "--model", str(run)]) == 2
    problem = capsys.readouterr().err
    assert "trained on others (imported: mstcn, layout CT); import the new videos' features" in problem
    assert main(["evaluate", str(run), f"store={toy.store}", f"output={tmp_path / 'other'}"]) == 2
    assert "backbone: imported, made up" in capsys.readouterr().err


def test_a_bad_file_is_listed(features, tmp_path, capsys):
    (features / "bad.pkl").write_bytes(b"\x80\x04.")
    assert main(["import", str(features), "--out", str(tmp_path / "store"), "--layout", "CT"]) == 2
    shown = capsys.readouterr()
    assert "videos imported: 32" in shown.out
    assert "cannot use 1 files or videos:\n  " in shown.err
    assert "it is a pickle" in shown.err


def test_a_wrong_layout_is_one_line(features, tmp_path, capsys):
    assert main(["import", str(features), "--out", str(tmp_path / "store"), "--layout", "CTX"]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0

"""``nastc predict`` and ``nastc export``: what is printed, what is written, and the exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from nni_nastc.bundle import Bundle, save_bundle
from nni_nastc.cli.main import main
from nni_nastc.errors import VideoError
from nni_nastc.features import weights
from nni_nastc.features.store import StoreSettings
from nni_nastc.genotype import Genotype
from nni_nastc.models import NetworkSpec, build_model
from tests.videos import TinyBackbone, write_images

CLASSES = ("wave [red]", "bow", "jump")


def write_checkpoint(path, *, weights_name="kinetics400", digest="sha256:12ab", channels=8, side=3, timesteps=8):
    torch.manual_seed(3)
    bundle = Bundle(
        spec=NetworkSpec(Genotype.random(1), num_classes=3, in_channels=channels, num_layers=2, num_groups=2),
        classes=CLASSES,
        task="single-label",
        timesteps=timesteps,
        backbone=StoreSettings(weights=weights_name, weights_digest=digest),
        feature_shape=(channels, side, side),
    )
    module = build_model(bundle.spec)
    module(torch.rand(4, channels, timesteps, side, side))
    save_bundle(path, module, bundle)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a trained network, where videos named bad* cannot be decoded, and the others need no decoding."""

    def extract_video(path, backbone, settings, **options):
        if path.name.startswith("bad"):
            raise VideoError(f"{path} is damaged: give another copy")
        rng = np.random.default_rng(len(path.name))
        edges = np.arange(41) * 0.32
        return rng.random((40, 8, 3, 3)).astype(np.float16), np.stack([edges[:-1], edges[1:]], axis=1)

    def load_i3d(name):
        backbone = TinyBackbone()
        backbone.weights_name, backbone.weights_digest = name, "sha256:12ab"
        return backbone

    (tmp_path / "run").mkdir()
    write_checkpoint(tmp_path / "run" / "model.safetensors")
    monkeypatch.setattr("nni_nastc.predict.extract_video", extract_video)
    monkeypatch.setattr(weights, "load_i3d", load_i3d)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prints_the_top_classes(folder, capsys):
    assert main(["predict", "a.mp4", "long_name.mp4", "--model", "run", "--top", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "a.mp4  (12.8 s)" in out
    assert "long_name.mp4  (12.8 s)" in out
    assert sum(out.count(name) for name in CLASSES) == 4, out
    assert names(folder) == ["run"], "files appear that nobody asked for"


def test_json_is_all_that_stdout_gets(folder, capsys):
    assert main(["predict", "a.mp4", "bad.mp4", "--model", "run/model.safetensors", "--json", "--timeline"]) == 2
    out, err = capsys.readouterr()
    value = json.loads(out)
    assert value["task"] == "single-label"
    assert value["failed"] == [{"video": "bad.mp4", "reason": "bad.mp4 is damaged: give another copy"}]
    (prediction,) = value["predictions"]
    assert prediction["video"] == "a.mp4"
    assert sorted(entry["name"] for entry in prediction["classes"]) == sorted(CLASSES)
    assert sum(entry["score"] for entry in prediction["classes"]) == pytest.approx(1)
    assert set(prediction["timeline"]["evidence"]) == set(CLASSES)
    assert "nastc predict: cannot use 1 of 2 videos:\n  bad.mp4 is damaged" in err


def test_a_bad_video_does_not_stop_the_others(folder, capsys):
    assert main(["predict", "bad.mp4", "a.mp4", "--model", "run"]) == 2
    out, err = capsys.readouterr()
    assert "a.mp4" in out
    assert err == "nastc predict: cannot use 1 of 2 videos:\n  bad.mp4 is damaged: give another copy\n"


def test_timeline_draws_a_picture_and_writes_the_numbers(folder, capsys):
    assert main(["predict", "a.mp4", "b.c.mp4", "--model", "run", "--timeline"]) == 0
    written = ["a.prediction.json", "a.timeline.png", "b.c.prediction.json", "b.c.timeline.png"]
    assert names(folder) == [*written, "run"]
    out = capsys.readouterr().out
    assert "strongest at" in out
    assert all(f"wrote {name}" in out for name in written)
    value = json.loads((folder / "a.prediction.json").read_text(encoding="utf-8"))
    assert set(value["timeline"]["evidence"]) == set(CLASSES)
    assert imread(folder / "a.timeline.png").shape[1] > 1000


def test_folders_of_images(folder, capsys, monkeypatch):
    asked = []

    def extract_video(path, backbone, settings, **options):
        asked.append((path.name, settings.fps))
        return np.ones((40, 8, 3, 3), np.float16), np.arange(80.0).reshape(40, 2)

    monkeypatch.setattr("nni_nastc.predict.extract_video", extract_video)
    for name in ("one", "v.2"):
        write_images(folder / "images" / name, 8)
    assert main(["predict", "images", "images/one", "--model", "run", "--fps", "24", "--top", "1"]) == 0
    assert asked == [("one", 24.0), ("v.2", 24.0), ("one", 24.0)]
    assert main(["predict", "images", "--model", "run", "--fps", "24", "--out", "results"]) == 0
    assert names(folder / "results") == ["one.prediction.json", "v.2.prediction.json"]


def test_a_video_of_one_superframe_never_speaks(folder, capsys, monkeypatch):
    one = np.ones((1, 8, 3, 3), np.float16), np.array([[0, 0.32]])
    monkeypatch.setattr("nni_nastc.predict.extract_video", lambda *_, **__: one)
    assert main(["predict", "a.mp4", "--model", "run", "--timeline"]) == 0
    assert capsys.readouterr().out.count("never") == len(CLASSES)


def test_timeline_to_a_file_of_ones_choice(folder):
    assert main(["predict", "a.mp4", "--model", "run", "--timeline", "pictures/when.svg"]) == 0
    assert names(folder / "pictures") == ["when.json", "when.svg"]


def test_out_gets_the_prediction_of_every_video(folder):
    assert main(["predict", "a.mp4", "bad.mp4", "--model", "run", "--out", "deep/results"]) == 2
    assert names(folder / "deep" / "results") == ["a.prediction.json"]
    value = json.loads((folder / "deep" / "results" / "a.prediction.json").read_text(encoding="utf-8"))
    assert value["video"] == "a.mp4"
    assert "timeline" not in value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.mp4", "--model", "nowhere"], "no such checkpoint: nowhere"),
        (["a.mp4", "--model", "."], "holds no model.safetensors"),
        (["a.mp4", "--model", "run", "--timeline", "b.mp4"], "or nothing, got 'b.mp4'; give the videos before"),
        (["a.mp4", "b.mp4", "--model", "run", "--timeline", "x.png"], "is for one video, got 2"),
        (["a.mp4", "x/a.avi", "--model", "run", "--out", "o"], "two videos are named 'a'"),
        (["a.mp4", "--model", "run", "--out", "run/model.safetensors"], "cannot be made"),
        (["a.mp4", "--model", "run", "--device", "cuda:99"], "no such GPU: cuda:99"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(folder, capsys, arguments, message):
    assert main(["predict", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert set(names(folder)) <= {"run", "o"}


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_counts_start_at_one(folder, capsys, count):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "a.mp4", "--model", "run", f"--top={count}"])
    assert stop.value.code == 2
    assert f"from 1 to 1000, got '{count}'" in capsys.readouterr().err


def test_weights_of_another_training_are_refused(folder, capsys):
    write_checkpoint(folder / "other.safetensors", digest="sha256:77aa")
    assert main(["predict", "a.mp4", "--model", "other.safetensors"]) == 2
    err = capsys.readouterr().err
    assert "'kinetics400' (sha256:77aa), got 'kinetics400' (sha256:12ab)" in err
    write_checkpoint(folder / "other.safetensors", weights_name="rgb_charades")
    assert main(["predict", "a.mp4", "--model", "other.safetensors"]) == 2
    assert "'rgb_charades' (sha256:12ab); give it with --weights FILE" in capsys.readouterr().err


def test_export(folder, capsys):
    assert main(["export", "run", "--out", "net.onnx"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("wrote net.onnx (opset ")
    assert err == ""
    assert names(folder) == ["net.onnx", "run"]
    assert main(["export", "run", "--out", "net.pt"]) == 2
    assert capsys.readouterr().err == "nastc export: an export is an .onnx file, got 'net.pt'; give it this suffix\n"


def test_a_real_video_with_real_features(shared, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digest = weights.load_i3d(None).weights_digest
    shape = {"channels": 1024, "side": 7, "timesteps": 4}
    write_checkpoint(tmp_path / "model.safetensors", weights_name="random", digest=digest, **shape)
    clip = shared / "clips" / "short_36_frames.mp4"
    bad = shared / "clips" / "bad" / "corrupted.mp4"
    assert main(["predict", str(bad), str(clip), "--model", str(tmp_path), "--json", "--timeline", "--draws", "2"]) == 2
    out, err = capsys.readouterr()
    assert "weights of I3D are RANDOM" in err
    value = json.loads(out)
    (prediction,) = value["predictions"]
    assert prediction["video"] == str(clip)
    assert [entry["video"] for entry in value["failed"]] == [str(bad)]
    times = np.array(prediction["timeline"]["times_s"])
    assert times.shape == (4, 2), "36 frames are 4 superframes"
    assert times[0, 0] == pytest.approx(0, abs=0.05)
    assert prediction["duration_s"] == pytest.approx(times[-1, 1])
    assert (tmp_path / "short_36_frames.timeline.png").is_file()

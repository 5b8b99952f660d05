from __future__ import annotations

import json
import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from nni_nastc.data.annotations import load_annotations
from nni_nastc.data.dataset import FeatureDataset, make_loader
from nni_nastc.data.orders import plan_videos
from nni_nastc.data.shapes import COLOURS, SHAPES
from nni_nastc.data.synthetic import make_duration_features, make_moving_shapes, make_order_features
from nni_nastc.errors import DataError, FeatureStoreError, RunFolderError
from nni_nastc.features.store import FeatureStore

SMALL = {"videos": 4, "frames": 64, "size": 64, "classes": 2}


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return stream, frames, np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    out = tmp_path_factory.mktemp("shapes")
    make_moving_shapes(out, **SMALL)
    return out


class TestMovingShapes:
    def test_the_videos(self, shapes):
        paths = sorted((shapes / "videos").iterdir())
        assert [path.name for path in paths] == [f"shapes_{i:03d}.mp4" for i in range(4)], "and nothing temporary"
        for path in paths:
            stream, frames, images = decode(path)
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert stream.average_rate == 16
            assert images.shape == (64, 64, 64, 3)
            assert [i for i, frame in enumerate(frames) if frame.key_frame] == list(range(0, 64, 8))

    def test_the_annotations_tell_what_is_seen(self, shapes):
        annotations = load_annotations(shapes / "annotations.json")
        assert annotations.parts == SHAPES
        assert len(annotations.classes) == 2
        for record in annotations.records:
            assert record.duration_s == 4.0
            images = decode(shapes / "videos" / f"{record.id}.mp4")[2].astype(float)
            for segment in record.segments:
                part = images[round(segment.start_s * 16) : round(segment.end_s * 16)]
                close = (np.linalg.norm(part[..., None, :] - COLOURS, axis=-1) < 60).sum(axis=(1, 2))
                seen = [SHAPES[i] for i in close.argmax(axis=1)]
                assert seen == [segment.label] * len(part), f"{record.id}, {segment}"

    def test_a_second_call_makes_only_what_is_missing(self, shapes, tmp_path):
        first = make_moving_shapes(tmp_path, **SMALL)
        kept, lost = tmp_path / "videos" / "shapes_001.mp4", tmp_path / "videos" / "shapes_002.mp4"
        lost.unlink()
        before = kept.stat().st_mtime_ns
        assert make_moving_shapes(tmp_path, **SMALL) == first == tmp_path / "annotations.json"
        assert kept.stat().st_mtime_ns == before
        for path in (kept, lost):
            other = shapes / "videos" / path.name
            assert path.read_bytes() == other.read_bytes(), f"{path.name}: same seed, same file"

    def test_an_interruption_leaves_whole_videos_only(self, tmp_path, monkeypatch):
        from nni_nastc.data import synthetic

        def draw_and_stop(parts, size, rng, whole=synthetic.draw_frames):
            for number, frame in enumerate(whole(parts, size, rng)):
                if number == 40 and len(list((tmp_path / "videos").glob("shapes_*.mp4"))) == 2:
                    raise KeyboardInterrupt
                yield frame

        monkeypatch.setattr(synthetic, "draw_frames", draw_and_stop)
        with pytest.raises(KeyboardInterrupt):
            make_moving_shapes(tmp_path, **SMALL)
        made = sorted(path.name for path in (tmp_path / "videos").iterdir())
        assert made == ["shapes_000.mp4", "shapes_001.mp4"]
        monkeypatch.undo()
        make_moving_shapes(tmp_path, **SMALL)
        assert len(list((tmp_path / "videos").iterdir())) == 4

    def test_other_videos_in_the_folder(self, shapes):
        before = (shapes / "annotations.json").read_bytes()
        with pytest.raises(RunFolderError, match="not of the videos asked for .*seed 1.*; choose another folder"):
            make_moving_shapes(shapes, **SMALL, seed=1)
        assert (shapes / "annotations.json").read_bytes() == before

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"frames": 100}, "multiple of 8, got 100"),
            ({"frames": 56}, "at least 8 superframes of 8 frames, got 7"),
            ({"size": 33}, "even and at least 32, got 33"),
            ({"size": 30}, "even and at least 32, got 30"),
            ({"videos": 3}, "at least 4 videos, got 3"),
            ({"classes": 9}, "2 to 6 activities, got 9"),
        ],
    )
    def test_it_refuses_before_it_writes(self, tmp_path, changes, message):
        with pytest.raises(DataError, match=message):
            make_moving_shapes(tmp_path / "out", **{**SMALL, **changes})
        assert not (tmp_path / "out").exists()

    def test_importing_it_loads_no_decoder(self):
        code = "import sys, nni_nastc.data.synthetic; print(*{'av', 'nni'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ""


class TestOrderFeatures:
    def test_a_store_and_its_annotations(self, tmp_path):
        path = tmp_path / "new" / "a.json"
        made = make_order_features(tmp_path / "store", path, videos=16, windows=12, channels=6, size=3)
        store, annotations = FeatureStore.open(tmp_path / "store"), load_annotations(path)
        assert len(store) == len(made) == 16
        assert store.feature_shape == (6, 3, 3)
        assert {record.id for record in annotations.records} == set(store.videos)
        features = store.read(annotations.records[0].id, np.arange(12))
        assert features.shape == (12, 6, 3, 3)
        assert features.dtype == np.float16
        assert features.min() == 0
        np.testing.assert_allclose(store.times(annotations.records[0].id)[-1], [5.5, 6.0])

    def test_windows_of_one_part_are_alike(self, tmp_path):
        store = make_order_features(tmp_path / "s", tmp_path / "a.json", videos=8, classes=2, channels=32)
        plan = plan_videos(videos=8, windows=16, classes=2, seed=0, prefix="order")
        rows, parts = [], []
        for video in plan:
            rows.append(store.read(video.name, np.arange(16)).astype(float).mean(axis=(2, 3)))
            parts += [run.part for run in video.runs for _ in range(run.first, run.end)]
        rows, parts = np.concatenate(rows), np.array(parts)
        centres = np.stack([rows[parts == part].mean(axis=0) for part in range(4)])
        nearest = np.linalg.norm(rows[:, None] - centres, axis=-1).argmin(axis=1)
        assert np.array_equal(nearest, parts)

    def test_the_seed_decides(self, tmp_path):
        made = [
            make_order_features(tmp_path / f"s{i}", tmp_path / f"a{i}.json", videos=8, classes=2, seed=seed)
            for i, seed in enumerate((0, 0, 1))
        ]
        read = [store.read("order_003", np.arange(16)) for store in made]
        assert np.array_equal(read[0], read[1])
        assert not np.array_equal(read[0], read[2])
        assert json.loads((tmp_path / "a0.json").read_text()) == json.loads((tmp_path / "a1.json").read_text())

    def test_a_store_of_other_settings(self, tmp_path):
        make_order_features(tmp_path / "s", tmp_path / "a.json", videos=8, classes=2)
        with pytest.raises(FeatureStoreError, match="digest"):
            make_order_features(tmp_path / "s", tmp_path / "a.json", videos=8, classes=2, seed=1)

    def test_the_loader_reads_it_with_workers(self, tmp_path):
        store = make_order_features(tmp_path / "s", tmp_path / "a.json", videos=16)
        annotations = load_annotations(tmp_path / "a.json")
        dataset = FeatureDataset(
            store, annotations.records, annotations.classes, annotations.task, timesteps=8, draws=2
        )
        alone, shared = (
            list(make_loader(dataset, batch_size=5, shuffle=True, workers=workers)) for workers in (0, 2)
        )
        assert len(alone) == len(shared) == 7
        for one, other in zip(alone, shared, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("features", "target", "index"))
        batch = alone[0]
        assert batch["features"].shape == (5, 16, 8, 2, 2)
        for video, target in zip(batch["index"], batch["target"], strict=True):
            assert annotations.classes[target] == annotations.records[video].labels[0]


def test_features_told_by_duration(tmp_path):
    store = make_duration_features(tmp_path / "s", tmp_path / "a.json", videos=16, classes=2, channels=32)
    annotations = load_annotations(tmp_path / "a.json")
    assert annotations.classes == ("long part 0", "long part 1")
    assert (len(store), store.feature_shape) == (16, (32, 2, 2))
    rows, parts, longest = [], [], []
    for record in annotations.records:
        times = store.times(record.id).mean(1)
        parts += (seen := [next(s.label for s in record.segments if s.start_s < t < s.end_s) for t in times])
        rows.append(store.read(record.id, np.arange(16)).astype(float).mean(axis=(2, 3)))
        longest.append(record.labels == (f"long {max(annotations.parts, key=seen.count)}",))
    assert np.mean(longest) > 0.8
    rows, parts = np.concatenate(rows), np.array(parts)
    centres = np.stack([rows[parts == part].mean(axis=0) for part in annotations.parts])
    nearest = np.linalg.norm(rows[:, None] - centres, axis=-1).argmin(axis=1)
    assert [annotations.parts[i] for i in nearest] == parts.tolist()

"""The feature store: exact round trips, no half-written file, no mixture, nothing damaged read."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nni_nastc.errors import DiskError, FeatureStoreError
from nni_nastc.features.store import FeatureStore, StoreSettings, VideoEntry

SETTINGS = StoreSettings(weights="kinetics400", weights_digest="sha256:12ab")


def some_features(windows: int = 6, channels: int = 5, size: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    starts = np.arange(windows) * 0.25
    return rng.standard_normal((windows, channels, size, size)).astype(np.float16), np.stack([starts, starts + 0.25], 1)


def add(store: FeatureStore, stem: str, **sizes: int) -> tuple[np.ndarray, np.ndarray]:
    features, times = some_features(**sizes)
    store.write(stem, features, times, fps=25.0, source=f"{stem}.mp4", size_bytes=123)
    return features, times


def visible(folder: Path) -> list[str]:
    """Return the names of all files but the lock."""
    return sorted(file.name for file in folder.iterdir() if file.name != ".lock")


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return FeatureStore.create_or_open(tmp_path / "store", SETTINGS)


class TestRoundTrip:
    """What was written is read, bit for bit."""

    def test_features_times_and_entry(self, store):
        features, times = add(store, "a")
        again = FeatureStore.open(store.path)
        assert again.settings == SETTINGS
        assert dict(again.videos) == {"a": VideoEntry("a", 6, (5, 3, 3), 25.0, 1.5, "a.mp4", 123)}
        drawn = again.read("a", np.arange(6))
        assert drawn.dtype == np.float16
        np.testing.assert_array_equal(drawn, features)
        np.testing.assert_array_equal(again.times("a"), times)
        assert again.feature_shape == (5, 3, 3)
        assert ("a" in again, "b" in again, len(again)) == (True, False, 1)

    @pytest.mark.parametrize("indices", [[0], [5], [3, 1, 4, 1, 5], [2, 2, 2], []])
    def test_windows_in_any_order_and_number(self, store, indices):
        features, _ = add(store, "a")
        for given in (indices, np.array(indices, dtype=np.int64)):
            np.testing.assert_array_equal(store.read("a", given), features[indices])

    def test_the_file_is_safetensors(self, store):
        """Another reader of the format agrees, and what another writer of it wrote is read."""
        features, times = add(store, "a")
        tensors = load_file(store.file("a"))
        np.testing.assert_array_equal(tensors["features"], features)
        np.testing.assert_array_equal(tensors["times"], times)
        save_file({"features": features[::-1].copy(), "times": times}, store.file("a"))
        np.testing.assert_array_equal(store.read("a", [0, 1]), features[[5, 4]])

    def test_piece_by_piece_is_the_same_file(self, store):
        features, times = add(store, "a")
        expected = store.file("a").read_bytes()
        with store.writer(store.videos["a"]) as writer:
            for window in range(6):
                writer.append(features[window : window + 1], times[window : window + 1])
        assert store.file("a").read_bytes() == expected

    def test_float32_is_rounded_to_float16(self, store):
        features, times = some_features()
        store.write("a", features.astype(np.float32) * 1.0001, times, 25.0, "a.mp4", 1)
        expected = (features.astype(np.float32) * 1.0001).astype(np.float16)
        np.testing.assert_array_equal(store.read("a", range(6)), expected)

    def test_only_the_drawn_windows_are_read(self, store, monkeypatch):
        add(store, "a", windows=400, channels=64, size=7)
        read = []
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda *args: read.append(preadv(*args)) or read[-1])
        store.read("a", [7, 300])
        assert sum(read) == 2 * 64 * 7 * 7 * 2

    def test_manifest_as_documented(self, store):
        add(store, "a")
        manifest = json.loads((store.path / "manifest.json").read_text())
        assert manifest["format"] == "nni_nastc.store"
        assert manifest["version"] == 1
        assert manifest["settings"]["weights_digest"] == "sha256:12ab"
        assert manifest["settings"]["superframe_length"] == 8
        assert manifest["videos"]["a"] == {
            "stem": "a", "windows": 6, "shape": [5, 3, 3], "fps": 25.0, "duration_s": 1.5, "source": "a.mp4",
            "size_bytes": 123,
        }  # fmt: skip

    def test_names_of_any_script(self, store):
        features, _ = add(store, "Küche 台所 #1.final")
        again = FeatureStore.open(store.path)
        np.testing.assert_array_equal(again.read("Küche 台所 #1.final", [2]), features[[2]])


class TestRefusal:
    """Bad input never gets in, and is never read."""

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6])
    def test_not_finite_at_writing(self, store, bad):
        features, times = some_features()
        features = features.astype(np.float32)
        features[4, 3, 2, 1] = bad
        with pytest.raises(FeatureStoreError, match="features of a must be finite: given NaN or infinity"):
            store.write("a", features, times, 25.0, "a.mp4", 1)
        assert visible(store.path) == ["manifest.json"]
        assert "a" not in store

    def test_not_finite_at_reading(self, store):
        features, times = add(store, "a")
        features[4, 3, 2, 1] = np.nan
        save_file({"features": features, "times": times}, store.file("a"))
        store.read("a", [0, 3])
        with pytest.raises(FeatureStoreError, match="features of a must be finite"):
            store.read("a", [0, 4])

    def test_largest_number_is_finite(self, store):
        features, times = some_features()
        features[0, 0, 0, 0], features[1, 0, 0, 0] = np.finfo(np.float16).max, np.finfo(np.float16).min
        store.write("a", features, times, 25.0, "a.mp4", 1)
        np.testing.assert_array_equal(store.read("a", range(6)), features)

    @pytest.mark.parametrize(("indices", "given"), [([0, 6], "0 to 6"), ([-1], "-1 to -1")])
    def test_windows_that_are_not_there(self, store, indices, given):
        add(store, "a")
        with pytest.raises(FeatureStoreError, match=rf"a has windows 0 to 5 .*given {given}"):
            store.read("a", indices)

    def test_unknown_video(self, store):
        with pytest.raises(FeatureStoreError, match="no video b; extract it"):
            store.read("b", [0])
        with pytest.raises(FeatureStoreError, match="no video b"):
            store.times("b")

    @pytest.mark.parametrize(
        ("features", "times"),
        [((6, 5, 3), (6, 2)), ((6, 5, 3, 3), (5, 2)), ((0, 5, 3, 3), (0, 2)), ((6, 5, 3, 3), (6,))],
    )
    def test_wrong_shapes(self, store, features, times):
        with pytest.raises(FeatureStoreError) as problem:
            store.write("a", np.zeros(features), np.zeros(times), 25.0, "a.mp4", 1)
        assert f"given {features} and {times}" in str(problem.value)

    @pytest.mark.parametrize("pieces", [[3], [3, 4], [3, 3, 1]])
    def test_more_or_fewer_windows_than_announced(self, store, pieces):
        features, times = some_features(windows=7)

        def write() -> None:
            with store.writer(VideoEntry("a", 6, (5, 3, 3), 25.0, 1.5, "a.mp4", 123)) as writer:
                for size in pieces:
                    writer.append(features[:size], times[:size])

        with pytest.raises(FeatureStoreError, match=r"^a: .*6"):
            write()
        assert visible(store.path) == ["manifest.json"]

    @pytest.mark.parametrize("name", ["a\nb", "caf\udce9", "\x1b[31m"])
    def test_name_that_is_no_line_of_text(self, store, name):
        with pytest.raises(FeatureStoreError, match="must be text in UTF-8 on one line") as caught:
            store.write(name, *some_features(windows=2), 25.0, "a.mp4", 1)
        assert str(caught.value).isprintable()
        assert visible(store.path) == ["manifest.json"]

    def test_name_that_would_be_hidden(self, store):
        with pytest.raises(FeatureStoreError, match=r"must not start with a dot: given \.a"):
            add(store, ".a")

    @pytest.mark.parametrize("share", [0, 0.0005, 0.01, 0.5, 0.999])
    def test_cut_off_file(self, store, share):
        add(store, "a", windows=64)
        content = store.file("a").read_bytes()
        store.file("a").write_bytes(content[: int(len(content) * share)])
        assert not store.is_whole("a")
        for read in (lambda: store.read("a", range(64)), lambda: store.times("a")):
            with pytest.raises(FeatureStoreError, match=r"a\.safetensors is missing or damaged .*extract"):
                read()

    @pytest.mark.parametrize(
        "content",
        [b"no safetensors at all", b"\2\0\0\0\0\0\0\0{}", b"\2\0\0\0\0\0\0\0[]", b"\4\0\0\0\0\0\0\0null", b"\xff" * 64],
    )
    def test_file_of_something_else(self, store, content):
        add(store, "a")
        store.file("a").write_bytes(content)
        assert not store.is_whole("a")
        with pytest.raises(FeatureStoreError, match="missing or damaged"):
            store.read("a", [0])

    def test_file_of_other_tensors(self, store):
        features, times = add(store, "a")
        for tensors in ({"features": features.astype(np.float32), "times": times}, {"features": features}):
            save_file(tensors, store.file("a"))
            with pytest.raises(FeatureStoreError, match="missing or damaged"):
                store.read("a", [0])

    def test_removed_file(self, store):
        add(store, "a")
        store.file("a").unlink()
        with pytest.raises(FeatureStoreError, match="missing or damaged"):
            store.read("a", [0])
        assert "a" not in FeatureStore.open(store.path)

    def test_shapes_that_differ(self, store):
        with pytest.raises(FeatureStoreError, match="holds no videos"):
            _ = store.feature_shape
        add(store, "a")
        add(store, "b", size=2)
        with pytest.raises(FeatureStoreError, match=r"a has \(5, 3, 3\), b has \(5, 2, 2\)"):
            _ = store.feature_shape


class TestFolder:
    """What is opened as a store, and what is not."""

    def test_no_store(self, tmp_path):
        with pytest.raises(FeatureStoreError, match=r"no feature store at .*nowhere"):
            FeatureStore.open(tmp_path / "nowhere")
        with pytest.raises(FeatureStoreError, match=r"it has no manifest\.json"):
            FeatureStore.open(tmp_path)

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"format": "other", "version": 1}', '{"format": "nni_nastc.store", "version": 2}',
                    '{"format": "nni_nastc.store", "version": 1, "settings": {"colour": 1}, "videos": {}}',
                    '{"format": "nni_nastc.store", "version": 1}']
    )  # fmt: skip
    def test_damaged_manifest(self, store, content):
        (store.path / "manifest.json").write_text(content)
        for opened in (FeatureStore.open, lambda path: FeatureStore.create_or_open(path, SETTINGS)):
            with pytest.raises(FeatureStoreError, match=r"manifest\.json") as problem:
                opened(store.path)
            assert "\n" not in str(problem.value)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"weights_digest": "sha256:99"}, "weights_digest: sha256:12ab, sha256:99"),
            ({"windows": 64}, "windows: all, 64"),
            ({"pool": 3}, "pool: None, 3"),
            ({"crop": 112, "short_side": 128}, "short_side: 256, 128; crop: 224, 112"),
        ],
    )
    def test_other_settings_are_named(self, store, change, named):
        with pytest.raises(FeatureStoreError) as problem:
            FeatureStore.create_or_open(store.path, replace(SETTINGS, **change))
        assert f"made with other settings ({named})" in str(problem.value)

    def test_the_name_of_the_weights_does_not_count(self, store):
        FeatureStore.create_or_open(store.path, replace(SETTINGS, weights="my_copy"))

    def test_folder_of_other_files(self, tmp_path):
        (tmp_path / "letter.txt").touch()
        with pytest.raises(FeatureStoreError, match=r"holds other files \(letter\.txt, .*an empty folder"):
            FeatureStore.create_or_open(tmp_path, SETTINGS)
        assert visible(tmp_path) == ["letter.txt"]

    def test_a_file_in_the_place_of_the_folder(self, tmp_path):
        (tmp_path / "store").touch()
        with pytest.raises(FeatureStoreError, match="cannot be made"):
            FeatureStore.create_or_open(tmp_path / "store", SETTINGS)


class TestMending:
    """The files are the truth; the manifest follows them."""

    @pytest.fixture
    def lagging(self, store):
        """Return a store whose manifest misses b, and lists c that has no file, as after a kill at a bad moment."""
        for stem in ("a", "b", "c"):
            add(store, stem)
        manifest = json.loads((store.path / "manifest.json").read_text())
        del manifest["videos"]["b"]
        (store.path / "manifest.json").write_text(json.dumps(manifest))
        store.file("c").unlink()
        return store.path

    def test_reading_sees_what_is_there_and_writes_nothing(self, lagging):
        before = (lagging / "manifest.json").read_bytes()
        store = FeatureStore.open(lagging)
        assert list(store.videos) == ["a", "b"]
        assert store.videos["b"] == VideoEntry("b", 6, (5, 3, 3), 25.0, 1.5, "b.mp4", 123)
        assert (lagging / "manifest.json").read_bytes() == before

    def test_adding_mends_the_manifest(self, lagging):
        FeatureStore.create_or_open(lagging, SETTINGS)
        assert list(json.loads((lagging / "manifest.json").read_text())["videos"]) == ["a", "b"]

    def test_a_lost_manifest_is_made_anew(self, lagging):
        (lagging / "manifest.json").unlink()
        with pytest.raises(FeatureStoreError, match="no feature store"):
            FeatureStore.open(lagging)
        assert list(FeatureStore.create_or_open(lagging, SETTINGS).videos) == ["a", "b"]

    def test_a_file_of_another_store(self, lagging, tmp_path):
        other = FeatureStore.create_or_open(tmp_path / "other", replace(SETTINGS, pool=3))
        add(other, "d")
        other.file("d").rename(lagging / "d.safetensors")
        for opened in (FeatureStore.open, lambda path: FeatureStore.create_or_open(path, SETTINGS)):
            with pytest.raises(FeatureStoreError, match=r"d\.safetensors was made with other .*pool: None, 3"):
                opened(lagging)

    def test_a_damaged_file_counts_as_missing(self, lagging):
        (lagging / "d.safetensors").write_bytes(b"damaged")
        assert list(FeatureStore.open(lagging).videos) == ["a", "b"]

    def test_abandoned_files_are_removed_and_those_in_use_kept(self, store):
        code = (
            "import sys, time; import numpy as np\n"
            "from nni_nastc.features.store import *\n"
            "settings = StoreSettings(weights='x', weights_digest='sha256:12ab')\n"
            "store = FeatureStore.create_or_open(sys.argv[1], settings)\n"
            "with store.writer(VideoEntry('v' + sys.argv[2], 2, (1, 1, 1), 1.0, 1.0, 'v.mp4', 1)) as writer:\n"
            "    writer.append(np.zeros((1, 1, 1, 1)), np.zeros((1, 2)))\n"
            "    print('ready', flush=True); time.sleep(60)\n"
        )

        def start(name: str) -> subprocess.Popen:
            command = [sys.executable, "-c", code, str(store.path), name]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout.readline() == "ready\n"
            return process

        killed, alive = start("killed"), start("alive")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        names = visible(store.path)
        assert [name[:6] for name in names] == [".valiv", ".vkill", "manife"]
        FeatureStore.create_or_open(store.path, SETTINGS)
        assert visible(store.path) == [names[0], "manifest.json"]
        alive.kill()
        alive.wait()


class TestDisk:
    """A full disk leaves nothing behind."""

    @pytest.mark.parametrize("moment", ["write", "rename", "manifest"])
    def test_full_disk(self, store, monkeypatch, moment):
        add(store, "a")
        before = {name: (store.path / name).read_bytes() for name in visible(store.path)}

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            if moment == "write":
                patch.setattr("nni_nastc.features.store_files.VideoWriter.finish", full)
            elif moment == "rename":
                patch.setattr(os, "replace", full)
            else:
                patch.setattr(Path, "write_text", full)
            with pytest.raises(DiskError, match="disk is full: .* could not be written"):
                add(store, "b")
        left = {name: (store.path / name).read_bytes() for name in visible(store.path) if name != "b.safetensors"}
        assert left == before
        add(FeatureStore.create_or_open(store.path, SETTINGS), "b")
        assert list(FeatureStore.open(store.path).videos) == ["a", "b"]

    def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(self, store):
        old, _ = add(store, "a")
        new, times = some_features(seed=1)
        with store.writer(store.videos["a"]) as writer:
            writer.append(new, times)
            np.testing.assert_array_equal(store.read("a", range(6)), old)
        np.testing.assert_array_equal(store.read("a", range(6)), new)


def _add_some(path: Path, first: int) -> None:
    store = FeatureStore.create_or_open(path, SETTINGS)
    for number in range(first, first + 10):
        add(store, f"v{number:02}")


def test_several_processes_write_one_store(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_some, args=(tmp_path / "store", first)) for first in (0, 10, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert list(manifest["videos"]) == [f"v{number:02}" for number in range(30)]


def test_the_manifest_is_written_at_times_and_at_save(store, monkeypatch):
    features, times = some_features()
    listed = []
    for number in range(4):
        with store.writer(VideoEntry(f"v{number}", 6, (5, 3, 3), 25.0, 1.5, "v.mp4", 1)) as writer:
            writer.append(features, times)
            if number == 2:
                monkeypatch.setattr("nni_nastc.features.store._SAVE_EVERY_S", -1.0)
        listed.append(len(json.loads((store.path / "manifest.json").read_text())["videos"]))
        monkeypatch.setattr("nni_nastc.features.store._SAVE_EVERY_S", 1e9)
    assert listed == [0, 0, 3, 3]
    assert len(FeatureStore.open(store.path)) == 4
    store.save()
    assert len(json.loads((store.path / "manifest.json").read_text())["videos"]) == 4


@pytest.mark.parametrize(
    ("change", "possible"),
    [({}, True), ({"crop": 112, "pool": 1}, True), ({"backbone": "x3d"}, False), ({"endpoint": "Mixed_4f"}, False),
     ({"superframe_length": 16}, False), ({"backbone": "resnet152", "endpoint": "layer4_mean"}, True),
     ({"backbone": "resnet152"}, False)],
    ids=str,
)  # fmt: skip
def test_which_features_can_be_made_of_videos_here(change, possible):
    assert StoreSettings("random", "sha256:0", **change).from_videos is possible


@pytest.mark.parametrize("change", [{"crop": "wide"}, {"pool": [3]}, {"windows": None}, {"weights": 7}], ids=str)
def test_a_manifest_with_values_of_other_types(tmp_path, change):
    FeatureStore.create_or_open(tmp_path / "store", StoreSettings("random", "sha256:0"))
    path = tmp_path / "store" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"] |= change
    path.write_text(json.dumps(manifest))
    with pytest.raises(FeatureStoreError, match=f"is damaged .{next(iter(change))}: "):
        FeatureStore.open(tmp_path / "store")

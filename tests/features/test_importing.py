"""Arrays of other extractors become a store: their formats and layouts, what is refused, what a second run does."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nni_nastc.errors import DiskError, FeatureStoreError
from nni_nastc.features import importing
from nni_nastc.features.importing import import_features
from nni_nastc.features.layout import Layout
from nni_nastc.features.store import FeatureStore, StoreSettings


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Two videos of (T, C)."""
    made = tmp_path / "others"
    made.mkdir()
    for seed, (name, count) in enumerate({"one": 5, "two": 9}.items()):
        np.save(made / f"{name}.npy", numbers(count, 6, seed=seed))
    return made


def save_hdf5(path, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


SAVE = {
    ".npz": lambda path, arrays: np.savez(path, **arrays),
    ".h5": save_hdf5,
    ".safetensors": lambda path, arrays: save_file({k: torch.from_numpy(v) for k, v in arrays.items()}, path),
}


class TestLayouts:
    @pytest.mark.parametrize(
        ("letters", "axes"),
        [
            ("TC", (0, 1)),
            ("CT", (1, 0)),
            ("1CT", None),
            ("TCHW", (0, 1, 2, 3)),
            ("THWC", (0, 2, 3, 1)),
            ("CTHW", (1, 0, 2, 3)),
            ("WHTC", (3, 2, 0, 1)),
        ],
    )
    def test_each_axis_comes_to_its_place(self, tmp_path, letters, axes):
        stored = numbers(4, 3, *((2, 5) if "H" in letters else (1, 1)))
        if letters == "1CT":
            given = stored[:, :, 0, 0].T[None]
        else:
            flat = stored if "H" in letters else stored[:, :, 0, 0]
            given = flat.transpose(axes)
        np.save(tmp_path / "v.npy", given)
        import_features(tmp_path / "v.npy", tmp_path / "store", layout=letters)
        read = FeatureStore.open(tmp_path / "store").read("v", range(4))
        np.testing.assert_array_equal(read, stored.astype(np.float16))

    @pytest.mark.parametrize("letters", ["", "T", "C", "TT", "TCH", "TCHWX", "tc", "CTC", "NTC"])
    def test_wrong_letters(self, letters):
        with pytest.raises(FeatureStoreError, match=f"T and C once each.*given '{letters}'"):
            Layout(letters)

    @pytest.mark.parametrize(
        ("letters", "shape"), [("TC", (3,)), ("TC", (3, 4, 1)), ("1TC", (2, 3, 4)), ("TC", (0, 4))]
    )
    def test_shapes_of_another_layout(self, letters, shape):
        with pytest.raises(FeatureStoreError, match="given shape"):
            Layout(letters).stored_shape(shape)


class TestFormats:
    def test_a_folder_of_npy(self, folder, tmp_path):
        report = import_features(folder, tmp_path / "store", layout="TC")
        assert (report.done, report.skipped, report.failed, report.windows) == (("one", "two"), (), {}, 14)
        store = FeatureStore.open(tmp_path / "store")
        assert store.feature_shape == (6, 1, 1)
        np.testing.assert_array_equal(
            store.read("two", range(9))[..., 0, 0], numbers(9, 6, seed=1).astype(np.float16)
        )

    @pytest.mark.parametrize("suffix", list(SAVE))
    def test_one_file_for_all(self, tmp_path, suffix):
        arrays = {"one": numbers(5, 6), "two.mp4": numbers(9, 6, seed=1)}
        SAVE[suffix](tmp_path / f"all{suffix}", arrays)
        report = import_features(tmp_path / f"all{suffix}", tmp_path / "store", layout="TC")
        assert sorted(report.done) == ["one", "two"], "a video's suffix is no part of its name"
        read = FeatureStore.open(tmp_path / "store").read("two", [8, 0])
        np.testing.assert_array_equal(read[..., 0, 0], arrays["two.mp4"][[8, 0]].astype(np.float16))

    @pytest.mark.parametrize("suffix", list(SAVE))
    def test_a_folder_of_files_with_several_arrays_needs_the_key(self, folder, tmp_path, suffix):
        SAVE[suffix](folder / f"three{suffix}", {"features": numbers(7, 6), "fps": np.ones(1)})
        report = import_features(folder, tmp_path / "store", layout="TC")
        assert report.done == ("one", "two")
        (reason,) = report.failed.values()
        assert "--key says which: it has 2 (features, fps" in reason
        report = import_features(folder, tmp_path / "store", layout="TC", key="features")
        assert (report.done, sorted(report.skipped)) == (("three",), ["one", "two"])

    def test_groups_of_hdf5(self, tmp_path):
        save_hdf5(tmp_path / "all.h5", {"one/rgb": numbers(5, 6), "two/rgb": numbers(4, 6), "two/by": "me"})
        report = import_features(tmp_path / "all.h5", tmp_path / "store", layout="TC", key="rgb")
        assert report.done == ("one", "two")
        (reason,) = import_features(tmp_path / "all.h5", tmp_path / "s", layout="TC").failed.values()
        assert "give --key" in reason

    def test_bfloat16(self, tmp_path):
        save_file({"v": torch.arange(12).reshape(4, 3).bfloat16()}, tmp_path / "a.safetensors")
        import_features(tmp_path / "a.safetensors", tmp_path / "store", layout="TC")
        read = FeatureStore.open(tmp_path / "store").read("v", [3])
        np.testing.assert_array_equal(read.ravel(), [9, 10, 11])

    def test_integers_and_fortran_order(self, tmp_path):
        np.save(tmp_path / "v.npy", np.asfortranarray(np.arange(12).reshape(4, 3)))
        import_features(tmp_path / "v.npy", tmp_path / "store", layout="TC")
        np.testing.assert_array_equal(FeatureStore.open(tmp_path / "store").read("v", [1]).ravel(), [3, 4, 5])

    def test_a_suffix_of_names(self, folder, tmp_path):
        for name in ("one", "two"):
            (folder / f"{name}.npy").rename(folder / f"{name}_rgb.npy")
            np.save(folder / f"{name}_fps.npy", np.float64(25))
        report = import_features(folder, tmp_path / "store", layout="TC", suffix="_rgb")
        assert (report.done, report.failed) == (("one", "two"), {})

    def test_hdf5_without_its_library(self, folder, tmp_path, monkeypatch):
        (folder / "three.h5").touch()
        monkeypatch.setitem(__import__("sys").modules, "h5py", None)
        with pytest.raises(FeatureStoreError, match=r"pip install 'nni_nastc\[hdf5\]'"):
            import_features(folder, tmp_path / "store", layout="TC")
        assert not (tmp_path / "store").exists()


class TestManifest:
    def test_it_says_where_features_come_from(self, folder, tmp_path):
        import_features(folder, tmp_path / "store", layout="TC", name="slowfast", fps=25, stride=16)
        settings = json.loads((tmp_path / "store" / "manifest.json").read_text())["settings"]
        assert (settings["backbone"], settings["weights"]) == ("imported", "slowfast")
        assert settings["weights_digest"] == "imported: slowfast, layout TC"
        assert (settings["superframe_length"], settings["short_side"], settings["crop"]) == (16, 0, 0)
        store = FeatureStore.open(tmp_path / "store")
        assert not store.settings.from_videos
        entry = store.videos["one"]
        assert (entry.source, entry.size_bytes) == ("one.npy", (folder / "one.npy").stat().st_size)
        assert entry.fps == 25
        np.testing.assert_allclose(store.times("one"), [[w * 0.64, (w + 1) * 0.64] for w in range(5)])
        assert entry.duration_s == pytest.approx(3.2)

    def test_without_times_a_window_is_the_unit(self, folder, tmp_path):
        import_features(folder, tmp_path / "store", layout="TC")
        store = FeatureStore.open(tmp_path / "store")
        np.testing.assert_array_equal(store.times("one"), [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
        assert store.settings.weights == "others", "the name of the folder"

    @pytest.mark.parametrize(("fps", "stride"), [(25, None), (None, 8), (0, 8), (25, 0), (float("nan"), 1)])
    def test_half_of_the_times(self, folder, tmp_path, fps, stride):
        with pytest.raises(FeatureStoreError, match="together or not at all"):
            import_features(folder, tmp_path / "store", layout="TC", fps=fps, stride=stride)

    @pytest.mark.parametrize("other", [{"name": "flow"}, {"layout": "TC1"}, {"fps": 25, "stride": 8}])
    def test_other_features_need_another_store(self, folder, tmp_path, other):
        import_features(folder, tmp_path / "store", layout="TC")
        if other.get("layout"):
            np.save(folder / "one.npy", numbers(5, 6, 1))
        with pytest.raises(FeatureStoreError, match="other settings"):
            import_features(folder, tmp_path / "store", **({"layout": "TC"} | other))

    def test_no_extraction_into_it(self, folder, tmp_path):
        import_features(folder, tmp_path / "store", layout="TC")
        with pytest.raises(FeatureStoreError, match="backbone: imported, i3d"):
            FeatureStore.create_or_open(tmp_path / "store", StoreSettings("kinetics400", "sha256:12"))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


class TestRefusals:
    def refusal(self, folder, tmp_path, **options):
        report = import_features(folder, tmp_path / "store", **({"layout": "TC"} | options))
        assert report.done == ("one", "two"), "the others are imported"
        (reason,) = report.failed.values()
        assert "\n" not in reason
        return reason

    def test_pickles_are_not_run(self, folder, tmp_path):
        trap = tmp_path / "trap"
        np.save(folder / "a.npy", np.array([Evil(trap)], dtype=object), allow_pickle=True)
        np.savez(folder / "b.npz", np.array([Evil(trap)], dtype=object))
        for name in ("c.pkl", "d.pickle", "e.pt", "f.pth", "g.npy", "h.npz"):
            (folder / name).write_bytes(pickle.dumps(Evil(trap)))
        report = import_features(folder, tmp_path / "store", layout="TC")
        assert report.done == ("one", "two")
        assert len(report.failed) == 8, report.failed
        for reason in report.failed.values():
            assert "a pickle, which can run any code when it is read" in reason
        assert not trap.exists()

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, folder, tmp_path, bad):
        array = numbers(5, 6)
        array[3, 2] = bad
        np.save(folder / "bad.npy", array)
        assert "features of bad must be finite: given NaN or inf" in self.refusal(folder, tmp_path)
        assert sorted(FeatureStore.open(tmp_path / "store").videos) == ["one", "two"]
        assert not list((tmp_path / "store").glob("*bad*"))

    def test_beyond_float16(self, folder, tmp_path):
        array = numbers(5, 6)
        array[1, 0] = -70000
        np.save(folder / "bad.npy", array)
        assert "float16, +-65504: given 70000; scale" in self.refusal(folder, tmp_path)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.ones(6), "layout TC has 2 axes"),
            (np.ones((0, 6)), "axes that are not empty"),
            (np.ones((3, 6), complex), "real numbers: given complex128"),
            (np.array([["a"] * 6]), "real numbers: given <U1"),
        ],
    )
    def test_other_arrays(self, folder, tmp_path, array, message):
        np.save(folder / "bad.npy", array)
        assert message in self.refusal(folder, tmp_path)

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".h5"])
    @pytest.mark.parametrize("content", [b"", b"no array at all, but some text that is longer than a header"])
    def test_damaged_files(self, folder, tmp_path, suffix, content):
        if suffix == ".h5":
            pytest.importorskip("h5py")
        (folder / f"bad{suffix}").write_bytes(content)
        assert f"bad{suffix} cannot be imported: " in self.refusal(folder, tmp_path)

    def test_files_that_are_cut_off(self, folder, tmp_path):
        whole = folder / "bad.npy"
        np.save(whole, numbers(50, 6))
        os.truncate(whole, 600)
        assert "bad.npy cannot be imported: " in self.refusal(folder, tmp_path)

    def test_different_shapes(self, folder, tmp_path):
        with pytest.raises(FeatureStoreError, match=r"one has \(5, 1, 1\), two has \(9, 1, 1\); is the layout right"):
            import_features(folder, tmp_path / "store", layout="CT")
        assert not (tmp_path / "store").exists()
        import_features(folder, tmp_path / "store", layout="TC")
        np.save(folder / "one.npy", numbers(4, 7))
        np.save(folder / "two.npy", numbers(4, 7))
        import_features(folder, tmp_path / "store", layout="TC")  # all of them are new
        (folder / "one.npy").unlink()
        np.save(folder / "two.npy", numbers(4, 8))
        with pytest.raises(FeatureStoreError, match=r"two has \(8, 1, 1\), one has \(7, 1, 1\)"):
            import_features(folder, tmp_path / "store", layout="TC")

    def test_two_of_one_name(self, folder, tmp_path):
        (folder / "sub").mkdir()
        np.save(folder / "sub" / "one.npy", numbers(5, 6))
        with pytest.raises(FeatureStoreError, match="two arrays are of the video one: in"):
            import_features(folder, tmp_path / "store", layout="TC")
        np.savez(tmp_path / "all.npz", **{"one.mp4": numbers(5, 6), "one.avi": numbers(5, 6)})
        with pytest.raises(FeatureStoreError, match="two arrays are of the video one: in"):
            import_features(tmp_path / "all.npz", tmp_path / "store", layout="TC")

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FeatureStoreError, match="no such file or folder"):
            import_features(tmp_path / "none", tmp_path / "store", layout="TC")
        (tmp_path / "empty").mkdir()
        with pytest.raises(FeatureStoreError, match=r"nothing to import in .*: looked for \*_rgb.npy, \*_rgb.npz"):
            import_features(tmp_path / "empty", tmp_path / "store", layout="TC", suffix="_rgb")

    def test_a_disk_that_is_too_small(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(importing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
        with pytest.raises(DiskError, match="too small: the features need 1.68e-07 GB"):
            import_features(folder, tmp_path / "store", layout="TC")
        assert not (tmp_path / "store").exists()


class TestAgain:
    def test_a_second_run_adds_what_is_new_or_changed(self, folder, tmp_path):
        import_features(folder, tmp_path / "store", layout="TC")
        np.save(folder / "one.npy", numbers(6, 6))
        np.save(folder / "three.npy", numbers(2, 6))
        report = import_features(folder, tmp_path / "store", layout="TC")
        assert (report.done, report.skipped, report.windows) == (("one", "three"), ("two",), 8)
        assert FeatureStore.open(tmp_path / "store").videos["one"].windows == 6

    def test_other_times_are_written_anew(self, folder, tmp_path):
        import_features(folder, tmp_path / "store", layout="TC")
        report = import_features(folder, tmp_path / "store", layout="TC", fps=4, stride=1)
        assert report.done == ("one", "two")
        np.testing.assert_array_equal(FeatureStore.open(tmp_path / "store").times("one")[1], [0.25, 0.5])

    def test_a_stop_keeps_the_videos_before(self, folder, tmp_path):
        def stop(name, done, total):
            assert (name, done, total) == ("one", 1, 2)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_features(folder, tmp_path / "store", layout="TC", progress=stop)
        report = import_features(folder, tmp_path / "store", layout="TC")
        assert (report.done, report.skipped) == (("two",), ("one",))

    def test_long_videos_come_in_pieces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(importing, "_PIECE_BYTES", 100)
        array = numbers(6, 50)
        np.save(tmp_path / "v.npy", array)
        import_features(tmp_path / "v.npy", tmp_path / "store", layout="CT", fps=10, stride=5)
        store = FeatureStore.open(tmp_path / "store")
        np.testing.assert_array_equal(store.read("v", range(50))[..., 0, 0], array.T.astype(np.float16))
        np.testing.assert_allclose(store.times("v")[:, 0], np.arange(50) / 2)

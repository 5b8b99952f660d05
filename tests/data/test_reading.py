"""Features from a store into batches: straight into their memory, kept or not, by threads or not."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from nni_nastc.data import reading
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.data.dataset import FeatureDataset, make_loader
from nni_nastc.data.reading import KeptFeatures, StoredFeatures, network_input
from nni_nastc.data.records import VideoRecord
from nni_nastc.errors import DataError, FeatureStoreError
from nni_nastc.features.store import FeatureStore, StoreSettings

CPU = torch.device("cpu")
WINDOWS = {"a": 5, "b": 9, "c": 4}


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((count, 3, 2, 4)).astype(np.float16) for name, count in WINDOWS.items()}


@pytest.fixture
def store(tmp_path, features):
    opened = FeatureStore.create_or_open(tmp_path / "store", StoreSettings("none", "made up"))
    for name, array in features.items():
        steps = np.arange(len(array))
        opened.write(name, array, np.stack([steps, steps + 1], axis=1), 8.0, f"{name}.mp4", 1)
    return opened


def dataset_of(store, source=None, draws=4):
    records = [VideoRecord(name, "train", ("x",)) for name in WINDOWS]
    return FeatureDataset(store, records, ["x", "y"], "multi-label", timesteps=4, draws=draws, source=source)


class TestNetworkInput:
    def test_values_type_and_order_in_memory(self):
        stored = torch.arange(2 * 3 * 4 * 2 * 2).reshape(2, 3, 4, 2, 2).half()  # (B, T, C, H, W)
        given = network_input(stored.transpose(1, 2))
        assert given.dtype == torch.float32
        assert given.is_contiguous()
        assert given[1, 2, 0, 1, 0] == stored[1, 0, 2, 1, 0], "C before T"
        assert torch.equal(given, stored.float().permute(0, 2, 1, 3, 4))

    def test_float32_passes_as_it_is(self):
        given = torch.rand(2, 3, 4, 1, 1)
        assert network_input(given, CPU) is given

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_from_pinned_memory_to_a_gpu(self, store):
        loader = make_loader(dataset_of(store), batch_size=5, shuffle=False, workers=2)
        for batch in loader:
            assert batch["features"].is_pinned()
            there = network_input(batch["features"], torch.device("cuda"))
            assert there.is_contiguous()
            assert torch.equal(there.cpu(), batch["features"].float())


@pytest.mark.parametrize("kept", [False, True])
class TestSources:
    def test_drawn_windows(self, store, features, kept):
        source = KeptFeatures(store, CPU) if kept else StoredFeatures(store)
        source.prepare(["a", "b"])
        drawn = source.batch([("b", np.array([8, 0, 0])), ("a", np.array([1, 4, 2]))])
        assert (drawn.dtype, drawn.is_contiguous()) == (torch.float16, True)
        np.testing.assert_array_equal(drawn[0].numpy(), features["b"][[8, 0, 0]])
        np.testing.assert_array_equal(drawn[1].numpy(), features["a"][[1, 4, 2]])

    def test_batches_are_not_overwritten(self, store, kept):
        dataset = dataset_of(store, KeptFeatures(store, CPU) if kept else None)
        batches = list(make_loader(dataset, batch_size=5, shuffle=True, workers=2))
        again = make_loader(dataset, batch_size=5, shuffle=True, workers=0)
        assert len(batches) == 3
        for one, other in zip(batches, again, strict=True):
            assert torch.equal(one["features"], other["features"])

    def test_a_store_of_different_shapes(self, store, kept):
        with pytest.raises(FeatureStoreError, match=r"d has features of shape \(4, 3, 1, 1\).*\(4, 3, 2, 4\) was exp"):
            self.read_mixed(store, kept)

    def read_mixed(self, store, kept):
        store.write("d", np.ones((4, 3, 1, 1)), np.ones((4, 2)), 8.0, "d.mp4", 1)
        if kept:  # a manifest that says otherwise than the file
            store._videos["d"] = store.videos["c"]
            KeptFeatures(store, CPU).prepare(["d"])
        StoredFeatures(store).batch([("a", np.arange(4)), ("d", np.arange(4))])


class TestKept:
    def test_each_video_is_read_once(self, store, monkeypatch):
        reads = []
        monkeypatch.setattr(
            FeatureStore, "read", lambda self, name, indices, out: reads.append((name, list(indices)))
        )
        source = KeptFeatures(store, CPU)
        source.prepare(["a", "c", "a"])
        source.prepare(["c", "b"])
        source.batch([("a", np.array([0, 3])), ("b", np.array([1, 1]))])
        assert reads == [("a", [0, 1, 2, 3, 4]), ("c", [0, 1, 2, 3]), ("b", list(range(9)))]

    def test_too_large(self, store, monkeypatch):
        monkeypatch.setattr(reading, "free_bytes", lambda device: 400)
        with pytest.raises(DataError, match="2 videos need 6.72e-07 GB, cpu has 4e-07 GB free; use cache=none"):
            KeptFeatures(store, CPU).prepare(["a", "b"])

    def test_this_machine_has_memory(self):
        assert 1e6 < reading.free_bytes(CPU) < 1e15

    @pytest.mark.parametrize("cache", ["memory", "device"])
    def test_a_set_of_videos_gives_the_same_batches(self, toy, cache):
        sets = [
            VideoSet.open(toy.store, toy.annotations, timesteps=8, cache=name, device=CPU) for name in ("none", cache)
        ]
        assert isinstance(sets[1].source, KeptFeatures)
        loaders = [
            make_loader(videos.dataset(videos.records("train"), "random"), batch_size=4, shuffle=True, workers=2)
            for videos in sets
        ]
        for one, other in zip(*loaders, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("features", "target", "index"))


class TestThreads:
    def test_an_error_reaches_the_caller_as_it_is(self, store):
        dataset = dataset_of(store)
        store.file("b").write_bytes(b"short")
        with pytest.raises(FeatureStoreError, match=r"b.safetensors is missing or damaged"):
            list(make_loader(dataset, batch_size=2, shuffle=False, workers=2))

    def test_they_end_with_the_epoch_however_it_ends(self, store):
        def readers():
            return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]

        loader = make_loader(dataset_of(store, draws=20), batch_size=2, shuffle=True, workers=2)
        running = iter(loader)
        next(running)
        assert readers()
        running.close()
        assert not readers()
        list(loader)
        assert not readers()

    def test_they_read_ahead_but_not_everything(self, store, monkeypatch):
        dataset, reads = dataset_of(store, draws=50), []
        batch = dataset.batch
        monkeypatch.setattr(dataset, "batch", lambda keys, **options: (reads.append(keys), batch(keys, **options))[1])
        running = iter(make_loader(dataset, batch_size=1, shuffle=False, workers=2))
        next(running)
        running.close()
        assert 1 <= len(reads) <= 5, f"{len(reads)} of 150 were read for one"

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from nni_nastc.data.dataset import EpochSampler, FeatureDataset, make_loader
from nni_nastc.data.reading import network_input
from nni_nastc.data.records import VideoRecord
from nni_nastc.errors import DataError

CLASSES = ("tea", "coffee", "juice")


class FakeStore:
    """A store in memory. Channel 0 of a feature is the number of its window, channel 1 that of the video."""

    path = "STORE"

    def __init__(self, windows, kept="all"):
        self.settings = SimpleNamespace(windows=kept)
        self.videos = {f"v{i}": SimpleNamespace(windows=count, shape=(3, 2, 3)) for i, count in enumerate(windows)}
        self.reads = []

    def __contains__(self, name):
        return name in self.videos

    def read(self, name, indices, out):
        self.reads.append((name, [int(i) for i in indices]))
        height, width = np.mgrid[0:2, 0:3]
        assert (out.shape, out.dtype) == ((len(indices), 3, 2, 3), np.float16)
        out[:, 0] = np.asarray(indices)[:, None, None]
        out[:, 1] = int(name[1:])
        out[:, 2] = 10 * height + width


def records_of(count, labels=("tea",)):
    return [VideoRecord(f"v{i}", "train", tuple(labels)) for i in range(count)]


def make(windows=(40, 40, 40), task="multi-label", labels=("tea",), kept="all", **kwargs):
    kwargs.setdefault("timesteps", 8)
    return FeatureDataset(FakeStore(windows, kept), records_of(len(windows), labels), CLASSES, task, **kwargs)


def drawn(dataset, position, epoch=0):
    return dataset[position, epoch]["features"][0, :, 0, 0].int().tolist()


class TestExamples:
    def test_axes_and_types(self):
        example = make()[1]
        features = example["features"]
        assert features.shape == (3, 8, 2, 3)
        assert features.dtype == torch.float16
        assert features.transpose(0, 1).is_contiguous(), "in memory as stored"
        assert torch.equal(features[1], torch.ones(8, 2, 3).half()), "channel 1 is the video"
        assert torch.equal(features[2, 5], torch.tensor([[0.0, 1, 2], [10, 11, 12]]).half()), "H before W"
        assert example["index"].dtype == torch.int64
        assert example["index"].item() == 1

    def test_only_the_drawn_windows_are_read_and_once(self):
        dataset = make(windows=(40,))
        windows = drawn(dataset, 0)
        assert dataset.store.reads == [("v0", windows)]

    def test_targets(self):
        multi = make(labels=("juice", "tea"))[0]["target"]
        assert (multi.dtype, multi.tolist()) == (torch.float32, [1.0, 0.0, 1.0])
        assert make(labels=())[0]["target"].tolist() == [0.0, 0.0, 0.0]
        single = make(labels=("juice",), task="single-label")[0]["target"]
        assert (single.dtype, single.shape, single.item()) == (torch.int64, (), 2)

    def test_uniform_is_the_middle_window(self):
        dataset = make(windows=(40, 16, 3), sampling="uniform")
        assert drawn(dataset, 0) == [2, 7, 12, 17, 22, 27, 32, 37]
        assert drawn(dataset, 0) == drawn(dataset, 0, epoch=5)
        assert drawn(dataset, 1) == [1, 3, 5, 7, 9, 11, 13, 15]

    @pytest.mark.parametrize(("windows", "timesteps"), [(40, 8), (37, 8), (8, 8), (101, 32)])
    def test_random_is_one_window_of_each_segment(self, windows, timesteps):
        dataset = make(windows=(windows,), timesteps=timesteps)
        seen = set()
        for epoch in range(50):
            picked = drawn(dataset, 0, epoch)
            assert [w * timesteps // windows for w in picked] == list(range(timesteps)), f"epoch {epoch}: {picked}"
            seen.update(picked)
        assert len(seen) == windows, "in 50 epochs every window comes up"

    @pytest.mark.parametrize("sampling", ["random", "uniform"])
    @pytest.mark.parametrize("windows", [1, 3, 7])
    def test_fewer_windows_than_timesteps_repeat_evenly(self, sampling, windows):
        picked = drawn(make(windows=(windows,), sampling=sampling), 0)
        assert picked == [int((s + 0.5) * windows / 8) for s in range(8)]

    def test_draws_differ_by_epoch_video_seed_and_draw(self):
        dataset, other = make(windows=(200, 200), draws=2), make(windows=(200, 200), draws=2, seed=1)
        first = drawn(dataset, 0)
        assert drawn(dataset, 0) == first
        assert dataset[0]["features"].equal(dataset[0, 0]["features"]), "without an epoch it is epoch 0"
        for name, picked in {
            "epoch": drawn(dataset, 0, epoch=1),
            "draw": drawn(dataset, 1),
            "video": drawn(dataset, 2),
            "seed": drawn(other, 0),
        }.items():
            assert picked != first, f"another {name} must draw other windows, got {picked}"

    def test_a_video_has_its_draws_in_a_row(self):
        dataset = make(draws=4)
        assert len(dataset) == 12
        assert [dataset[i]["index"].item() for i in range(12)] == [0] * 4 + [1] * 4 + [2] * 4

    def test_timesteps_are_those_of_the_store(self):
        assert make(kept=5, timesteps=None)[0]["features"].shape[1] == 5

    @pytest.mark.parametrize("position", [-1, 3])
    def test_it_ends(self, position):
        with pytest.raises(IndexError, match=f"0 to 2, got {position}"):
            make()[position]

    def test_it_pickles_for_workers_that_are_spawned(self):
        dataset = make(draws=2)
        assert pickle.loads(pickle.dumps(dataset))[3]["features"].equal(dataset[3]["features"])


class TestRefusals:
    def test_missing_videos(self):
        with pytest.raises(DataError, match="2 of 5 annotated videos are missing in the store STORE, first: v3; ext"):
            FeatureDataset(FakeStore([9] * 3), records_of(5), CLASSES, "multi-label", timesteps=4)

    def test_no_videos(self):
        with pytest.raises(DataError, match="at least one video, got none"):
            FeatureDataset(FakeStore([9]), [], CLASSES, "multi-label", timesteps=4)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"timesteps": None}, "STORE has all windows of its videos; give timesteps"),
            ({"timesteps": 0}, "timesteps must be at least 1, got 0"),
            ({"sampling": "middle"}, 'one of random, uniform, got "middle"'),
            ({"draws": 0}, "draws must be at least 1, got 0"),
            ({"draws": 10, "sampling": "uniform"}, "draws must be 1, got 10"),
            ({"labels": ("wine",)}, 'video "v0" must be among the 3 classes, got "wine"'),
            ({"labels": (), "task": "single-label"}, 'exactly 1 label a video, got 0 at "v0"'),
            ({"labels": ("tea", "juice"), "task": "single-label"}, 'got 2 at "v0"'),
        ],
    )
    def test_parameters(self, kwargs, message):
        with pytest.raises(DataError, match=message):
            make(**kwargs)

    def test_no_batch(self):
        with pytest.raises(DataError, match="got 4 for 3"):
            make_loader(make(), batch_size=4, shuffle=True, workers=0, drop_last=True)


class TestSampler:
    def test_training_has_a_new_order_each_epoch_and_tells_it(self):
        sampler = EpochSampler(20, shuffle=True, seed=0)
        orders = []
        for epoch in (0, 1, 0):
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
            assert [e for _, e in orders[-1]] == [epoch] * 20
            assert sorted(position for position, _ in orders[-1]) == list(range(20))
        assert orders[0] == orders[2]
        assert [p for p, _ in orders[0]] != [p for p, _ in orders[1]]
        assert list(EpochSampler(20, shuffle=True, seed=1)) != orders[0]

    def test_evaluation_is_the_same_in_every_epoch(self):
        sampler = EpochSampler(5, shuffle=False)
        sampler.set_epoch(7)
        assert list(sampler) == [(position, 0) for position in range(5)]

    @pytest.mark.parametrize("length", [1, 7, 8, 9])
    @pytest.mark.parametrize("world", [1, 2, 3, 4])
    def test_training_shares(self, length, world):
        parts = [list(EpochSampler(length, shuffle=True, rank=rank, world=world)) for rank in range(world)]
        size = -(-length // world)
        assert [len(part) for part in parts] == [size] * world, "as many for each process"
        assert len(EpochSampler(length, shuffle=True, rank=world - 1, world=world)) == size
        taken = sorted(position for part in parts for position, _ in part)
        assert set(taken) == set(range(length))
        if length >= world:
            extra = size * world - length
            assert sum(taken.count(position) - 1 for position in range(length)) == extra, f"{taken}"
            assert max(taken.count(position) for position in range(length)) <= 2

    @pytest.mark.parametrize("length", [1, 7, 8, 9])
    @pytest.mark.parametrize("world", [1, 2, 3, 4])
    def test_evaluation_shares(self, length, world):
        samplers = [EpochSampler(length, shuffle=False, rank=rank, world=world) for rank in range(world)]
        assert sorted(position for sampler in samplers for position, _ in sampler) == list(range(length))
        assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]

    def test_the_process_group_tells_the_rank(self, tmp_path):
        sampler = EpochSampler(5, shuffle=False)
        assert sampler.place == (0, 1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
        try:
            assert sampler.place == (0, 1)
        finally:
            torch.distributed.destroy_process_group()


def batches(dataset, workers, epochs=(0,), **kwargs):
    loader = make_loader(dataset, batch_size=4, workers=workers, seed=3, **kwargs)
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        found.extend(loader)
    return found


class TestLoader:
    def test_batches(self):
        loaded = batches(make(windows=(40,) * 10), 0, shuffle=True)
        assert [len(batch["index"]) for batch in loaded] == [4, 4, 2]
        batch = loaded[0]
        assert batch["features"].shape == (4, 3, 8, 2, 3)
        assert batch["target"].shape == (4, 3)
        assert batch["features"][:, 1, 0, 0, 0].tolist() == batch["index"].tolist()
        single = batches(make(windows=(40,) * 4, task="single-label"), 0, shuffle=False)[0]
        assert (single["target"].dtype, single["target"].tolist()) == (torch.int64, [0] * 4)
        assert len(batches(make(windows=(40,) * 10), 0, shuffle=True, drop_last=True)) == 2

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_the_number_of_workers_makes_no_difference(self, shuffle):
        dataset = make(windows=(100,) * 11, draws=2)
        alone = batches(dataset, 0, epochs=(0, 1), shuffle=shuffle)
        assert len(alone) == 12
        for workers in (1, 2):
            for one, other in zip(alone, batches(dataset, workers, epochs=(0, 1), shuffle=shuffle), strict=True):
                for key in ("features", "target", "index"):
                    assert torch.equal(one[key], other[key]), f"{key} differs with {workers} workers"

    def test_training_draws_anew_in_each_epoch(self):
        dataset = make(windows=(100,) * 8)
        by_epoch = []
        for epoch in (0, 1):
            loaded = batches(dataset, 0, epochs=(epoch,), shuffle=True)
            index = torch.cat([batch["index"] for batch in loaded])
            by_epoch.append(torch.cat([batch["features"] for batch in loaded])[index.argsort()])
        for video in range(8):
            assert not torch.equal(by_epoch[0][video], by_epoch[1][video]), f"video {video} was drawn alike twice"

    def test_evaluation_has_every_draw_of_every_video_once_and_the_same_again(self):
        dataset = make(windows=(300,) * 3, draws=10)
        first, again = (batches(dataset, 2, epochs=(epoch,), shuffle=False) for epoch in (0, 4))
        index = torch.cat([batch["index"] for batch in first])
        assert index.tolist() == [video for video in range(3) for _ in range(10)]
        windows = torch.cat([batch["features"] for batch in first])[:, 0, :, 0, 0]
        assert len({(int(i), *row.tolist()) for i, row in zip(index, windows, strict=True)}) == 30, "draws differ"
        assert torch.equal(windows, torch.cat([batch["features"] for batch in again])[:, 0, :, 0, 0])

    def test_reading_takes_nothing_from_the_global_random_numbers(self):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        batches(make(), 0, shuffle=True)
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])

    def test_pinned_memory_where_there_is_a_gpu(self):
        assert make_loader(make(), batch_size=2, shuffle=True, workers=0).pin_memory == torch.cuda.is_available()

    def test_lightning_tells_the_epoch(self, tmp_path):
        class Recorder(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(1, 1)
                self.seen = []

            def training_step(self, batch, batch_idx):
                self.seen.append(batch["features"][:, 0, :, 0, 0])
                return self.layer(network_input(batch["features"]).mean().reshape(1)).sum()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        dataset, module = make(windows=(100,) * 4), Recorder()
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, make_loader(dataset, batch_size=4, workers=0, shuffle=True, seed=3))
        expected = [batch["features"][:, 0, :, 0, 0] for batch in batches(dataset, 0, epochs=(0, 1), shuffle=True)]
        assert torch.equal(torch.stack(module.seen), torch.stack(expected))

"""How fast the loader feeds a network, beside a plain sequential read of the same files in the same run.

    python examples/benchmarks/reading.py

It makes a store of 500 videos of 48 superframes, 1024 x 7 x 7 (2.4 GB), in a temporary folder, reads its files once so
that they are in the page cache, and then prints, in MB of float16 a second:

- plain read: the files from beginning to end, a MB at a time, in one thread;
- loader: batches of T = 32 random draws (3.2 MB a video), read by two threads;
- loader, float32: the same, converted and transposed for a network on the CPU.

Several rounds take turns, because other programs disturb a measurement; the best of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nni_nastc.data.dataset import FeatureDataset, make_loader
from nni_nastc.data.reading import network_input
from nni_nastc.data.records import VideoRecord
from nni_nastc.features.store import FeatureStore, StoreSettings

BLOCK_BYTES = 1 << 20


def make_store(path: Path, videos: int, windows: int, shape: tuple[int, int, int]) -> FeatureStore:
    """Make a store of random numbers, like features after a ReLU."""
    store = FeatureStore.create_or_open(path, StoreSettings("none", "random numbers", backbone="made up"))
    rng = np.random.default_rng(0)
    times = np.stack([np.arange(windows), np.arange(windows) + 1.0], axis=1)
    features = np.maximum(rng.standard_normal((windows, *shape), dtype=np.float32), 0).astype(np.float16)
    for number in range(videos):
        store.write(f"video_{number:03}", np.roll(features, number, axis=0), times, 1.0, "none", 0)
    return store


def read_plainly(store: FeatureStore) -> int:
    """Read all files from beginning to end, and return the bytes."""
    block, total = bytearray(BLOCK_BYTES), 0
    for name in store.videos:
        with open(store.file(name), "rb", buffering=0) as stream:
            while count := stream.readinto(block):
                total += count
    return total


def read_batches(dataset: FeatureDataset, batch_size: int, workers: int, epoch: int, convert: bool) -> int:
    """Read an epoch of batches, and return the bytes of their features as they are stored."""
    loader = make_loader(dataset, batch_size=batch_size, shuffle=True, workers=workers)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    total = 0
    for batch in loader:
        total += batch["features"].nbytes
        if convert:
            network_input(batch["features"])
    return total


def speed(read: Callable[[], int]) -> float:
    """Return MB a second."""
    start = time.perf_counter()
    return read() / (time.perf_counter() - start) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how fast the loader reads a feature store.")
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--windows", type=int, default=48, help="superframes a video (default: %(default)s)")
    parser.add_argument("--shape", type=int, nargs=3, default=(1024, 7, 7), metavar=("C", "H", "W"))
    parser.add_argument("--timesteps", type=int, default=32, help="T (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="threads that read (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", arguments.videos, arguments.windows, tuple(arguments.shape))
        records = [VideoRecord(name, "train", ("video",)) for name in store.videos]
        dataset = FeatureDataset(store, records, ["video"], "single-label", timesteps=arguments.timesteps)
        reads: dict[str, Callable[[int], int]] = {
            "plain read": lambda epoch: read_plainly(store),
            "loader": lambda epoch: read_batches(dataset, arguments.batch_size, arguments.workers, epoch, False),
            "loader, float32": lambda epoch: read_batches(
                dataset, arguments.batch_size, arguments.workers, epoch, True
            ),
        }
        read_plainly(store)  # into the page cache
        best = dict.fromkeys(reads, 0.0)
        for epoch in range(arguments.rounds):
            for name, read in reads.items():
                best[name] = max(best[name], speed(lambda read=read, epoch=epoch: read(epoch)))
    print(f"{arguments.videos} videos, T = {arguments.timesteps}, {arguments.workers} threads that read")
    for name, value in best.items():
        print(f"{name:16} {value:7.0f} MB/s")


if __name__ == "__main__":
    main()

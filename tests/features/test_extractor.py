"""The extraction job: right features, one bad video stops none, nothing is lost or half-written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from nni_nastc.errors import ConfigError, DiskError, FeatureStoreError, ModelError, VideoError
from nni_nastc.features.extraction_plan import PlannedVideo, share_out
from nni_nastc.features.extractor import (
    ExtractionProgress,
    ExtractionSettings,
    extract,
    extract_video,
    plan_extraction,
)
from nni_nastc.features.store import FeatureStore
from nni_nastc.features.video import VideoInfo, read_superframes
from tests.videos import GRID, PRINT_PEAK_MEMORY, TinyBackbone, corrupted, numbered_frame, truncated, write_video

SIZES = {"short_side": 32, "crop": 32}


def settings(**others) -> ExtractionSettings:
    return ExtractionSettings(**{**SIZES, **others})


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of three videos with 3, 5 and 2 superframes."""
    (tmp_path / "videos").mkdir()
    for name, first, frames in (("a", 0, 24), ("b", 1000, 45), ("c", 2000, 17)):
        write_video(tmp_path / "videos" / f"{name}.mp4", [numbered_frame(first + n) for n in range(frames)])
    return tmp_path / "videos"


def visible(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".lock")


def mean_cells(path: Path) -> np.ndarray:
    """Return what the tiny backbone makes of every superframe, computed in another way: (windows, 3, 4, 4)."""
    frames = np.stack([s.frames for s in read_superframes(path, **SIZES)]).astype(np.float64) / 127.5 - 1
    windows, length, side, _, colours = frames.shape
    cells = frames.reshape(windows, length, GRID, side // GRID, GRID, side // GRID, colours).mean((1, 3, 5))
    return cells.transpose(0, 3, 1, 2)


def until_the_fourth(path: Path, **options):
    """Read superframes, and find damage in the fifth."""
    for superframe in read_superframes(path, **options):
        if superframe.index == 4:
            raise VideoError(f"{path} is damaged")
        yield superframe


class TestFeatures:
    """What is stored is what the backbone makes of the right frames."""

    def test_one_video(self, folder):
        features, times = extract_video(folder / "b.mp4", TinyBackbone(), settings())
        assert features.dtype == np.float16
        np.testing.assert_allclose(features, mean_cells(folder / "b.mp4"), atol=1e-3)
        np.testing.assert_allclose(times, np.arange(5)[:, None] * 0.32 + [0.0, 0.32], atol=1e-6)

    def test_the_job_stores_what_one_video_gives(self, folder, tmp_path):
        report = extract([folder], tmp_path / "store", TinyBackbone(), settings())
        assert (report.done, report.skipped, report.failed, report.superframes) == (("a", "b", "c"), (), {}, 10)
        store = FeatureStore.open(tmp_path / "store")
        assert [(e.windows, e.source, e.shape, e.fps) for e in store.videos.values()] == [
            (3, "a.mp4", (3, 4, 4), 25.0), (5, "b.mp4", (3, 4, 4), 25.0), (2, "c.mp4", (3, 4, 4), 25.0)
        ]  # fmt: skip
        assert store.videos["b"].duration_s == pytest.approx(1.8)
        assert store.videos["b"].size_bytes == (folder / "b.mp4").stat().st_size
        for name, entry in store.videos.items():
            features, times = extract_video(folder / f"{name}.mp4", TinyBackbone(), settings())
            np.testing.assert_array_equal(store.read(name, range(entry.windows)), features)
            np.testing.assert_array_equal(store.times(name), times)

    def test_settings_are_kept(self, folder, tmp_path):
        extract([folder / "a.mp4"], tmp_path / "store", TinyBackbone(), settings(windows=2, pool=2))
        stored = FeatureStore.open(tmp_path / "store").settings
        assert (stored.weights, stored.weights_digest) == ("tiny", "sha256:0")
        assert (stored.short_side, stored.crop, stored.windows, stored.pool) == (32, 32, 2, 2)
        assert (stored.backbone, stored.endpoint, stored.dtype) == ("i3d", "Mixed_5c", "float16")

    @pytest.mark.parametrize(
        ("windows", "expected"), [(1, [2]), (2, [1, 3]), (4, [0, 1, 3, 4]), (5, range(5)), (9, range(5))]
    )
    def test_windows_evenly_spaced(self, folder, windows, expected):
        whole, whole_times = extract_video(folder / "b.mp4", TinyBackbone(), settings())
        some, times = extract_video(folder / "b.mp4", TinyBackbone(), settings(windows=windows))
        np.testing.assert_array_equal(some, whole[list(expected)])
        np.testing.assert_array_equal(times, whole_times[list(expected)])

    @pytest.mark.parametrize("pool", [1, 2, 3, 4])
    def test_pool_averages_the_map(self, folder, pool):
        whole, _ = extract_video(folder / "a.mp4", TinyBackbone(), settings())
        pooled, _ = extract_video(folder / "a.mp4", TinyBackbone(), settings(pool=pool))
        assert pooled.shape == (3, 3, pool, pool)
        bins = [(i * GRID // pool, -(-(i + 1) * GRID // pool)) for i in range(pool)]
        for row, (top, bottom) in enumerate(bins):
            for column, (left, right) in enumerate(bins):
                expected = whole[:, :, top:bottom, left:right].astype(float).mean((2, 3))
                np.testing.assert_allclose(pooled[:, :, row, column], expected, atol=2e-3)

    def test_batches_never_mix_videos(self, folder, tmp_path):
        backbone = TinyBackbone()
        extract([folder], tmp_path / "store", backbone, settings(batch_size=2))
        assert backbone.batches == [1, 2, 1, 2, 2, 1, 2]  # a first one tells the shape

    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    def test_batch_size_changes_nothing(self, folder, batch_size):
        expected, _ = extract_video(folder / "b.mp4", TinyBackbone(), settings())
        features, _ = extract_video(folder / "b.mp4", TinyBackbone(), settings(batch_size=batch_size))
        np.testing.assert_array_equal(features, expected)

    def test_the_next_batch_is_decoded_while_the_network_runs(self, folder, monkeypatch):
        """In its first batch of two the network waits for the fourth superframe, in vain if nothing overlaps."""
        fourth = threading.Event()
        seen = []

        def watched(path, **options):
            for superframe in read_superframes(path, **options):
                if superframe.index == 3:
                    fourth.set()
                yield superframe

        class Waiting(TinyBackbone):
            def features(self, clip, endpoint="Mixed_5c"):
                if len(clip) == 2 and not seen:
                    seen.append(fourth.wait(10))
                return super().features(clip, endpoint)

        monkeypatch.setattr("nni_nastc.features.feature_batches.read_superframes", watched)
        extract_video(folder / "b.mp4", Waiting(), settings(batch_size=2))
        assert seen == [True]

    def test_the_backbone_runs_for_evaluation_without_gradients(self, folder):
        class Watched(TinyBackbone):
            def features(self, clip, endpoint="Mixed_5c"):
                assert not self.training
                assert torch.is_inference_mode_enabled()
                assert clip.shape[1:] == (3, 8, 32, 32)
                assert clip.dtype == torch.float32
                assert -1 <= clip.min() <= clip.max() <= 1
                return super().features(clip, endpoint)

        extract_video(folder / "a.mp4", Watched().train(), settings())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"windows": 0}, "windows must be at least 1: given 0"),
            ({"pool": -1}, "pool must be at least 1: given -1"),
            ({"pool": 5}, "pool must be at most the size of the map, 4 x 4: given 5"),
            ({"batch_size": 0}, "batch_size must be at least 1: given 0"),
            ({"crop": 33}, "given crop 33 and short_side 32"),
            ({"fps": 0.0}, "fps must be above 0: given 0.0"),
            ({"fps": float("nan")}, "fps must be above 0: given nan"),
        ],
    )
    def test_settings_outside_their_rule(self, folder, tmp_path, options, message):
        for run in (
            lambda given: extract([folder], tmp_path / "store", TinyBackbone(), given),
            lambda given: extract_video(folder / "a.mp4", TinyBackbone(), given),
        ):
            with pytest.raises(ConfigError, match=message):
                run(settings(**options))
        assert not (tmp_path / "store").exists()

    def test_no_such_gpu(self, folder):
        with pytest.raises(ModelError, match="no such GPU: cuda:99"):
            extract_video(folder / "a.mp4", TinyBackbone(), settings(device="cuda:99"))


class TestFailures:
    """One bad video never stops the others."""

    def test_bad_videos_are_listed_and_the_others_kept(self, folder, tmp_path):
        corrupted(folder / "b.mp4", folder / "b2.mp4", 1500, b"\xaa" * 300)
        truncated(folder / "b.mp4", folder / "b3.mp4", 2000)
        write_video(folder / "short.mp4", 7)
        (folder / "text.mp4").write_text("no video")
        report = extract([folder], tmp_path / "store", TinyBackbone(), settings())
        assert report.done == ("a", "b", "c")
        reasons = {Path(path).stem: reason for path, reason in report.failed.items()}
        assert sorted(reasons) == ["b2", "b3", "short", "text"]
        assert "damaged" in reasons["b2"]
        assert "truncated" in reasons["b3"]
        assert "needs 8 frames, it has 7" in reasons["short"]
        assert "not a video" in reasons["text"]
        assert visible(tmp_path / "store") == ["a.safetensors", "b.safetensors", "c.safetensors", "manifest.json"]

    def test_damage_at_the_end_refuses_the_whole_video(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("nni_nastc.features.feature_batches.read_superframes", until_the_fourth)
        report = extract([folder], tmp_path / "store", TinyBackbone(), settings(batch_size=2))
        assert report.done == ("a", "c")
        assert report.failed == {str(folder / "b.mp4"): f"{folder / 'b.mp4'} is damaged"}
        assert "b.safetensors" not in visible(tmp_path / "store")

    def test_pictures_that_do_not_match_the_packets(self, folder, monkeypatch):
        def one_less(path, **options):
            yield from list(read_superframes(path, **options))[:-1]

        monkeypatch.setattr("nni_nastc.features.feature_batches.read_superframes", one_less)
        with pytest.raises(VideoError, match="45 frames by its packets, so 5 superframes, but 4 superframes"):
            extract_video(folder / "b.mp4", TinyBackbone(), settings())

    def test_features_that_are_not_finite(self, folder, tmp_path):
        class NaNInB(TinyBackbone):
            def features(self, clip, endpoint="Mixed_5c"):
                features = super().features(clip, endpoint)
                return features * torch.nan if len(clip) == 5 else features

        report = extract([folder], tmp_path / "store", NaNInB(), settings())
        assert report.done == ("a", "c")
        assert "features of b must be finite" in report.failed[str(folder / "b.mp4")]
        assert visible(tmp_path / "store") == ["a.safetensors", "c.safetensors", "manifest.json"]

    def test_one_video_alone_raises(self, folder):
        write_video(folder / "short.mp4", 7)
        with pytest.raises(VideoError, match="needs 8 frames, it has 7"):
            extract_video(folder / "short.mp4", TinyBackbone(), settings())
        with pytest.raises(VideoError, match=r"no such file: .*nowhere\.mp4"):
            extract_video(folder / "nowhere.mp4", TinyBackbone(), settings())

    def test_what_is_wrong_with_the_whole_is_said_before_anything_is_written(self, folder, tmp_path):
        (folder / "more").mkdir()
        shutil.copy(folder / "a.mp4", folder / "more" / "a.avi")
        for videos in ([folder], [tmp_path / "nowhere.mp4"]):
            with pytest.raises(VideoError):
                extract(videos, tmp_path / "store", TinyBackbone(), settings())
        assert not (tmp_path / "store").exists()


class TestResume:
    """A second run does what is left."""

    def test_what_is_done_is_skipped(self, folder, tmp_path):
        extract([folder / "a.mp4"], tmp_path / "store", TinyBackbone(), settings())
        backbone = TinyBackbone()
        report = extract([folder], tmp_path / "store", backbone, settings())
        assert (report.done, report.skipped, report.replaced) == (("b", "c"), ("a",), ())
        assert sum(backbone.batches) == 1 + 5 + 2

    def test_a_changed_file_is_extracted_again(self, folder, tmp_path):
        extract([folder], tmp_path / "store", TinyBackbone(), settings())
        write_video(folder / "a.mp4", 40)
        report = extract([folder], tmp_path / "store", TinyBackbone(), settings())
        assert (report.done, report.skipped, report.replaced) == (("a",), ("b", "c"), ("a",))
        assert FeatureStore.open(tmp_path / "store").videos["a"].windows == 5

    def test_damaged_features_are_extracted_again(self, folder, tmp_path):
        extract([folder], tmp_path / "store", TinyBackbone(), settings())
        file = tmp_path / "store" / "b.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[:-10])
        report = extract([folder], tmp_path / "store", TinyBackbone(), settings())
        assert (report.done, report.skipped) == (("b",), ("a", "c"))
        assert file.read_bytes() == whole

    def test_other_settings_are_refused(self, folder, tmp_path):
        extract([folder], tmp_path / "store", TinyBackbone(), settings())
        with pytest.raises(FeatureStoreError, match="pool: None, 2"):
            extract([folder], tmp_path / "store", TinyBackbone(), settings(pool=2))
        with pytest.raises(FeatureStoreError, match="pool: None, 2"):
            plan_extraction([folder], tmp_path / "store", TinyBackbone(), settings(pool=2))

    def test_two_runs_give_the_same_files(self, folder, tmp_path):
        for store in ("one", "two"):
            extract([folder], tmp_path / store, TinyBackbone(), settings())
        for name in visible(tmp_path / "one"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_an_interrupted_run_leaves_whole_videos_only(self, folder, tmp_path, error):
        def stop_in_b(progress: ExtractionProgress) -> None:
            if progress.video == "b.mp4" and progress.superframes_extracted > 4:
                raise error

        threads = threading.active_count()
        with pytest.raises(error):
            extract([folder], tmp_path / "store", TinyBackbone(), settings(batch_size=1), progress=stop_in_b)
        assert threading.active_count() == threads
        assert visible(tmp_path / "store") == ["a.safetensors", "manifest.json"]
        assert extract([folder], tmp_path / "store", TinyBackbone(), settings()).done == ("b", "c")

    @pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
    def test_a_killed_process_loses_the_video_at_hand(self, folder, tmp_path, stop):
        code = (
            "import sys, time\n"
            "from nni_nastc.features.extractor import ExtractionSettings, extract\n"
            "from tests.videos import TinyBackbone\n"
            "def slowly(progress):\n"
            "    if progress.video == 'b.mp4' and progress.stage == 'extracting':\n"
            "        print('in b', flush=True); time.sleep(30)\n"
            "settings = ExtractionSettings(short_side=32, crop=32, batch_size=1)\n"
            "extract([sys.argv[1]], sys.argv[2], TinyBackbone(), settings, progress=slowly)\n"
        )
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / "store")]
        root = Path(__file__).resolve().parents[2]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
        assert process.stdout.readline() == "in b\n"
        process.send_signal(stop)
        process.wait(timeout=20)
        names = [name for name in visible(tmp_path / "store") if not name.startswith(".")]
        assert names == ["a.safetensors", "manifest.json"]
        if stop == signal.SIGINT:
            assert visible(tmp_path / "store") == names
        report = extract([folder], tmp_path / "store", TinyBackbone(), settings())
        assert (report.done, report.skipped) == (("b", "c"), ("a",))
        assert visible(tmp_path / "store") == ["a.safetensors", "b.safetensors", "c.safetensors", "manifest.json"]


class TestDisk:
    """A disk that is too small, or fills up, stops the run, and says so."""

    Usage = namedtuple("Usage", "total used free")

    def test_too_small_is_refused_before_the_start(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: self.Usage(10**9, 10**9 - 5000, 5000))
        backbone = TinyBackbone()
        with pytest.raises(DiskError) as problem:
            extract([folder], tmp_path / "store", backbone, settings())
        needed = 10 * (3 * 4 * 4 * 2 + 16) + 3 * 2048
        assert f"10 superframes need {needed / 1e9:.3g} GB, 5e-06 GB are free" in str(problem.value)
        assert backbone.batches == [1]
        assert not (tmp_path / "store").exists()

    def test_what_is_needed_is_what_is_written(self, folder, tmp_path):
        plan = plan_extraction([folder], tmp_path / "store", TinyBackbone(), settings())
        extract([folder], tmp_path / "store", TinyBackbone(), settings())
        written = sum(file.stat().st_size for file in (tmp_path / "store").iterdir())
        assert written <= plan.bytes_needed <= written + 3 * 2048

    def test_a_disk_that_fills_up_stops_the_run(self, folder, tmp_path, monkeypatch):
        replace_file = os.replace

        def full_at_b(source, target):
            if Path(target).name == "b.safetensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            replace_file(source, target)

        threads = threading.active_count()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full_at_b)
            with pytest.raises(DiskError, match=r"disk is full: .*b\.safetensors"):
                extract([folder], tmp_path / "store", TinyBackbone(), settings())
        assert threading.active_count() == threads
        assert visible(tmp_path / "store") == ["a.safetensors", "manifest.json"]
        assert extract([folder], tmp_path / "store", TinyBackbone(), settings()).done == ("b", "c")


class TestShares:
    """Several processes share the videos."""

    def test_every_video_is_in_one_share_and_the_shares_are_even(self):
        frames = [10, 700, 20, 300, 30, 290, 100]
        infos = [VideoInfo(count, 25, 1, 8, 8, 9) for count in frames]
        videos = [PlannedVideo(f"v{n}", Path(f"v{n}"), info, 1) for n, info in enumerate(infos)]
        shares = share_out(videos, 3)
        assert sorted(video.name for share in shares for video in share) == [video.name for video in videos]
        counts = [[video.info.num_frames for video in share] for share in shares]
        assert counts == [[700], [10, 20, 300, 30], [290, 100]]
        assert share_out(videos, 1) == [videos]
        assert share_out(videos[:1], 2) == [videos[:1], []]

    def test_two_runs_at_once_leave_the_store_of_one(self, folder, tmp_path):
        """Both find every video missing, and extract all of them."""
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from nni_nastc.features.extractor import ExtractionSettings, extract\n"
            "from tests.videos import TinyBackbone\n"
            "def meet(progress):\n"
            "    if progress.stage == 'extracting' and not progress.video:\n"
            "        print('ready', flush=True); sys.stdin.readline()\n"
            "report = extract([sys.argv[1]], sys.argv[2], TinyBackbone(), ExtractionSettings(short_side=32, crop=32),"
            " progress=meet)\n"
            "assert report.done == ('a', 'b', 'c'), report\n"
        )
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / "both")]
        root = Path(__file__).resolve().parents[2]
        runs = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
            for _ in range(2)
        ]
        assert [run.stdout.readline() for run in runs] == ["ready\n"] * 2
        for run in runs:
            run.stdin.write("\n")
            run.stdin.flush()
        for run in runs:
            run.communicate(timeout=60)
        assert [run.returncode for run in runs] == [0, 0]
        extract([folder], tmp_path / "one", TinyBackbone(), settings())
        assert visible(tmp_path / "both") == visible(tmp_path / "one")
        for name in visible(tmp_path / "one"):
            assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


class TestPlan:
    """The dry run."""

    def test_counts_and_writes_nothing(self, folder, tmp_path):
        (folder / "text.mp4").write_text("no video")
        plan = plan_extraction([folder], tmp_path / "store", TinyBackbone(), settings(windows=3))
        assert [(video.path.stem, video.windows) for video in plan.pending] == [("a", 3), ("b", 3), ("c", 2)]
        assert plan.superframes == 8
        assert list(plan.failed) == [str(folder / "text.mp4")]
        assert 0 < plan.seconds < 30
        assert plan.bytes_free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
        assert not (tmp_path / "store").exists()

    def test_knows_what_is_done(self, folder, tmp_path):
        extract([folder / "a.mp4", folder / "b.mp4"], tmp_path / "store", TinyBackbone(), settings())
        write_video(folder / "b.mp4", 40)
        plan = plan_extraction([folder], tmp_path / "store", TinyBackbone(), settings())
        assert (plan.skipped, plan.replaced) == (("a",), ("b",))
        assert [video.path.name for video in plan.pending] == ["b.mp4", "c.mp4"]

    def test_nothing_to_do(self, folder, tmp_path):
        extract([folder], tmp_path / "store", TinyBackbone(), settings())
        plan = plan_extraction([folder], tmp_path / "store", TinyBackbone(), settings())
        assert (plan.superframes, plan.bytes_needed, plan.seconds) == (0, 0, 0.0)

    def test_the_time_is_inferred_from_the_frames_of_the_trial(self, folder, tmp_path, monkeypatch):
        """Every look at the clock takes a second: a's batch of 24 frames comes at 1 s, its end at 2 s."""
        ticks = iter(range(1000))
        monkeypatch.setattr("nni_nastc.features.extraction_plan.time.perf_counter", lambda: float(next(ticks)))
        plan = plan_extraction([folder], tmp_path / "store", TinyBackbone(), settings(), trial_s=1.5)
        assert plan.seconds == pytest.approx((24 + 45 + 17) * 2 / 24)

    @pytest.mark.parametrize(
        ("out", "reason"),
        [
            ("a.mp4/store", "Not a directory"),
            ("broken/store", "broken is no folder"),
            ("x" * 300, "File name too long"),
            ("nul\0", "null"),
        ],
    )
    def test_a_folder_that_cannot_be_made(self, folder, out, reason):
        (folder / "broken").symlink_to(folder / "nowhere")
        before = sorted(folder.rglob("*"))
        for run in (plan_extraction, extract):
            with pytest.raises(FeatureStoreError, match=f"cannot be made .*{reason}.*choose another"):
                run([folder / "a.mp4"], folder / out, TinyBackbone(), settings())
        assert sorted(folder.rglob("*")) == before

    def test_a_folder_of_other_files(self, folder):
        with pytest.raises(FeatureStoreError, match="holds other files"):
            plan_extraction([folder], folder, TinyBackbone(), settings())
        with pytest.raises(FeatureStoreError, match="is no folder"):
            plan_extraction([folder], folder / "a.mp4", TinyBackbone(), settings())


def test_progress_adds_up(folder, tmp_path, monkeypatch):
    (folder / "text.mp4").write_text("no video")
    monkeypatch.setattr("nni_nastc.features.feature_batches.read_superframes", until_the_fourth)
    seen: list[ExtractionProgress] = []
    report = extract([folder], tmp_path / "store", TinyBackbone(), settings(batch_size=2), progress=seen.append)
    looking = [(p.video, p.videos_done, p.videos_total) for p in seen if p.stage == "looking"]
    assert looking == [("a.mp4", 1, 4), ("b.mp4", 2, 4), ("c.mp4", 3, 4), ("text.mp4", 4, 4)]
    extracting = [p for p in seen if p.stage == "extracting"]
    counts = [p.superframes_done for p in extracting]
    assert counts == sorted(counts)
    last = extracting[-1]
    assert (last.videos_done, last.videos_total) == (3, 3)
    assert (last.superframes_done, last.superframes_total) == (10, 10)
    assert last.superframes_extracted == report.superframes == 9  # 4 of b, before its damage


def test_memory_does_not_grow_with_length(tmp_path):
    code = (
        "import sys\n"
        "from nni_nastc.features.extractor import ExtractionSettings, extract\n"
        "from tests.videos import TinyBackbone\n"
        "class Wide(TinyBackbone):\n"
        "    def features(self, clip, endpoint='Mixed_5c'):\n"
        "        return super().features(clip, endpoint).mean(1, keepdim=True).expand(-1, 4096, -1, -1, -1)\n"
        "extract([sys.argv[1]], sys.argv[2], Wide(), ExtractionSettings(short_side=32, crop=32))\n"
    )
    root = Path(__file__).resolve().parents[2]
    peaks = []
    for frames in (200, 2000):
        path = write_video(tmp_path / f"{frames}.mp4", frames)
        command = [sys.executable, "-c", code + PRINT_PEAK_MEMORY, str(path), str(tmp_path / f"store_{frames}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        peaks.append(int(done.stdout))
    stored = (tmp_path / "store_2000" / "2000.safetensors").stat().st_size
    assert stored > 30e6
    assert peaks[1] < peaks[0] + 12 * 1024, f"peak kB of 200 and 2000 frames: {peaks}, {stored} bytes stored"

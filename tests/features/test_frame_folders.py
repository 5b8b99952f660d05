"""Folders of numbered images are videos: the right frames at the right times, and nothing missing unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nni_nastc.errors import VideoError
from nni_nastc.features.extractor import ExtractionSettings, extract, plan_extraction
from nni_nastc.features.store import FeatureStore
from nni_nastc.features.video import VideoInfo, probe, read_superframes
from nni_nastc.features.video_files import find_videos
from tests.videos import TinyBackbone, numbers_of, truncated, write_images, write_video

SIZES = {"short_side": 64, "crop": 64}
SETTINGS = ExtractionSettings(**SIZES, fps=24)


@pytest.fixture
def images(tmp_path) -> Path:
    return write_images(tmp_path / "images", 19)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("img_{:05d}.jpg", 1),
        ("001YG-{:06d}.jpg", 1),
        ("{:04d}.JPEG", 0),
        ("frame 100% 2_{}.png", 1),
        ("{}.png", 0),
    ],
)  # fmt: skip
def test_every_frame_in_its_place_and_time(tmp_path, name, first):
    folder = write_images(tmp_path / "50 %d.x", 25, name=name, first=first)
    (folder / "notes.txt").write_text("no image")
    superframes = list(read_superframes(folder, **SIZES, fps=24))
    assert [numbers_of(superframe.frames) for superframe in superframes] == [
        list(range(0, 8)), list(range(8, 16)), list(range(16, 24))
    ]  # fmt: skip
    times = [time for superframe in superframes for time in (superframe.start_s, superframe.end_s)]
    np.testing.assert_allclose(times, np.array([0, 8, 8, 16, 16, 24]) / 24, atol=1e-6)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name != "notes.txt")
    assert probe(folder, fps=24) == VideoInfo(25, 24, 25 / 24, 96, 64, size)


def test_the_pixels_are_those_of_another_decoder(tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    pictures = [np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)) for image in small]
    folder = write_images(tmp_path / "smooth", pictures)
    (superframe,) = read_superframes(folder, **SIZES, fps=30)
    expected = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]).astype(float)
    difference = superframe.frames - expected
    luminance = np.abs(difference @ [0.299, 0.587, 0.114])
    assert luminance.mean() < 1, f"mean difference {luminance.mean()}"
    assert np.abs(difference).mean() < 4, "the colours have half the pixels, and may be enlarged in other ways"
    assert np.abs(expected[0] - expected[1]).mean() > 20


def test_only_the_wanted_windows(images):
    (superframe,) = read_superframes(images, **SIZES, fps=24, windows=[1])
    assert (superframe.index, numbers_of(superframe.frames)) == (1, list(range(8, 16)))


def rename(folder: Path, old: int, new: str) -> None:
    (folder / f"img_{old:05d}.jpg").rename(folder / new)


def spoil(folder: Path, content: bytes) -> None:
    (folder / "img_00012.jpg").write_bytes(content)


def cut(folder: Path, size: int) -> None:
    truncated(folder / "img_00012.jpg", folder / "img_00012.jpg", size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "img_00005.jpg").unlink(), r"img_00005\.jpg is missing before img_00006\.jpg"),
        (lambda folder: (folder / "img_00001.jpg").unlink(), r"number 0 or 1, the first is img_00002\.jpg"),
        (lambda folder: rename(folder, 19, "img_19.jpg"), r"img_00019\.jpg is missing before img_19\.jpg"),
        (lambda folder: rename(folder, 19, "flow_00019.jpg"), r"several names \(flow_\*\.jpg, img_\*\.jpg\)"),
        (lambda folder: rename(folder, 19, "img_00019.png"), r"several names \(img_\*\.jpg, img_\*\.png\)"),
    ],
)
def test_missing_and_foreign_images(images, damage, message):
    damage(images)
    for read in (probe, lambda folder, fps: list(read_superframes(folder, **SIZES, fps=fps))):
        with pytest.raises(VideoError, match=message) as problem:
            read(images, fps=24)
        assert str(images) in str(problem.value)
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder, 500), "damaged"),
        (lambda folder: spoil(folder, b"no image"), "damaged"),
        (lambda folder: spoil(folder, b""), "promises 19 frames, 11 are there"),
    ],
    ids=["cut off", "text", "empty"],
)
@pytest.mark.parametrize("windows", [None, [0]])
def test_an_image_that_cannot_be_read_refuses_the_video(images, damage, message, windows):
    damage(images)
    with pytest.raises(VideoError, match=message) as problem:
        list(read_superframes(images, **SIZES, fps=24, windows=windows))
    assert str(images) in str(problem.value)


def test_images_tell_no_rate(images, tmp_path):
    for read in (probe, lambda path: list(read_superframes(path, **SIZES))):
        with pytest.raises(VideoError, match=r"images is a folder of images.*give --fps \(24 for"):
            read(images)
    for run in (extract, plan_extraction):
        with pytest.raises(VideoError, match=r"give --fps"):
            run([tmp_path], tmp_path / "store", TinyBackbone(), ExtractionSettings(**SIZES))
    assert not (tmp_path / "store").exists()


class TestFindVideos:
    """A folder of images is found as a file is."""

    def test_beside_files(self, images, tmp_path):
        write_video(images / "file.mp4", 8)
        write_images(tmp_path / "more" / "v1.x", 8, name="{:06d}.jpg")
        write_images(tmp_path / "more" / ".hidden", 8, name=".{}.jpg")
        found = {name: path.relative_to(tmp_path).as_posix() for name, path in find_videos([tmp_path]).items()}
        assert found == {"file": "images/file.mp4", "v1.x": "more/v1.x"}, "images beside a video are pictures of it"
        (images / "file.mp4").rename(tmp_path / "more" / "file.mp4")
        found = {name: path.relative_to(tmp_path).as_posix() for name, path in find_videos([tmp_path]).items()}
        assert found == {"file": "more/file.mp4", "images": "images", "v1.x": "more/v1.x"}

    def test_named_itself(self, images):
        assert find_videos([images]) == {"images": images}


class TestExtraction:
    """Images and video files together."""

    def test_features_times_and_entry(self, images, tmp_path):
        (tmp_path / "file").mkdir()
        write_video(tmp_path / "file" / "v.mp4", 8)
        report = extract([images, tmp_path / "file"], tmp_path / "store", TinyBackbone(), SETTINGS)
        assert (report.done, report.failed) == (("images", "v"), {})
        store = FeatureStore.open(tmp_path / "store")
        entry = store.videos["images"]
        assert (entry.windows, entry.fps, entry.source) == (2, 24.0, "images")
        assert entry.duration_s == pytest.approx(19 / 24)
        frames = np.stack([s.frames for s in read_superframes(images, **SIZES, fps=24)]).astype(float) / 127.5 - 1
        expected = frames.reshape(2, 8, 4, 16, 4, 16, 3).mean((1, 3, 5)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(store.read("images", [0, 1]), expected, atol=1e-3)
        np.testing.assert_allclose(store.times("images")[:, 1], [8 / 24, 16 / 24])
        assert store.videos["v"].fps == 25.0

    def test_what_is_done_is_skipped_and_what_has_changed_is_not(self, images, tmp_path):
        store = tmp_path / "store"

        def run(fps: float) -> tuple:
            report = extract([images], store, TinyBackbone(), ExtractionSettings(**SIZES, fps=fps))
            return report.done, report.replaced

        assert run(24) == (("images",), ())
        assert run(24) == ((), ())
        assert run(12) == (("images",), ("images",)), "the times differ"
        write_images(images, 1, first=20)
        assert run(12) == (("images",), ("images",))

    def test_a_bad_one_is_listed_and_the_others_kept(self, images, tmp_path):
        bad = write_images(tmp_path / "bad", 10)
        (bad / "img_00004.jpg").unlink()
        report = extract([images, bad], tmp_path / "store", TinyBackbone(), SETTINGS)
        assert report.done == ("images",)
        assert "img_00004.jpg is missing" in report.failed[str(bad)]

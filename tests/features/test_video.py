"""Videos as superframes: every frame is the right one, at the right time, the right way up."""

from __future__ import annotations

import subprocess
import sys
import threading

import av
import numpy as np
import pytest
import torch

from nni_nastc.errors import ConfigError, VideoError
from nni_nastc.features import video as video_module
from nni_nastc.features.video import probe, read_superframes
from nni_nastc.features.video_files import find_videos
from tests.videos import (
    PRINT_PEAK_MEMORY,
    numbered_frame,
    numbers_of,
    packets_of,
    remux,
    write_packets,
    write_sound,
    write_video,
)

QSCALE = {"flags": "+qscale", "global_quality": "236"}
FORMATS = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.mov": {},
    "h264.ts": {},
    "h264_b.mp4": {"options": {"preset": "veryfast", "bf": "3", "crf": "12"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": QSCALE},
    "mpeg4.m4v": {"codec": "mpeg4", "options": QSCALE},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": QSCALE},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "400k"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "crf": "10"}},
    "lossless.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
}
# Windows that the eight real clips have, and frames, counted with another decoder's loop over all frames.
CLIPS = {
    "applying_makeup.avi": (164, 320, 240),
    "arm_wrestling.mp4": (280, 340, 256),
    "basketball.mp4": (300, 426, 240),
    "cleaning_pool.mp4": (300, 340, 256),
    "drinking_1080p.avi": (103, 1920, 1080),
    "flipping_pancake.mkv": (310, 426, 240),
    "playing_cricket.gif": (79, 224, 224),
    "short_36_frames.mp4": (36, 320, 240),
}


def numbers_in(path, **options) -> list[int]:
    """Return the numbers of the frames of all superframes, which are small and square."""
    return [n for s in read_superframes(path, short_side=32, crop=32, **options) for n in numbers_of(s.frames)]


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_consecutive_in_every_format(tmp_path, name):
    path = write_video(tmp_path / name, 83, **FORMATS[name])
    assert numbers_in(path) == list(range(80))
    info = probe(path)
    assert (info.num_frames, info.fps, info.width, info.height) == (83, 25.0, 96, 64)
    assert info.duration_s == pytest.approx(3.32)
    assert info.size_bytes == path.stat().st_size


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "mpeg4.avi", "animation.gif"])
def test_times_start_at_zero_and_meet(tmp_path, name):
    path = write_video(tmp_path / name, 32, **FORMATS[name])
    times = [(s.index, s.start_s, s.end_s) for s in read_superframes(path, short_side=32, crop=32)]
    expected = [(w, 0.32 * w, 0.32 * (w + 1)) for w in range(4)]
    np.testing.assert_allclose(times, expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_every_frame_and_its_time(tmp_path, suffix):
    times_ms = [0, 10, 30, 60, 100, 150, 210, 280, *range(400, 720, 40)]
    path = write_video(tmp_path / f"uneven.{suffix}", 16, times_ms=times_ms)
    assert numbers_in(path) == list(range(16))
    times = [(s.start_s, s.end_s) for s in read_superframes(path, short_side=32, crop=32)]
    np.testing.assert_allclose(times, [(0.0, 0.4), (0.4, 0.72)], atol=1e-3)


@pytest.mark.parametrize("frames", [8, 9, 15, 16])
def test_whole_superframes_only(tmp_path, frames):
    path = write_video(tmp_path / "a.mp4", frames)
    assert len(numbers_in(path)) == frames // 8 * 8


def test_wanted_windows_are_those_of_the_whole_video_and_no_other_is_converted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 64)
    whole = list(read_superframes(path, short_side=32, crop=24))
    converted = []
    fit = video_module._Fitter.fit
    monkeypatch.setattr(video_module._Fitter, "fit", lambda self, frame: converted.append(1) or fit(self, frame))
    some = list(read_superframes(path, short_side=32, crop=24, windows=np.array([6, 1, 1])))
    assert [s.index for s in some] == [1, 6]
    assert len(converted) == 16
    for superframe in some:
        same = whole[superframe.index]
        assert np.array_equal(superframe.frames, same.frames)
        assert (superframe.start_s, superframe.end_s) == (same.start_s, same.end_s)


@pytest.mark.parametrize("window", [5, -1])
def test_windows_that_are_not_there_are_refused(tmp_path, window):
    path = write_video(tmp_path / "a.mp4", 40)
    with pytest.raises(VideoError, match=rf"no window {window}: its windows are 0 to 4"):
        list(read_superframes(path, windows=[0, window]))


@pytest.mark.parametrize("size", [(96, 64), (97, 61), (61, 97), (333, 250), (50, 50)])
def test_resize_and_crop_agree_with_another_implementation(tmp_path, size):
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([255 * columns / width, 255 * rows / height, 128 + 100 * np.sin(columns / 9)], 2).astype(np.uint8)
    path = write_video(tmp_path / "a.mkv", [image] * 8, codec="ffv1", pixels="bgr0")
    superframe = next(read_superframes(path, short_side=128, crop=112))
    assert superframe.frames.shape == (8, 112, 112, 3)
    assert superframe.frames.dtype == np.uint8

    scale = 128 / min(size)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    target = (round(height * scale), round(width * scale))
    resized = torch.nn.functional.interpolate(planes, target, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    top, left = (target[0] - 112) // 2, (target[1] - 112) // 2
    difference = superframe.frames[0] - resized[top : top + 112, left : left + 112].numpy()
    assert np.abs(difference).mean() < 1.0
    assert np.abs(difference).max() < 6.0


QUARTERS = np.zeros((64, 96, 3), np.uint8)
QUARTERS[:32, :48], QUARTERS[:32, 48:], QUARTERS[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# (a, b, c, d) of the QuickTime matrix, and what it means for an image.
ORIENTATIONS = {
    "as is": ((1, 0, 0, 1), lambda image: image),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half turn": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "counterclockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_rotation_flag_is_honoured_before_the_resize(tmp_path, name):
    matrix, turn = ORIENTATIONS[name]
    path = write_video(tmp_path / "a.mp4", [QUARTERS] * 8)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # the matrix in a track header of version 0
    for value, offset in zip(matrix, (0, 4, 12, 16), strict=True):
        data[place + offset : place + offset + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)

    shown = turn(QUARTERS)
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    frame = next(read_superframes(path, short_side=64, crop=64)).frames[0]
    expected = shown[(shown.shape[0] - 64) // 2 :][:64, (shown.shape[1] - 64) // 2 :][:, :64]
    corners = [(8, 8), (8, 56), (56, 8), (56, 56)]
    for corner in corners:
        assert np.abs(frame[corner].astype(int) - expected[corner]).max() < 40, (name, corner, frame[corner])


def test_rotated_phone_clip(shared):
    info = probe(shared / "clips" / "bad" / "three_frames_rotated_90.mov")
    assert (info.num_frames, info.width, info.height) == (3, 320, 568)


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_are_read_to_their_end(shared, name):
    path = shared / "clips" / name
    frames, width, height = CLIPS[name]
    info = probe(path)
    assert (info.num_frames, info.width, info.height) == (frames, width, height)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames
    superframes = list(read_superframes(path))
    assert [s.index for s in superframes] == list(range(frames // 8))
    assert all(s.frames.shape == (8, 224, 224, 3) for s in superframes)
    starts = [s.start_s for s in superframes]
    np.testing.assert_allclose(starts, np.arange(frames // 8) * 8 / info.fps, atol=0.05)


def test_reading_twice_gives_the_same_bytes(shared):
    first, again = (list(read_superframes(shared / "clips" / "basketball.mp4")) for _ in range(2))
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(first, again, strict=True))


def test_packets_without_a_picture_are_no_error(tmp_path):
    """MPEG-4 says with a few bytes that a picture was not coded; the decoder gives none for them."""
    plain = write_video(tmp_path / "plain.avi", 40, codec="mpeg4", options=QSCALE)
    packets = []
    for content in packets_of(plain):
        packets.append(content)
        if len(packets) % 10 == 5:
            header = content.index(b"\0\0\1\xb6") + 4
            bits = f"{int.from_bytes(content[header : header + 4], 'big'):032b}"
            second = bits.index("0", 2)  # ones count whole seconds, then a marker and five bits of time
            empty = f"010{bits[second + 1 : second + 7]}10".ljust(16, "1")
            packets.append(b"\0\0\1\xb6" + int(empty, 2).to_bytes(2, "big"))
    path = write_packets(tmp_path / "empty.avi", plain, list(enumerate(packets)))
    assert len(packets_of(path)) > 40
    assert probe(path).num_frames == 40
    assert numbers_in(path) == list(range(40))


def test_ticks_without_a_frame_in_avi_are_no_error(tmp_path):
    plain = write_video(tmp_path / "plain.avi", 40, codec="mpeg4", options=QSCALE)
    ticks = [*range(20), *range(30, 50)]
    path = write_packets(tmp_path / "gap.avi", plain, list(zip(ticks, packets_of(plain), strict=True)))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 40
    assert probe(path).num_frames == 40
    assert numbers_in(path) == list(range(40))


def test_frames_before_an_edit_list_are_not_shown(tmp_path):
    plain = write_video(tmp_path / "plain.mp4", 48)
    path = remux(plain, tmp_path / "cut.mp4", shift=10, container_options={"avoid_negative_ts": "disabled"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 48
    assert probe(path).num_frames == 38
    assert numbers_in(path) == list(range(10, 42))


def test_interlaced_frames_are_counted_by_decoding(tmp_path):
    options = {"preset": "ultrafast", "crf": "12", "flags": "+ildct+ilme", "x264-params": "interlaced=1"}
    path = write_video(tmp_path / "fields.ts", 24, options=options)
    assert probe(path).num_frames == 24
    assert numbers_in(path) == list(range(24))


@pytest.mark.parametrize("frames", [1, 7])
def test_fewer_than_eight_frames_are_refused(tmp_path, frames):
    path = write_video(tmp_path / "a.mp4", frames)
    with pytest.raises(VideoError, match=rf"a\.mp4 is too short: a superframe needs 8 frames, it has {frames};"):
        list(read_superframes(path))


def test_what_is_no_video_is_refused(tmp_path):
    files = {
        "no such file": tmp_path / "missing.mp4",
        "text.mp4": tmp_path / "text.mp4",
        "text.txt": tmp_path / "text.txt",
        "empty.mp4": tmp_path / "empty.mp4",
        "sound.m4a": write_sound(tmp_path / "sound.m4a"),
    }
    files["text.mp4"].write_text("hello\n" * 100)
    files["text.txt"].write_text("hello\n" * 100)
    files["empty.mp4"].touch()
    for name, path in files.items():
        for read in (probe, lambda path: list(read_superframes(path))):
            with pytest.raises(VideoError) as problem:
                read(path)
            assert name in str(problem.value)
            assert "\n" not in str(problem.value)
    with pytest.raises(VideoError, match="holds no numbered images"):
        probe(tmp_path)


@pytest.mark.parametrize(("short_side", "crop"), [(100, 101), (100, 0), (0, 0)])
def test_crop_must_fit(tmp_path, short_side, crop):
    with pytest.raises(ConfigError, match=f"given crop {crop} and short_side {short_side}"):
        next(read_superframes(tmp_path / "a.mp4", short_side=short_side, crop=crop))


def test_leaving_early_leaves_nothing_running(tmp_path):
    path = write_video(tmp_path / "a.mp4", 64)
    before = threading.active_count()
    reader = read_superframes(path)
    next(reader)
    reader.close()
    assert threading.active_count() == before


def test_memory_does_not_grow_with_length(tmp_path):
    """Nor does it wait for the garbage collector."""
    code = (
        "import gc, sys; gc.disable(); from nni_nastc.features.video import read_superframes\n"
        "for s in read_superframes(sys.argv[1], short_side=64, crop=56): pass\n"
    )
    peaks = []
    for frames in (200, 2000):
        path = write_video(tmp_path / f"{frames}.mp4", (numbered_frame(n, 320, 240) for n in range(frames)))
        command = [sys.executable, "-c", code + PRINT_PEAK_MEMORY, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 8 * 1024, f"peak kB of 200 and 2000 frames: {peaks}"


class TestFindVideos:
    """Files and folders to a sorted list."""

    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("b.mp4", "a.AVI", "deep/er/c.mkv", "notes.txt", "deep/._b.mp4", ".hidden.gif"):
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "videos"

    def test_folders_are_searched_to_the_bottom(self, folder):
        found = find_videos([folder])
        assert list(found) == ["a", "b", "c"]
        assert [path.relative_to(folder).as_posix() for path in found.values()] == ["a.AVI", "b.mp4", "deep/er/c.mkv"]

    def test_a_file_counts_once_and_may_have_any_suffix(self, folder):
        named = [folder / "notes.txt", folder / "deep" / ".." / "b.mp4", folder]
        assert sorted(p.name for p in find_videos(named).values()) == ["a.AVI", "b.mp4", "c.mkv", "notes.txt"]

    def test_missing(self, folder):
        with pytest.raises(VideoError, match=r"no such file: .*nowhere\.mp4"):
            find_videos([folder, folder / "nowhere.mp4"])

    def test_folder_without_video(self, folder, tmp_path):
        (tmp_path / "bare").mkdir()
        with pytest.raises(VideoError, match=r"no video in the folder .*bare"):
            find_videos([folder, tmp_path / "bare"])

    def test_two_videos_of_one_name(self, folder):
        (folder / "deep" / "a.mp4").touch()
        with pytest.raises(VideoError, match=r"two videos have the name a: .*a\.AVI and .*a\.mp4"):
            find_videos([folder])

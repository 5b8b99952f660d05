"""Videos that are cut off or damaged are refused, wherever the damage is."""

from __future__ import annotations

import av
import numpy as np
import pytest

from nni_nastc.errors import VideoError
from nni_nastc.features.containers import check_whole
from nni_nastc.features.slices import zero_run_check
from nni_nastc.features.video import probe, read_superframes
from tests.videos import corrupted, packets_of, remux, truncated, write_packets, write_video

FORMATS = {
    "index_last.mp4": {},
    "index_first.mp4": {"container_options": {"movflags": "faststart"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "movie.mov": {},
    "matroska.mkv": {},
    "xvid.avi": {"codec": "mpeg4"},
    "stream.ts": {},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
}
SHARES = np.linspace(0.03, 0.995, 12)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return videos of every format, of noise, so that most of their bytes are picture."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), np.uint8).repeat(2, 0).repeat(2, 1) for _ in range(40)]
    return {name: write_video(folder / name, noise, **options) for name, options in FORMATS.items()}


def read_all(path) -> int:
    return sum(1 for _ in read_superframes(path, short_side=32, crop=32))


def expect_refusal(path, what) -> str:
    with pytest.raises(VideoError) as problem:
        pytest.fail(f"{what}: accepted with {read_all(path)} windows")
    message = str(problem.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FORMATS)
def test_sound_files_are_accepted(sound, name):
    check_whole(sound[name])
    assert read_all(sound[name]) == 5


@pytest.mark.parametrize("name", FORMATS)
def test_cut_off_anywhere(sound, tmp_path, name):
    size = sound[name].stat().st_size
    for left in [*(int(size * share) for share in SHARES), size - 1]:
        path = truncated(sound[name], tmp_path / name, left)
        expect_refusal(path, f"{name} cut to {left} of {size} bytes")


@pytest.mark.parametrize("name", ["index_first.mp4", "matroska.mkv", "xvid.avi", "animation.gif"])
def test_counting_alone_finds_the_cut(sound, tmp_path, name):
    path = truncated(sound[name], tmp_path / name, int(sound[name].stat().st_size * 0.7))
    with pytest.raises(VideoError, match=r"truncated|cut off"):
        probe(path)


def test_the_index_of_mp4_counts_where_its_boxes_do_not(sound, tmp_path):
    """A media box that reaches to the end of the file, wherever that is, says nothing of a cut."""
    data = bytearray(sound["index_first.mp4"].read_bytes())
    box = data.index(b"mdat") - 4
    data[box : box + 4] = bytes(4)
    path = tmp_path / "open.mp4"
    path.write_bytes(data)
    assert read_all(path) == 5
    frame = packets_of(path)[-1]
    cut = data.index(frame)
    message = expect_refusal(truncated(path, tmp_path / "cut.mp4", cut), "cut between two frames")
    assert "promises 40 frames, 39 are there" in message


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "vp9.webm"])
def test_a_block_of_zeros_anywhere(sound, tmp_path, name):
    size = sound[name].stat().st_size
    for share in SHARES[:-1]:
        path = corrupted(sound[name], tmp_path / name, int(size * share), bytes(2048))
        expect_refusal(path, f"{name} with zeros from {share:.0%} on")


@pytest.mark.parametrize("name", ["index_last.mp4", "matroska.mkv", "xvid.avi", "stream.ts"])
def test_noise_anywhere(sound, tmp_path, name):
    """Most of it is found; what decodes to another valid picture nobody can tell."""
    rng = np.random.default_rng(0)
    size = sound[name].stat().st_size
    accepted = 0
    for share in SHARES[:-1]:
        path = corrupted(sound[name], tmp_path / name, int(size * share), rng.bytes(2048))
        try:
            read_all(path)
            accepted += 1
        except VideoError:
            pass
    assert accepted <= 3, f"{accepted} of {len(SHARES) - 1} accepted"


def test_live_recordings_without_lengths_are_accepted(tmp_path):
    path = write_video(tmp_path / "live.mkv", 40, container_options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    assert read_all(path) == 5


def test_flash_promises_a_duration(tmp_path):
    path = write_video(tmp_path / "a.flv", 40, fps=5, options={"preset": "ultrafast", "bf": "0"})
    assert read_all(path) == 5
    with av.open(str(path)) as container:
        tag = [packet.pos for packet in container.demux(video=0)][28]
    message = expect_refusal(truncated(path, tmp_path / "cut.flv", tag), "cut between two tags")
    assert "promises 8.0 s, 5.6 s are there" in message


def test_a_packet_of_which_the_decoder_makes_nothing(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", 24, codec="mpeg2video")
    packets = packets_of(whole)
    packets[5] = b"\0\0\1\xb2" + b"user data, and no picture"
    path = write_packets(tmp_path / "a.mkv", whole, list(enumerate(packets)))
    assert "only 23 of its 24 frames can be decoded" in expect_refusal(path, "user data in place of a picture")


def test_real_corrupted_clip(shared):
    message = expect_refusal(shared / "clips" / "bad" / "corrupted.mp4", "corrupted.mp4")
    assert "damaged" in message


@pytest.mark.parametrize(
    "name", ["basketball.mp4", "flipping_pancake.mkv", "applying_makeup.avi", "playing_cricket.gif"]
)
def test_real_clips_cut_or_zeroed(shared, tmp_path, name):
    source = shared / "clips" / name
    size = source.stat().st_size
    for share in (0.1, 0.35, 0.6, 0.85, 0.99):
        expect_refusal(truncated(source, tmp_path / name, int(size * share)), f"cut at {share:.0%}")
        if share < 0.9:
            expect_refusal(corrupted(source, tmp_path / name, int(size * share), bytes(4096)), f"zeros at {share:.0%}")


def test_nothing_of_the_decoder_reaches_the_user(sound, tmp_path, capfd):
    for name in ("index_last.mp4", "stream.ts", "xvid.avi"):
        size = sound[name].stat().st_size
        expect_refusal(corrupted(sound[name], tmp_path / name, size // 2, b"\xff" * 4096), name)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out == ""


class TestZeroRuns:
    """Three zero bytes in a row in a slice, and where they are allowed."""

    RECORD = bytes([1, 0x64, 0, 0x1F, 0xFF])  # of H.264, with lengths of 4 bytes
    HEVC_RECORD = bytes([1, *bytes(20), 0xFF, 0])

    @staticmethod
    def units(*units: bytes) -> bytes:
        return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)

    @pytest.mark.parametrize(
        ("units", "expected"),
        [
            ([b"\x65\x88\x01", b"\x41\x9a\x00\x00\x03\x00\x01"], False),
            ([b"\x65\x88\x00\x00\x00\x17"], True),
            ([b"\x65\x88\x00\x00\x00"], False),  # padding
            ([b"\x06\x05\x00\x00\x00\x17"], False),  # a message, no slice
            ([b"\x67\x64", b"\x41\x00\x00\x00\x00\x80"], True),
            ([b"\x65"], False),  # a length of 1: three zeros, but not of a slice
        ],
    )
    def test_h264_in_mp4(self, units, expected):
        assert zero_run_check("h264", self.RECORD)(self.units(*units)) is expected

    @pytest.mark.parametrize(("first", "expected"), [(b"\x26", True), (b"\x02", True), (b"\x4e", False)])
    def test_hevc_in_mp4(self, first, expected):
        assert zero_run_check("hevc", self.HEVC_RECORD)(self.units(first + b"\x01\x00\x00\x00\x17")) is expected

    @pytest.mark.parametrize(
        ("stream", "expected"),
        [
            (b"\0\0\0\1\x65\x88\x17\0\0\0\0\1\x41\x9a", False),
            (b"\0\0\0\1\x65\x88\x17\0\0\0\0", False),
            (b"\0\0\0\1\x65\x88\0\0\0\x17", True),
        ],
    )
    @pytest.mark.parametrize("extradata", [None, b"", b"\0\0\0\1\x67"])
    def test_byte_stream(self, stream, expected, extradata):
        assert zero_run_check("h264", extradata)(stream) is expected

    def test_other_codecs_are_not_checked(self):
        assert zero_run_check("mpeg4", None) is None

    def test_real_packets_are_clean(self, sound, tmp_path):
        copy = remux(sound["index_last.mp4"], tmp_path / "copy.ts")
        assert read_all(copy) == 5

"""``nastc extract`` in process: exit codes, what is printed, and the same features as from Python."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from nni_nastc.cli.main import main
from nni_nastc.features.extractor import ExtractionSettings, extract
from nni_nastc.features.store import FeatureStore
from tests.videos import TinyBackbone, corrupted, numbered_frame, truncated, write_images, write_video

SIZES = ["--short-side", "32", "--crop", "32"]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "videos").mkdir()
    for name, frames in (("a", 24), ("b", 41)):
        write_video(tmp_path / "videos" / f"{name}.mp4", frames)
    return tmp_path / "videos"


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    """In place of I3D; remembers which weights were asked for."""
    asked = []

    def load_i3d(weights):
        asked.append(weights)
        return TinyBackbone()

    monkeypatch.setattr("nni_nastc.features.weights.load_i3d", load_i3d)
    return asked


def run(*arguments) -> int:
    return main(["extract", *map(str, arguments), *SIZES])


def test_the_same_as_from_python(folder, tmp_path, capsys):
    assert run(folder, "--out", tmp_path / "cli", "--windows", "4", "--pool", "2", "--batch-size", "3") == 0
    extract([folder], tmp_path / "api", TinyBackbone(), ExtractionSettings(short_side=32, crop=32, windows=4, pool=2))
    for name in ("a.safetensors", "b.safetensors", "manifest.json"):
        assert (tmp_path / "cli" / name).read_bytes() == (tmp_path / "api" / name).read_bytes(), name
    output = capsys.readouterr().out
    assert "videos extracted: 2 (7 superframes in" in output
    assert "already there: 0" in output


def test_a_second_run_goes_on(folder, tmp_path, capsys):
    assert run(folder / "a.mp4", "--out", tmp_path / "store") == 0
    write_video(folder / "a.mp4", [numbered_frame(5)] * 16)
    assert run(folder, "--out", tmp_path / "store") == 0
    assert run(folder, "--out", tmp_path / "store") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines if line.startswith("videos")] == [
        "videos extracted: 1", "videos extracted: 2", "videos extracted: 0"
    ]  # fmt: skip
    assert "extracted again, because the file had changed: a" in lines
    assert "already there: 2" in lines[-1]


def test_bad_videos_are_listed_with_exit_code_2(folder, tmp_path, capsys):
    corrupted(folder / "b.mp4", folder / "corrupt.mp4", 1500, bytes(300))
    truncated(folder / "b.mp4", folder / "cut.mp4", 1800)
    write_video(folder / "short.mp4", 7)
    (folder / "text.mp4").write_text("no video")
    assert run(folder, "--out", tmp_path / "store") == 2
    captured = capsys.readouterr()
    assert "videos extracted: 2" in captured.out
    listed = captured.err[captured.err.index("cannot use 4 of 6 videos:") :].splitlines()[1:]
    assert [Path(line.split(" is ")[0].strip()).name for line in listed] == [
        "corrupt.mp4", "cut.mp4", "short.mp4", "text.mp4"
    ]  # fmt: skip
    assert sorted(FeatureStore.open(tmp_path / "store").videos) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "no such file: nowhere.mp4"),
        (["{folder}/empty"], "no video in the folder"),
        (["{folder}", "{folder}/empty/../other/a.avi"], "two videos have the name a"),
        (["{folder}", "--pool", "9"], "pool must be at most the size of the map, 4 x 4: given 9"),
        (["{folder}", "--batch-size", "0"], "batch_size must be at least 1: given 0"),
        (["{folder}", "--device", "cuda:99"], "no such GPU: cuda:99"),
        (["{folder}/a.mp4", "--out", "{folder}"], "holds other files"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path, tmp_path_factory, capsys, folder, arguments, message):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "empty").mkdir()
    (folder / "other").mkdir()
    if "other" in str(arguments):
        shutil.copy(folder / "a.mp4", folder / "other" / "a.avi")
    before = sorted(tmp_path.rglob("*"))
    filled = [argument.format(folder=folder) for argument in arguments]
    assert run("--out", elsewhere / "store", *filled) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nastc extract: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(tmp_path.rglob("*")) == before
    assert not (elsewhere / "store").exists()


@pytest.mark.parametrize("windows", ["0", "-3", "many", "1.5"])
def test_windows_is_a_number_or_all(folder, tmp_path, capsys, windows):
    with pytest.raises(SystemExit) as stopped:
        run(folder, "--out", tmp_path / "store", f"--windows={windows}")
    assert stopped.value.code == 2
    assert f"must be all, or a whole number from 1 up: given '{windows}'" in capsys.readouterr().err


def test_a_store_of_other_settings(folder, tmp_path, capsys):
    assert run(folder, "--out", tmp_path / "store") == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()}
    for extra in ([], ["--dry-run"]):
        assert run(folder, "--out", tmp_path / "store", "--pool", "2", *extra) == 2
        assert "was made with other settings (pool: None, 2)" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()} == before


def test_dry_run_counts_and_writes_nothing(folder, tmp_path, capsys):
    (folder / "text.mp4").write_text("no video")
    assert run(folder, "--out", tmp_path / "store", "--dry-run") == 2
    captured = capsys.readouterr()
    printed = dict(line.split(":", 1) for line in captured.out.splitlines())
    assert printed["videos"].strip() == "2 to extract, 0 already in the store"
    assert printed["superframes"].strip() == "8"
    assert "GB needed" in printed["disk"]
    assert "GB free" in printed["disk"]
    assert printed["time"].strip().startswith("about ")
    assert "cannot use 1 of 3 videos" in captured.err
    assert not (tmp_path / "store").exists()
    (folder / "text.mp4").unlink()
    assert run(folder, "--out", tmp_path / "store", "--dry-run") == 0


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_a_disk_that_is_too_small(folder, tmp_path, capsys, monkeypatch, extra):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert run(folder, "--out", tmp_path / "store", *extra) == 2
    captured = capsys.readouterr()
    assert "is too small: 8 superframes need" in captured.err
    assert ("superframes: 8" in captured.out) == bool(extra)
    assert not (tmp_path / "store").exists()


def test_weights_are_passed_on_and_random_ones_said_loudly(folder, tmp_path, capsys, tiny_backbone):
    for number, weights in enumerate(["random", "kinetics400", "some/file.pt"]):
        assert run(folder, "--out", tmp_path / str(number), "--weights", weights) == 0
        assert ("WARNING: the weights of I3D are RANDOM" in capsys.readouterr().err) == (weights == "random")
    assert tiny_backbone == [None, "kinetics400", "some/file.pt"]
    assert run(folder, "--out", tmp_path / "default") == 0
    assert tiny_backbone[-1] == "kinetics400"


def test_videos_are_checked_before_weights_are_fetched(tmp_path, tiny_backbone):
    assert run(tmp_path / "nowhere.mp4", "--out", tmp_path / "store") == 2
    assert tiny_backbone == []


def test_images_in_folders(folder, tmp_path, capsys):
    for name in ("one", "two"):
        write_images(tmp_path / "images" / name, 20, name=name + "-{:06d}.jpg")
    (tmp_path / "images" / "two" / "two-000007.jpg").unlink()
    given = (tmp_path / "images", folder, "--out", tmp_path / "store")
    for extra in ([], ["--dry-run"]):
        assert run(*given, *extra) == 2
        assert "one is a folder of images" in (error := capsys.readouterr().err)
        assert "give --fps" in error
    assert run(*given, "--fps", "24", "--dry-run") == 2
    assert "superframes: 10" in capsys.readouterr().out
    assert run(*given, "--fps", "24") == 2
    assert "two-000007.jpg is missing" in capsys.readouterr().err
    assert sorted(FeatureStore.open(tmp_path / "store").videos) == ["a", "b", "one"]


def test_names_of_the_annotations(tmp_path, capsys):
    for name in ("P03/cam01/P03_tea", "P03/stereo/P03_tea_ch0", "P47/cam01/P47_tea"):
        for file in (f"{name}.avi.labels", f"{name}.avi"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("1-5 pour_water\n")
    for name in ("P03/cam01/P03_tea", "P03/stereo/P03_tea_ch0", "P03/stereo/P03_tea_ch1"):
        shutil.copy(write_video(tmp_path / "a.mp4", 16), tmp_path / f"{name}.avi")
    annotated = ["--annotations", tmp_path, "--dataset", "breakfast", "--out", tmp_path / "store"]
    assert run(tmp_path, *annotated) == 2
    captured = capsys.readouterr().err
    assert "cannot use 1 of 3 videos" in captured
    assert "P47_tea.avi" in captured
    assert sorted(FeatureStore.open(tmp_path / "store").videos) == ["P03_cam01_P03_tea", "P03_stereo_P03_tea_ch0"]
    assert run(tmp_path / "P03", *annotated) == 2
    assert "none of the 3 annotated videos is there" in capsys.readouterr().err
    assert run(tmp_path, *annotated[:2], "--dataset", "breakfest", *annotated[4:]) == 2
    assert "breakfest" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_an_output_folder_that_cannot_be_made(folder, capsys, extra):
    assert run(folder, "--out", folder / "a.mp4" / "store", *extra) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nastc extract: ")]
    assert len(lines) == 1
    assert "cannot be made (Not a directory); choose another" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "9999"], r"--devices is 9999, this machine has"),
        (["--devices", "2", "--device", "cuda:0"], "several processes take the devices auto, cpu or cuda, got cuda:0"),
        (["--fps", "0"], "fps must be above 0: given 0"),
    ],
)
def test_processes_and_rates_that_cannot_be(folder, tmp_path, capsys, arguments, message):
    assert run(folder, "--out", tmp_path / "store", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("starter", ["torchrun", "SLURM"])
@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--devices", "2"]])
def test_processes_that_do_not_know_of_one_another(folder, tmp_path, capsys, monkeypatch, starter, arguments):
    variables = {
        "torchrun": {"RANK": "0", "WORLD_SIZE": "4"},
        "SLURM": {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"},
    }
    for name, value in variables[starter].items():
        monkeypatch.setenv(name, value)
    assert run(folder, "--out", tmp_path / "store", *arguments, "--device", "cpu") == 2
    assert f"{starter} started 4 processes, the configuration has --devices = " in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_interrupted(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TinyBackbone, "features", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(folder, "--out", tmp_path / "store") == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_real_backbone_and_clips(shared, tmp_path, monkeypatch):
    """With I3D itself, at sizes that it can take quickly; a corrupted clip among sound ones."""
    monkeypatch.undo()
    clips = [shared / "clips" / name for name in ("short_36_frames.mp4", "playing_cricket.gif", "bad/corrupted.mp4")]
    arguments = [*clips, "--out", tmp_path / "store", "--weights", "random", "--windows", "2"]
    assert main(["extract", *map(str, arguments), "--short-side", "128", "--crop", "112"]) == 2
    store = FeatureStore.open(tmp_path / "store")
    assert sorted(store.videos) == ["playing_cricket", "short_36_frames"]
    assert store.feature_shape == (1024, 4, 4)
    features = store.read("playing_cricket", [0, 1])
    assert np.abs(features[0].astype(float) - features[1]).mean() > 0

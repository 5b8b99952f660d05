"""I3D: padding against a plain formula, shapes of every stage, the released network's own numbers."""

import itertools

import numpy as np
import pytest
import torch

from nni_nastc.errors import ModelError
from nni_nastc.features.i3d import ENDPOINTS, I3D, ConvUnit, SameMaxPool, same_padding
from nni_nastc.features.weights import load_i3d

CHANNELS = [64, 64, 64, 192, 192, 256, 480, 480, 512, 512, 512, 528, 832, 832, 832, 1024]
# How often time and space have been halved after each stage.
TIME_HALVINGS = [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3]
SPACE_HALVINGS = [1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5, 5]

TOP_CLASSES = {
    "arm_wrestling.mp4": "arm wrestling",
    "flipping_pancake.mkv": "flipping pancake",
    "playing_cricket.gif": "playing cricket",
    "cleaning_pool.mp4": "cleaning pool",
    "basketball.mp4": "shooting basketball",
    "applying_makeup.avi": "filling eyebrows",
}


@pytest.fixture(scope="module")
def random_i3d() -> I3D:
    return load_i3d(None)


@pytest.fixture(scope="module")
def i3d(kinetics400) -> I3D:
    return load_i3d("kinetics400")


@pytest.fixture(scope="module")
def reference(shared) -> dict:
    with np.load(shared / "reference" / "i3d_kinetics400_rgb.npz") as stored:
        return {name: stored[name] for name in stored.files}


def tensorflow_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The rule as TensorFlow's guide to padding words it."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


def tensorflow_windows(x: np.ndarray, kernel: tuple, stride: tuple, fill: float) -> np.ndarray:
    """Pad (C, t, h, w) by TensorFlow's rule and cut its windows one by one: (t', h', w', C, *kernel)."""
    pads = [tensorflow_padding(*dimension) for dimension in zip(x.shape[1:], kernel, stride, strict=True)]
    padded = np.pad(x, [(0, 0), *pads], constant_values=fill)
    outputs = [-(-size // step) for size, step in zip(x.shape[1:], stride, strict=True)]
    windows = np.empty((*outputs, x.shape[0], *kernel), x.dtype)
    for place in itertools.product(*map(range, outputs)):
        cut = [slice(at * s, at * s + k) for at, s, k in zip(place, stride, kernel, strict=True)]
        windows[place] = padded[(slice(None), *cut)]
    return windows


@pytest.mark.parametrize("kernel", range(1, 9))
@pytest.mark.parametrize("stride", range(1, 5))
def test_same_padding_follows_tensorflow(kernel, stride):
    for size in range(1, 60):
        found, expected = same_padding(size, kernel, stride), tensorflow_padding(size, kernel, stride)
        assert found == expected, f"size {size}, kernel {kernel}, stride {stride}: {found} instead of {expected}"


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_max_pool_follows_tensorflow_at_every_size(kernel, stride):
    for t, h, w in [*((n, n + 1, n + 2) for n in range(1, 9)), (8, 14, 14), (1, 7, 1), (4, 1, 9)]:
        # Negative everywhere: a pool that pads with zeros would return zeros at the border.
        x = -1 - torch.rand(2, 3, t, h, w)
        expected = np.stack([tensorflow_windows(clip, kernel, stride, -np.inf).max((-3, -2, -1)) for clip in x.numpy()])
        found = SameMaxPool(kernel, stride)(x).numpy()
        np.testing.assert_array_equal(found, np.moveaxis(expected, -1, 1), err_msg=f"input {t} x {h} x {w}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["oneDNN", "other kernel"])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1)])
def test_convolution_follows_tensorflow_at_every_size(kernel, stride, dtype):
    unit = ConvUnit(2, 3, kernel, stride).eval().to(dtype)
    torch.nn.init.uniform_(unit.bn.running_mean, -1, 1)
    torch.nn.init.uniform_(unit.bn.running_var, 0.5, 2)
    torch.nn.init.uniform_(unit.bn.weight, 0.5, 2)
    torch.nn.init.uniform_(unit.bn.bias, -1, 1)
    weight, mean, var, scale, shift = (
        tensor.detach().double().numpy()
        for tensor in (unit.conv.weight, unit.bn.running_mean, unit.bn.running_var, unit.bn.weight, unit.bn.bias)
    )
    for t, h, w in [*((n, n + 1, n + 2) for n in range(1, 8)), (8, 12, 10)]:
        x = torch.randn(1, 2, t, h, w, dtype=dtype)
        windows = tensorflow_windows(x[0].double().numpy(), (kernel,) * 3, (stride,) * 3, 0.0)
        expected = np.einsum("thwcijk,ocijk->thwo", windows, weight)
        expected = np.maximum((expected - mean) / np.sqrt(var + 1e-3) * scale + shift, 0)
        with torch.inference_mode():
            found = unit(x)[0].numpy()
        np.testing.assert_allclose(
            found, np.moveaxis(expected, -1, 0), rtol=1e-4, atol=1e-5, err_msg=f"input {t} x {h} x {w}"
        )


@pytest.mark.parametrize(("frames", "height", "width"), [(8, 96, 64), (11, 65, 50), (1, 33, 1)])
def test_shape_after_every_stage(random_i3d, frames, height, width):
    clip = torch.rand(2, 3, frames, height, width) * 2 - 1
    for endpoint, channels, time, space in zip(ENDPOINTS, CHANNELS, TIME_HALVINGS, SPACE_HALVINGS, strict=True):
        with torch.inference_mode():
            found = random_i3d.features(clip, endpoint)
        expected = (2, channels, -(-frames // 2**time), -(-height // 2**space), -(-width // 2**space))
        assert tuple(found.shape) == expected, f"{endpoint}: {tuple(found.shape)} instead of {expected}"
        assert found.is_contiguous(), f"{endpoint} is not laid out as (B, C, t, h, w)"


def test_features_of_random_weights_are_alive(random_i3d):
    with torch.inference_mode():
        features = random_i3d.features(torch.rand(2, 3, 8, 96, 96) * 2 - 1)
    dead = (features == 0).float().mean().item()
    assert 0.2 < features.std().item() < 5, f"standard deviation {features.std().item()}"
    assert 0.2 < dead < 0.8, f"{dead:.0%} of the features are 0"
    assert not torch.allclose(features[0], features[1]), "two clips have the same features"


def test_a_clip_alone_and_in_a_batch_are_equal(random_i3d):
    clips = torch.rand(3, 3, 8, 64, 64) * 2 - 1
    with torch.inference_mode():
        together = random_i3d.features(clips)
        alone = torch.cat([random_i3d.features(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_logits_average_windows_then_time_and_space(random_i3d):
    clip = torch.rand(1, 3, 17, 225, 193) * 2 - 1
    with torch.inference_mode():
        found = random_i3d.logits(clip)[0].numpy()
        features = random_i3d.features(clip)[0].double().numpy()
    assert features.shape == (1024, 3, 8, 7)
    weight = random_i3d.head.weight.detach().double().numpy()[:, :, 0, 0, 0]
    windows = [features[:, t : t + 2, h : h + 7].mean((1, 2, 3)) for t in range(2) for h in range(2)]
    expected = np.mean([weight @ window for window in windows], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("frames", "height", "width"), [(8, 224, 224), (9, 192, 224), (9, 224, 192)])
def test_logits_refuse_small_clips(random_i3d, frames, height, width):
    with pytest.raises(ModelError, match=f"at least 9 frames of 193 x 193.*{frames} frames of {height} x {width}"):
        random_i3d.logits(torch.zeros(1, 3, frames, height, width))


def test_logits_of_the_smallest_clip(random_i3d):
    with torch.inference_mode():
        assert random_i3d(torch.zeros(1, 3, 9, 193, 193)).shape == (1, 400)


@pytest.mark.parametrize(
    "clip",
    [
        torch.zeros(3, 8, 32, 32),
        torch.zeros(1, 8, 32, 32, 3),
        torch.zeros(1, 3, 0, 32, 32),
        torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8),
    ],
    ids=["no batch", "channels last", "no frames", "uint8"],
)
def test_other_clips_are_refused(random_i3d, clip):
    with pytest.raises(ModelError, match=r"\(B, 3, frames, H, W\).*given") as caught:
        random_i3d.features(clip)
    assert f"{tuple(clip.shape)} of {clip.dtype}" in str(caught.value)


def test_unknown_endpoint_is_refused(random_i3d):
    with pytest.raises(ModelError, match=r"'Mixed_6a'.*Mixed_5c"):
        random_i3d.features(torch.zeros(1, 3, 8, 32, 32), "Mixed_6a")


def relative_error(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def test_reference_features_of_superframes(i3d, reference):
    frames = torch.from_numpy(reference["frames"]).permute(0, 4, 1, 2, 3) / 127.5 - 1
    expected = np.moveaxis(reference["mixed_5c_8"], -1, 1)
    with torch.inference_mode():
        found = torch.cat([i3d.features(frames[:, :, :8]), i3d.features(frames[:, :, 8:])], dim=2)
    assert relative_error(found, expected) < 1e-4, f"relative error {relative_error(found, expected)}"


def test_reference_features_and_logits_of_16_frames(i3d, reference):
    frames = torch.from_numpy(reference["frames"]).permute(0, 4, 1, 2, 3) / 127.5 - 1
    expected = np.moveaxis(reference["mixed_5c_16"], -1, 1)
    with torch.inference_mode():
        features, logits = i3d.features(frames), i3d.logits(frames)
    assert relative_error(features, expected) < 1e-4, f"relative error {relative_error(features, expected)}"
    error = relative_error(logits, reference["logits_16"])
    assert error < 1e-4, f"relative error of the logits {error}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), TOP_CLASSES.items())
def test_top_class_of_real_clips(i3d, shared, name, expected):
    from nni_nastc.features.video import read_superframes

    classes = (shared / "reference" / "kinetics400_labels.txt").read_text(encoding="utf-8").splitlines()
    frames = np.concatenate([superframe.frames for superframe in read_superframes(shared / "clips" / name)])
    first = (len(frames) - 64) // 2
    clip = torch.from_numpy(frames[first : first + 64]).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        scores = i3d.logits(clip).softmax(1)[0]
    found = classes[int(scores.argmax())]
    assert found == expected, f"{name}: {found} ({scores.max():.2f}) instead of {expected}"


def test_folded_batch_norms_leave_the_maps_as_they_are():
    torch.manual_seed(0)
    model = I3D().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.1, 0.1)
    folded = model.folded()
    clip = torch.rand(1, 3, 8, 64, 48) * 2 - 1
    with torch.inference_mode():
        expected, found = model.features(clip), folded.features(clip)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm3d) for module in model.modules()), "the original was changed"

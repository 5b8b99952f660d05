"""ResNet-152: the published size, its block beside plain loops, torchvision's files, and an extraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nni_nastc.cli.main import main
from nni_nastc.errors import ConfigError, ModelError, WeightsError
from nni_nastc.features.backbones import load_backbone
from nni_nastc.features.resnet import IMAGENET_MEAN, IMAGENET_STD, Bottleneck, ResNet152
from nni_nastc.features.resnet_weights import load_resnet152
from nni_nastc.features.store import FeatureStore
from tests.helpers import fill
from tests.videos import numbered_frame, write_video


@pytest.fixture(scope="module")
def random_resnet() -> ResNet152:
    return load_resnet152(None)


@pytest.fixture
def meta_state() -> dict[str, Tensor]:
    with torch.device("meta"):
        return ResNet152().state_dict()


def test_the_published_size(meta_state):
    with torch.device("meta"):
        network = ResNet152()
    assert sum(p.numel() for p in network.parameters()) == 60_192_808
    assert sum(1 for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)) - 4 == 152, "4 are shortcuts"
    assert network(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    assert network.features(torch.empty(2, 3, 8, 224, 224, device="meta")).shape == (2, 2048, 1, 7, 7)


def test_names_are_those_of_torchvision(meta_state):
    some = {"conv1.weight", "bn1.running_mean", "layer3.35.conv2.weight", "layer4.0.downsample.1.bias"}
    assert some <= set(meta_state)
    assert len([name for name in meta_state if not name.endswith("num_batches_tracked")]) == 777
    assert meta_state["layer2.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    assert meta_state["fc.weight"].shape == (1000, 2048)


def convolved(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A convolution of (C, H, W) by loops."""
    padded = torch.zeros(x.shape[0], x.shape[1] + 2 * padding, x.shape[2] + 2 * padding, dtype=x.dtype)
    padded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]] = x
    size = weight.shape[-1]
    rows = range(0, padded.shape[1] - size + 1, stride)
    return torch.stack(
        [
            torch.stack([(padded[:, i : i + size, j : j + size] * weight).sum((1, 2, 3)) for j in rows], 1)
            for i in rows
        ],
        1,
    )


def normed(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, var, weight, bias = (t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


@pytest.mark.parametrize(("in_channels", "width", "stride"), [(3, 2, 2), (3, 2, 1), (8, 2, 1)])
def test_a_block_beside_plain_loops(in_channels, width, stride):
    block = Bottleneck(in_channels, width, stride).double().eval()
    fill(block)
    x = torch.randn(in_channels, 6, 6, dtype=torch.float64)
    y = normed(convolved(x, block.conv1.weight, 1, 0), block.bn1).clamp(min=0)
    y = normed(convolved(y, block.conv2.weight, stride, 1), block.bn2).clamp(min=0)
    y = normed(convolved(y, block.conv3.weight, 1, 0), block.bn3)
    shortcut = x
    if (in_channels, stride) != (8, 1):
        shortcut = normed(convolved(x, block.downsample[0].weight, stride, 0), block.downsample[1])
    torch.testing.assert_close(block(x[None])[0], (y + shortcut).clamp(min=0))


def test_images_are_normalised_as_for_imagenet(random_resnet):
    pixels = torch.rand(2, 3, 32, 32)
    seen = []
    hook = random_resnet.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        random_resnet.maps(2 * pixels - 1)
    hook.remove()
    for colour in range(3):
        expected = (pixels[:, colour] - IMAGENET_MEAN[colour]) / IMAGENET_STD[colour]
        torch.testing.assert_close(seen[0][:, colour], expected, rtol=1e-4, atol=1e-5)


def test_one_frame_or_the_mean_of_all(random_resnet):
    clip = torch.rand(2, 3, 8, 32, 32) * 2 - 1
    with torch.inference_mode():
        maps = torch.stack([random_resnet.maps(clip[:, :, t]) for t in range(8)])
        middle = random_resnet.features(clip, "layer4_middle")
        mean = random_resnet.features(clip, "layer4_mean")
    assert middle.shape == mean.shape == (2, 2048, 1, 1, 1)
    torch.testing.assert_close(middle[:, :, 0], maps[4], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mean[:, :, 0], maps.mean(0), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(middle, mean, rtol=0.01)
    with pytest.raises(ModelError, match="unknown endpoint 'Mixed_5c': choose one of layer4_middle, layer4_mean"):
        random_resnet.features(clip, "Mixed_5c")


@pytest.fixture(scope="module")
def file(tmp_path_factory, random_resnet):
    """As torchvision's: the state dictionary, counters of batches included."""
    path = tmp_path_factory.mktemp("weights") / "resnet152-made.pth"
    torch.save({**random_resnet.state_dict(), "bn1.bias": torch.full((64,), 0.5)}, path)
    return path


class TestFiles:
    def test_a_file_of_torchvision(self, file, random_resnet):
        loaded = load_resnet152(file, "layer4_mean")
        assert (loaded.weights_name, loaded.endpoint, loaded.training) == ("resnet152-made", "layer4_mean", False)
        assert torch.equal(loaded.bn1.bias, torch.full((64,), 0.5))
        assert torch.equal(loaded.layer3[7].conv2.weight, random_resnet.layer3[7].conv2.weight)
        assert loaded.weights_digest.startswith("sha256:")
        assert loaded.weights_digest != random_resnet.weights_digest

    def test_older_files_have_no_counters(self, file):
        state = {k: v for k, v in torch.load(file).items() if not k.endswith("num_batches_tracked")}
        torch.save(state, older := file.with_name("older.pth"))
        assert load_resnet152(older).weights_digest == load_resnet152(file).weights_digest

    def test_other_architectures_are_refused(self, tmp_path, meta_state):
        small = {name: torch.zeros(1) for name in meta_state if not name.startswith(("layer3.35", "fc.b"))}
        torch.save({**small, "layer5.weight": torch.zeros(1)}, tmp_path / "other.pth")
        with pytest.raises(WeightsError) as caught:
            load_resnet152(tmp_path / "other.pth")
        message = str(caught.value)
        assert "16 missing, such as layer3.35.conv1.weight" in message
        assert "1 unknown, such as layer5.weight" in message
        assert "of another shape, such as conv1.weight" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "no such weights file"), (b"PK nothing", "is damaged"), ([1, 2], "holds no state dictionary")],
    )
    def test_other_files(self, tmp_path, content, message):
        file = tmp_path / "resnet152.pth"
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            torch.save(content, file)
        with pytest.raises(WeightsError, match=message):
            load_resnet152(file)


def test_backbones_by_name():
    with pytest.raises(ConfigError, match="no backbone is called 'resnet50'; choose one of i3d, resnet152"):
        load_backbone("resnet50", None)
    with pytest.raises(ConfigError, match="resnet152 stores layer4_middle or layer4_mean, got the endpoint 'fc'"):
        load_backbone("resnet152", None, "fc")
    with pytest.raises(WeightsError, match="kinetics400 are weights of I3D; give those of ResNet-152"):
        load_backbone("resnet152", "kinetics400")


def test_an_extraction(tmp_path, random_resnet, monkeypatch, capsys):
    monkeypatch.setattr("nni_nastc.features.resnet_weights.load_resnet152", lambda weights, endpoint: random_resnet)
    write_video(tmp_path / "a.mp4", [numbered_frame(n) for n in range(17)])
    arguments = ["extract", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "store"), "--short-side", "64"]
    arguments += ["--crop", "64", "--backbone", "resnet152", "--weights", "random", "--device", "cpu"]
    assert main(arguments) == 0
    assert "the weights of ResNet-152 are RANDOM" in capsys.readouterr().err
    store = FeatureStore.open(tmp_path / "store")
    assert (store.settings.backbone, store.settings.endpoint) == ("resnet152", "layer4_middle")
    assert store.settings.from_videos
    assert store.feature_shape == (2048, 2, 2)
    features = store.read("a", np.arange(2))
    assert np.isfinite(features).all()
    assert features.astype(float).std() > 0.01
    # A store of I3D's features does not take those of ResNet.
    assert main([*arguments[:-6], "--backbone", "i3d", "--weights", "random", "--device", "cpu"]) == 2
    assert "backbone" in capsys.readouterr().err

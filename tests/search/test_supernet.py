"""The supernet cell computes what NNI's does: outputs, all gradients, statistics; and nothing that nobody asks for."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from nni.nas.strategy import DARTS
from torch import Tensor, nn

from nni_nastc.genotype import OPERATION_NAMES, SEARCHED_OPERATIONS
from nni_nastc.nn import depthwise
from nni_nastc.search import mixed_cell, states
from nni_nastc.search.convolutions import Convolution
from nni_nastc.search.darts import DARTS as OurDARTS
from nni_nastc.search.darts import GumbelDARTS
from nni_nastc.search.supernet import TempDartsCell
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.space.network import NasTCSpace

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def supernet(strategy, dtype=torch.float64, operations=SEARCHED_OPERATIONS, **sizes) -> nn.Module:
    torch.manual_seed(0)
    space = NasTCSpace(
        num_classes=3, operations=operations, **{"num_layers": 2, "in_channels": 24, "num_groups": 2, **sizes}
    )
    model = strategy.mutate_model(space).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def pair(dtype, strategy=TempDARTS, **sizes) -> tuple[nn.Module, nn.Module]:
    """NNI's supernet and ours, with the same weights, alphas that differ, and statistics that differ."""
    generator = torch.Generator().manual_seed(1)
    ours = supernet(strategy(), dtype, **sizes)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "alpha" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for name, buffer in ours.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    theirs = supernet(DARTS(), dtype, **sizes)
    theirs.load_state_dict(ours.state_dict())
    cells = [m for m in theirs.modules() if isinstance(m, DifferentiableMixedCell)]
    assert cells, "the oracle is not NNI's cell"
    assert not any(isinstance(cell, TempDartsCell) for cell in cells), "the oracle is our own cell"
    return theirs, ours


def features(dtype, size: int = 3, timesteps: int = 8) -> Tensor:
    x = torch.randn(3, 24, timesteps, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[:, :, 3] = x[:, :, 2]  # a short video repeats windows: the max-pool has ties
    return x.to(dtype)


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    y = model(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view_as(y)).sum().backward()
    # In front of a batch norm a bias has no gradient but rounding.
    gradients = {n: p.grad for n, p in model.named_parameters() if n != "head.1.bias"}
    return {"output": y.detach(), "input": x.grad, **gradients}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = ((found[name] - value).norm() / value.norm().clamp_min(1e-30)).item()
        assert difference < tolerance, f"{name} differs by {difference:.1e}"


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float64, 3), (torch.float64, 1), (torch.float32, 3)], ids=["f64", "f64-1x1", "f32"]
)
def test_same_as_nni(dtype, size, training):
    theirs, ours = pair(dtype)
    x = features(dtype, size)
    assert_same(run(ours.train(training), x), run(theirs.train(training), x), TOLERANCE[dtype])
    statistics = {n: b.double() for n, b in theirs.named_buffers()}
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer.double(), statistics[name], rtol=TOLERANCE[dtype], atol=1e-6, msg=name)


@pytest.mark.parametrize("strategy", [OurDARTS, GumbelDARTS])
def test_the_other_strategies_have_the_same_cell(strategy, monkeypatch):
    """Gumbel's without its noise, of which two cells would draw different."""
    monkeypatch.setattr(nn.functional, "gumbel_softmax", lambda x, *_, dim, **__: torch.softmax(x, dim))
    theirs, ours = pair(torch.float64, strategy)
    assert any(isinstance(module, TempDartsCell) for module in ours.modules())
    assert_same(run(ours, features(torch.float64)), run(theirs, features(torch.float64)), 1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_same_as_nni_on_a_gpu(dtype):
    """With whichever filters are the faster ones there."""
    theirs, ours = (model.cuda() for model in pair(dtype))
    x = features(dtype).cuda()
    assert_same(run(ours, x), run(theirs, x), TOLERANCE[dtype])


@pytest.mark.parametrize("operations", [("max_pool",), ("dil_conv_3", "identity"), OPERATION_NAMES], ids=len)
def test_any_operations(operations):
    theirs, ours = pair(torch.float64, operations=operations)
    assert_same(run(ours, features(torch.float64)), run(theirs, features(torch.float64)), 1e-9)


def test_width_of_one_channel():
    theirs, ours = pair(torch.float64, num_groups=12, num_layers=1)
    found, expected = run(ours, features(torch.float64)), run(theirs, features(torch.float64))
    for name, value in expected.items():
        # The size of a 1 x 1 kernel is lost in the norm behind it: its gradient is all but zero.
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-7, msg=name)


def test_statistics_are_counted_once():
    _, ours = pair(torch.float64)
    run(ours.train(), features(torch.float64))
    counts = {n: b.item() for n, b in ours.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {1}, counts


def test_frozen_weights_leave_the_alphas_gradients_as_they_are():
    _, ours = pair(torch.float64)
    frozen = deepcopy(ours)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_("alpha" in name)
    full = run(ours, features(torch.float64))
    x = features(torch.float64)
    y = frozen(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    for name, parameter in frozen.named_parameters():
        if "alpha" in name:
            torch.testing.assert_close(parameter.grad, full[name], rtol=1e-9, atol=1e-12)
        else:
            assert parameter.grad is None, f"{name} got a gradient"


def test_frozen_weights_cost_no_gradients(monkeypatch):
    """The alpha step asks no kernel's gradient, and of the first cell's inputs none at all."""
    asked = []
    for name in ("input_gradient", "kernel_gradient"):
        original = getattr(depthwise, name)
        spy = lambda *a, original=original, name=name, **k: asked.append(name) or original(*a, **k)  # noqa: E731
        monkeypatch.setattr(depthwise, name, spy)

    _, ours = pair(torch.float64, num_layers=1)
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_("alpha" in name)
    ours(features(torch.float64)).sum().backward()
    # Six of the 14 edges start at nodes; two dilated convolutions of one stage and three separable ones of two.
    assert asked == ["input_gradient"] * (6 * (2 + 3 * 2))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("images", [1, 4])
def test_slabs_make_no_difference(monkeypatch, images, training):
    """Six images, three videos of two groups: in six slabs, or in one of four and one of two."""
    theirs, ours = pair(torch.float64)
    x = features(torch.float64)
    steps, places, bytes_a_row = 8, 9, 16 * 8  # of the first cell: four channels, filled up to 16
    monkeypatch.setattr(states, "SLAB_BYTES", images * steps * places * bytes_a_row)
    cut = []
    original = mixed_cell.slabs_of
    monkeypatch.setattr(mixed_cell, "slabs_of", lambda image: cut.append(original(image)) or cut[-1])
    assert_same(run(ours.train(training), x), run(theirs.train(training), x), 1e-9)
    assert [(rows.stop - rows.start) // (steps * places) for rows in cut[0]] == {1: [1] * 6, 4: [4, 2]}[images]
    statistics = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, statistics[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("slab_bytes", [states.SLAB_BYTES, 1])
def test_bfloat16(monkeypatch, slab_bytes):
    """On the whole no further from full precision than NNI's cell with bfloat16, in one slab or in six."""
    monkeypatch.setattr(states, "SLAB_BYTES", slab_bytes)
    x = features(torch.float32)
    exact = run(pair(torch.float32)[1], x)
    theirs, ours = pair(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(theirs, x)
        monkeypatch.setattr(TempDartsCell, "_add_up", None)
        found = run(ours, x)

    def errors(values: dict[str, Tensor]) -> Tensor:
        weights = [name for name in exact if not name.startswith("head")]
        return torch.stack([(values[n].float() - exact[n]).norm() / exact[n].norm() for n in weights])

    assert found.keys() == exact.keys()
    assert all(found[name].dtype == rough[name].dtype for name in exact)
    assert errors(found)[0] < 0.03, "the output"
    assert errors(found).mean() < 1.05 * errors(rough).mean()


def test_kernels_gradients_are_added_up_in_float32():
    """Many small shares in bfloat16 would be lost beside what is there already."""
    convolution = Convolution((1,), [torch.zeros(2, 1, 3, 1, dtype=torch.bfloat16)] * 2, None, torch.ones(()), 0)
    for _ in range(1000):
        convolution.add_kernel_gradient(0, torch.full((2, 3), 0.01, dtype=torch.bfloat16))
    (total, _) = convolution.kernel_gradients
    torch.testing.assert_close(total, torch.full((2, 1, 3, 1), 1000 * torch.tensor(0.01).bfloat16().item()))


def test_gradients_of_gradients_are_refused():
    _, ours = pair(torch.float64)
    x = features(torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_float16_takes_the_plain_way(monkeypatch):
    _, ours = pair(torch.float32)
    monkeypatch.setattr(mixed_cell.MixedCell, "apply", None)
    with torch.autocast("cpu", dtype=torch.float16):
        output = ours(features(torch.float32))
    assert output.isfinite().all()


def test_norms_over_processes_take_the_plain_way():
    _, ours = pair(torch.float64)
    for model, planned in ((ours, True), (nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(ours)), False)):
        cell = next(module for module in model.modules() if isinstance(module, TempDartsCell))
        rows = [list(edge.values()) for edges in cell.ops for edge in edges]
        assert (mixed_cell.plan_cell(rows, training=True) is not None) == planned

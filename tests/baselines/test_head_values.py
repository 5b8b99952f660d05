"""The core of each head beside values that were worked out by hand, or by a plain loop over the paper's formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nni_nastc.baselines import actionvlad, lstm, non_local, super_events, tgm, transformer, trn, videograph
from nni_nastc.baselines.embedding import ChannelReduction, SuperframeEmbedding
from nni_nastc.baselines.pool import PoolingNetwork
from tests.helpers import fill


def set_(parameter: torch.Tensor, values: object) -> None:
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values, dtype=parameter.dtype).reshape(parameter.shape))


def softmax(*values: float) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 3.0), ("max", 7.0)])
def test_pooling(reduction, expected):
    network = PoolingNetwork(2, 1, reduction=reduction).eval()
    network.head = nn.Identity()
    features = torch.tensor([1.0, 2.0, 7.0, 2.0]).reshape(1, 1, 2, 1, 2)
    assert network(features).item() == expected


def test_a_superframe_is_embedded_by_its_mean_over_space():
    embed = SuperframeEmbedding(2, 2)
    set_(embed.project[0].weight, [[1.0, 0.0], [0.0, 1.0]])
    set_(embed.project[0].bias, [0.0, 0.0])
    features = torch.tensor([[[1.0, 5.0], [4.0, 6.0]], [[4.0, 0.0], [6.0, 2.0]]])[None, :, :, None]  # (1, C, T, 1, W)
    # Means (3, 2) and then (5, 4): the batch norm of a channel's two steps is -1 and 1, and ReLU keeps the later one.
    torch.testing.assert_close(embed(features), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]), atol=1e-4, rtol=0)


def test_channels_are_reduced_at_each_place():
    reduce = ChannelReduction(3, 2).eval()
    fill(reduce)
    x = torch.randn(2, 3, 4, 2, 5)
    expected = reduce[1](reduce[0](x[:, :, 3, 1, 2, None])).relu()[..., 0]
    torch.testing.assert_close(reduce(x)[:, :, 3, 1, 2], expected)


class TestVLAD:
    def test_residuals(self):
        vlad = actionvlad.VLAD(2, 2)
        set_(vlad.centres, [[1.0, 0.0], [0.0, 1.0]])
        descriptors = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
        # Squared distances of the second: 0.8 and 0.4. Of the first: 0 and 2.
        (a, b), (c, d) = softmax(0, -20), softmax(-8, -4)
        expected = [[a * 0 + c * -0.4, c * 0.8], [b * 1 + d * 0.6, b * -1 + d * -0.2]]
        torch.testing.assert_close(vlad.residuals(descriptors), torch.tensor([expected]))

    def test_each_centre_and_then_all_have_length_one(self):
        out = actionvlad.VLAD(4, 3)(torch.randn(2, 10, 4)).unflatten(1, (3, 4))
        torch.testing.assert_close(out.norm(dim=2), torch.full((2, 3), 3**-0.5))


class TestVideoGraph:
    def test_a_node_counts_by_its_presence(self):
        attention = videograph.NodeAttention(2, 2)
        set_(attention.nodes, [[1.0, 0.0], [0.0, 1.0]])
        set_(attention.transform.weight, [[2.0, 0.0], [0.0, 1.0]])
        set_(attention.transform.bias, [0.0, 1.0])
        # Nodes become (2, 1) and (0, 2). Two places of one superframe: (0, 1) and (1, 0).
        x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 1, 1, 2)
        sigmoid = [1 / (1 + math.exp(-v)) for v in (1, 2, 2, 0)]
        first, second = (sigmoid[0] + sigmoid[1]) / 2, (sigmoid[2] + sigmoid[3]) / 2
        expected = torch.tensor([[2 * first, 0.0], [first, 2 * second]])[None, :, None]  # (1, D, T, Y)
        torch.testing.assert_close(attention(x), expected)

    def test_edges_are_sums_over_time_and_over_nodes(self):
        """One channel; the step before counts twice, the next node half."""
        layer = videograph.GraphEmbedding(1).eval()
        over_time, over_nodes, point, *_ = layer
        set_(over_time.weight, [0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 0.0])
        set_(over_nodes.weight, [0.0, 0.0, 0.0, 1.0, 0.5, 0.0, 0.0])
        set_(point.weight, 1.0)
        x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 6.0, 9.0], [0.0, -1.0, 7.0]])[None, None]  # (1, 1, T, Y)
        # Over time: [1 2 3], [6 10 15], [8 11 25]; then over nodes: [2 3.5 3], [11 17.5 15], [13.5 23.5 25].
        assert layer(x).item() == pytest.approx(25, rel=1e-4)
        assert layer(x.flip(2)).item() == pytest.approx(24.5, rel=1e-4), "time is the third dimension"
        assert layer(x.flip(3)).item() == pytest.approx(30.5, rel=1e-4), "nodes are the fourth"


class TestNonLocal:
    def block(self) -> non_local.NonLocalBlock:
        """theta(x) = x_0, phi(x) = x_1, g(x) = 10 x_0."""
        block = non_local.NonLocalBlock(2).eval()
        for convolution, weight in ((block.theta, [1, 0]), (block.phi, [0, 1]), (block.g, [10, 0])):
            set_(convolution.weight, weight)
            set_(convolution.bias, 0)
        return block

    def test_a_response_is_the_mean_of_all_by_likeness(self):
        x = torch.tensor([[1.0, 2.0], [0.5, -1.0]]).reshape(1, 2, 2, 1, 1)  # two superframes (1, 0.5) and (2, -1)
        first, second = softmax(0.5, -1), softmax(1, -2)
        expected = [[10 * first[0] + 20 * first[1]], [10 * second[0] + 20 * second[1]]]
        torch.testing.assert_close(self.block().response(x), torch.tensor([expected]))

    def test_keys_and_values_are_pooled_over_space(self):
        x = torch.tensor([[[1.0, 3.0], [2.0, 0.0]], [[0.0, 1.0], [2.0, 1.0]]])[None, :, None]  # (1, 2, 1, 2, 2)
        # A single key is left, so every place gets its value: 10 max(x_0).
        torch.testing.assert_close(self.block().response(x), torch.full((1, 4, 1), 30.0))

    def test_it_starts_as_the_identity(self):
        x = torch.randn(2, 4, 3, 2, 2)
        assert torch.equal(non_local.NonLocalBlock(4)(x), x)


class TestRelations:
    def test_pairs_of_frames_in_their_order(self):
        relation = trn.Relation(2, 1, 1, num_steps=3).eval()
        pairs = relation.pick(torch.tensor([[[1.0], [2.0], [4.0]]]))
        assert pairs.tolist() == [[[1, 2], [1, 4], [2, 4]]]

    def test_the_relation_is_h_of_the_mean_of_g(self):
        relation = trn.Relation(2, 1, 1, num_steps=3).eval()
        for parameter in relation.parameters():
            nn.init.zeros_(parameter)
        # g(a, b) = relu(b - a) in one hidden unit, doubled; h triples it and takes 1 away.
        with torch.no_grad():
            relation.g[0].weight[0] = torch.tensor([-1.0, 1.0])
            relation.g[3].weight[0, 0] = 2.0
            relation.h.weight[0, 0] = 3.0
            relation.h.bias[0] = -1.0
        forwards = torch.tensor([[[1.0], [2.0], [4.0]]])  # differences 1, 3, 2: their mean is 2
        assert relation(forwards).item() == pytest.approx(11)
        assert relation(forwards.flip(1)).item() == pytest.approx(-1)

    @pytest.mark.parametrize(
        ("timesteps", "expected"),
        [
            (4, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),
            (3, [[0.5, 0.5, 0], [0, 0.5, 0.5]]),
            (1, [[1], [1]]),
        ],
    )
    def test_segments(self, timesteps, expected):
        assert trn.segment_means(timesteps, 2).tolist() == expected


class TestLSTM:
    def test_attention_over_a_window(self):
        attention = lstm.WindowAttention(1, 1, 1)
        for parameter, value in ((attention.key.weight, 1), (attention.query.weight, 2), (attention.weight, 3)):
            set_(parameter, value)
        for parameter in (attention.key.bias, attention.query.bias):
            set_(parameter, 0)
        vectors, hidden = torch.tensor([[[0.5], [-1.0], [2.0]]]), torch.tensor([[0.25]])
        weights = softmax(*(3 * math.tanh(0.5) * math.tanh(v) for v in (0.5, -1, 2)))
        expected = weights[0] * 0.5 - weights[1] + weights[2] * 2
        assert attention(vectors, attention.keys(vectors), hidden).item() == pytest.approx(expected, rel=1e-5)

    def test_the_window_ends_at_the_superframe(self, monkeypatch):
        monkeypatch.setattr(lstm, "WINDOW", 3)
        network = lstm.AttentionLSTM(2, 4).eval()
        windows = []
        network.attention.register_forward_hook(lambda _, inputs, out: windows.append(inputs[0]))
        features = torch.rand(1, 4, 5, 1, 1)
        network(features)
        vectors = network.embed(features)
        for step, (first, end) in enumerate(((0, 1), (0, 2), (0, 3), (1, 4), (2, 5))):
            assert torch.equal(windows[step], vectors[:, first:end])


class TestSuperEvents:
    def test_a_cauchy_filter(self):
        filters = super_events.StructureFilters(1, 2)
        set_(filters.centres, [0.0, 100.0])  # the middle and the end of the video
        set_(filters.widths, [math.atanh(0.5), 100.0])  # exp(0) = 1 and exp(-1) steps
        middle = [1 / 5, 1 / 2, 1, 1 / 2, 1 / 5]
        end = [1 / (1 + (d * math.e) ** 2) for d in (4, 3, 2, 1, 0)]
        expected = [[v / sum(curve) for v in curve] for curve in (middle, end)]
        torch.testing.assert_close(filters(5), torch.tensor([expected]))

    def test_a_filter_stretches_with_the_video(self):
        filters = super_events.StructureFilters(1, 1)
        set_(filters.centres, math.atanh(0.5))  # three quarters
        assert filters(5).argmax().item() == 3
        assert filters(9).argmax().item() == 6

    def test_logits_are_the_classes_choice_of_events(self):
        network = super_events.SuperEvents(3, 4).eval()
        fill(network)
        features = torch.rand(2, 4, 6, 1, 2)
        vectors, filters, choice = network.embed(features), network.filters(6), network.choice.softmax(1)
        for k in range(3):
            event = sum(choice[k, m] * (filters[m] @ vectors).flatten(1) for m in range(5))  # (B, N D)
            expected = event @ network.weight[k] + network.own(vectors)[..., k].mean(1)
            torch.testing.assert_close(network(features)[:, k], expected, rtol=1e-4, atol=1e-4)


class TestTGM:
    def layer(self) -> tgm.TGMLayer:
        layer = tgm.TGMLayer(1, 2, 2, 3)
        set_(layer.centres, [0.0, -100.0])  # the middle and the first tap
        set_(layer.variances, [0.0, math.log(0.5)])  # 1 and 1 / 2
        return layer

    def test_a_gaussian_kernel(self):
        middle = [math.exp(-0.5), 1, math.exp(-0.5)]
        first = [1, math.exp(-1), math.exp(-4)]
        expected = [[v / sum(curve) for v in curve] for curve in (middle, first)]
        torch.testing.assert_close(self.layer().gaussians(), torch.tensor(expected))

    def test_channels_mix_the_gaussians(self):
        layer = self.layer()
        set_(layer.mixture, [[[100.0, 0.0]], [[0.0, math.log(3)]]])  # the first alone; a quarter and three quarters
        set_(layer.combination, [[1.0], [2.0]])
        impulse = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 5)
        (m0, m1, _), (f0, f1, f2) = layer.gaussians().tolist()
        other = [2 * (m + 3 * f) / 4 for m, f in ((m0, f0), (m1, f1), (m0, f2))]
        # A kernel's first tap reads the step before, so it shows a step after the impulse.
        expected = torch.tensor([[0, m0, m1, m0, 0], [0, other[2], other[1], other[0], 0]])
        torch.testing.assert_close(layer(impulse)[0, :, 0], expected)


class TestTransformer:
    def test_attention_weights(self):
        """One channel and head: queries and keys are x, values are 10 x."""
        attention = transformer.SelfAttention(1, 1)
        set_(attention.inputs.weight, [1.0, 1.0, 10.0])
        set_(attention.inputs.bias, [0.0, 0.0, 0.0])
        set_(attention.output.weight, 1.0)
        set_(attention.output.bias, 0.0)
        a, b = softmax(1, 2), softmax(2, 4)
        expected = [[10 * a[0] + 20 * a[1]], [10 * b[0] + 20 * b[1]]]
        torch.testing.assert_close(attention(torch.tensor([[[1.0], [2.0]]])), torch.tensor([expected]))

    def test_heads_as_pytorch_has_them(self):
        ours, theirs = transformer.SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
        names = {"in_proj_weight": "inputs.weight", "in_proj_bias": "inputs.bias"}
        names |= {"out_proj.weight": "output.weight", "out_proj.bias": "output.bias"}
        fill(theirs)
        ours.load_state_dict({names[name]: value for name, value in theirs.state_dict().items()})
        x = torch.randn(2, 5, 12)
        torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])

    def test_positions(self):
        table = transformer.positions(3, 4)
        expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
        torch.testing.assert_close(table[2], torch.tensor(expected))
        assert table[0].tolist() == [0, 1, 0, 1]

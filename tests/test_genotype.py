"""The genotype and its four forms."""

from __future__ import annotations

import json

import pytest

from nni_nastc.errors import GenotypeError
from nni_nastc.genotype import EDGES, OPERATION_NAMES, Genotype

CELL = (
    (("sep_conv_3", 0), ("sep_conv_5", 1)),
    (("identity", 2), ("max_pool", 0)),
    (("dil_conv_5", 3), ("avg_pool", 1)),
    (("sep_conv_7", 4), ("dil_conv_3", 2)),
)


def test_operation_names_are_those_of_table_one():
    assert OPERATION_NAMES == (
        "zero", "identity", "avg_pool", "max_pool", "dil_conv_3", "dil_conv_5",
        "sep_conv_3", "sep_conv_5", "sep_conv_7",
    )  # fmt: skip


def test_edges_are_fourteen_in_node_order():
    assert len(EDGES) == 14
    assert EDGES[:5] == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    assert EDGES[-1] == (3, 4)


def test_words_are_read_back():
    for cell in (Genotype(nodes=CELL), *map(Genotype.random, range(10))):
        assert Genotype.from_lines(cell.lines).nodes == cell.nodes
    lines = Genotype(nodes=CELL).lines
    with pytest.raises(GenotypeError, match="names I_k-2, .*, got node 7"):
        Genotype.from_lines([*lines[:3], lines[3].replace("node 2", "node 7")])
    for wrong in ([], lines[:3], ["node 0: ..."] * 4, [line.replace("sep", "sap") for line in lines]):
        with pytest.raises(GenotypeError):
            Genotype.from_lines(wrong)


def test_nni_labels_are_pinned():
    """They are the file format of old results."""
    assert Genotype(nodes=CELL).to_nni() == {
        "nas_temp/op_2_0": "sep_conv_3", "nas_temp/input_2_0": [0],
        "nas_temp/op_2_1": "sep_conv_5", "nas_temp/input_2_1": [1],
        "nas_temp/op_3_0": "identity", "nas_temp/input_3_0": [2],
        "nas_temp/op_3_1": "max_pool", "nas_temp/input_3_1": [0],
        "nas_temp/op_4_0": "dil_conv_5", "nas_temp/input_4_0": [3],
        "nas_temp/op_4_1": "avg_pool", "nas_temp/input_4_1": [1],
        "nas_temp/op_5_0": "sep_conv_7", "nas_temp/input_5_0": [4],
        "nas_temp/op_5_1": "dil_conv_3", "nas_temp/input_5_1": [2],
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_round_trips(seed, tmp_path):
    genotype = Genotype.random(seed)
    genotype.to_json(tmp_path / "g.json")
    assert Genotype.from_json(tmp_path / "g.json") == genotype
    assert Genotype.from_json(tmp_path / "g.json").origin == genotype.origin
    assert Genotype.from_nni(genotype.to_nni()) == genotype
    assert Genotype.from_darts(genotype.to_darts()) == genotype


def test_random_takes_distinct_predecessors_and_no_zero_and_follows_the_seed():
    drawn = [Genotype.random(seed) for seed in range(50)]
    assert len(set(drawn)) > 45
    assert Genotype.random(7) == drawn[7]
    for genotype in drawn:
        assert "zero" not in genotype.operations
        assert all(first[1] != second[1] for first, second in genotype.nodes)


def test_a_predecessor_twice_is_valid_and_survives_every_form(tmp_path):
    """Other strategies sample such cells; one predecessor a node is a rule of derivation only."""
    twice = Genotype(nodes=((("sep_conv_3", 1), ("zero", 1)), *CELL[1:]))
    twice.to_json(tmp_path / "g.json")
    assert Genotype.from_json(tmp_path / "g.json") == twice
    assert Genotype.from_nni(twice.to_nni()) == twice


def test_lists_are_taken_and_it_is_hashable():
    assert hash(Genotype(nodes=[[list(pair) for pair in node] for node in CELL])) == hash(Genotype(nodes=CELL))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (CELL[:3], "4 nodes of 2 pairs"),
        ((CELL[0][:1], *CELL[1:]), "node 0 is"),
        (((("sep_conv_9", 0), ("identity", 1)), *CELL[1:]), "'sep_conv_9'"),
        (((("identity", 2), ("identity", 1)), *CELL[1:]), "node 0 has the predecessor 2, allowed are 0 to 1"),
        (((("identity", True), ("identity", 1)), *CELL[1:]), "predecessor True"),
        (((("identity", -1), ("identity", 1)), *CELL[1:]), "predecessor -1"),
        (None, "got None"),
    ],
)
def test_invalid_nodes(nodes, message):
    with pytest.raises(GenotypeError, match=message.replace("(", r"\(")):
        Genotype(nodes=nodes)


def test_all_problems_are_told_at_once():
    with pytest.raises(GenotypeError, match="'bad'.*predecessor 9"):
        Genotype(nodes=((("bad", 0), ("identity", 9)), *CELL[1:]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", 'with "format": "nni_nastc.genotype"'),
        (json.dumps({"format": "nni_nastc.genotype", "version": 9, "nodes": []}), "version 9"),
        (json.dumps({"format": "nni_nastc.genotype", "version": 1, "nodes": [], "extra": 1}), "unknown keys.*extra"),
        (json.dumps({"format": "nni_nastc.genotype", "version": 1}), "4 nodes of 2 pairs"),
    ],
)
def test_broken_files_are_named(content, message, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(GenotypeError, match=message) as caught:
        Genotype.from_json(path)
    assert "broken.json" in str(caught.value)


def test_samples_with_other_labels_are_refused():
    sample = Genotype(nodes=CELL).to_nni()
    sample["nas_temp/op_9_9"] = sample.pop("nas_temp/op_2_0")
    with pytest.raises(GenotypeError, match=r"missing labels \['nas_temp/op_2_0'\], unknown \['nas_temp/op_9_9'\]"):
        Genotype.from_nni(sample)

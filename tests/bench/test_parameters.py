"""``nastc bench params``: the published numbers come out, and the files say what they are."""

from __future__ import annotations

import csv
import json

import pytest
from matplotlib.image import imread

from nni_nastc import build_network, build_timeception
from nni_nastc.bench.parameters import PUBLISHED_SIZE, count_parameters, write_parameters
from nni_nastc.bench.tables import Column, markdown, write_table
from nni_nastc.cli.main import main
from nni_nastc.genotype import Genotype
from nni_nastc.models import find_network


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


def test_rows_are_the_networks():
    tables = count_parameters(Genotype.random(4))
    assert [row["layers"] for row in tables.fig_6] == list(range(9))
    row = tables.fig_6[2]
    assert row["nas_tc"] == count(build_network(Genotype.random(4), 157, 2))
    assert row["timeception"] == count(build_timeception(157, 2))
    assert row["timeception_dilated"] == count(build_timeception(157, 2, dilated=True))
    assert row["saving"] == pytest.approx(1 - row["nas_tc"] / row["timeception"])


def test_published_numbers_come_out():
    tables = count_parameters()
    rows = {row["layers"]: row for row in tables.fig_6}
    published = {0: (0.61, 0.61), 3: (1.5, 2.0), 4: (2.0, 2.8)}
    for layers, (nas_tc, timeception) in published.items():
        row = rows[layers]
        assert (row["published_nas_tc"] / 1e6, row["published_timeception"] / 1e6) == (nas_tc, timeception)
        assert row["nas_tc"] / 1e6 == pytest.approx(nas_tc, abs=0.05)
        assert row["timeception"] / 1e6 == pytest.approx(timeception, abs=0.05)
    assert rows[6]["published_saving"] == 0.36
    assert rows[6]["saving"] == pytest.approx(0.36, abs=0.005)
    assert [(row["timesteps"], row["layers"]) for row in tables.table_iii] == [(32, 3), (64, 3), (128, 4)]
    assert all(row["nas_tc"] == rows[row["layers"]]["nas_tc"] for row in tables.table_iii)
    assert rows[5]["published_nas_tc"] is None
    assert " 2.0 |                    2.8 |" in tables.to_markdown()


def test_the_files(tmp_path, capsys):
    assert main(["bench", "params", "--out", str(tmp_path / "new" / "bench"), "--genotype", "sep_conv_3"]) == 0
    out = tmp_path / "new" / "bench"
    names = [f"{name}{suffix}" for name in ("parameters", "table_iii") for suffix in (".csv", ".json", ".md")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "parameters.png"])
    with open(out / "parameters.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = count(build_network(find_network("sep_conv_3"), 157, 8))
    assert int(rows[8]["nas_tc"]) == json.loads((out / "parameters.json").read_text())["rows"][8]["nas_tc"] == expected
    assert rows[8]["published_nas_tc"] == ""
    text = (out / "parameters.md").read_text()
    assert "published hold the paper's numbers" in text
    assert f"| {expected / 1e6:.3f} |" in text.replace("  ", " ")
    assert imread(out / "parameters.png").shape[0] > 400
    printed = capsys.readouterr().out
    assert f"{expected / 1e6:.3f}" in printed
    assert find_network("sep_conv_3").origin in printed


def test_what_is_no_cell_is_refused(tmp_path, capsys):
    for name, message in (("lstm", "got the method lstm"), ("sep_conv3", "did you mean sep_conv_3")):
        assert main(["bench", "params", "--out", str(tmp_path / "bench"), "--genotype", name]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "bench").exists()
    (tmp_path / "file").touch()
    assert main(["bench", "params", "--out", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_table():
    columns = (Column("name", "method"), Column("score", "mAP", lambda value: f"{100 * value:.1f}"))
    rows = [{"name": "pool", "score": 0.5}, {"name": "timeception", "score": None}]
    assert markdown(columns, rows).splitlines() == [
        "|      method |  mAP |",
        "|------------:|-----:|",
        "|        pool | 50.0 |",
        "| timeception |      |",
    ]


def test_a_table_is_written_in_three_forms(tmp_path):
    columns = (Column("name", "method"), Column("score", "mAP"))
    rows = [{"name": 'a "b", c', "score": 0.25, "unused": 3}, {"name": "d", "score": None, "unused": 4}]
    write_table(tmp_path, "scores", columns, rows, caption="Scores.")
    assert (tmp_path / "scores.csv").read_text() == 'name,score\n"a ""b"", c",0.25\nd,\n'
    value = json.loads((tmp_path / "scores.json").read_text())
    assert value == {"caption": "Scores.", "rows": [{"name": 'a "b", c', "score": 0.25}, {"name": "d", "score": None}]}
    assert (tmp_path / "scores.md").read_text().startswith("Scores.\n\n|   method |  mAP |\n")


def test_the_cell_of_the_published_size_is_told_in_the_table(tmp_path):
    assert PUBLISHED_SIZE.origin in write_parameters(tmp_path).caption

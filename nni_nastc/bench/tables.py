"""A table as Markdown for people, as CSV for spreadsheets and as JSON for programs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni_nastc.files import atomic_path, write_json

TABLE_SUFFIXES = (".md", ".csv", ".json")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    key : str
        Of a row's value, and heading in CSV and JSON.
    title : str
        Heading in Markdown.
    show : callable
        Value -> text in Markdown. Values that are None are shown as nothing.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str


def markdown(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown, its columns aligned to the right."""
    lines = [[column.title for column in columns]]
    lines += [["" if row[c.key] is None else c.show(row[c.key]) for c in columns] for row in rows]
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    text = ["| " + " | ".join(t.rjust(w) for t, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(text) + "\n"


def write_table(
    folder: Path, name: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, caption: str
) -> None:
    """Write ``name.md``, ``name.csv`` and ``name.json``, each whole or not at all.

    Parameters
    ----------
    folder : Path
        Where to; it exists.
    name : str
        Of the files, without suffix.
    columns : sequence of Column
        What is shown, in order.
    rows : sequence of mapping
        A value, or None, for the key of each column.
    caption : str
        What the table is, in Markdown; before it in ``name.md``, and under "caption" in ``name.json``.

    Raises
    ------
    DiskError
        If the disk fills up.
    """
    keys = [column.key for column in columns]
    values = [{key: row[key] for key in keys} for row in rows]
    with atomic_path(folder / f"{name}.md") as temporary:
        temporary.write_text(f"{caption}\n\n{markdown(columns, rows)}", encoding="utf-8")
    with atomic_path(folder / f"{name}.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(values)
    write_json(folder / f"{name}.json", {"caption": caption, "rows": values})

"""Tables as programs and people write them: read to the same plan, or refused with a word that helps."""

# ruff: noqa: E501 - a table of cases, one a line
from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from pathlib import Path
from typing import Literal

import openpyxl
import pandas as pd
import polars as pl
import pytest
import zstandard

from solver.interfaces.cli import main

WORKBOOKS = Path(__file__).with_name("workbooks")
ROWS = [
    ("ann", "large", 0.9),
    ("ann", "small", 0.25),
    ("böb", "large", 0.75),
    ("böb", "small", 0.5),
    ("cy", "small", 1.125),
]
FRAME = pd.DataFrame(ROWS, columns=["agent", "model", "score"])
WIDE = (
    FRAME.pivot_table(index="agent", columns="model", values="score").reset_index().rename_axis(columns=None)
)
RANKED = "Timestamp,agent,Choice 1,Choice 2\n2024-01-31,ann,large,small\n2024-02-01,böb,,large\n2024-02-02,cy,small,\n"
PLAN = {"ann": "large", "böb": None, "cy": "small"}

_COMPRESSIONS: tuple[Literal["zstd", "snappy", "uncompressed"], ...] = ("zstd", "snappy", "uncompressed")

Dialect = tuple[str, bytes, tuple[str, ...]]


def _by_pandas() -> dict[str, Dialect]:
    found: dict[str, Dialect] = {}
    separators, decimals, ends = (",", ";", "\t", "|"), (".", ","), ("\n", "\r\n", "\r")
    for separator, decimal, index, end in itertools.product(separators, decimals, (False, True), ends):
        if separator == "," == decimal:
            continue
        text = FRAME.to_csv(None, sep=separator, decimal=decimal, index=index, lineterminator=end)
        name = f"pandas sep={separator!r} decimal={decimal} index={index} end={end!r}"
        found[name] = ("s.csv", text.encode(), ())
    for quoting, encoding in itertools.product(
        (csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC),
        ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"),
    ):
        text = FRAME.to_csv(None, index=False, quoting=quoting)  # type: ignore[call-overload]
        options = ("--encoding", encoding) if encoding in {"utf-16-le", "cp1252", "latin-1"} else ()
        found[f"pandas quoting={quoting} {encoding}"] = ("s.csv", text.encode(encoding), options)
    plain = FRAME.to_csv(None, index=False).encode()
    found["pandas gzip"] = ("s.csv.gz", gzip.compress(plain), ())
    found["pandas zstd"] = ("s.csv.zst", zstandard.compress(plain), ())
    found["gzip under another name"] = ("s.csv", gzip.compress(plain), ())
    found["pandas tsv"] = ("s.tsv", FRAME.to_csv(None, index=False, sep="\t").encode(), ())
    found["pandas psv"] = ("s.psv", FRAME.to_csv(None, index=False, sep="|").encode(), ())
    found["pandas txt"] = ("s.txt", FRAME.to_csv(None, index=False, sep="\t").encode(), ())
    found["pandas filtered index"] = ("s.csv", FRAME.set_index(FRAME.index * 7 + 3).to_csv(None).encode(), ())
    found["pandas written twice"] = (
        "s.csv", pd.read_csv(io.StringIO(FRAME.to_csv(None))).to_csv(None, index=False).encode(), (),
    )  # fmt: skip
    found["pandas json lines"] = (
        "s.jsonl", FRAME.to_json(None, orient="records", lines=True, force_ascii=False).encode(), (),
    )  # fmt: skip
    found["pandas json records"] = (
        "s.json", FRAME.to_json(None, orient="records", force_ascii=False).encode(), (),
    )  # fmt: skip
    for index in (False, True):
        buffer = io.BytesIO()
        FRAME.to_parquet(buffer, index=index)
        found[f"pandas parquet index={index}"] = ("s.parquet", buffer.getvalue(), ())
        buffer = io.BytesIO()
        FRAME.to_excel(buffer, index=index)
        found[f"pandas excel index={index}"] = ("s.xlsx", buffer.getvalue(), ())
        text = WIDE.to_csv(None, index=index)
        found[f"pandas wide index={index}"] = ("s.csv", text.encode(), ("--layout", "wide"))
    nameless = WIDE.set_index("agent").rename_axis(index=None).to_csv(None)
    found["pandas wide agents as index"] = ("s.csv", nameless.encode(), ("--layout", "wide"))
    return found


def _by_polars() -> dict[str, Dialect]:
    frame = pl.DataFrame(ROWS, schema=["agent", "model", "score"], orient="row")
    found: dict[str, Dialect] = {}
    for separator, style, bom in itertools.product(
        (",", ";", "\t"), ("necessary", "always", "non_numeric"), (False, True)
    ):
        text = frame.write_csv(separator=separator, quote_style=style, include_bom=bom)  # type: ignore[call-overload]
        found[f"polars {separator!r} {style} bom={bom}"] = ("s.csv", text.encode(), ())
    text = frame.write_csv(separator=";", decimal_comma=True)
    found["polars decimal comma"] = ("s.csv", text.encode(), ())
    found["polars windows lines"] = ("s.csv", frame.write_csv(line_terminator="\r\n").encode(), ())
    found["polars scientific"] = ("s.csv", frame.write_csv(float_scientific=True).encode(), ())
    found["polars fixed"] = ("s.csv", frame.write_csv(float_precision=6).encode(), ())
    found["polars ndjson"] = ("s.ndjson", frame.write_ndjson().encode(), ())
    for kind in _COMPRESSIONS:
        buffer = io.BytesIO()
        frame.write_parquet(buffer, compression=kind)
        found[f"polars parquet {kind}"] = ("s.parquet", buffer.getvalue(), ())
    buffer = io.BytesIO()
    frame.with_columns(pl.col("model").cast(pl.Categorical)).write_parquet(buffer)
    found["polars parquet categories"] = ("s.parquet", buffer.getvalue(), ())
    return found


def _by_hand() -> dict[str, Dialect]:
    body = "".join(f"{agent},{model},{score}\n" for agent, model, score in ROWS)
    head = "agent,model,score\n"
    quoted = "".join(f'"{i + 1}","{a}","{m}",{s}\n' for i, (a, m, s) in enumerate(ROWS))
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = "Read me"
    sheet = book.create_sheet("Scores")
    for row in ([], ["agent", "model", "score", None], *([*row, None] for row in ROWS), [None, None, None]):
        sheet.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    texts: dict[str, tuple[str, tuple[str, ...]]] = {
        "Excel's sep line": ("sep=;\r\n" + (head + body).replace(",", ";").replace("\n", "\r\n"), ()),
        "Excel's trailing separators": ((head + body).replace("\n", ",\r\n"), ()),
        "Excel's blank rows": (head + body + ",,\r\n,,\r\n", ()),
        "German Excel": ((head + body).replace(",", ";").replace(".", ",").replace("\n", "\r\n"), ()),
        "German Excel in cp1252": (
            (head + body).replace(",", ";").replace(".", ","), ("--encoding", "cp1252", "--decimal", ","),
        ),
        "R write.csv": ('"","agent","model","score"\n' + quoted, ()),
        "R write.csv2": (('"","agent","model","score"\n' + quoted).replace(",", ";").replace(".", ","), ()),
        "R write.table": ('"agent","model","score"\n' + quoted, ()),
        "R write.table with blanks": (
            ('"agent","model","score"\n' + quoted).replace(",", " "), ("--separator", " "),
        ),
        "blanks after commas": ((head + body).replace(",", ", "), ()),
        "blanks around names": (" agent ,model ,score\n" + body, ()),
        "blank lines": (head + "\n\n" + body.replace("\n", "\n\n"), ()),
        "no last line end": ((head + body).rstrip(), ()),
        "mixed line ends": (head + body.replace("\n", "\r\n", 2), ()),
        "further columns": ("note,agent,model,score\n" + body.replace("\n", "\n").replace("ann", "hello,ann").replace("böb", '"a, b",böb').replace("cy", ",cy"), ()),
        "other order": ("score;model;agent\n" + "".join(f"{s};{m};{a}\n" for a, m, s in ROWS), ()),
        "named separator": ((head + body).replace(",", ";"), ("--separator", "semicolon")),
        "other names": (
            "Student,Course,Points\n" + body,
            ("--agent-column", "Student", "--model-column", "Course", "--score-column", "Points"),
        ),
        "plus signs and exponents": (head + body.replace("0.9", "+9.0e-1"), ()),
        "spaces around numbers": (head + body.replace(",0.", ", 0."), ()),
        "wide with a column to skip": (
            "agent,room,large,small\nann,7,0.9,0.25\nböb,8,0.75,0.5\ncy,9,,1.125\n",
            ("--layout", "wide", "--ignore-column", "room"),
        ),
        "wide with text to skip": (
            "agent,notes,large,small\nann,x,0.9,0.25\nböb,y,0.75,0.5\ncy,,,1.125\n",
            ("--layout", "wide", "--ignore-column", "notes"),
        ),
        "ranked": (RANKED, ("--layout", "ranked")),
        "ranked by names": (
            RANKED.replace("Choice 1", "first").replace("Choice 2", "second"),
            ("--layout", "ranked", "--choice-column", "first", "--choice-column", "second"),
        ),
        "ranked ordinals": (
            RANKED.replace("Choice 1", "1st choice").replace("Choice 2", "2nd choice"), ("--layout", "ranked"),
        ),
        "ranked in words": (
            RANKED.replace("Choice 1", "First choice").replace("Choice 2", "Second choice"), ("--layout", "ranked"),
        ),
        "ranked semicolons": (RANKED.replace(",", ";"), ("--layout", "ranked")),
    }  # fmt: skip
    found: dict[str, Dialect] = {}
    for name, (text, options) in texts.items():
        encoding = options[options.index("--encoding") + 1] if "--encoding" in options else "utf-8"
        found[name] = ("s.csv", text.encode(encoding), options)
    found["workbook with two sheets"] = ("s.xlsx", buffer.getvalue(), ("--sheet", "Scores"))
    return found


def _by_libreoffice() -> dict[str, Dialect]:
    """Files that LibreOffice 7.4 wrote, in ``workbooks/``."""
    options = {
        "quoted_cp1252.csv": ("--encoding", "cp1252"),
        "wide.xlsx": ("--layout", "wide"),
    }
    names = ("formulas.xlsx", "percent.xlsx", "two_sheets.xlsx", "semicolon.csv", "tab_utf16.csv", *options)
    return {
        f"LibreOffice {name}": (name, (WORKBOOKS / name).read_bytes(), options.get(name, ()))
        for name in names
    }


READ = {**_by_pandas(), **_by_polars(), **_by_hand(), **_by_libreoffice()}

REFUSED: dict[str, tuple[str, bytes, tuple[str, ...], str]] = {
    "percent": ("s.csv", b"agent,model,score\na,x,95%\n", (), "s.csv:2: score: expected a number, got '95%'; write 0.95"),
    "thousands": ("s.csv", b'agent,model,score\na,x,"1,234.5"\n', (), "write 1234.5, without separators of thousands"),
    "thousands by apostrophe": ("s.csv", b"agent,model,score\na,x,1'234\n", (), "write 1234"),
    "thousands by blank": ("s.csv", b"agent,model,score\na,x,1 234\n", (), "write 1234"),
    "either": ("s.csv", b"agent;model;score\na;x;1,234\n", (), "for a decimal comma say --decimal ,"),
    "decimal comma in quotes": ("s.csv", b'agent,model,score\na,x,"0,9"\n', (), "--decimal ,"),
    "mixed decimals": ("s.csv", b"agent;model;score\na;x;0,5\nb;x;1.5\n", (), "s.csv:3: score: expected a number"),
    "currency": ("s.csv", "agent,model,score\na,x,€5\n".encode(), (), "without the sign of a currency"),
    "n/a": ("s.csv", b"agent,model,score\na,x,n/a\n", (), "leave the cell empty"),
    "not a number": ("s.csv", b"agent,model,score\na,x,nan\n", (), "leave the cell empty"),
    "typographic minus": ("s.csv", "agent,model,score\na,x,−5\n".encode(), (), "write -5, with a plain minus sign"),
    "wide digits": ("s.csv", "agent,model,score\na,x,５\n".encode(), (), "write 5, in plain digits"),
    "a hard blank": ("s.csv", "agent,model,score\na,x,\u00a05\n".encode(), (), "write 5, in plain digits and without blanks"),
    "brackets": ("s.csv", b"agent,model,score\na,x,(5)\n", (), "write -5"),
    "unit": ("s.csv", b"agent,model,score\na,x,5 USD\n", (), "write the number alone"),
    "footnote": ("s.csv", b"agent,model,score\na,x,4*\n", (), "write the number alone"),
    "title above the header": ("s.csv", b"Scores of May\nagent,model,score\na,x,1\n", (), "s.csv:2: broken CSV: expected 1 fields, got 3; if the names of the columns stand further down"),
    "mark and latin-1": ("s.csv", b"\xef\xbb\xbfagent,model,score\nb\xf6b,x,1\n", (), "s.csv:2: expected UTF-8 text, got byte 0xf6"),
    "choices with a gap": ("s.csv", b"agent,pref1,pref3\na,x,y\n", ("--layout", "ranked"), "s.csv:1: expected columns of choices such as pref1"),
    "OpenDocument": ("s.ods", b"PK", (), "save it as .xlsx or CSV"),
    "text": ("s.csv", b"agent,model,score\na,x,good\n", (), "s.csv:2: score: expected a number, got 'good'"),
    "cp1252 unsaid": ("s.csv", "agent,model,score\nböb,x,1\n".encode("cp1252"), (), "--encoding cp1252 (Windows) or latin-1 it reads 'böb,x,1'"),
    "utf-16 unmarked": ("s.csv", "agent,model,score\na,x,1\n".encode("utf-16-le"), (), "try --encoding utf-16-le"),
    "unknown encoding": ("s.csv", b"agent,model,score\n", ("--encoding", "klingon"), "encoding: expected the name of an encoding"),
    "no column": ("s.csv", b"agent,modle,score\na,x,1\n", (), "no column 'model'; did you mean 'modle'? (--model-column names another)"),
    "wide unsaid": ("s.csv", b"agent,x,y\na,1,2\n", (), "one model a column is read with --layout wide"),
    "ranked unsaid": ("s.csv", b"agent,pref1,pref2\na,x,y\n", (), "choices in columns are read with --layout ranked"),
    "wide with text": ("s.csv", b"agent,x,notes\na,1,hi\n", ("--layout", "wide"), "a column that is no model is named under ignore_columns"),
    "ranked without choices": ("s.csv", b"agent,x\na,1\n", ("--layout", "ranked"), "expected columns of choices such as pref1"),
    "ranked twice": ("s.csv", b"agent,pref1,pref2\na,x,x\n", ("--layout", "ranked"), "s.csv:2: expected a model once, got 'x' twice"),
    "column twice": ("s.csv", b"agent,model,score,score\na,x,1,2\n", (), "s.csv:1: column 'score' is given twice"),
    "nameless column": ("s.csv", b"agent,,model,score\na,5,x,1\n", (), "s.csv:1: column 2 has no name, but holds 5"),
    "ragged": ("s.csv", b"agent,model,score\na,x,1\nb,x\n", (), "s.csv:3: broken CSV: expected 3 fields, got 2"),
    "a separator too many": ("s.csv", b"agent,model,score\na,x,1,\n", (), "s.csv:2: broken CSV: expected 3 fields, got 4"),
    "open quote": ("s.csv", b'agent,model,score\n"a,x,1\n', (), "s.csv:2: broken CSV"),
    "NUL": ("s.csv", b"agent,model,score\na\x00,x,1\n", (), "s.csv:2: expected text, got a NUL character"),
    "empty": ("s.csv", b"", (), "s.csv:1: expected a header line"),
    "header only": ("s.csv", b"agent,model,score\n", (), "s.csv"),
    "blank rows only": ("s.csv", b"agent,model,score\n,,\n", (), "s.csv"),
    "infinite": ("s.csv", b"agent,model,score\na,x,inf\n", (), "s.csv:2: score: expected a finite number, got inf"),
    "huge": ("s.csv", b"agent,model,score\na,x," + b"9" * 400 + b"\n", (), "s.csv:2: score: expected a "),
    "workbook of old": ("s.xls", b"\xd0\xcf\x11\xe0", (), "save it as .xlsx or CSV"),
    "workbook by another name": ("s.csv", b"PK\x03\x04\x80\x00", (), "an Excel workbook ends in .xlsx"),
    "no workbook": ("s.xlsx", b"agent,model,score\n", (), "not a readable Excel workbook"),
    "no parquet": ("s.parquet", b"agent,model,score\n", (), "not a readable Parquet file"),
    "no gzip": ("s.csv.gz", b"agent,model,score\n", (), "expected gz data"),
    "half a gzip": ("s.csv.gz", gzip.compress(b"agent,model,score\n" * 99)[:-9], (), "broken gz data"),
    "half a zstd": ("s.csv.zst", zstandard.compress(b"agent,model,score\n" * 99)[:-3], (), "broken zst data"),
    "key twice": ("s.jsonl", b'{"agent":"a","agent":"b","model":"x","score":1}\n', (), "s.jsonl:1: broken JSON: key 'agent' is given twice"),
    "half a character": ("s.jsonl", b'{"agent":"\\ud800","model":"x","score":1}\n', (), "s.jsonl:1: expected text, got half a surrogate pair"),
    "deep": ("s.jsonl", b'{"agent":' + b"[" * 99 + b"]" * 99 + b"}\n", (), "s.jsonl:1: expected at most 32 levels"),
    "number as text": ("s.jsonl", b'{"agent":"a","model":"x","score":"0.5"}\n', (), "s.jsonl:1: score: expected a number, got '0.5'; it is text"),
}  # fmt: skip


WORKBOOKS_REFUSED = {
    "error_cell.xlsx": ["error_cell.xlsx row 6: score: expected a number, got '#DIV/0!'"],
    "merged_agents.xlsx": [
        "note: ", "merged cells A2:A3, A4:A5: only the first cell of each holds a value", "row 3: agent: required",
    ],
    "title_row.xlsx": ["if they stand further down, delete what is above them"],
}  # fmt: skip


@pytest.mark.parametrize("name", WORKBOOKS_REFUSED)
def test_workbooks_that_look_right_are_refused_with_the_reason(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", "--scores", str(WORKBOOKS / name), "--slots", "1"]) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert all(text in errors for text in WORKBOOKS_REFUSED[name])


def test_formulas_that_were_never_calculated_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (["agent", "model", "score"], ["a", "x", "=1+1"]):
        book.active.append(row)
    book.save(tmp_path / "s.xlsx")
    assert main(["solve", "--scores", str(tmp_path / "s.xlsx"), "--slots", "1"]) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert "C2: formulas without a value, read as empty; open the workbook in a spreadsheet program" in errors


def test_dates_as_ids_keep_their_text(tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    command = ["solve", "--scores", str(WORKBOOKS / "date_ids.xlsx"), "--slots", "9", "-q", "-o", str(output)]
    assert main(command) == 0
    agents = [row["agent"] for row in json.loads(output.read_text())["assignments"]]
    assert agents == ["2024-01-01", "2024-01-02", "2024-01-03"]


def test_there_are_at_least_120() -> None:
    assert len(READ) + len(REFUSED) >= 120


@pytest.mark.parametrize("name", READ)
def test_a_dialect_gives_the_same_plan(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, data, options = READ[name]
    (tmp_path / file).write_bytes(data)
    output = tmp_path / "plan.json"
    code = main(
        ["solve", "--scores", str(tmp_path / file), "--slots", "1", *options, "-q", "-o", str(output)]
    )
    assert code == 0, capsys.readouterr().err
    plan = {row["agent"]: row["model"] for row in json.loads(output.read_text())["assignments"]}
    assert plan == PLAN


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_a_hint(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, data, options, expected = REFUSED[name]
    (tmp_path / file).write_bytes(data)
    assert main(["solve", "--scores", str(tmp_path / file), "--slots", "1", *options]) == 2
    errors = capsys.readouterr().err
    assert expected in errors
    assert all(line.startswith(("error: ", "note: ")) for line in errors.splitlines())


@pytest.mark.parametrize(
    ("separator", "decimal", "said"),
    [
        (";", ".", ["semicolons"]),
        (";", ",", ["semicolons", "decimal comma"]),
        ("\t", ".", ["tabs"]),
        (",", ".", []),
    ],
)
def test_what_was_found_is_said(
    tmp_path: Path, separator: str, decimal: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.csv").write_text(FRAME.to_csv(None, sep=separator, decimal=decimal, index=False))
    assert main(["solve", "--scores", str(tmp_path / "s.csv"), "--slots", "1"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(said)
    assert all(word in note for word, note in zip(said, notes, strict=True))

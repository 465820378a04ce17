"""Tables are split as Fairseq splits them."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.speech.tables import named_columns, read_rows

FIELDS = st.text(alphabet=st.sampled_from("ab \"'\\,;é\u2028\x0b\x1c"), max_size=6)
ROWS = st.lists(st.tuples(FIELDS.filter(bool), FIELDS, FIELDS), min_size=1, max_size=6)


@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
@settings(max_examples=80, deadline=None)
def test_agrees_with_the_reader_fairseq_uses(tmp_path_factory, rows, end, last):
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    text = end.join("\t".join(row) for row in [("id", "audio", "tgt_text"), *rows]) + (end if last else "")
    path.write_bytes(text.encode())
    with open(path) as handle:  # fairseq.data.audio.speech_to_text_dataset, _load_samples_from_tsv
        reader = csv.DictReader(
            handle,
            delimiter="\t",
            quotechar=None,
            doublequote=False,
            lineterminator="\n",
            quoting=csv.QUOTE_NONE,
        )
        expected = [dict(entry) for entry in reader]
    assert [fields for _, fields in named_columns(path, read_rows(path), ("id",))] == expected


def test_line_numbers_count_empty_lines_and_a_byte_order_mark_is_dropped(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b"\xef\xbb\xbfid\ttext\n\na\tx\n\n\nb\t\n")
    assert named_columns(path, read_rows(path), ("id", "text")) == [
        (3, {"id": "a", "text": "x"}),
        (6, {"id": "b", "text": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"id\ttext\n", "nothing under it"),
        (b"id\nx\n", "no column 'text'; its columns are id"),
        (b"id\ttext\ttext\nx\ty\tz\n", "more than one column 'text'"),
        (b"id\ttext\na\tb\nc\n", r":3: has 1 fields where the header has 2"),
        (b"id\ttext\na\tb\tc\n", r":2: has 3 fields where the header has 2"),
        (b"id\ttext\na\tb\nc\t\xff\n", r":3: is not UTF-8"),
        (b"PK\x03\x04\0\0", "is not a text file"),
        (b"id\ttext\n" + b"a" * 5000 + b"\0", "is not a text file"),
    ],
)
def test_bad_tables_name_file_and_line(tmp_path, content, message):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(AsrCompressError, match=rf"t\.tsv.*{message}"):
        named_columns(path, read_rows(path), ("id", "text"))


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(AsrCompressError, match="could not be read: No such file"):
        read_rows(tmp_path / "gone.tsv")
    with pytest.raises(AsrCompressError, match="could not be read: Is a directory"):
        read_rows(tmp_path)

"""What a normaliser does to a text, and when two of them are the same."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.normalizers import NORMALIZERS, get_normalizer

BASIC, NONE = get_normalizer("basic"), get_normalizer("none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  two \t spaces\n", "two spaces"),
        ("DON'T \u2018stop\u2019", "don't 'stop'"),
        ("well-known, e.g. this", "well known e g this"),
        ("ﬁve Ⅷ ½", "five viii 1⁄2"),
        ("Straße ÉTÉ", "straße été"),
        ("Cafe\u0301", "café"),
        ("snake_case «quoted» — dash…", "snake case quoted dash"),
        ("5 % of $3", "5 of $3"),
        ("日本語。", "日本語"),
        ("...", ""),
        ("", ""),
    ],
)
def test_basic(text, expected):
    assert BASIC(text) == expected


@given(st.text())
@settings(deadline=None)
def test_basic_is_done_after_one_pass_and_leaves_no_punctuation(text):
    once = BASIC(text)
    assert BASIC(once) == once
    assert not [char for char in once if char != "'" and unicodedata.category(char).startswith("P")]
    assert once.split() == once.split(" ") or once == ""


@given(st.text())
def test_none_changes_nothing(text):
    assert NONE(text) == text


def test_hash_follows_the_definition():
    assert BASIC.sha256 == replace(BASIC).sha256
    others = [NONE, replace(BASIC, version=2), replace(BASIC, name="b"), replace(BASIC, steps=BASIC.steps[:-1])]
    assert len({BASIC.sha256, *(other.sha256 for other in others)}) == 5


def test_published_hashes_do_not_move():
    """A sidecar written earlier must stay comparable: a new definition gets a new version, and a line here."""
    assert {name: normalizer.sha256[:16] for name, normalizer in NORMALIZERS.items()} == {
        "none": "2e8025245fe8785e",
        "basic": "99cfd5cdfe139934",
    }


def test_unknown_name():
    with pytest.raises(AsrCompressError, match="no normaliser 'whisper'; take one of: none, basic"):
        get_normalizer("whisper")

"""Each form of a transcribed set is recognised; nothing in it is dropped."""

from __future__ import annotations

import csv
import re
import shutil

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.speech.datasets import Utterance, read_utterances

HEADER = "id\taudio\tn_frames\ttgt_text\tspeaker\n"


@pytest.fixture
def table(tmp_path, speak):
    """A Fairseq table of two utterances."""
    speak("set/audio/a.wav")
    speak("set/audio/b.flac")
    path = tmp_path / "set" / "test.tsv"
    path.write_text(HEADER + 'u1\taudio/a.wav\t9\tsay "hello\tann\nu2\taudio/b.flac\t9\t\t\n')
    return path


def test_fairseq_table(table):
    dataset = read_utterances(table)
    folder = table.parent
    assert dataset.utterances == (
        Utterance("u1", folder / "audio/a.wav", 'say "hello', "ann"),
        Utterance("u2", folder / "audio/b.flac", "", None),
    )
    assert dataset.num_empty_references == 1


def test_audio_root_moves_relative_paths_only(table, speak, tmp_path):
    other = speak("elsewhere/c.wav")
    away = tmp_path / "away.tsv"
    away.write_text(f"{HEADER}u1\taudio/a.wav\t9\tyes\t\nu2\t{other}\t9\tno\t\n")
    with pytest.raises(
        AsrCompressError, match=f"1 of 2 audio files are missing.*{re.escape(str(tmp_path))}.*--audio-root"
    ):
        read_utterances(away)
    audio = [utterance.audio for utterance in read_utterances(away, audio_root=table.parent).utterances]
    assert audio == [table.parent / "audio/a.wav", other]
    with pytest.raises(AsrCompressError, match="nowhere: is not a folder"):
        read_utterances(away, audio_root=tmp_path / "nowhere")


def test_path_and_text_lines_with_and_without_header(tmp_path, speak):
    speak("x/one.wav"), speak("y/two.wav")
    path = tmp_path / "list.txt"
    path.write_text("x/one.wav\tone\ny/two.wav\ttwo \t\n")
    with pytest.raises(AsrCompressError, match=r"list\.txt:2: has 3 fields"):
        read_utterances(path)
    path.write_text("x/one.wav\tone\ny/two.wav\t\n")
    plain = read_utterances(path)
    assert [(utterance.id, utterance.reference) for utterance in plain.utterances] == [
        ("x/one.wav", "one"),
        ("y/two.wav", ""),
    ]
    path.write_text("path\ttext\nx/one.wav\tone\ny/two.wav\t\n")
    assert read_utterances(path) == plain


def test_a_text_that_reads_like_a_column_is_a_text(tmp_path, speak):
    speak("one.wav")
    path = tmp_path / "list.tsv"
    path.write_text("one.wav\taudio\n")
    assert read_utterances(path).utterances[0].reference == "audio"


@pytest.fixture
def tree(tmp_path, speak):
    """Two LibriSpeech subsets, one of them behind a link."""
    for name in ("dev/7/8/7-8-0000.flac", "dev/7/8/7-8-0001.wav"):
        speak(f"LibriSpeech/{name}")
    (tmp_path / "LibriSpeech/dev/7/8/7-8.trans.txt").write_text("7-8-0000 GO ON\n7-8-0001\n")
    speak("disk2/9/1/9-1-0000.flac")
    (tmp_path / "disk2/9/1/9-1.trans.txt").write_text("9-1-0000 STOP  NOW\n")
    (tmp_path / "LibriSpeech/test").symlink_to(tmp_path / "disk2")
    (tmp_path / "disk2/loop").symlink_to(tmp_path / "LibriSpeech")
    return tmp_path / "LibriSpeech"


def test_librispeech_folder(tree):
    dataset = read_utterances(tree)
    assert dataset.utterances == (
        Utterance("7-8-0000", tree / "dev/7/8/7-8-0000.flac", "GO ON", "7"),
        Utterance("7-8-0001", tree / "dev/7/8/7-8-0001.wav", "", "7"),
        Utterance("9-1-0000", tree / "test/9/1/9-1-0000.flac", "STOP  NOW", "9"),
    )
    assert [utterance.id for utterance in read_utterances(tree / "dev").utterances] == ["7-8-0000", "7-8-0001"]


def test_librispeech_without_a_file_a_line_or_with_one_twice(tree, tmp_path, speak):
    speak("LibriSpeech/dev/7/8/7-8-0002.flac")
    with pytest.raises(AsrCompressError, match=r"1 audio files have no line.*7-8-0002\.flac"):
        read_utterances(tree)
    speak("LibriSpeech/dev/7/8/7-8-0000.wav")
    with pytest.raises(AsrCompressError, match="lies beside 7-8-0000.flac"):
        read_utterances(tree)
    for name in ("7-8-0002.flac", "7-8-0000.wav", "7-8-0000.flac"):
        (tree / "dev/7/8" / name).unlink()
    with pytest.raises(AsrCompressError, match=r"1 of 3 audio files are missing, the first is .*7-8-0000\.flac"):
        read_utterances(tree)
    shutil.copytree(tmp_path / "disk2", tree / "copy", symlinks=True)
    with pytest.raises(AsrCompressError, match="'9-1-0000' is listed twice"):
        read_utterances(tree)


def test_content_hash_follows_content_and_not_place(table, tmp_path):
    before = read_utterances(table).sha256
    moved = shutil.copytree(table.parent, tmp_path / "moved" / "deep")
    assert read_utterances(moved / "test.tsv").sha256 == before
    text = table.read_text()
    variants = [
        text.replace("hello", "hallo"),
        text.replace("u1", "u3"),
        text.replace("a.wav", "b.flac"),
        HEADER + "".join(reversed(text.splitlines(keepends=True)[1:])),
    ]
    hashes = [before]
    for variant in variants:
        table.write_text(variant)
        hashes.append(read_utterances(table).sha256)
    assert len(set(hashes)) == len(hashes)
    table.write_text(text.replace("\tann", "\tbob").replace("\t9\t", "\t10\t"))
    assert read_utterances(table).sha256 == before
    shutil.copy(table.parent / "audio/b.flac", table.parent / "audio/a.wav")
    assert read_utterances(table).sha256 != before


def test_ids_of_path_lines_do_not_depend_on_the_place(tmp_path, speak):
    one, two = speak("p/q/x/one.wav"), speak("p/q/two.wav")
    (tmp_path / "p/list.txt").write_text("q/x/one.wav\ta\nq/two.wav\tb\n")
    (tmp_path / "absolute.txt").write_text(f"{one}\ta\n{two}\tb\n")
    assert read_utterances(tmp_path / "p/list.txt").sha256 == read_utterances(tmp_path / "absolute.txt").sha256


def test_all_missing_files_are_counted(table):
    shutil.rmtree(table.parent / "audio")
    with pytest.raises(AsrCompressError, match=r"test\.tsv: 2 of 2 audio files are missing, the first is .*a\.wav"):
        read_utterances(table)


def test_a_name_too_long_for_the_disk_is_a_missing_file(table):
    table.write_text(f"{HEADER}u1\t{'a' * 5000}\t9\tyes\t\n")
    with pytest.raises(AsrCompressError, match="1 of 1 audio files are missing"):
        read_utterances(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "u1\taudio/a.wav\t9\t\t\nu2\taudio/b.flac\t9\t \t\n", "none of its 2 references has a word"),
        (HEADER + "u1\taudio/a.wav\t9\tx\t\nu1\taudio/b.flac\t9\ty\t\n", "'u1' is listed twice"),
        (HEADER + "u1\t\t9\tx\t\n", r"test\.tsv:2: names no audio file"),
        (HEADER, "nothing under it"),
        ("id\taudio\tn_frames\nu1\taudio/a.wav\t9\n", "no column 'tgt_text'"),
        ("id\tn_frames\ttgt_text\nu1\t9\tx\n", "no column 'audio'"),
        ("path\tword\tsplit\naudio/a.wav\tyes\ttest\n", "table of keyword clips"),
        ("audio/a.wav yes\n", r"test\.tsv:1: has 1 fields where path<TAB>text has 2"),
        ("/data/root\n", "give a Fairseq S2T"),
    ],
)
def test_bad_tables(table, content, message):
    table.write_text(content)
    with pytest.raises(AsrCompressError, match=message) as caught:
        read_utterances(table)
    assert str(caught.value).startswith(str(table))
    assert "\n" not in str(caught.value)


def test_what_is_no_set(table, tmp_path):
    with pytest.raises(AsrCompressError, match="no such file or folder; give a Fairseq"):
        read_utterances(tmp_path / "gone")
    with pytest.raises(AsrCompressError, match="is not a text file"):
        read_utterances(table.parent / "audio/a.wav")
    with pytest.raises(AsrCompressError, match="give one of them: test.tsv"):
        read_utterances(table.parent)
    with pytest.raises(AsrCompressError, match=r"holds no \*\.trans\.txt"):
        read_utterances(table.parent / "audio")
    (table.parent / "1-2.trans.txt").write_text("1-2-0000 HELLO\n")
    with pytest.raises(AsrCompressError, match=r"holds tables \(test\.tsv\) and"):
        read_utterances(table.parent)
    with pytest.raises(AsrCompressError, match="needs no --audio-root"):
        read_utterances(table.parent, audio_root=tmp_path)


@pytest.mark.parametrize("line", [" HELLO", "../x HELLO", "a\tb"])
def test_a_transcript_line_without_an_id(tmp_path, line):
    (tmp_path / "1-2.trans.txt").write_text(f"1-2-0000 HI\n{line}\n")
    with pytest.raises(AsrCompressError, match=r"trans\.txt:2: does not start with an utterance id"):
        read_utterances(tmp_path)


def test_real_digits_agree_with_the_csv_module(digits_dir):
    dataset = read_utterances(digits_dir / "test.tsv")
    with open(digits_dir / "test.tsv", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert [utterance.id for utterance in dataset.utterances] == [row["id"] for row in rows]
    assert sum(len(utterance.reference.split()) for utterance in dataset.utterances) == 1534


def test_real_librispeech_by_subset_and_by_parent(librispeech_dir):
    subsets = [read_utterances(librispeech_dir / name) for name in ("test-other", "train-clean-100")]
    assert [len(subset.utterances) for subset in subsets] == [100, 60]
    both = read_utterances(librispeech_dir)
    assert both.utterances == subsets[0].utterances + subsets[1].utterances
    assert len({utterance.speaker for utterance in subsets[0].utterances}) == 10

"""Speech without the keyword: what is left out and counted, and what is taken on trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.speech.negatives import read_negatives

Speak = Callable[..., Path]


def has_happy(text: str) -> bool:
    return "happy" in text.lower().split()


@pytest.fixture
def table(speak: Speak, tmp_path: Path) -> Path:
    rows = ["id\taudio\tn_frames\ttgt_text"]
    for name, text in [("a", "we are HAPPY"), ("b", "unhappy people"), ("c", ""), ("d", "happy happy")]:
        speak(f"{name}.flac")
        rows.append(f"{name}\t{name}.flac\t1\t{text}")
    path = tmp_path / "set.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_utterances_with_the_keyword_are_left_out_and_counted(table: Path) -> None:
    found = read_negatives(table, has_happy)
    assert [utterance.id for utterance in found.utterances] == ["b", "c"]
    assert (found.num_left_out, found.is_transcribed) == (2, True)


def test_the_hash_is_of_what_was_kept(table: Path) -> None:
    everything = read_negatives(table, lambda text: False)
    assert everything.num_left_out == 0
    assert everything.sha256 != read_negatives(table, has_happy).sha256


def test_a_librispeech_folder_is_read_by_its_transcripts(speak: Speak, tmp_path: Path) -> None:
    speak("sub/1/2/1-2-0000.flac")
    speak("sub/1/2/1-2-0001.flac")
    (tmp_path / "sub/1/2/1-2.trans.txt").write_text("1-2-0000 SO HAPPY\n1-2-0001 NOT AT ALL\n")
    found = read_negatives(tmp_path / "sub", has_happy)
    assert [utterance.id for utterance in found.utterances] == ["1-2-0001"]
    assert found.num_left_out == 1


def test_a_folder_without_transcripts_is_taken_on_trust_but_for_folders_of_the_keyword(
    speak: Speak, tmp_path: Path
) -> None:
    for name in ("clips/music/x.wav", "clips/happy/x.wav", "clips/happy/y.wav", "clips/a.flac"):
        speak(name)
    found = read_negatives(tmp_path / "clips", has_happy)
    assert [utterance.id for utterance in found.utterances] == ["a.flac", "music/x.wav"]
    assert (found.num_left_out, found.is_transcribed) == (2, False)


def test_a_list_of_audio_is_taken_on_trust(speak: Speak, tmp_path: Path) -> None:
    speak("one.wav")
    speak("deep/two.wav")
    (tmp_path / "list.txt").write_text("one.wav\ndeep/two.wav\n")
    found = read_negatives(tmp_path / "list.txt", has_happy)
    assert [utterance.audio.name for utterance in found.utterances] == ["one.wav", "two.wav"]
    assert not found.is_transcribed
    assert read_negatives(tmp_path / "list.txt", has_happy, audio_root=tmp_path).sha256 == found.sha256


def test_nothing_left_is_an_error(speak: Speak, tmp_path: Path) -> None:
    speak("happy/x.wav")
    with pytest.raises(AsrCompressError, match="all 1 utterances have the keyword; give speech without it"):
        read_negatives(tmp_path, has_happy)


def test_a_missing_file_of_a_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.wav\n")
    with pytest.raises(AsrCompressError, match="1 of 1 audio files are missing"):
        read_negatives(tmp_path / "list.txt", has_happy)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent", None, "no such file or folder; give .* a folder of audio, or a list of audio files"),
        ("clips.tsv", "path\tword\nx.wav\thappy\n", "keyword clips"),
        ("x.txt", "x.wav\nsomething else\n", "path<TAB>text"),
    ],
)
def test_what_is_no_speech_is_an_error(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(AsrCompressError, match=words):
        read_negatives(tmp_path / name, has_happy)


def test_a_folder_without_audio_is_an_error_that_says_what_may_be_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("no speech")
    with pytest.raises(AsrCompressError, match=r"holds no audio; give .* a folder of audio, or a list of audio files"):
        read_negatives(tmp_path, has_happy)

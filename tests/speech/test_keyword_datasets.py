"""Keyword sets: every clip counts once, as the keyword or as another word, in the split asked for."""

from __future__ import annotations

import shutil

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.speech.keyword_datasets import read_keyword_clips

CLIPS = ["yes/a.wav", "yes/b.wav", "no/a.wav", "no/c.flac", "up/d.wav"]


@pytest.fixture
def tree(tmp_path, speak):
    for name in [*CLIPS, "_background_noise_/rain.wav", "_background_noise_/wind.wav"]:
        speak(f"words/{name}")
    folder = tmp_path / "words"
    (folder / "_background_noise_/README.md").write_text("noise\n")
    (folder / "LICENSE").write_text("free\n")
    (folder / "yes/notes.txt").write_text("x\n")
    (folder / "yes/.hidden.wav").write_bytes(b"")
    return folder


@pytest.fixture
def lists(tree):
    (tree / "testing_list.txt").write_text("yes/a.wav\nno/a.wav\n")
    (tree / "validation_list.txt").write_text("yes/b.wav\nup/d.wav\n")
    return tree


def test_tree_without_lists(tree):
    dataset = read_keyword_clips(tree, keyword="yes", split=None)
    assert [(clip.id, clip.word, clip.is_keyword) for clip in dataset.clips] == [
        ("no/a.wav", "no", False),
        ("no/c.flac", "no", False),
        ("up/d.wav", "up", False),
        ("yes/a.wav", "yes", True),
        ("yes/b.wav", "yes", True),
    ]
    assert dataset.counts == {
        "num_clips": 5,
        "num_positives": 2,
        "num_negatives": 3,
        "num_background_noise": 2,
        "num_not_audio": 1,
    }
    with pytest.raises(AsrCompressError, match="has no splits; leave out --split test"):
        read_keyword_clips(tree, keyword="yes", split="test")


def test_lists_give_the_splits(lists):
    def ids(split):
        return {clip.id for clip in read_keyword_clips(lists, keyword="no", split=split).clips}

    (lists / "validation_list.txt").write_text("no/c.flac\nup/d.wav\n")
    assert ids("test") == ids("testing") == {"yes/a.wav", "no/a.wav"}
    assert ids("val") == ids("validation") == ids("dev") == {"no/c.flac", "up/d.wav"}
    assert ids("all") == set(CLIPS)
    with pytest.raises(AsrCompressError, match="no clip has the keyword 'no'; its words are: yes"):
        read_keyword_clips(lists, keyword="no", split="train")
    with pytest.raises(AsrCompressError, match="several splits; add --split, one of: test, train, val, all"):
        read_keyword_clips(lists, keyword="no", split=None)
    with pytest.raises(AsrCompressError, match="no split 'eval'; it has: test, train, val, all"):
        read_keyword_clips(lists, keyword="no", split="eval")


def test_lists_that_do_not_fit_the_folder(lists):
    (lists / "testing_list.txt").write_text("yes/a.wav\nyes/gone.wav\nno/gone.wav\n")
    with pytest.raises(AsrCompressError, match=r"testing_list\.txt: 2 of the 3 clips it lists are missing.*yes/gone"):
        read_keyword_clips(lists, keyword="yes", split="val")
    (lists / "testing_list.txt").write_text("yes/b.wav\n")
    with pytest.raises(AsrCompressError, match=r"validation_list\.txt: yes/b\.wav is in testing_list\.txt too"):
        read_keyword_clips(lists, keyword="yes", split="val")


def test_table_and_tree_of_the_same_clips_have_the_same_content(tree, tmp_path):
    names = sorted(CLIPS)
    table = tmp_path / "manifest.tsv"
    table.write_text("path\tword\n" + "".join(f"words/{name}\t{name.split('/')[0]}\n" for name in names))
    from_tree = read_keyword_clips(tree, keyword="yes", split=None)
    from_table = read_keyword_clips(table, keyword="yes", split=None)
    assert from_table.clips == from_tree.clips
    assert from_table.sha256 == from_tree.sha256
    table.write_text("".join(f"{name}\t{name.split('/')[0]}\n" for name in names))  # no header, another root
    assert read_keyword_clips(table, keyword="yes", split=None, audio_root=tree).sha256 == from_tree.sha256


def test_content_hash_follows_content_and_not_place(tree, tmp_path):
    before = read_keyword_clips(tree, keyword="yes", split=None)
    moved = shutil.copytree(tree, tmp_path / "deep" / "er")
    assert read_keyword_clips(moved, keyword="up", split=None).sha256 == before.sha256
    (moved / "up").rename(moved / "down")
    assert read_keyword_clips(moved, keyword="yes", split=None).sha256 != before.sha256


@pytest.fixture
def table(tree):
    for list_name in ("LICENSE", "yes/notes.txt"):
        (tree / list_name).unlink()
    path = tree.parent / "manifest.tsv"
    path.write_text("path\tword\tsplit\n" + "".join(f"words/{n}\t{n.split('/')[0]}\ttest\n" for n in CLIPS))
    return path


def test_table_with_one_split_needs_no_choice(table):
    assert read_keyword_clips(table, keyword="yes", split=None).counts["num_clips"] == 5
    assert read_keyword_clips(table, keyword="yes", split="test").split == "test"


def test_files_missing_from_another_split_do_not_matter(table):
    table.write_text(table.read_text() + "words/yes/gone.wav\tyes\tval\nwords/no/gone.wav\tno\tval\n")
    assert len(read_keyword_clips(table, keyword="yes", split="test").clips) == 5
    with pytest.raises(AsrCompressError, match=r"2 of 2 audio files are missing, the first is .*yes/gone\.wav"):
        read_keyword_clips(table, keyword="yes", split="val")


def test_keyword_not_given_or_not_known(table, tmp_path, speak):
    with pytest.raises(AsrCompressError, match="Add --keyword WORD, one of: no, up, yes$"):
        read_keyword_clips(table, keyword=None, split=None)
    with pytest.raises(AsrCompressError, match="no clip has the keyword 'YES'; its words are: yes, no, up$"):
        read_keyword_clips(table, keyword="YES", split=None)
    rows = [speak(f"many/{word}/x.wav") for word in "abcdefghijklmn"]
    many = tmp_path / "many.tsv"
    many.write_text("path\tword\n" + "".join(f"{row}\t{row.parent.name}\n" for row in rows))
    with pytest.raises(AsrCompressError, match="its words are: a, b, c, d, e, f, g, h, i, j, ...$"):
        read_keyword_clips(many, keyword="zzz", split=None)


def test_no_negatives(tree):
    for word in ("no", "up"):
        shutil.rmtree(tree / word)
    with pytest.raises(AsrCompressError, match="every one of the 2 clips is 'yes'; add clips of other words"):
        read_keyword_clips(tree, keyword="yes", split=None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.wav yes\n", "names no columns path and word"),
        ("id\taudio\ttgt_text\nu\ta.wav\tyes\n", "names no columns path and word"),
        ("path\tword\n", "nothing under it"),
        ("path\tword\nwords/yes/a.wav\t \n", r"manifest\.tsv:2: has no word"),
        ("path\tword\tsplit\nwords/yes/a.wav\tyes\t\n", r"manifest\.tsv:2: has no split"),
        ("path\tword\n\tyes\n", r"manifest\.tsv:2: names no audio file"),
        ("path\tword\nwords/yes/a.wav\tyes\nwords/yes/a.wav\tno\n", "'a.wav' is listed twice"),
        ("path\tword\nwords/yes/a.wav\tyes\nwords/no/a.wav\n", r"manifest\.tsv:3: has 1 fields"),
    ],
)
def test_bad_tables(table, content, message):
    table.write_text(content)
    with pytest.raises(AsrCompressError, match=message) as caught:
        read_keyword_clips(table, keyword="yes", split=None)
    assert str(caught.value).startswith(str(table))


def test_folders_that_are_no_tree(table, tree, tmp_path, speak):
    with pytest.raises(
        AsrCompressError, match=r"holds the folder .*such as .*words, or a table, such as .*manifest\.tsv"
    ):
        read_keyword_clips(tree.parent, keyword="yes", split=None)
    with pytest.raises(AsrCompressError, match=r"no folder in it holds \.wav or \.flac"):
        read_keyword_clips(tree / "yes", keyword="yes", split=None)
    with pytest.raises(AsrCompressError, match="needs no --audio-root"):
        read_keyword_clips(tree, keyword="yes", split=None, audio_root=tmp_path)
    with pytest.raises(AsrCompressError, match="no such file or folder"):
        read_keyword_clips(tree / "gone", keyword="yes", split=None)
    speak("words/loose.wav")
    with pytest.raises(AsrCompressError, match="1 clips lie outside the words' folders, the first is loose.wav"):
        read_keyword_clips(tree, keyword="yes", split=None)
    shutil.copy(table, tree)
    (tree / "loose.wav").unlink()
    with pytest.raises(AsrCompressError, match="words' folders and a table; give the table"):
        read_keyword_clips(tree, keyword="yes", split=None)


@pytest.mark.parametrize(("split", "clips", "positives"), [("test", 1752, 520), ("val", 651, 223)])
def test_real_manifest(kws_dir, split, clips, positives):
    dataset = read_keyword_clips(kws_dir / "manifest.tsv", keyword="happy", split=split)
    assert (len(dataset.clips), dataset.num_positives) == (clips, positives)

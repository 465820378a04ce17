"""--student as text and as TOML, --shrink; what they may not say is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.ops.student_options import check_shrink, parse_student


@pytest.mark.parametrize(
    ("text", "family", "given"),
    [
        ("kws_crnn:channels=2,hidden=12", "kws_crnn", {"channels": 2, "hidden": 12}),
        ("kws_crnn: kernel=5x20 , stride=2x8", "kws_crnn", {"kernel": [5, 20], "stride": [2, 8]}),
        ("s2t_transformer", "s2t_transformer", {}),
        ("s2t_transformer:encoder_layers=3,dim=96,heads=4", "s2t_transformer", {"encoder_layers": 3, "dim": 96, "heads": 4}),
        ("asr_vggtransformer:channels=8x16x32", "asr_vggtransformer", {"channels": [8, 16, 32]}),
        ("asr_vggtransformer_encoder:channels=8", "asr_vggtransformer_encoder", {"channels": [8]}),
    ],
)  # fmt: skip
def test_text(text: str, family: str, given: dict) -> None:
    assert parse_student(text) == (family, given)


def test_a_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text('[student]\nfamily = "kws_crnn"\nchannels = 2\nkernel = [5, 20]\n')
    assert parse_student(str(path)) == parse_student("kws_crnn:channels=2,kernel=5x20")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "crnn:channels=2",
            "'crnn' is no model family; write kws_crnn:channels=2,hidden=12, or the name of a file that ends in .toml",
        ),
        ("", "'' is no model family"),
        ("kws_crnn:width=2", "a kws_crnn has no size 'width'; it has channels, hidden, layers, kernel, stride"),
        ("kws_crnn:channels", "'channels' is not name=value"),
        ("kws_crnn:channels=2,", "'' is not name=value"),
        ("kws_crnn:channels=2,channels=3", "'channels' is given twice"),
        ("kws_crnn:channels=0", "channels is 0; it is a whole number from 1"),
        ("kws_crnn:channels=two", "channels is 'two'; use whole numbers"),
        ("kws_crnn:channels=-2", "channels is '-2'; use whole numbers"),
        ("kws_crnn:channels=2.0", "channels is '2.0'; use whole numbers"),
        ("kws_crnn:channels=\u0662", "use whole numbers"),
        ("kws_crnn:channels=99999999", "from 1 to 1000000"),
        ("kws_crnn:channels=9999999999999999", "channels is 9999999999999999; it is a whole number from 1 to 1000000"),
        ("kws_crnn:channels=" + "9" * 5000, "it is a whole number from 1 to 1000000"),
        ("kws_crnn:layers=1001", "layers is 1001; it is a whole number from 1 to 1000"),
        ("s2t_transformer:encoder_layers=100000", "encoder_layers is 100000; it is a whole number from 1 to 1000"),
        ("kws_crnn:channels=2x3", "channels is 2x3; it is a whole number"),
        ("kws_crnn:kernel=5", "kernel is 5; it is 2 whole numbers such as 5x20"),
        ("kws_crnn:kernel=5x20x2", "kernel is 5x20x2; it is 2 whole numbers"),
    ],
)
def test_text_that_says_no_student(text: str, message: str) -> None:
    with pytest.raises(AsrCompressError) as error:
        parse_student(text)
    assert str(error.value).startswith(f"--student {text}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[student]\nfamily = 1\n", "holds no student alone"),
        ("[student]\nchannels = 2\n", "holds no student alone"),
        ("student = 3\n", "holds no student alone"),
        ('bits = 4\n[student]\nfamily = "kws_crnn"\n', "holds no student alone"),
        ("channels = ", "is not TOML"),
        ('[student]\nfamily = "kws_crnn"\nchannels = "2"\n', "channels is '2'; it is a whole number"),
        ('[student]\nfamily = "kws_crnn"\nchannels = true\n', "channels is True; it is a whole number"),
        ('[student]\nfamily = "kws_crnn"\nkernel = []\n', "kernel is nothing; it is 2 whole numbers"),
        ('[student]\nfamily = "kws_crnn"\nkernel = [5, [20]]\n', "it is 2 whole numbers"),
    ],
)  # fmt: skip
def test_a_file_that_says_no_student(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "student.toml"
    path.write_text(text)
    with pytest.raises(AsrCompressError) as error:
        parse_student(str(path))
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_absent_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match="could not be read"):
        parse_student(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AsrCompressError, match="is not TOML"):
        parse_student(str(tmp_path / "bytes.toml"))


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_a_factor_out_of_range_is_refused(factor: float) -> None:
    with pytest.raises(AsrCompressError, match="above 0 and at most 1"):
        check_shrink(factor)
    assert check_shrink(1.0) == 1.0

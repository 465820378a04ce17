"""What --student says: a family and sizes, as text or as a TOML file, and --shrink.

    kws_crnn:channels=2,hidden=12,kernel=5x20          or          [student]
                                                                   family = "kws_crnn"
                                                                   channels = 2
                                                                   kernel = [5, 20]

Which sizes a family has is its own STUDENT_OPTIONS: name -> how many numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.models import FAMILIES, get_family

LARGEST, MOST_LAYERS = 1_000_000, 1000
EXAMPLE = "kws_crnn:channels=2,hidden=12"


def parse_student(text: str) -> tuple[str, dict[str, Any]]:
    """The family and the sizes given, each a whole number or a list of them, checked against what the family has.

    Raises:
        AsrCompressError: an unknown family or size, a value that is none, a size given twice, or a file that is no such TOML.
    """
    if text.endswith(".toml"):
        family, given = _read_file(Path(text))
    else:
        family, given = _split(text)
    where = f"--student {text}"
    if family not in FAMILIES:
        raise AsrCompressError(
            f"{where}: '{family}' is no model family; write {EXAMPLE}, or the name of a file that ends in .toml; "
            f"families: {', '.join(FAMILIES)}"
        )
    known = get_family(family).STUDENT_OPTIONS
    sizes = {}
    for name, value in given.items():
        if name not in known:
            raise AsrCompressError(f"{where}: a {family} has no size '{name}'; it has {', '.join(known)}")
        most = MOST_LAYERS if name.endswith("layers") else LARGEST
        sizes[name] = _size(f"{where}: {name}", value, known[name], most)
    return family, sizes


def check_shrink(shrink: float) -> float:
    """Raise unless it is above 0 and at most 1."""
    if not 0 < shrink <= 1:
        raise AsrCompressError(f"--shrink {shrink:g}: use a factor above 0 and at most 1, such as 0.5")
    return shrink


def _split(text: str) -> tuple[str, dict[str, Any]]:
    """`family:name=value,name=value`; the sizes may be left out."""
    family, _, rest = text.partition(":")
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest.strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or name in given:
            cause = f"'{name}' is given twice" if name in given else f"'{part.strip()}' is not name=value"
            raise AsrCompressError(f"--student {text}: {cause}; write such as {EXAMPLE}")
        numbers = value.split("x")
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            raise AsrCompressError(f"--student {text}: {name} is '{value}'; use whole numbers such as 12 or 5x20")
        # More digits than any size has are not counted, but shown as they are: int() takes thousands, and refuses more.
        values = [int(number) if len(number) < 20 else number for number in numbers]
        given[name] = values if len(values) > 1 else values[0]
    return family.strip(), given


def _read_file(path: Path) -> tuple[str, dict[str, Any]]:
    """The table [student] of a TOML file, and nothing beside it."""
    import tomllib

    try:
        table: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AsrCompressError(f"{path}: the student could not be read: {error.strerror}") from error
    except ValueError as error:
        raise AsrCompressError(f"{path}: is not TOML ({error}); write [student] with family = ... and sizes") from error
    student = table.get("student")
    if list(table) != ["student"] or not isinstance(student, dict) or not isinstance(student.get("family"), str):
        raise AsrCompressError(f"{path}: holds no student alone; write [student] with family = ... and sizes")
    return student["family"], {name: value for name, value in student.items() if name != "family"}


def _size(where: str, value: Any, num_values: int, most: int) -> Any:
    """One whole number, or a list of so many, each from 1 to `most`. `num_values` 0: of any length."""
    values = value if isinstance(value, list) else [value]
    whole = all(type(number) is int and 1 <= number <= most for number in values)
    if not whole or not values or (num_values and len(values) != num_values):
        due = "a whole number" if num_values == 1 else f"{num_values or 'some'} whole numbers such as 5x20"
        raise AsrCompressError(f"{where} is {_shown(value)}; it is {due} from 1 to {most}")
    return values[0] if num_values == 1 else values


def _shown(value: Any) -> str:
    if value == []:
        return "nothing"
    return "x".join(str(number) for number in value)[:60] if isinstance(value, list) else repr(value)[:60]

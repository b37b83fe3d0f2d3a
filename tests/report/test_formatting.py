import pytest

from scsuite.report import words


@pytest.mark.parametrize(
    ("fraction", "written"),
    [(0.93125, "93.12 %"), (1.0, "100.00 %"), (0.0, "0.00 %"), (None, "-"), (float("nan"), "-")],
)
def test_percent_has_two_decimals_and_a_dash_for_nothing(fraction: float | None, written: str) -> None:
    assert words.percent(fraction) == written


def test_numbers_stay_short_even_when_a_loss_has_diverged() -> None:
    assert [words.number(x) for x in (1.5, 1e30, float("inf"), float("nan"), None)] == [
        "1.5000",
        "1.00e+30",
        "inf",
        "-",
        "-",
    ]


def test_control_characters_are_shown_and_never_obeyed() -> None:
    assert words.clean("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert words.clean("Straße 猫") == "Straße 猫"


def test_a_name_that_python_read_from_undecodable_bytes_can_be_written() -> None:
    name = words.clean(b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert name.encode("utf-8") == rb"caf\udce9"


@pytest.mark.parametrize("room", [4, 7, 11])
def test_shortening_keeps_both_ends_within_the_room(room: int) -> None:
    short = words.shorten("golden retriever 12", room)
    assert words.columns(short) == room
    assert short[0] == "g" and short[-1] == "2" and "…" in short


def test_shortening_leaves_alone_what_fits() -> None:
    assert words.shorten("cat", 3) == "cat"


def test_wide_letters_count_twice_and_combining_marks_not_at_all() -> None:
    assert words.columns("猫a") == 3
    assert words.columns("e\u0301") == 1


def test_wrapping_breaks_where_the_longer_line_is_shortest() -> None:
    assert words.wrap("predicted automobile 0.62", 20) == ["predicted", "automobile 0.62"]
    assert words.wrap("predicted dog 0.62", 20) == ["predicted dog 0.62"]
    assert words.wrap("unbreakablelongname", 8) == ["unbre…me"]

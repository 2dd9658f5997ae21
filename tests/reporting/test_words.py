import pytest

from bigbatch_ue.reporting.words import counted, interval, number, p_value, percent, slugs, span

NAN = float("nan")


def test_unknown_numbers_are_dashes() -> None:
    assert [percent(0.1234), percent(0.1234, 0), percent(NAN), percent(None)] == [
        "12.3",
        "12",
        "–",
        "–",
    ]
    assert [number(NAN), number(1234.5), number(2.3456)] == ["–", "1,234", "2.35"]


@pytest.mark.parametrize(
    ("ends", "written"),
    [((0.1, 0.25), "10.0 to 25.0"), ((None, None), "–"), ((0.1, NAN), "–")],
)
def test_an_interval_needs_both_ends(ends: tuple[float, float], written: str) -> None:
    assert interval(*ends) == written


def test_an_interval_is_joined_as_wished() -> None:
    assert interval(-0.1, 0.25, 0, between="-") == "-10-25"
    assert interval(None, None, unknown="-") == "-"


def test_numbers_of_things_are_plain_english() -> None:
    things = [(1, "rank"), (0, "image"), (1437, "image"), (1, "micro-batch"), (2, "micro-batch")]
    assert [counted(*each) for each in [*things, (3, "class")]] == [
        "1 rank",
        "0 images",
        "1,437 images",
        "1 micro-batch",
        "2 micro-batches",
        "3 classes",
    ]


def test_a_range_of_one_number_is_that_number() -> None:
    assert [span([28, 25, 26]), span([28, 28]), span([1024])] == ["25 to 28", "28", "1,024"]


def test_small_p_values_are_bounds() -> None:
    assert [p_value(p) for p in (0.0412, 0.0004, NAN)] == ["p = 0.041", "p < 0.001", "p unknown"]


def test_slugs_are_file_names_that_differ() -> None:
    assert list(slugs(["My Set", "my-set", "my-set-2", "?"])) == [
        "my-set",
        "my-set-2",
        "my-set-2-2",
        "data",
    ]
    long = list(slugs(["x" * 300 + "a", "x" * 300 + "b"]))
    assert len(set(long)) == 2
    assert max(map(len, long)) < 255

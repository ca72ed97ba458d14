"""What a label may be, and how lists of labels are said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import SoRAError
from sora_ref.run.data.labels import class_indices, in_class_order, look_alikes, real_number, some


@given(st.lists(st.integers(), unique=True))
def test_whole_numbers_are_ordered_as_numbers(values: list[int]) -> None:
    assert in_class_order(map(str, values)) == tuple(map(str, sorted(values)))


def test_labels_of_thousands_of_digits_are_ordered_too() -> None:
    nines = "9" * 5000
    assert in_class_order([nines, "1" + "0" * 5000, f"-{nines}", "7"]) == (f"-{nines}", "7", nines, "1" + "0" * 5000)


def test_a_number_too_large_for_a_float_is_refused_in_a_short_sentence() -> None:
    with pytest.raises(SoRAError, match="is not a finite number") as caught:
        real_number("t.tsv, line 2", "9" * 5000)
    assert len(str(caught.value)) < 200


def test_a_class_named_twice_or_blank_is_refused() -> None:
    with pytest.raises(SoRAError, match=r"task.labels has 'a' twice: expected every class once"):
        class_indices(("a", "b", "a"))
    with pytest.raises(SoRAError, match=r"task.labels has ' ': expected names that are not blank"):
        class_indices(("a", " "))


@pytest.mark.parametrize(
    "group", [("1", "1.0"), ("Yes", "yes"), ("yes", "yes "), ("1", "+1.", "01"), ("\uff11", "1"), ("a  b", "a b")]
)
def test_classes_that_look_alike_are_named(group: tuple[str, ...]) -> None:
    (sentence,) = look_alikes((*group, "other"))
    assert sentence == f"the labels {some(group)} are counted as {len(group)} classes, though they look alike"


def test_of_many_groups_that_look_alike_the_first_are_named_and_the_rest_counted() -> None:
    said = list(look_alikes(f"{letter}{k}" for k in range(5000) for letter in "aA"))
    assert len(said) == 11
    assert said[-1] == "4,990 more groups of labels look alike"


def test_classes_that_differ_in_more_are_not_named() -> None:
    assert list(look_alikes(("1", "10", "-1", "one", "0.1", "1e0", "yes", "yes!"))) == []


def test_a_long_list_is_cut_after_ten_with_the_count_of_the_rest() -> None:
    names = tuple(f"c{k}" for k in range(60_000))
    assert some(names) == ", ".join(f"'c{k}'" for k in range(10)) + " and 59,990 more"
    assert some(names[:10]) == ", ".join(f"'c{k}'" for k in range(10))
    assert len(some(tuple("x" * 1000 + str(k) for k in range(20)))) < 1000

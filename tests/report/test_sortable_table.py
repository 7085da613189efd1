"""Tables: numbers short but sorted in full, empty columns left out, columns explained."""

from __future__ import annotations

import pytest

from mednext_jax.report.sortable_table import MAX_ROWS, compact, short, sortable_table, unit

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00512, "0.00512"),
        (1.005, "1.00"),
        (31.04, "31.0"),
        (1234.5, "1234"),
        (2.5e7, "2.50e+07"),
        (-0.27, "-0.270"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert compact(value) == text


def test_cells_are_short_and_keep_their_value():
    row = {"cluster": "12", "x_mm": "-0.2701", "volume_mm3": "2225.0000", "region": "a<b", "big": "123456789"}
    assert [short(row, name) for name in row] == ["12", "-0.3", "2225", "a<b", "123456789"]
    html = sortable_table([row], "Title", {})
    assert 'data-value="-0.2701">-0.3<' in html and "a&lt;b" in html
    assert (
        unit("x_mm", {}) == "mm" and unit("volume_mm3", {}) == "mm³" and unit("d", {"d": {"Units": "1/mL"}}) == "per mL"
    )


def test_columns_without_a_value_are_left_out_and_the_others_explained():
    rows = [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "", "c": "x"}]
    html = sortable_table(rows, "Title", {"a": {"Description": "First <one>"}, "b": {"Description": "Never"}})
    assert html.count('<th scope="col"') == 2 and "First &lt;one&gt;" in html and "Never" not in html
    assert "Title: none." in sortable_table([], "Title", {})


def test_very_many_rows_stay_in_the_file():
    html = sortable_table([{"a": str(i)} for i in range(MAX_ROWS + 5)], "Title", {})
    assert html.count("<tr>") == MAX_ROWS + 1 and "5 rows more" in html
    html = sortable_table([{"a": str(i)} for i in range(MAX_ROWS + 5)], "Title", {}, limit=None)
    assert html.count("<tr>") == MAX_ROWS + 6 and "rows more" not in html

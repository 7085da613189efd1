"""Names that a spreadsheet would take for formulas."""

from __future__ import annotations

import pytest

from mednext_jax.io.table_cell import quoted, unquoted

pytestmark = pytest.mark.core


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "\t=x", " =x", "'=x", "''=x"])
def test_formulas_are_quoted_and_read_back(name):
    assert quoted(name) == f"'{name}" and unquoted(quoted(name)) == name


@pytest.mark.parametrize("name", ["sub-01", "a=b", "'twas", "", "1-2"])
def test_other_names_stay(name):
    assert quoted(name) == unquoted(name) == name

"""The reference of the configuration says what the code does."""

from __future__ import annotations

import re

import pytest

from mednext_jax.train.recipes import recipe_names
from mednext_jax.train.run import FREE_ON_RESUME
from tools.configuration_page import PAGE, page

pytestmark = pytest.mark.core


def test_the_page_is_of_this_code():
    """`python -m tools.configuration_page` writes it anew."""
    assert PAGE.read_text() == page(PAGE.read_text())


def test_the_page_names_every_recipe_and_what_a_resumed_run_may_change():
    text = PAGE.read_text()
    assert all(re.search(rf"`{name}[:`]", text) for name in recipe_names())
    assert all(f"`{name}`" in text for name in FREE_ON_RESUME)

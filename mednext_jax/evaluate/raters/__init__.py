"""Agreement between raters, and of a tool with them."""

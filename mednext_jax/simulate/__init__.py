"""Perivascular spaces simulated in a real template brain."""

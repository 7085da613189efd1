"""Perivascular spaces: clusters, regions, and their simulation in a real template brain."""

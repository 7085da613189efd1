"""Figures of an evaluation, as PNG and SVG."""

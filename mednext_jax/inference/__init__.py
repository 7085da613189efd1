"""Prediction: tiles, the compiled sliding window, one scan, a whole cohort."""

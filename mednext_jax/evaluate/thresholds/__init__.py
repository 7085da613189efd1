"""Probability maps: which threshold to take, and whether the probabilities are true."""

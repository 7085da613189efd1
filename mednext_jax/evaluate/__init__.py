"""Comparison of predicted with reference masks: voxels, clusters, cases, cohorts."""

"""FreeSurfer's numbers: known ones, sides, lobes, and what a map of them looks like."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.measure.freesurfer import FREESURFER, is_freesurfer
from tests.measure.brain import brain

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("value", "region", "hemisphere", "lobe"),
    [
        (2, "white matter", "left", ""),
        (41, "white matter", "right", ""),
        (51, "basal ganglia", "right", ""),
        (10, "thalamus", "left", ""),
        (53, "hippocampus", "right", ""),
        (16, "brainstem", "", ""),
        (173, "midbrain", "", ""),
        (46, "cerebellum", "right", ""),
        (3028, "white matter", "left", "frontal"),  # wm-lh-superiorfrontal
        (4011, "white matter", "right", "occipital"),  # wm-rh-lateraloccipital
        (4035, "white matter", "right", "insula"),
        (5001, "white matter", "left", "deep"),
        (1028, "", "left", ""),
        (24, "", "", ""),
    ],
)
def test_known_numbers(value, region, hemisphere, lobe):
    found = FREESURFER[value]
    assert (found.region, found.hemisphere, found.lobe) == (region, hemisphere, lobe)


def test_each_side_has_the_same_structures():
    sides = [
        sorted((s.name, s.region, s.lobe) for s in FREESURFER.values() if s.hemisphere == h) for h in ("left", "right")
    ]
    assert sides[0] == sides[1]


def test_each_parcel_of_white_matter_has_one_lobe():
    lobes = [FREESURFER[3000 + parcel].lobe for parcel in range(36)]
    assert lobes.count("") == 2  # unknown and corpus callosum
    assert {lobe: lobes.count(lobe) for lobe in set(lobes) - {""}} == {
        "frontal": 11,
        "parietal": 5,
        "temporal": 9,
        "occipital": 4,
        "cingulate": 4,
        "insula": 1,
    }


def test_what_looks_like_a_map_of_freesurfer():
    assert is_freesurfer(brain()) and is_freesurfer(brain(lobes=True))
    assert not is_freesurfer(np.array([0, 1, 2, 3]))  # three tissues
    assert not is_freesurfer(np.where(brain() == 42, 600, brain()))  # much that is unknown
    assert not is_freesurfer(np.zeros((3, 3, 3), np.int16))

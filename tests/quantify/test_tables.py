"""Tables: cells, missing values, many scans as one, and tables of something else."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from mednext_jax.errors import InputError
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.quantify.columns import REGIONS
from mednext_jax.quantify.one_scan import quantify_arrays
from mednext_jax.quantify.region_source import SubjectRegions
from mednext_jax.quantify.tables import TableFiles, _cell, cohort_text, dictionaries, read_rows, regions_text
from tests.measure.brain import AFFINE, brain
from tests.quantify.conftest import pvs_mask

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, "n/a"),
        (math.nan, "n/a"),
        ("", "n/a"),
        (-0.00001, "0.0000"),
        (2, "2"),
        (1 / 3, "0.3333"),
        ("=SUM(A1)", "'=SUM(A1)"),
        ("-1.5", "-1.5"),
        ("white matter", "white matter"),
    ],
)
def test_cells(value, cell):
    assert _cell(value, 4) == cell


def test_a_fraction_of_a_brain_keeps_its_digits():
    row = {"region": "whole brain", "hemisphere": "both", "fraction": 24 / 884441, "density_per_ml": 0.0045}
    (cells,) = csv.DictReader(io.StringIO(cohort_text([("a", [row])])), delimiter="\t")
    assert (cells["fraction"], cells["density_per_ml"]) == ("0.0000271", "0.0045")


def test_the_atlas_s_overlap_is_in_each_row_and_n_a_for_scans_with_maps(tmp_path):
    own = quantify_arrays(pvs_mask(), AFFINE)
    placed = SubjectRegions(Parcellation.of(brain(), AFFINE, FREESURFER), ("a note",), 0.9634).told_in(own)
    assert placed.warnings == ("a note",) and "regions_overlap" not in own.regions[0]
    for case, found in (("a", placed), ("b", own)):
        (tmp_path / f"{case}.tsv").write_text(regions_text(found))
    merged = cohort_text((case, read_rows(tmp_path / f"{case}.tsv")) for case in "ab")
    rows = list(csv.DictReader(io.StringIO(merged), delimiter="\t"))
    assert [row["regions_overlap"] for row in rows] == ["0.9634", "n/a"]
    assert "regions_overlap" in json.loads(dictionaries()["pvs.json"])


def test_a_cohort_of_tables(tmp_path):
    text = regions_text(quantify_arrays(pvs_mask(), AFFINE))
    for case in "ab":
        (tmp_path / f"{case}.tsv").write_text(text)
    merged = cohort_text((case, read_rows(tmp_path / f"{case}.tsv")) for case in "ab")
    rows = list(csv.DictReader(io.StringIO(merged), delimiter="\t"))
    assert list(rows[0]) == ["scan", *(c.name for c in REGIONS)]
    assert [r["scan"] for r in rows] == ["a", "b"] and rows[0] | {"scan": "b"} == rows[1]
    assert rows[0]["region_volume_mm3"] == "n/a" and rows[0]["count"] == "3"


def test_a_table_with_a_column_less_or_a_row_cut_off(tmp_path):
    text = regions_text(quantify_arrays(pvs_mask(), AFFINE))
    lines = [line.split("\t") for line in text.splitlines()]
    (tmp_path / "less.tsv").write_text("\n".join("\t".join(line[:2] + line[3:]) for line in lines))
    with pytest.raises(InputError, match=r"lacks columns[\s\S]*no count\b"):
        read_rows(tmp_path / "less.tsv")
    (tmp_path / "cut.tsv").write_text(text[:-60])
    with pytest.raises(InputError, match="cut off"):
        read_rows(tmp_path / "cut.tsv")


def test_names_of_files():
    assert str(TableFiles.plain("a").regions) == "a_regions.tsv" and TableFiles.plain("a").dictionary is None
    assert str(TableFiles.bids(Path("sub-1/anat"), "sub-1").clusters) == "sub-1/anat/sub-1_space-orig_seg-PVS_dseg.tsv"
    assert str(TableFiles.plain("a").map_of("sd_between_folds")) == "a_sd_between_folds.nii.gz"
    found = TableFiles.bids(Path("sub-1/anat"), "sub-1").map_of("sd_between_folds")
    assert str(found) == "sub-1/anat/sub-1_space-orig_desc-sdfolds_probseg.nii.gz"

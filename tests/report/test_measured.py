"""The numbers of a scan: from the tables that are there, else counted; damaged tables are refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.nifti import read_labels
from mednext_jax.report.measured import number, read_measured, read_table, remarks
from mednext_jax.report.predicted import PredictionFolder

pytestmark = pytest.mark.core


def measured(out):
    scan = PredictionFolder.open(out).scans[0]
    probability = nib.load(scan.probability).get_fdata() if scan.probability.exists() else None
    return read_measured(scan, out, read_labels(scan.mask), probability)


def test_tables_are_read(write_prediction):
    found = measured(write_prediction())
    assert [row["cluster"] for row in found.clusters] == ["1", "2", "3"] and not found.counted_here
    assert found.whole["count"] == "2" and found.whole["count_all"] == "3" and len(found.regions) == 4
    assert found.small == {2} and [remarks(row) for row in found.clusters] == [
        [],
        ["too small to count"],
        ["touches fluid or cortex"],
    ]
    assert found.clusters[0]["width_mm"] == ""  # n/a
    assert found.dictionary["length_mm"]["Units"] == "mm"
    assert found.labels.shape == (48, 40, 30)


def test_without_tables_clusters_are_counted(write_prediction):
    """The same clusters: their volume, place and probability are known."""
    found = measured(write_prediction(tables=False))
    assert found.counted_here and len(found.clusters) == 3
    assert (found.whole["count"], found.whole["count_all"], found.whole["min_voxels"]) == ("1", "3", "5")
    assert number(found.whole, "volume_all_mm3") == pytest.approx(18)  # 9 voxels of 2 mm3
    (long,) = found.counted
    assert [number(long, name) for name in ("x_mm", "y_mm", "z_mm")] == pytest.approx([12, 0, -5])
    assert number(long, "volume_mm3") == pytest.approx(12) and number(long, "length_mm") == pytest.approx(12)
    assert number(long, "probability_mean") == pytest.approx(0.75) == number(long, "probability_max")
    assert found.dictionary["length_mm"]["Units"] == "mm"


@pytest.mark.parametrize("name", ["clusters.nii.gz", "clusters.tsv", "regions.tsv"])
def test_what_is_not_whole_is_counted_anew(write_prediction, name):
    """Numbers of a table without its image would be those of other clusters."""
    out = write_prediction()
    (out / f"sub-01_{name}").unlink()
    assert measured(out).counted_here


def test_an_empty_mask_counts_none(write_prediction):
    found = measured(write_prediction(tables=False, clusters={}))
    assert found.clusters == [] and found.whole["count"] == "0" and found.whole["volume_mm3"] == "0.0000"


def test_clusters_of_another_grid_are_refused(write_prediction):
    out = write_prediction()
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4)), out / "sub-01_clusters.nii.gz")
    with pytest.raises(InputError, match="cluster map has another shape"):
        measured(out)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no header"),
        ("a\ta\n1\t2\n", "no header"),
        ("a\tb\n1\n", "damaged"),
        ('a\n"' + "x" * 200_000, "cannot be read"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, content, words):
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(InputError, match=words):
        read_table(tmp_path / "t.tsv")


def test_cells_that_are_no_numbers():
    row = {"a": "1.5", "b": "", "c": "n/a", "d": "nan", "e": "inf"}
    assert [number(row, name) for name in "abcdef"] == [1.5, None, None, None, None, None]

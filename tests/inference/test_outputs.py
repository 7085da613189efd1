"""What is written of a scan is written together, by one run at a time, and is found again."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import resource
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.inference.claim import changed_since, open_outputs
from mednext_jax.inference.scan_record import FileState
from mednext_jax.inference.scans import Scan
from mednext_jax.quantify.one_scan import Counting
from mednext_jax.quantify.scan_tables import ScanTables

pytestmark = pytest.mark.core

SETTINGS = {
    "inputs": "/scans",
    "models": [{"path": "model", "sha256": "1" * 64}],
    "threshold": 0.5,
    "brain_masks": None,
    "part": [1, 1],
    "device": "cpu",
}


SOURCE = Path(__file__)  # the content of every scan


def scans_of(*cases):
    return [Scan(case, (SOURCE,), Path(f"{case}_mask.nii.gz"), Path(f"{case}_prob.nii.gz")) for case in cases]


def write(outputs, scan, found):
    return outputs.write(scan, found, inputs=[FileState.of(scan.files[0])]).row


def result(shape=(6, 7, 8), value=0.75, noise=False):
    """What `Predictor` gives of a scan, as far as `Outputs` asks."""
    probability = np.full(shape, value, np.float32)
    if noise:
        probability = np.random.default_rng(0).random(shape).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    mask[2, 3, 4] = 1
    affine = np.diag([2.0, 1, 1, 1])
    mask, probability = (nib.Nifti1Image(array, affine) for array in (mask, probability))
    seconds = {"read": 0.25, "device": 0.5}
    return types.SimpleNamespace(mask=mask, probability=probability, inside=None, seconds=seconds, threshold=0.5)


def table(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_scan_has_its_row_as_soon_as_it_is_written_in_the_order_of_the_scans(tmp_path):
    a, b = scans_of("a", "b")
    with open_outputs(tmp_path / "out", [a, b], SETTINGS) as outputs:
        row = write(outputs, b, result())
        assert row == {"scan": "b", "count": 1, "volume_mm3": 2.0, "seconds": 0.75, "flags": ""}
        assert [r["scan"] for r in table(tmp_path / "out" / "volumes.tsv")] == ["b"]
        write(outputs, a, result())
        assert [r["scan"] for r in table(tmp_path / "out" / "volumes.tsv")] == ["a", "b"]
    kinds = [f"{case}_{kind}.nii.gz" for case in "ab" for kind in ("mask", "prob")]
    assert names(tmp_path / "out") == sorted([*kinds, "prediction.json", "scans.json", "volumes.tsv", "records"])


def test_volumes_on_a_sheared_grid_are_those_of_its_voxels(tmp_path):
    scan = scans_of("a")[0]
    sheared = np.array([[1, 0.6, 0, 3], [0, 0.8, 0, -7], [0, 0, 2, 1], [0, 0, 0, 1]])  # 1 x 1 x 2 mm, 1.6 mm3
    done = result()
    done.mask, done.probability = (nib.Nifti1Image(i.get_fdata(), sheared) for i in (done.mask, done.probability))
    with open_outputs(tmp_path / "out", [scan], SETTINGS, scan_tables()) as outputs:
        assert outputs.write(scan, done).row["volume_mm3"] == 1.6
    (row,) = table(tmp_path / "out" / "volumes.tsv")
    (measured,) = table(tmp_path / "out" / "pvs.tsv")
    assert float(row["volume_mm3"]) == float(measured["volume_all_mm3"]) == float(measured["voxel_mm3"]) == 1.6


def scan_tables(regions=None, **counting):
    return ScanTables.open(regions, None, Counting(**counting), single=False)


def test_tables_beside_the_masks_and_of_the_cohort(tmp_path):
    a, b = scans_of("a", "b")
    tables = scan_tables(min_voxels=1)
    settings = SETTINGS | {"tables": tables.about}
    with open_outputs(tmp_path / "out", [a, b], settings, tables) as outputs:
        write(outputs, b, result())
        assert {"b_clusters.nii.gz", "b_clusters.tsv", "b_regions.tsv"} <= set(names(tmp_path / "out"))
    assert [row["scan"] for row in table(tmp_path / "out" / "pvs.tsv")] == ["b"]
    # A scan whose table is gone is done again, one that has it is not.
    with open_outputs(tmp_path / "out", [a, b], settings, tables) as outputs:
        assert outputs.has(b) and not outputs.has(a)
        write(outputs, a, result())
    rows = table(tmp_path / "out" / "pvs.tsv")
    assert [(row["scan"], row["count"], row["volume_mm3"]) for row in rows] == [
        ("a", "1", "2.0000"),
        ("b", "1", "2.0000"),
    ]
    (cluster,) = table(tmp_path / "out" / "a_clusters.tsv")
    assert (cluster["x_mm"], cluster["probability_mean"]) == ("4.0000", "0.7500")
    assert nib.load(tmp_path / "out" / "a_clusters.nii.gz").get_fdata().sum() == 1
    (tmp_path / "out" / "b_regions.tsv").unlink()
    with open_outputs(tmp_path / "out", [a, b], settings, tables) as outputs:
        assert not outputs.has(b) and outputs.has(a)
    other = scan_tables(min_voxels=2)
    with pytest.raises(InputError, match=r"other settings \(tables\)"):
        with open_outputs(tmp_path / "out", [a, b], SETTINGS | {"tables": other.about}, other):
            pass


def test_a_run_of_the_first_release_goes_on_with_tables(tmp_path):
    a, b = scans_of("a", "b")
    with open_outputs(tmp_path / "out", [a, b], SETTINGS) as outputs:
        write(outputs, a, result())
    tables = scan_tables()
    with open_outputs(tmp_path / "out", [a, b], SETTINGS | {"tables": tables.about}, tables) as outputs:
        assert not outputs.has(a)  # it has no tables yet
        for scan in (a, b):
            write(outputs, scan, result())
    assert [row["scan"] for row in table(tmp_path / "out" / "pvs.tsv")] == ["a", "b"]


def test_a_scan_without_its_region_map_has_tables_without_regions(tmp_path):
    (a,) = scans_of("a")
    (tmp_path / "maps").mkdir()
    tables = scan_tables(tmp_path / "maps")
    with open_outputs(tmp_path / "out", [a], SETTINGS | {"tables": tables.about}, tables) as outputs:
        (lacks,) = outputs.write(a, result(), inputs=[FileState.of(SOURCE)]).lacks
    assert (lacks.case, lacks.stage) == ("a", "regions") and "no region map" in lacks.problems[0].what
    with open_outputs(tmp_path / "out", [a], SETTINGS | {"tables": tables.about}, tables) as outputs:
        assert not outputs.has(a)  # the next start tries again
        write(outputs, a, result())
    assert [row["region"] for row in table(tmp_path / "out" / "a_regions.tsv")] == ["whole brain"]


def test_a_scan_of_which_one_file_cannot_be_written_has_none(tmp_path):
    """Here names: one kind's is a byte too long for the file system, and the other kind's is not."""
    limit = os.pathconf(tmp_path, "PC_NAME_MAX")
    (long,), (good,) = scans_of("n" * (limit - len("_mask.nii.gz") - 1)), scans_of("good")
    longer = Scan(long.case, long.files, long.mask.with_name(f"nn{long.mask.name}"), long.probability)
    with open_outputs(tmp_path / "out", [long, good], SETTINGS) as outputs:
        write(outputs, long, result())
    with open_outputs(tmp_path / "other", [longer, good], SETTINGS) as outputs:
        with pytest.raises(OSError, match="too long"):
            write(outputs, longer, result())
        write(outputs, good, result())
    assert names(tmp_path / "other") == [
        "good_mask.nii.gz",
        "good_prob.nii.gz",
        *("prediction.json", "records", "scans.json", "volumes.tsv"),
    ]
    assert [row["scan"] for row in table(tmp_path / "other" / "volumes.tsv")] == ["good"]


def test_a_full_disk_fails_the_scan_that_does_not_fit(tmp_path):
    small, large, last = scans_of("small", "large", "last")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_outputs(tmp_path / "out", [small, large, last], SETTINGS) as outputs:
        write(outputs, small, result())
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            with pytest.raises(OSError):
                write(outputs, large, result((40, 40, 40), noise=True))
            write(outputs, last, result())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [row["scan"] for row in table(tmp_path / "out" / "volumes.tsv")] == ["small", "last"]
    assert not list((tmp_path / "out").glob("*large*"))


def test_a_row_that_cannot_be_written_takes_its_files_with_it(tmp_path, monkeypatch):
    a, b = scans_of("a", "b")
    with open_outputs(tmp_path / "out", [a, b], SETTINGS) as outputs:
        write(outputs, a, result())
        replace = outputs._replace

        def full(name, text):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(outputs, "_replace", full)
        with pytest.raises(OSError, match="No space"):
            write(outputs, b, result())
        assert not list((tmp_path / "out").glob("b*")) and [row["scan"] for row in outputs.rows] == ["a"]
        monkeypatch.setattr(outputs, "_replace", replace)
        write(outputs, b, result())
    assert [row["scan"] for row in table(tmp_path / "out" / "volumes.tsv")] == ["a", "b"]


def test_a_folder_that_cannot_be_made_is_told_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), open_outputs(tmp_path / "file" / "out", [], SETTINGS):
        pass


def test_a_scan_that_has_changed_since_is_done_again(tmp_path):
    (a,) = [dataclasses.replace(scan, files=(tmp_path / "a.nii.gz",)) for scan in scans_of("a")]
    a.files[0].write_bytes(b"first")
    with open_outputs(tmp_path / "out", [a], SETTINGS) as outputs:
        write(outputs, a, result())
    os.utime(a.files[0], ns=(2**60, 2**60))
    with open_outputs(tmp_path / "out", [a], SETTINGS) as outputs:
        assert outputs.has(a) and not changed_since(tmp_path / "out", [a])  # the time alone is no change
    a.files[0].write_bytes(b"other")
    with open_outputs(tmp_path / "out", [a], SETTINGS) as outputs:
        assert not outputs.has(a) and changed_since(tmp_path / "out", [a]) == [a]


@pytest.mark.parametrize("name", ["a_mask.nii.gz", "a_prob.nii.gz", "records/a.json"])
def test_outputs_that_are_not_whole_are_made_again(tmp_path, name):
    (a,) = scans_of("a")
    with open_outputs(tmp_path / "out", [a], SETTINGS) as outputs:
        write(outputs, a, result())
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-4])
    with open_outputs(tmp_path / "out", [a], SETTINGS) as outputs:
        assert not outputs.has(a)
        write(outputs, a, result())
    with open_outputs(tmp_path / "out", [a], SETTINGS) as outputs:
        assert outputs.has(a)


@pytest.mark.parametrize("case", ["=1+2", "+a", "-a", "@a", "'=a", "M\udcfcller", "a\tb", "a\nb"])
def test_any_name_is_found_again_and_is_no_formula(tmp_path, case):
    (one,) = scans_of(case)
    with open_outputs(tmp_path / "out", [one], SETTINGS) as outputs:
        write(outputs, one, result())
    (row,) = table(tmp_path / "out" / "volumes.tsv")
    assert not row["scan"].startswith(("=", "+", "-", "@"))
    with open_outputs(tmp_path / "out", [one], SETTINGS) as outputs:
        assert outputs.has(one)
        assert [row["scan"] for row in outputs.rows] == [case]


def test_one_run_at_a_time_but_parts_of_one_cohort(tmp_path):
    a, b = scans_of("a", "b")
    first, second, third = (SETTINGS | {"part": part} for part in ([1, 2], [2, 2], [1, 3]))
    other_model = second | {"models": [{"path": "model", "sha256": "2" * 64}]}
    with open_outputs(tmp_path / "out", [a], first) as one:
        with pytest.raises(InputError, match="Another predict"), open_outputs(tmp_path / "out", [a], first):
            pass
        for settings, named in ((other_model, "models"), (third, "part"), (SETTINGS, "not overwritten")):
            with pytest.raises(InputError, match=named), open_outputs(tmp_path / "out", [b], settings):
                pass
        with pytest.raises(InputError, match="Another"), open_outputs(tmp_path / "out", [b], third, force=True):
            pass
        with open_outputs(tmp_path / "out", [b], second | {"device": "another"}) as two:
            write(one, a, result())
            write(two, b, result())
    assert [row["scan"] for row in table(tmp_path / "out" / "volumes_part-1-of-2.tsv")] == ["a"]
    assert [row["scan"] for row in table(tmp_path / "out" / "volumes_part-2-of-2.tsv")] == ["b"]
    with (
        pytest.raises(InputError, match="the cohort has changed"),
        open_outputs(tmp_path / "out", [a, b], second),
    ):
        pass


@pytest.mark.parametrize("record", ["[]", "{}", '{"models": 1, "part": [1, 1]}', '{"models": [1], "part": 1}', "{"])
def test_a_record_that_is_no_record_is_refused(tmp_path, record):
    (tmp_path / "prediction.json").write_text(record)
    with pytest.raises(InputError, match=r"prediction\.json"), open_outputs(tmp_path, [], SETTINGS):
        pass
    assert names(tmp_path) == ["prediction.json"]


def test_a_table_that_is_no_table_is_refused_and_a_torn_one_is_written_again(tmp_path):
    a, b = scans_of("a", "b")
    with open_outputs(tmp_path, [a, b], SETTINGS) as outputs:
        write(outputs, a, result())
        write(outputs, b, result())
    whole = (tmp_path / "volumes.tsv").read_text()
    for torn in (whole[:-8], whole.replace("2.0", "nan", 1)):
        (tmp_path / "volumes.tsv").write_text(torn)
        with open_outputs(tmp_path, [a, b], SETTINGS) as outputs:
            assert outputs.has(a) and outputs.has(b)  # their records say so
        assert (tmp_path / "volumes.tsv").read_text() == whole
    (tmp_path / "volumes.tsv").write_text(whole.replace("count", "my notes"))
    with pytest.raises(InputError, match="cannot read the table"), open_outputs(tmp_path, [a, b], SETTINGS):
        pass


def test_the_record_is_of_the_last_start(tmp_path):
    (a,) = scans_of("a")
    for device in ("cpu", "another"):
        with open_outputs(tmp_path, [a], SETTINGS | {"device": device}) as outputs:
            write(outputs, a, result())
    assert json.loads((tmp_path / "prediction.json").read_text())["device"] == "another"

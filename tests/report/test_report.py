"""The command: which files it writes, what it keeps and refuses, and that one bad scan stops no other."""

from __future__ import annotations

import json
import re
import shutil
import threading

import nibabel as nib
import numpy as np
import pytest

import mednext_jax.report.report as report_file
from mednext_jax import main as command_line
from mednext_jax.errors import InputError
from mednext_jax.inference import predict as predict_file
from mednext_jax.report.report import report
from mednext_jax.report.scan_files import read_scan_files
from mednext_jax.report.scan_page import PAGE_LIMIT

from .conftest import AFFINE, SHAPE

pytestmark = pytest.mark.core

PAGES = {"report.html", "sub-01_report.html", "sub-02_report.html"}


def pages(out):
    return {path.name: path.read_bytes() for path in out.glob("**/*.html")}


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)


def test_the_same_files_give_the_same_pages_without_a_network(write_prediction, capsys):
    out = write_prediction()
    before = {path.name for path in out.iterdir()}
    assert report(out) == out / "report.html"
    first = pages(out)
    assert set(first) == PAGES and {p.name for p in out.iterdir()} == before | PAGES
    assert all(
        b"http:" not in page.replace(b"http://www.w3.org", b"") and b"https:" not in page for page in first.values()
    )
    report(out)  # goes on: nothing is left to do
    assert capsys.readouterr().out.count("its page is there") == 2
    for path in out.glob("*.html"):
        path.unlink()
    report(out)
    assert pages(out) == first


def test_a_file_of_another_origin_is_not_overwritten(write_prediction):
    out = write_prediction()
    for name in ("sub-02_report.html", "report.html"):
        (out / name).write_text("<p>mine</p>")
        with pytest.raises(InputError, match="another origin"):
            report(out)
        assert pages(out) == {name: b"<p>mine</p>"}
        (out / name).unlink()


def test_a_link_in_a_page_s_place_is_not_replaced(write_prediction, tmp_path):
    out = write_prediction()
    (out / "sub-01_report.html").symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(InputError, match="not overwritten"):
        report(out)
    assert (out / "sub-01_report.html").is_symlink() and not (tmp_path / "elsewhere.html").exists()


def test_a_page_of_other_files_is_not_overwritten(write_prediction):
    out = write_prediction()
    report(out)
    before = pages(out)
    shutil.copy(out / "sub-02_mask.nii.gz", out / "sub-01_mask.nii.gz")
    labels = np.zeros(SHAPE, np.uint8)
    labels[20, 20, 10] = 1
    save(out / "sub-01_mask.nii.gz", labels)
    with pytest.raises(InputError, match="made from other files"):
        report(out)
    assert pages(out) == before
    (out / "sub-01_report.html").unlink()
    report(out)
    after = pages(out)
    assert after["sub-02_report.html"] == before["sub-02_report.html"]
    assert after["sub-01_report.html"] != before["sub-01_report.html"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: (out / "sub-01_mask.nii.gz").unlink(), "missing"),
        (lambda out: (out / "sub-01_mask.nii.gz").write_bytes(b"not a NIfTI"), "NIfTI"),
        (lambda out: _cut(out / "sub-01_probability.nii.gz"), "sub-01_probability"),
        (lambda out: _cut(out.parent / "data" / "imagesTr" / "sub-01_0000.nii.gz"), "sub-01_0000"),
        (lambda out: save(out / "sub-01_probability.nii.gz", np.full(SHAPE, 7.0)), "0 to 1"),
        (lambda out: save(out / "sub-01_probability.nii.gz", np.zeros((9, 9, 9))), "another shape than its mask"),
        (lambda out: (out / "sub-01_clusters.tsv").write_text("cluster\tx\n1\n"), "damaged"),
    ],
    ids=["no mask", "no NIfTI", "half a probability", "half a scan", "beyond 1", "other grid", "table"],
)
def test_a_damaged_scan_is_said_and_the_others_are_done(write_prediction, damage, words):
    out = write_prediction()
    damage(out)
    with pytest.raises(InputError, match=words):
        report(out)
    assert set(pages(out)) == {"report.html", "sub-02_report.html"}
    failed = (out / "report.html").read_text().split('id="failed"')[1].split("</section>")[0]
    assert "sub-01" in failed and "sub-02" not in failed
    assert not list(out.glob(".*"))


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_pages_are_made_side_by_side(write_prediction, monkeypatch):
    """Two pages wait for each other: one after the other neither would end."""
    out = write_prediction()
    both = threading.Barrier(2, timeout=60)

    def meet(*arguments):
        both.wait()
        return read_scan_files(*arguments)

    monkeypatch.setattr(report_file, "THREADS", 2)
    monkeypatch.setattr(report_file.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(report_file, "read_scan_files", meet)
    report(out)
    assert set(pages(out)) == PAGES


def test_failures_are_told_in_the_order_of_the_scans_whichever_ended_first(write_prediction):
    out = write_prediction(["sub-01", "sub-02", "sub-03"])
    for case in ("sub-01", "sub-03"):
        (out / f"{case}_mask.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        report(out)
    assert [problem.file for problem in error.value.problems] == [str(out / f"sub-0{n}_mask.nii.gz") for n in (1, 3)]
    assert (out / "sub-02_report.html").is_file()


@pytest.mark.parametrize("column", ["scan", "count", "region"])
def test_a_cohort_with_a_column_less_is_told_and_its_page_stays(write_prediction, column):
    out = write_prediction()
    report(out)
    before = pages(out)
    rows = [line.split("\t") for line in (out / "pvs.tsv").read_text().splitlines()]
    at = rows[0].index(column)
    (out / "pvs.tsv").write_text("\n".join("\t".join(row[:at] + row[at + 1 :]) for row in rows) + "\n")
    with pytest.raises(InputError, match=rf"lacks columns[\s\S]*expected: {column}\n"):
        report(out)
    assert pages(out) == before


def test_a_bids_derivative_has_its_pages_beside_the_masks(write_prediction):
    out = write_prediction(cases=("sub-01",), tables=False, listed=False)
    anat = out / "sub-01" / "anat"
    anat.mkdir(parents=True)
    shutil.move(out / "sub-01_mask.nii.gz", anat / "sub-01_space-orig_label-PVS_mask.nii.gz")
    shutil.move(out / "sub-01_probability.nii.gz", anat / "sub-01_space-orig_label-PVS_probseg.nii.gz")
    report(out)
    page = (anat / "sub-01_space-orig_label-PVS_report.html").read_text()
    assert 'href="./../../report.html"' in page
    assert 'href="./sub-01/anat/sub-01_space-orig_label-PVS_report.html"' in (out / "report.html").read_text()


def test_the_group_page_alone(write_prediction, capsys):
    out = write_prediction()
    assert command_line.main(["report", str(out), "--group-only"]) == 0
    assert set(pages(out)) == {"report.html"}
    assert command_line.main(["report", str(out / "nowhere")]) == 2
    assert "holds no prediction" in capsys.readouterr().err


def test_participants_of_another_folder(write_prediction, tmp_path):
    out = write_prediction()
    with pytest.raises(InputError, match="no participants.tsv"):
        report(out, participants=tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\n01\tx\n02\ty\n")
    report(out, participants=tmp_path)
    assert "no participants.tsv" in (out / "report.html").read_text()  # two groups of one each say nothing


def test_predict_ends_with_the_report_of_what_it_segmented(write_prediction, monkeypatch):
    """Also when it fails afterwards, because other scans could not be segmented."""
    out = write_prediction()
    failure = InputError("One scan is constant.")

    def predict(*_, after, **__):
        try:
            after(out, ["sub-02"])
        finally:
            raise failure

    monkeypatch.setattr(predict_file, "predict", predict)
    monkeypatch.setattr("mednext_jax.parallel.processes.initialise", lambda: None)
    arguments = ["predict", "-i", "scans", "-o", str(out), "-m", "model"]
    assert command_line.main([*arguments, "--report"]) == 2
    assert set(pages(out)) == {"report.html", "sub-02_report.html"}


def noisy_head(write_prediction, shape, sizes):
    """A prediction of one scan of noise, which deflate cannot shorten; a real head has less of it."""
    affine = np.diag([*sizes, 1.0])
    out = write_prediction(cases=("sub-01",), tables=False, affine=affine, shape=shape)
    scan = np.random.default_rng(0).normal(100, 25, shape).clip(0, 4000).astype(np.int16)
    save(out.parent / "data" / "imagesTr" / "sub-01_0000.nii.gz", scan, affine)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "sizes"), [((208, 300, 320), (0.8, 0.8, 0.8)), ((512, 512, 200), (0.45, 0.45, 0.9))])
def test_a_large_noisy_head_fits_into_a_page(write_prediction, shape, sizes):
    out = noisy_head(write_prediction, shape, sizes)
    report(out)
    assert 3 * 10**6 < (out / "sub-01_report.html").stat().st_size <= PAGE_LIMIT == 15 * 10**6


def test_a_page_says_what_it_leaves_out_to_stay_small(write_prediction, monkeypatch):
    out = noisy_head(write_prediction, (96, 100, 60), (0.5, 0.5, 1.0))
    limit = 700_000  # of which the mosaics take most
    monkeypatch.setattr("mednext_jax.report.scan_page.PAGE_LIMIT", limit)
    report(out)
    page = (out / "sub-01_report.html").read_text()
    assert len(page) <= limit
    assert "The page shows voxels of 1.00 × 1.00 × 1.00 mm" in page or "grey levels" in page


def test_a_page_warns_of_voxels_that_do_not_show_what_is_counted(write_prediction):
    out = write_prediction(["sub-01"])
    record = json.loads((out / "prediction.json").read_text())
    record["models"] = [{"path": "m", "sha256": "ab", "spacing": [0.8, 0.8, 0.8], "orientation": "RAS"}]
    (out / "prediction.json").write_text(json.dumps(record))
    rows = [line.split("\t") for line in (out / "sub-01_clusters.tsv").read_text().splitlines()]
    rows = [[*row, value] for row, value in zip(rows, ("below_resolution", 1, 0, 1), strict=True)]
    (out / "sub-01_clusters.tsv").write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    report(out)
    page = (out / "sub-01_report.html").read_text()
    assert "The voxel size is far from the model" in page and "0.8 x 0.8 x 0.8 mm, or up to 1.5 times" in page
    assert "The voxels are larger than many PVS are wide" in page and "1 × 1 × 2 mm" in page
    assert "2 of 2 PVS are narrower than 1.5 voxels: the voxels do not resolve them." in page  # the third is too small


@pytest.mark.parametrize(("low", "high", "warned"), [("1.5", "3.25", False), ("3.5", "9.0", True)])
def test_a_page_shows_what_models_and_mirrors_find_one_by_one(write_prediction, low, high, warned):
    out = write_prediction(["sub-01"])
    head, *rows = (out / "sub-01_regions.tsv").read_text().splitlines()
    names = [
        f"{name}_{end}{unit}"
        for name, unit in (("count", ""), ("volume", "_mm3"))
        for end in ("expected", "low", "high")
    ]
    values = ["6.25", low, high, "17.5", "11.25", "21.5"]
    lines = ["\t".join([head, *names]), *("\t".join([row, *values]) for row in rows)]
    (out / "sub-01_regions.tsv").write_text("\n".join(lines) + "\n")
    report(out)
    page = (out / "sub-01_report.html").read_text()
    said = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"Expected PVS\s+6\.25\s+95 % interval", said) and "mm³, 95 % interval 11.2 to 21.5" in said
    assert ("The count is not within the interval" in page) == warned


@pytest.mark.parametrize(("overlap", "warned"), [("0.8312", True), ("0.9312", False), ("n/a", False)])
def test_a_page_warns_of_a_region_map_that_may_be_another_subject_s(write_prediction, overlap, warned):
    out = write_prediction(["sub-01"])
    head, *rows = (out / "sub-01_regions.tsv").read_text().splitlines()
    lines = [f"{head}\tregions_overlap", *(f"{row}\t{overlap}" for row in rows)]
    (out / "sub-01_regions.tsv").write_text("\n".join(lines) + "\n")
    report(out)
    page = (out / "sub-01_report.html").read_text()
    assert ("overlaps that of the scan by 0.83 (Dice)" in page) == warned
    assert ("Overlap of the brain with that of the regions" in page) == (overlap != "n/a")


@pytest.mark.parametrize("spacing", [None, [1.0, 1.0, 1.0], "1", [1.0], [0, 0, 0], [1.0, None, 1.0]])
def test_models_of_any_or_near_or_unknown_voxels_are_not_warned_of(write_prediction, spacing):
    out = write_prediction(["sub-01"], affine=np.diag([1.0, 1.2, 1.0, 1]))
    record = json.loads((out / "prediction.json").read_text())
    record["models"] = [{"path": "m", "sha256": "ab", "spacing": spacing, "orientation": "RAS"}]
    (out / "prediction.json").write_text(json.dumps(record))
    report(out)
    assert "far from the model" not in (out / "sub-01_report.html").read_text()


@pytest.mark.parametrize(("values", "words"), [(2.0, "none of uncertainty"), (None, "another shape")])
def test_maps_of_uncertainty_that_are_none_are_told(write_prediction, values, words):
    out = write_prediction(["sub-01"])
    array = np.zeros((3, 4, 5)) if values is None else np.full(nib.load(out / "sub-01_mask.nii.gz").shape, values)
    nib.save(nib.Nifti1Image(array.astype(np.float32), AFFINE), out / "sub-01_entropy.nii.gz")
    with pytest.raises(InputError, match=words):
        report(out)

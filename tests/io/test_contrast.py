"""The contrast that names and headers tell."""

from __future__ import annotations

import json

import pytest

from mednext_jax.io.contrast import contrast_in, echo_contradicts, echo_time, scan_contrast

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        *(("sub-01_ses-2_T1w", "T1w"), ("sub-01_acq-space_T2w", "T2w"), ("sub-01_FLAIR", "FLAIR"), ("T1", "T1w")),
        *(
            ("ANON_mprage_2mm", "T1w"),
            ("case-t2-flair", "FLAIR"),
            ("T2_FLAIR_0000", "FLAIR"),
            ("sub-1_T2star", "T2star"),
        ),
        *(("sub-01", None), ("MRI", None), ("channel_0", None), ("T1w_T2w", None), ("AT1w", None), ("PT10", None)),
    ],
)
def test_words_of_names(name, contrast):
    assert contrast_in(name) == contrast


@pytest.mark.parametrize(
    ("description", "milliseconds"),
    [
        *(("TE=2.98;Time=162311.630;phase=1", 2.98), ("Time=1;TE=565", 565.0), ("FSL5.0", None), ("", None)),
        *(("TE=0", None), ("TE=1.2.3", None), ("ROTE=3", None), ("TE=999999", None)),
    ],
)
def test_the_echo_time_of_dcm2niix(description, milliseconds):
    assert echo_time(description) == milliseconds


def test_what_an_echo_time_rules_out():
    assert echo_contradicts("T2w", 2.98) and echo_contradicts("FLAIR", 2.98) and echo_contradicts("T1w", 565.0)
    assert not echo_contradicts("T1w", 2.98) and not echo_contradicts("T2w", 565.0)
    assert not echo_contradicts("T2w", None) and not echo_contradicts(None, 2.98) and not echo_contradicts("PD", 2.98)


def test_the_contrast_of_a_scan_is_its_name_s_or_its_channel_s(tmp_path):
    for folder in ("raw/imagesTr", "alone"):
        (tmp_path / folder).mkdir(parents=True)
    named = {"raw": {"channel_names": {"0": "T1", "1": "FLAIR"}}, "alone": {"modality": {"0": "T2w"}}}
    for folder, content in named.items():
        (tmp_path / folder / "dataset.json").write_text(json.dumps(content))
    raw, alone = tmp_path / "raw" / "imagesTr", tmp_path / "alone"
    assert scan_contrast(raw / "sub-1_0000.nii.gz") == "T1w" and scan_contrast(raw / "sub-1_0001.nii.gz") == "FLAIR"
    assert scan_contrast(raw / "sub-1_T2w_0000.nii.gz") == "T2w"  # its name goes first
    assert scan_contrast(raw / "sub-1_0002.nii.gz") is None  # no such channel
    assert scan_contrast(raw / "sub-1.nii.gz") is None  # of two channels none
    assert scan_contrast(str(alone / "sub-1.nii.gz")) == scan_contrast(alone / "sub-1_0000.nii.gz") == "T2w"
    assert scan_contrast(tmp_path / "sub-1.nii.gz") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"channel_names": 3}', '{"channel_names": {"1": "T1w"}}', "{}"])
def test_a_broken_dataset_json_tells_no_contrast(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    assert scan_contrast(tmp_path / "a_0000.nii.gz") is None
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T2w"}}')
    assert scan_contrast(tmp_path / "a_0000.nii.gz") == "T2w"  # what was read is not kept when the file changes

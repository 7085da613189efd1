"""What a BIDS derivative says of itself: dataset_description.json, README.md, descriptions.tsv, .bidsignore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mednext_jax.io.atomic import atomic_file
from mednext_jax.io.bids import DESCRIPTION, IGNORES
from mednext_jax.io.json_file import read_json
from mednext_jax.io.table_cell import quoted

# The values of the entity desc, and what they mean.
DESCRIPTIONS = {
    "brain": "Mask of the brain that was extracted before segmentation",
    "entropy": "Entropy of the mean PVS probability, in bit",
    "pvs": "Counts, volumes and sizes of PVS by region",
    "sdfolds": "Standard deviation of the PVS probability between the models of the ensemble",
    "sdmirrors": "Standard deviation of the PVS probability between the mirrored passes of the network",
}
README = """# Perivascular spaces

Segmented by mednext-jax. Not for clinical use.

- `*_label-PVS_mask.nii.gz`, `*_label-PVS_probseg.nii.gz`: the mask and the probability, on the grid of the scan.
- `*_seg-PVS_dseg.nii.gz` and `.tsv`: each PVS with a value and a row of its own.
- `*_desc-pvs_stats.tsv`: counts and volumes by region. `*_report.html`: a page of each scan.
- `pvs.tsv`, `volumes.tsv`, `report.html`: all scans, which the level `group` writes; `pvs.json` defines the columns.
- `logs`: what each call segmented, with which models and settings.
"""


def describe(data_set: Path, output: Path, run: Path) -> None:
    """Write what the derivative `output` of `data_set` says of itself, from what the run in the folder `run` says."""
    if not (run / DESCRIPTION).is_file():
        return
    source: dict[str, Any] = {"URL": data_set.resolve().as_uri()}
    raw = read_json(data_set / DESCRIPTION) if (data_set / DESCRIPTION).is_file() else {}
    if isinstance(raw, dict) and isinstance(raw.get("DatasetDOI"), str):
        source["DOI"] = raw["DatasetDOI"]
    about = read_json(run / DESCRIPTION) | {"SourceDatasets": [source], "DatasetLinks": {"raw": source["URL"]}}
    table = "".join(f"desc-{name}\t{quoted(text)}\n" for name, text in DESCRIPTIONS.items())
    texts = {
        DESCRIPTION: json.dumps(about, indent=2) + "\n",
        IGNORES: (run / IGNORES).read_text(encoding="utf-8"),
        "descriptions.tsv": "desc_id\tdescription\n" + table,
    }
    if not (output / "README.md").exists():
        texts["README.md"] = README
    for name, text in texts.items():
        with atomic_file(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

"""The arguments of `predict`, of the commands around it, and of what they count."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

# Makes the parser of a command from its name, what it does, and an example.
AddCommand = Callable[[str, str, str], argparse.ArgumentParser]
# Options of `predict` that are not the BIDS App's, which chooses input, output, parts and pages itself.
_NOT_OF_BIDS = ("help", "input", "output", "part", "report", "series", "dicom_seg", "dry_run")


def add_predict(command: AddCommand) -> argparse.ArgumentParser:
    """Add the command `predict`."""
    predict = command(
        "predict",
        "segment a scan, a folder of scans or a BIDS data set",
        "mednext-jax predict -i scans -o segmented -m model",
    )
    predict.add_argument(
        "-i",
        "--input",
        type=Path,
        required=True,
        metavar="SCAN|FOLDER|BIDS",
        help="a NIfTI file, a folder of them or a BIDS data set",
    )
    predict.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a new folder, or that of a run to continue"
    )
    predict.add_argument(
        "-m",
        "--model",
        action="append",
        default=None,
        help="a model directory, a training's workdir, a PyTorch file, an nnU-Net folder, an archive of them, "
        "hf://ORG/NAME[@REV] or https://...[#sha256=HEX]; repeat for an ensemble (default: without_labels, the "
        "packaged model, trained on simulated PVS alone)",
    )
    predict.add_argument(
        "--suffix",
        default=None,
        metavar="T2w",
        help="scans of a BIDS data set; T1w,FLAIR: two channels (default: as the model's channels are called)",
    )
    predict.add_argument(
        "--threshold",
        type=float,
        default=None,
        metavar="T",
        help="a PVS probability above it is PVS, 0 to 1 (default: the model's, where it has a table that of the scan's "
        "contrast and voxel size; 0.5 unless it was set)",
    )
    predict.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="average over mirrors, eight times the work (default: yes)",
    )
    predict.add_argument(
        "--step", type=float, default=0.5, metavar="F", help="tile step as a part of the patch (default: 0.5)"
    )
    predict.add_argument("--skip-background", action="store_true", help="leave out tiles where the scan is all zero")
    predict.add_argument(
        "--background",
        choices=("auto", "compute"),
        default="auto",
        help="auto: the zeros around an extracted brain are background; compute: ask the network, as nnU-Net does "
        "(default: auto)",
    )
    predict.add_argument(
        "--brain-masks",
        type=Path,
        default=None,
        metavar="MASKS",
        help="folder of masks; all but the brain is set to 0 (default: none)",
    )
    predict.add_argument(
        "--tables",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="clusters and regions of each scan, as `quantify` writes them (default: yes)",
    )
    predict.add_argument(
        "--uncertainty",
        action="store_true",
        help="each model and mirror by itself: maps and intervals (twice the time)",
    )
    add_counting(predict)
    predict.add_argument(
        "--part", type=_part, default=(1, 1), metavar="K/N", help="only the K-th of N parts (default: all)"
    )
    predict.add_argument(
        "--force", action="store_true", help="make everything in OUT again, whatever its settings were"
    )
    predict.add_argument(
        "--brain-extraction",
        default=None,
        metavar="TOOL",
        help="make each scan's brain mask: deepbet (extra `brain`; default: none)",
    )
    predict.add_argument(
        "--dry-run", action="store_true", help="list scans, tiles, time and memory (estimates), and compute nothing"
    )
    loudness = predict.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="say only what is wrong, at the end")
    loudness.add_argument("--verbose", action="store_true", help="say the time of each stage of each scan, too")
    predict.add_argument(
        "--series",
        action="append",
        default=[],
        metavar="N|UID",
        help="of a DICOM folder (default: the only one); repeat for more channels",
    )
    predict.add_argument(
        "--dicom-seg",
        nargs="?",
        const=True,
        default=False,
        metavar="SERIES",
        help="write DICOM SEG and SR on the input's series, or on that in the folder SERIES (default: none)",
    )
    predict.add_argument("--report", action="store_true", help="end with the pages of `mednext-jax report OUT`")
    return predict


def add_gather(command: AddCommand) -> None:
    """Add the command `gather`."""
    gather = command("gather", "merge the tables of the parts of a cohort", "mednext-jax gather parts")
    gather.add_argument("output", type=Path, metavar="OUT", help="the folder that `predict --part K/N` wrote into")


def add_bids(command: AddCommand, predict: argparse.ArgumentParser) -> None:
    """Add the command `bids`, with the options of `predict`."""
    bids = command(
        "bids",
        "BIDS App: a data set in, a derivative out; the options are those of predict",
        "mednext-jax bids bids derivative participant -m model",
    )
    bids.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="the data set")
    bids.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="the derivative, such as BIDS_DIR/derivatives/pvs")
    bids.add_argument(
        "level", choices=("participant", "group"), metavar="LEVEL", help="segment participants, or merge their tables"
    )
    for names, what in (
        (("--participant-label", "--participant_label"), "participants"),
        (("--session-id", "--session-label"), "sessions"),
    ):
        bids.add_argument(*names, nargs="+", default=[], metavar="LABEL", help=f"only these {what} (default: all)")
    bids.add_argument(
        "--bids-filter-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="entities of the scans, as fMRIPrep has it (default: any)",
    )
    for action in predict._actions:
        if action.dest not in _NOT_OF_BIDS:
            bids._add_action(action)


def add_counting(parser: argparse.ArgumentParser) -> None:
    """What `quantify` and `predict` count, and where."""
    parser.add_argument(
        "--regions",
        default=None,
        metavar="MAPS|atlas",
        help="region maps of the scans, or the packaged atlas (default: the whole brain alone)",
    )
    parser.add_argument(
        "--region-names",
        default=None,
        metavar="TABLE",
        help="lookup table of the maps, or the word freesurfer (default: the one beside the maps)",
    )
    parser.add_argument(
        "--connectivity", type=int, choices=(6, 18, 26), default=26, help="of the voxels of a cluster (default: 26)"
    )
    parser.add_argument(
        "--min-voxels", type=int, default=5, metavar="N", help="smallest cluster that counts (default: 5 voxels)"
    )
    parser.add_argument("--min-mm3", type=float, default=0.0, metavar="MM3", help="the same in mm3 (default: 0)")
    parser.add_argument("--split", action="store_true", help="cut clusters where their skeleton branches")


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected K/N with 1 <= K <= N, for example 2/8, found {text!r}")
    return int(match[1]), int(match[2])

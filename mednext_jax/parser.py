"""The parser of the command line: every command, its arguments, an example."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NoReturn

import mednext_jax
from mednext_jax.errors import shown
from mednext_jax.evaluate.command_line import add_evaluate
from mednext_jax.predict_arguments import add_bids, add_counting, add_gather, add_predict

EXIT_STATUS = (
    "exit status: 0 done, 1 the work failed, or some scans of several, 2 the input or the call is wrong, "
    "3 every scan failed, 130 Ctrl-C, 143 SIGTERM"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += "; a name that begins with a dash is written ./-name"
        super().error(shown(message))  # it repeats what was typed, or what a shell's * stood for


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        import jax

        commit = mednext_jax.version.commit()
        print(f"mednext-jax {mednext_jax.__version__}" + (f" (commit {commit[:12]})" if commit else ""))
        try:
            devices = jax.devices()
            said = f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"
        except RuntimeError as error:
            said = f"no device: {shown(error)}"
        print(f"jax {jax.__version__}, {said}")
        sys.exit(0)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command, in the order of a project's life."""
    parser = _Parser(
        prog="mednext-jax",
        description="Segment perivascular spaces in brain MRI with MedNeXt in JAX. Not for clinical use.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="version, commit (where known), JAX and device")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,  # the example stays one line, to copy
            allow_abbrev=False,
        )

    demo = command(
        "demo",
        "simulate, train, predict and evaluate on a real template brain (CPU, minutes)",
        "mednext-jax demo --workdir demo",
    )
    demo.add_argument("--workdir", type=Path, default=Path("demo"), help="a new folder (default: %(default)s)")

    simulate = command(
        "simulate",
        "write a simulated PVS data set in nnU-Net's raw format",
        "mednext-jax simulate --out dataset --subjects 20 --contrast T2w --sites 3",
    )
    simulate.add_argument("-o", "--out", type=Path, required=True, metavar="DATASET", help="a new folder")
    simulate.add_argument(
        "--subjects", type=int, metavar="N", help="how many scans, one per subject (default: none; not with --on)"
    )
    simulate.add_argument(
        "--contrast",
        choices=("T1w", "T2w", "FLAIR", "any", "mixed"),
        help="what the scans look like: T1w or T2w; with --on also FLAIR; with --anatomy also FLAIR, any (tissues' "
        "signals drawn freely) or mixed (T1w, T2w, FLAIR in turn) (default: none; with --on what the scans' names "
        "tell, with --anatomy mixed)",
    )
    simulate.add_argument(
        "--anatomy",
        type=Path,
        metavar="FOLDER",
        help="simulate in these label maps of heads or brains, with FreeSurfer's numbers (default: in a template)",
    )
    simulate.add_argument(
        "--on",
        type=Path,
        metavar="SCANS",
        help="paint PVS into these scans instead, a file, a folder or BIDS, by their --regions (default: none)",
    )
    simulate.add_argument(
        "--regions",
        type=Path,
        metavar="MAPS",
        help="with --on: the map of each scan, as of SynthSeg or FreeSurfer, as for quantify (default: none)",
    )
    simulate.add_argument(
        "--sites", type=int, metavar="K", help="simulated scanners, in the template only (default: one)"
    )
    simulate.add_argument(
        "--seed", type=int, default=0, metavar="S", help="another number draws other subjects (default: 0)"
    )
    simulate.add_argument(
        "--voxel-size",
        type=float,
        metavar="MM",
        help="of the first site, in mm, in the template only (default: of 1 mm)",
    )

    prepare = command(
        "prepare",
        "verify a data set, resample and normalise it, make splits",
        "mednext-jax prepare dataset --out prepared --spacing 0.8 --splits kfold:5",
    )
    prepare.add_argument("dataset", type=Path, metavar="DATASET", help="nnU-Net raw, or BIDS with --labels")
    prepare.add_argument("--out", required=True, metavar="PREPARED", help="a new folder, or a gs:// or s3:// address")
    prepare.add_argument(
        "--spacing",
        type=_spacing,
        default=0.8,
        help="target voxel size in mm, 'median' or 'none' (default: 0.8)",
    )
    prepare.add_argument(
        "--splits",
        default="kfold:5",
        help="kfold:K, loso:COLUMN, stratified:COLUMN[:K] or a splits_final.json (default: %(default)s)",
    )
    prepare.add_argument(
        "--labels",
        type=Path,
        default=None,
        metavar="DERIVATIVES",
        help="folder with the labels of a BIDS data set (default: none; nnU-Net's has its own)",
    )
    prepare.add_argument(
        "--suffix",
        default=None,
        metavar="T2w",
        help="scans of a BIDS data set; T1w,T2w: two channels (default: the only contrast that is there)",
    )
    prepare.add_argument(
        "--regions", type=Path, default=None, metavar="MASKS", help="region maps (default: DATASET/regions if there)"
    )
    prepare.add_argument("--n4", action="store_true", help="N4 bias field correction")
    prepare.add_argument("--denoise", action="store_true", help="edge-preserving smoothing")
    prepare.add_argument(
        "--brain-masks",
        type=Path,
        default=None,
        metavar="MASKS",
        help="folder of masks; all but the brain is set to 0 (default: none)",
    )

    train = command(
        "train",
        "train a MedNeXt on a prepared data set; any field: --config.field=value",
        "mednext-jax train --config mednet_pvs_t2w --workdir folds/fold_0 --config.data=prepared --config.fold=0",
    )
    train.add_argument(
        "--config",
        required=True,
        metavar="RECIPE|FILE",
        help="mednet_pvs_t2w, mednext:S/3, ..., or a file.py of your own",
    )
    train.add_argument(
        "--workdir", type=Path, required=True, metavar="DIR", help="a new folder, or that of a run to continue"
    )
    train.add_argument(
        "--cv", action="store_true", help="train or continue every fold, then the table and the ensemble"
    )

    predict = add_predict(command)
    add_bids(command, predict)
    add_gather(command)

    report = command(
        "report",
        "a page for each scan of a prediction, and one for all of them",
        "mednext-jax report segmented",
    )
    report.add_argument("output", type=Path, metavar="OUT", help="a folder that predict wrote")
    report.add_argument(
        "--scans",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="the segmented scans, if they have moved (default: where predict read them)",
    )
    report.add_argument(
        "--participants",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="a folder with a participants.tsv (default: beside the segmented scans)",
    )
    report.add_argument(
        "--tables",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="what quantify wrote, if not into OUT (default: OUT)",
    )
    report.add_argument("--group-only", action="store_true", help="only the page of all scans")

    quantify = command(
        "quantify",
        "tables of clusters and regions from masks",
        "mednext-jax quantify -i segmented -o measured",
    )
    quantify.add_argument(
        "-i", "--input", type=Path, required=True, metavar="MASKS|PREDICTIONS", help="a mask, or a folder of them"
    )
    quantify.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a new folder, or that of a run to continue"
    )
    quantify.add_argument(
        "--probability", type=Path, default=None, metavar="MAPS", help="probabilities (default: those beside the masks)"
    )
    quantify.add_argument(
        "--scans",
        type=Path,
        default=None,
        metavar="SCANS",
        help="the scans, for the atlas and checks (default: none)",
    )
    quantify.add_argument(
        "--labels",
        type=_labels,
        default=None,
        metavar="1,2",
        help="values of the masks that are PVS (default: the only)",
    )
    quantify.add_argument(
        "--threshold",
        type=float,
        default=None,
        metavar="T",
        help="the masks are probabilities, and PVS is what lies above, 0 to 1 (default: they are masks)",
    )
    add_counting(quantify)

    add_evaluate(
        command(
            "evaluate",
            "compare masks of one or several tools with references and raters",
            "mednext-jax evaluate -p predictions -r dataset/labelsTr -o evaluation --regions dataset/regions",
        )
    )

    convert = command(
        "convert",
        "bring PyTorch MedNeXt weights over, or take ours back",
        "mednext-jax convert model_final_checkpoint.model model",
    )
    convert.add_argument("source", metavar="SOURCE", help="what `predict -m` takes")
    convert.add_argument("target", type=Path, metavar="TARGET", help="a new folder or file")
    convert.add_argument(
        "--to",
        choices=("mednext-jax", "mic", "monai", "nnunet-v1", "nnunet-v2"),
        default="mednext-jax",
        help="what is written (default: %(default)s); all others need the torch extra",
    )
    convert.add_argument(
        "--upkern",
        type=int,
        default=None,
        metavar="K",
        help="resample the kernels to K voxels, odd (default: as they are)",
    )

    info = command(
        "info",
        "say what a model directory or a checkpoint file holds",
        "mednext-jax info model_final_checkpoint.model",
    )
    info.add_argument("model", metavar="MODEL", help="what `predict -m` takes")
    info.add_argument("--json", action="store_true", help="as JSON, for programs")

    command("models", "list the published models and those in the cache", "mednext-jax models")

    command(
        "check-device",
        "check the GPU or TPU kernels on this machine, as a table to paste into an issue",
        "mednext-jax check-device",
    )
    return parser


def _labels(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 1 or 1,2, found {text!r}")
    return [int(part) for part in text.split(",")]


def _spacing(text: str) -> float | str | None:
    if text == "none":
        return None
    if text == "median":
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 20:
        raise argparse.ArgumentTypeError(
            f"expected a voxel size from 0.05 to 20 mm, 'median' or 'none', found {text!r}"
        )
    return value

# PYTHON_ARGCOMPLETE_OK
"""The command line: flags in, one call out. Exit status: see `EXIT_STATUS` and docs/reliability.md."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import mednext_jax
from mednext_jax.errors import InputError, NothingDone, WorkError, shown
from mednext_jax.evaluate.command_line import add_evaluate

EXIT_STATUS = (
    "exit status: 0 done, 1 the work failed, or some scans of several, 2 the input or the call is wrong, "
    "3 every scan failed, 130 Ctrl-C, 143 SIGTERM"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` defaults to the process's own. Returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an ASCII terminal cannot write, it gets as an escape
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell that asks what may follow; nothing runs
        with contextlib.suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "train":
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    options.overrides = rest
    try:
        with _interrupted_once():
            options.run(options)
        return 0
    except InputError as error:
        print(f"mednext-jax {options.command}: {error}", file=sys.stderr)
        return 2
    except WorkError as error:
        print(f"mednext-jax {options.command}: {error}", file=sys.stderr)
        return 3 if isinstance(error, NothingDone) else 1
    except OSError as error:  # no space, no permission, a path that vanished: the system's words are the clearest
        print(f"mednext-jax {options.command}: {shown(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mednext-jax {options.command}: stopped", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt. Later ones would break off the cleaning up, and are ignored."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is stop:  # else the process ends
            signal.signal(signal.SIGINT, before)


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

    def command(name: str, run: Callable[[argparse.Namespace], None], summary: str, example: str):
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,  # the example stays one line, to copy
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    demo = command(
        "demo",
        _demo,
        "simulate, train, predict and evaluate on a real template brain (CPU, minutes)",
        "mednext-jax demo --workdir demo",
    )
    demo.add_argument("--workdir", type=Path, default=Path("demo"), help="a new folder (default: %(default)s)")

    simulate = command(
        "simulate",
        _simulate,
        "write a simulated PVS data set in nnU-Net's raw format",
        "mednext-jax simulate --out dataset --subjects 20 --contrast T2w --sites 3",
    )
    simulate.add_argument("--out", type=Path, required=True, metavar="DATASET", help="a new folder")
    simulate.add_argument("--subjects", type=int, required=True, metavar="N", help="how many scans, one per subject")
    simulate.add_argument("--contrast", choices=("T1w", "T2w"), required=True, help="what the scans look like")
    simulate.add_argument("--sites", type=int, default=1, metavar="K", help="simulated scanners (default: 1)")
    simulate.add_argument(
        "--seed", type=int, default=0, metavar="S", help="another number draws other subjects (default: 0)"
    )
    simulate.add_argument(
        "--voxel-size", type=float, default=1.0, metavar="MM", help="of the first site, in mm (default: 1)"
    )

    prepare = command(
        "prepare",
        _prepare,
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
        _train,
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

    predict = command(
        "predict",
        _predict,
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
        required=True,
        help="a model directory, a training's workdir, a PyTorch file, an nnU-Net folder, an archive of them, "
        "hf://ORG/NAME[@REV] or https://...[#sha256=HEX]; repeat for an ensemble",
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
        help="a PVS probability above it is PVS, 0 to 1 (default: the model's, 0.5 unless it was set)",
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
    _add_counting(predict)
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

    gather = command("gather", _gather, "merge the tables of the parts of a cohort", "mednext-jax gather parts")
    gather.add_argument("output", type=Path, metavar="OUT", help="the folder that `predict --part K/N` wrote into")

    bids = command(
        "bids",
        _bids,
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
        if action.dest not in ("help", "input", "output", "part", "report", "series", "dicom_seg"):
            own = copy.copy(action)
            if own.required:
                own.required, own.help = False, f"{own.help} (default: none; the level participant needs one)"
            bids._add_action(own)

    report = command(
        "report",
        _report,
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
        _quantify,
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
    _add_counting(quantify)

    add_evaluate(
        command(
            "evaluate",
            _evaluate,
            "compare masks of one or several tools with references and raters",
            "mednext-jax evaluate -p predictions -r dataset/labelsTr -o evaluation --regions dataset/regions",
        )
    )

    convert = command(
        "convert",
        _convert,
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
        _info,
        "say what a model directory or a checkpoint file holds",
        "mednext-jax info model_final_checkpoint.model",
    )
    info.add_argument("model", metavar="MODEL", help="what `predict -m` takes")
    info.add_argument("--json", action="store_true", help="as JSON, for programs")

    command("models", _models, "list the published models and those in the cache", "mednext-jax models")

    command(
        "check-device",
        _check_device,
        "check the GPU kernels on this machine, as a table to paste into an issue",
        "mednext-jax check-device",
    )
    return parser


def _add_counting(parser: argparse.ArgumentParser) -> None:
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


def _counting(options: argparse.Namespace) -> dict[str, Any]:
    names = ("regions", "region_names", "connectivity", "min_voxels", "min_mm3", "split")
    return {name: getattr(options, name) for name in names}


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


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected K/N with 1 <= K <= N, for example 2/8, found {text!r}")
    return int(match[1]), int(match[2])


def _demo(options: argparse.Namespace) -> None:
    from mednext_jax.compilation_cache import use_compilation_cache
    from mednext_jax.demo import run_demo

    use_compilation_cache()
    run_demo(options.workdir)


def _simulate(options: argparse.Namespace) -> None:
    from mednext_jax.simulate.simulate import simulate

    simulate(
        options.out,
        subjects=options.subjects,
        contrast=options.contrast,
        sites=options.sites,
        seed=options.seed,
        voxel_size=options.voxel_size,
    )


def _prepare(options: argparse.Namespace) -> None:
    from mednext_jax.prepare.prepare import prepare

    prepare(
        options.dataset,
        options.out,
        spacing=options.spacing,
        splits=options.splits,
        labels=options.labels,
        suffix=options.suffix,
        regions=options.regions,
        n4=options.n4,
        denoise=options.denoise,
        brain_masks=options.brain_masks,
    )


def _train(options: argparse.Namespace) -> None:
    from mednext_jax.compilation_cache import use_compilation_cache
    from mednext_jax.train.train import train

    use_compilation_cache()
    train(options.config, options.workdir, overrides=options.overrides, cv=options.cv)


def _predict(options: argparse.Namespace) -> None:
    from mednext_jax.compilation_cache import use_compilation_cache
    from mednext_jax.parallel.processes import initialise
    from mednext_jax.report.report import report

    use_compilation_cache()
    initialise()  # before the handler: JAX sets its own for SIGTERM
    threading.Thread(target=_wake_devices, name="devices").start()
    from mednext_jax.dicom.around_predict import dicom_scan, write_objects
    from mednext_jax.inference.predict import predict

    with (
        _stopping_at_once(),
        dicom_scan(options.input, options.output, options.series, options.dicom_seg) as scan,
    ):
        rows = predict(
            scan.path,
            options.output,
            options.model,
            threshold=options.threshold,
            tta=options.tta,
            step=options.step,
            part=options.part,
            suffix=options.suffix,
            chosen=getattr(options, "chosen", None),
            skip_background=options.skip_background,
            background=options.background,
            brain_masks=options.brain_masks,
            after=(lambda folder, cases: report(folder, cases=cases)) if options.report else None,
            tables=options.tables,
            uncertainty=options.uncertainty,
            force=options.force,
            brain_extraction=options.brain_extraction,
            dry_run=options.dry_run,
            quiet=options.quiet,
            verbose=options.verbose,
            **_counting(options),
        )
        if scan.series is not None:
            for row in rows:
                write_objects(row["scan"], options.output, scan.series, _counting(options))


def _bids(options: argparse.Namespace) -> None:
    from mednext_jax.bids.app import run_bids_app
    from mednext_jax.io.bids_selection import BidsSelection

    if options.level == "participant" and not options.model:
        raise InputError("Participants are segmented with a model.", hint="name one: --model MODEL")

    def segment(folder: Path, chosen: BidsSelection) -> None:
        _predict(
            argparse.Namespace(
                **vars(options),
                input=options.bids_dir,
                output=folder,
                part=(1, 1),
                report=True,
                chosen=chosen,
                series=[],
                dicom_seg=False,
            )
        )

    shared = ("suffix", "threshold", "tta", "step", "skip_background", "background", "tables", "uncertainty")
    run_bids_app(
        options.bids_dir,
        options.out_dir,
        options.level,
        segment,
        selection=BidsSelection.of(options.participant_label, options.session_id, options.bids_filter_file),
        settings={name: getattr(options, name) for name in shared} | _counting(options),
    )


def _gather(options: argparse.Namespace) -> None:
    from mednext_jax.inference.gather import gather, summary

    for line in summary(gather(options.output)):
        print(line)


def _report(options: argparse.Namespace) -> None:
    from mednext_jax.report.report import report

    report(options.output, options.scans, options.participants, options.tables, pages=not options.group_only)


def _wake_devices() -> None:
    """A GPU's context takes a second or two, in which the rest of the program can be imported."""
    import jax

    with contextlib.suppress(Exception):  # told by whoever first asks for a device in earnest
        jax.local_devices()


@contextlib.contextmanager
def _stopping_at_once() -> Iterator[None]:
    """SIGTERM stops the body as Ctrl-C does, and neither waits for the scan on the device, which cannot be stopped.

    One is enough: those that come while the body cleans up are ignored.
    """
    status = 130

    def stop(number: int, _: object) -> None:
        nonlocal status
        status = 143 if number == signal.SIGTERM else 130
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if (of_ctrl_c := signal.getsignal(signal.SIGINT)) is not signal.SIG_IGN:  # a shell's background jobs ignore it
        before[signal.SIGINT] = of_ctrl_c
    for one in before:
        signal.signal(one, stop)
    try:
        yield
    except KeyboardInterrupt:
        print("mednext-jax predict: stopped; the same command continues", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler or signal.SIG_DFL)


def _quantify(options: argparse.Namespace) -> None:
    from mednext_jax.quantify.quantify import quantify

    quantify(
        options.input,
        options.probability,
        out=options.output,
        scans=options.scans,
        labels=options.labels,
        threshold=options.threshold,
        **_counting(options),
    )


def _evaluate(options: argparse.Namespace) -> None:
    from mednext_jax.evaluate.command_line import run_evaluate

    run_evaluate(options)


def _convert(options: argparse.Namespace) -> None:
    from mednext_jax.convert.convert import convert
    from mednext_jax.hub.find import find_source
    from mednext_jax.io.atomic import refuse_existing

    refuse_existing(options.target)  # before anything is fetched
    convert(find_source(options.source), options.target, to=options.to, upkern=options.upkern)


def _info(options: argparse.Namespace) -> None:
    from mednext_jax.convert.convert import info, info_json
    from mednext_jax.hub.find import find_source

    source = find_source(options.model)
    print(info_json(source) if options.json else info(source))


def _models(_: argparse.Namespace) -> None:
    from mednext_jax.hub.list_models import list_models

    print(list_models())


def _check_device(options: argparse.Namespace) -> None:
    from mednext_jax.compilation_cache import use_compilation_cache
    from mednext_jax.kernels.check_device import check_device
    from mednext_jax.model.config import published_kinds

    use_compilation_cache()
    for line in check_device(published_kinds()):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

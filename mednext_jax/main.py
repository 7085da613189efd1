# PYTHON_ARGCOMPLETE_OK
"""The command line: flags in, one call out. Exit status: see `parser.EXIT_STATUS` and docs/reliability.md."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, NothingDone, WorkError, shown
from mednext_jax.parser import build_parser


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
            COMMANDS[options.command](options)
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


def _counting(options: argparse.Namespace) -> dict[str, Any]:
    names = ("regions", "region_names", "connectivity", "min_voxels", "min_mm3", "split")
    return {name: getattr(options, name) for name in names}


def _demo(options: argparse.Namespace) -> None:
    from mednext_jax.compilation_cache import use_compilation_cache
    from mednext_jax.demo import run_demo

    use_compilation_cache()
    run_demo(options.workdir)


def _simulate(options: argparse.Namespace) -> None:
    from mednext_jax.simulate.anatomy import read_anatomies
    from mednext_jax.simulate.generator_config import GeneratorConfig
    from mednext_jax.simulate.heads import simulate_heads
    from mednext_jax.simulate.on_scans import simulate_on
    from mednext_jax.simulate.simulate import simulate

    mode = "on" if options.on is not None else "anatomy" if options.anatomy is not None else ""
    needed = {"": ("subjects", "contrast"), "anatomy": ("subjects",), "on": ("regions",)}[mode]
    template_only = ("sites", "voxel_size")
    surplus = {"": ("regions",), "anatomy": ("regions", *template_only), "on": ("anatomy", "subjects", *template_only)}

    def flag(name: str) -> str:
        return "--" + name.replace("_", "-")

    if missing := [flag(name) for name in needed if getattr(options, name) is None]:
        raise InputError("The command is not complete.", expected=" and ".join(missing))
    if given := [flag(name) for name in surplus[mode] if getattr(options, name) is not None]:
        found = f"{given[0]} {f'with {flag(mode)}' if mode else 'without --on'}"
        raise InputError("Options do not go together.", found=found)
    if mode == "on":
        simulate_on(options.out, options.on, options.regions, contrast=options.contrast, seed=options.seed)
    elif mode == "anatomy":
        from mednext_jax.compilation_cache import use_compilation_cache

        use_compilation_cache()
        heads = read_anatomies(options.anatomy)
        simulate_heads(
            options.out, options.subjects, options.contrast or "mixed", options.seed, GeneratorConfig(), heads
        )
    else:
        simulate(
            options.out,
            subjects=options.subjects,
            contrast=options.contrast,
            sites=1 if options.sites is None else options.sites,
            seed=options.seed,
            voxel_size=1.0 if options.voxel_size is None else options.voxel_size,
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
        if scan.series is not None and not options.dry_run:
            for row in rows:
                write_objects(row["scan"], options.output, scan.series, _counting(options), force=options.force)


def _bids(options: argparse.Namespace) -> None:
    from mednext_jax.bids.app import run_bids_app
    from mednext_jax.io.bids_selection import BidsSelection

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
                dry_run=False,
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


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "simulate": _simulate,
    "prepare": _prepare,
    "train": _train,
    "predict": _predict,
    "bids": _bids,
    "gather": _gather,
    "report": _report,
    "quantify": _quantify,
    "evaluate": _evaluate,
    "convert": _convert,
    "info": _info,
    "models": _models,
    "check-device": _check_device,
}


if __name__ == "__main__":
    sys.exit(main())

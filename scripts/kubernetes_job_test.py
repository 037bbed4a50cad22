import json
import os
import subprocess

import kubernetes_validate
import pytest
import yaml

from common.distribution import cluster

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kubernetes_job.yaml")
_KUBERNETES = "1.28"


@pytest.fixture(scope="module")
def documents():
    with open(_PATH) as file:
        return {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(file)}


def test_every_document_follows_the_schema(documents):
    assert len(documents) == 4
    for document in documents.values():
        kubernetes_validate.validate(document, _KUBERNETES, strict=True)


def test_the_schema_finds_what_is_wrong(documents):
    job = json.loads(json.dumps(documents["Job", "amoeba-net"]))
    job["spec"]["template"]["spec"]["containers"][0]["imag"] = "typo"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, _KUBERNETES, strict=True)


def test_devices_are_those_of_the_plugins(documents):
    def limits(name):
        pod = documents["Job", name]["spec"]["template"]["spec"]
        return pod["containers"][0]["resources"]["limits"]

    assert limits("amoeba-net") == {"nvidia.com/gpu": 8}
    assert limits("amoeba-net-ascend") == {"huawei.com/Ascend910": 8}


@pytest.mark.parametrize("index", [0, 3])
def test_pods_make_a_tf_config_of_each_others_names(documents, index):
    spec = documents["Job", "amoeba-net"]["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    hosts = {variable["name"]: variable["value"] for variable in container["env"]}
    assert int(hosts["HOSTS"]) == spec["completions"] == spec["parallelism"]
    script = container["args"][0].split("exec .venv/bin/python")[0] + 'printf %s "$TF_CONFIG"'
    text = subprocess.run(
        [*container["command"], script],
        env={**os.environ, **hosts, "JOB_COMPLETION_INDEX": str(index)},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    found = cluster.parse(text)
    assert (found.rank, found.size) == (index, 4)
    service = documents["Service", "amoeba-net"]
    port = service["spec"]["ports"][0]["port"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert found.addresses[index] == f"amoeba-net-{index}.{pod['subdomain']}:{port}"

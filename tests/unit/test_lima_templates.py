# SPDX-License-Identifier: Apache-2.0
"""The templates in lima/, checked against Lima's schema if it is there, and guests.toml."""

from __future__ import annotations

import copy
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from provisioning.catalog import load_catalog
from provisioning.host import REPOSITORY
from provisioning.providers import lima

TEMPLATES = sorted(lima.TEMPLATES.glob("*.yaml"))
GUESTS = [path for path in TEMPLATES if path.stem != "base"]
BASE = lima.TEMPLATES / "base.yaml"

# The schema is Lima's, so this repository does not contain it.
BESIDE = REPOSITORY.parent / "shared" / "lima-template.schema.json"

names = pytest.mark.parametrize("path", GUESTS, ids=lambda path: path.stem)


def load(path):
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def schema():
    named = os.environ.get("LIMA_TEMPLATE_SCHEMA")
    path = Path(named) if named else BESIDE
    if not named and not path.exists():
        pytest.skip(f"no schema of Lima's templates: {path}; LIMA_TEMPLATE_SCHEMA names another")
    # A schema that was named but is missing or unreadable is a failure.
    document = yaml.safe_load(path.read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_only_what_lima_knows(schema, path):
    assert [error.message for error in schema.iter_errors(load(path))] == []


def misspelt_at_the_top(template):
    template["mount"] = template.pop("mounts")


def misspelt_in_a_mount(template):
    template["mounts"][0]["writeable"] = template["mounts"][0].pop("writable")


def misspelt_in_a_script(template):
    template["provision"][0]["scripts"] = template["provision"][0].pop("script")


def misspelt_in_a_probe(template):
    template["probes"][0]["hints"] = template["probes"][0].pop("hint")


def a_mode_that_is_deprecated(template):
    template["provision"][0]["mode"] = "ansible"


def a_number_that_is_text(template):
    template["cpus"] = "2"


@pytest.mark.parametrize(
    "mistake",
    [
        misspelt_at_the_top,
        misspelt_in_a_mount,
        misspelt_in_a_script,
        misspelt_in_a_probe,
        a_mode_that_is_deprecated,
        a_number_that_is_text,
    ],
)
def test_a_mistake_in_a_template_is_found(schema, mistake):
    template = copy.deepcopy(load(BASE))
    mistake(template)
    assert list(schema.iter_errors(template))


def test_every_release_has_a_template():
    ubuntu = [f"ubuntu-{release}" for release in ("20.04", "22.04", "24.04", "26.04")]
    assert [path.stem for path in GUESTS] == ["debian-12", "debian-13", *ubuntu]


@names
def test_a_template_has_an_image_the_base_and_a_guest(path):
    assert load(path) == {
        # Lima's own template: the release's images for each architecture, by date and digest.
        "base": [f"template:_images/{path.stem}", BASE.name],
        "param": {"guest": path.stem},
    }


@names
def test_a_template_matches_the_table_of_guests(path):
    spec = load_catalog()[path.stem]
    base = load(BASE)
    assert base["cpus"] == spec.cpus
    assert base["memory"] == f"{spec.memory // 1024}GiB"
    assert spec.memory % 1024 == 0


def test_the_base_and_the_provider_require_the_same_lima():
    assert load(BASE)["minimumLimaVersion"] == ".".join(map(str, lima.OLDEST))


def test_the_clone_is_only_read():
    assert [mount["writable"] for mount in load(BASE)["mounts"]] == [False]


def scripts():
    base = load(BASE)
    return [entry["script"] for entry in (*base["provision"], *base["probes"])]


@pytest.mark.parametrize("script", scripts(), ids=["provision", "probe"])
def test_a_script_names_its_shell_and_is_valid(script, tmp_path):
    interpreter = script.partition("\n")[0]
    assert interpreter in ("#!/bin/sh", "#!/bin/bash")
    subprocess.run([interpreter[2:], "-n"], input=script.encode(), check=True)
    file = tmp_path / "script"
    file.write_text(script)
    # Beside this Python, as a dependency of the tests.
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, file], capture_output=True, text=True, check=False)
    assert checked.stdout == ""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def probe(tmp_path):
    """Run the readiness probe as Lima does, from standard input; http-profiler is a stand-in."""
    (script,) = (entry["script"] for entry in load(BASE)["probes"])
    trouble = tmp_path / "trouble"
    script = script.replace("/run/http-profiler-trouble", str(trouble))
    executable(tmp_path / "bin" / "sudo", '#!/bin/sh\nshift\nexec "$@"\n')

    def run(profiler=None, why=""):
        if profiler:
            executable(tmp_path / "bin" / "http-profiler", profiler)
        trouble.write_text(why)
        path = f"{tmp_path}/bin:/usr/bin:/bin"
        return subprocess.run(
            ["/bin/bash"],
            input=script,
            env={"PATH": path},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


CAPTURES = """\
#!/bin/sh
trap 'echo http-profiler: wrote 0 requests >&2; exit 0' TERM
cat
echo 'http-profiler: capturing (socket route)' >&2
while :; do sleep 0.1; done
"""

CANNOT = """\
#!/bin/sh
echo 'http-profiler: loading the probe ...' >&2
echo 'http-profiler: the kernel has no BTF' >&2
exit 1
"""

ENDS_BADLY = CAPTURES.replace("exit 0", "exit 1")


def test_the_probe_is_true_when_the_profiler_captures_and_ends_it(probe):
    done = probe(CAPTURES)
    assert done.returncode == 0
    assert "wrote 0 requests" in done.stderr


@pytest.mark.parametrize("profiler", [None, CANNOT, ENDS_BADLY])
def test_the_probe_is_false_when_the_profiler_cannot_attach(probe, profiler):
    assert probe(profiler).returncode != 0


def test_the_probe_reports_failed_provisioning(probe):
    done = probe(CAPTURES, why="http-profiler: no clone\n")
    assert done.returncode == 1
    assert done.stderr == "http-profiler: no clone\n"


@pytest.fixture
def provision(tmp_path):
    """Run the provisioning script up to the playbook, which is a stand-in; installs nothing."""
    (script,) = (entry["script"] for entry in load(BASE)["provision"])
    shared, tools = tmp_path / "shared", tmp_path / "tools"
    for place, here in (
        ("{{.Param.guest}}", "debian-12"),
        ("/mnt/http-profiler", str(shared)),
        ("/opt/http-profiler-tools", str(tools)),
        ("/run/http-profiler-trouble", str(tmp_path / "trouble")),
    ):
        assert place in script
        script = script.replace(place, here)
    executable(tools / "bin" / "ansible-playbook", "#!/bin/sh\n")
    executable(tools / "bin" / "python", '#!/bin/sh\necho "$PWD: $*"\nexit ${PLAYBOOK:-0}\n')

    def run(*clones, playbook=0):
        shared.mkdir(exist_ok=True)
        for clone in clones:
            (shared / clone / "lima").mkdir(parents=True)
            shutil.copy(BASE, shared / clone / "lima")
        return subprocess.run(
            ["/bin/sh", "-c", script],
            env={"PATH": os.environ["PATH"], "PLAYBOOK": str(playbook)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("clone", [".", "http-profiler", "src/of mine/deep/http-profiler"])
def test_the_clone_is_found_in_the_mount(provision, clone, tmp_path):
    (tmp_path / "shared" / "other" / "lima").mkdir(parents=True)
    (tmp_path / "shared" / "other" / "lima" / "base.yaml").write_text("cpus: 2\n")
    done = provision(clone)
    place = (tmp_path / "shared" / clone).resolve()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{place}: -m provisioning play debian-12 -- --connection=local --inventory=debian-12,"
        " provisioning/ansible/site.yml\n"
    )
    assert not (tmp_path / "trouble").exists()


@pytest.mark.parametrize(
    ("clones", "playbook", "says"),
    [
        ([], 0, "no clone of the repository in the mounted directory: use --param repository=PATH"),
        ([".hidden/clone"], 0, "no clone of the repository"),
        (["one", "two"], 0, "more than one clone of the repository, use --param repository=PATH:"),
        (["."], 125, "the playbook failed: see /var/log/cloud-init-output.log"),
    ],
)
def test_provisioning_errors_are_stored_for_the_probe(provision, tmp_path, clones, playbook, says):
    done = provision(*clones, playbook=playbook)
    assert done.returncode == 1
    trouble = (tmp_path / "trouble").read_text()
    assert says in trouble
    assert trouble in done.stderr
    assert len(trouble.splitlines()) == 1
    for clone in clones if len(clones) > 1 else ():
        assert str(tmp_path / "shared" / clone) in trouble

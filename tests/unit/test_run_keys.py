# SPDX-License-Identifier: Apache-2.0
"""The option --tls-keys of run: the command writes a key log, and the capture reads it.

The engine delivers recorded ciphertext; tests/e2e/test_tls_keys.py has real connections.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path

import pytest

from profiler import cli
from profiler.commands.run import trace
from profiler.commands.run.key_log import KeyLogFile
from profiler.errors import ProbeError
from tests.unit.stand_in_engine import StandInCgroup
from tests.unit.talk_tls import contexts, talk
from tests.unit.test_run import needs_root, run, shell
from tests.unit.test_tls_keys import TLS13, both_ends, recorded


def test_lines_are_read_whole(tmp_path: Path) -> None:
    log = KeyLogFile(None, str(tmp_path))
    path = Path(log.variables["SSLKEYLOGFILE"])
    assert log.read() == b""
    with path.open("ab", buffering=0) as file:
        file.write(b"A 1 2\nB 3")
        assert log.read() == b"A 1 2\n"
        assert log.read() == b""
        file.write(b" 4\n")
        assert log.read() == b"B 3 4\n"
        # What is no line does not pile up.
        file.write(b"x" * 100_000)
        assert log.read() == b""
        file.write(b"\nC 5 6\n")
        *_, last = log.read().splitlines()
        assert last == b"C 5 6"
    log.remove()
    assert list(tmp_path.iterdir()) == []
    log.remove()


def test_a_program_that_truncates_it(tmp_path: Path) -> None:
    log = KeyLogFile(None, str(tmp_path))
    path = Path(log.variables["SSLKEYLOGFILE"])
    path.write_bytes(b"A 1 2\nB 3 4\nC")
    assert log.read() == b"A 1 2\nB 3 4\n"
    path.write_bytes(b"D 5 6\n")
    assert log.read() == b"D 5 6\n"
    log.remove()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"cannot create a key log below .*: No such file"):
        KeyLogFile(None, str(tmp_path / "absent"))


@needs_root
def test_only_the_user_of_the_command_can_write_it(tmp_path: Path) -> None:
    user = pwd.getpwnam("nobody")
    log = KeyLogFile(user, str(tmp_path))
    path = Path(log.variables["SSLKEYLOGFILE"])
    file, directory = path.stat(), path.parent.stat()
    assert (file.st_uid, stat.S_IMODE(file.st_mode)) == (user.pw_uid, 0o600)
    assert (directory.st_uid, stat.S_IMODE(directory.st_mode)) == (0, 0o711)


@needs_root
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_the_keys_of_the_command_decrypt_its_connections(tmp_path: Path, user: str) -> None:
    """The process that parses is unprivileged, and the command another user's."""
    said = talk(*contexts(TLS13))
    keys, output = tmp_path / "keys", tmp_path / "lines"
    keys.write_bytes(b"\n".join(said.keys) + b"\n")
    capture = recorded(tmp_path / "capture", both_ends(said))
    done, _, errors = run(
        *("--tls-keys", "--output", output, "--as", "nobody"),
        *shell('cat >> "$SSLKEYLOGFILE"'),
        capture=capture,
        input=keys.read_text(),
        env={"HTTP_PROFILER_UNPRIVILEGED_USER": user},
    )
    assert done == 0, errors
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["tls"]["library"] for line in lines] == ["keys"] * 4
    assert any("--tls-keys shows what the command encrypts" in line for line in errors)
    assert any("redacted" in line for line in errors)
    assert list(Path("/run").glob("http-profiler-keys-*")) == []


@needs_root
def test_without_keys_the_connections_are_counted(tmp_path: Path) -> None:
    capture = recorded(tmp_path / "capture", both_ends(talk(*contexts(TLS13))))
    _, _, errors = run("--tls-keys", "--", "true", capture=capture)
    assert (
        "http-profiler: not decrypted: 2 TLS connections: its key is not in the key log" in errors
    )


@needs_root
def test_without_a_place_for_the_key_log_nothing_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    removed: list[bool] = []

    class Cgroup(StandInCgroup):
        def remove(self) -> list[str]:
            removed.append(True)
            return []

    monkeypatch.setattr(trace, "Cgroup", Cgroup)
    monkeypatch.setattr(
        trace, "KeyLogFile", lambda user: KeyLogFile(user, str(tmp_path / "absent"))
    )
    assert cli.main(["run", "--tls-keys", "--", "touch", str(tmp_path / "there")]) == 125
    assert "cannot create a key log" in capsys.readouterr().err
    assert removed == [True]
    assert list(tmp_path.iterdir()) == []


def test_not_together_with_tls() -> None:
    code, _, errors = run("--tls", "--tls-keys", "--", "true")
    assert code == 2
    assert "--tls-keys cannot be combined with --tls" in errors[-1]


@needs_root
def test_without_the_option_the_command_has_no_key_log() -> None:
    clean = {name: value for name, value in os.environ.items() if name != "SSLKEYLOGFILE"}
    _, out, _ = run(*shell('echo "$SSLKEYLOGFILE"'), env=clean)
    assert out == "\n"

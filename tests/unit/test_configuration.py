# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from packages import deb
from profiler import cli
from profiler.commands.configuration import configured, written
from profiler.commands.configuration.keys import Key, keys_of
from profiler.commands.configuration.show import lines, template
from profiler.commands.options import settings_of
from profiler.errors import ConfigurationError
from profiler.ingest import fastpath
from profiler.outputs import Rotation


def number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """A parser with an option of each kind, before a command and for one."""
    parser = argparse.ArgumentParser(prog="tried")
    parser.add_argument("--version", action="version", version="1")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--output", type=Path, default=argparse.SUPPRESS)
    parser.add_argument("-s", "--size", type=number, default=7)
    parser.add_argument("--port", type=number, action="append", help="100%% of %(default)s")
    parser.add_argument("--route", choices=("left", "right"))
    parser.add_argument("--quiet", action="store_true")
    commands = parser.add_subparsers(dest="command")
    below = commands.add_parser("below", help="shown")
    below.add_argument("what")
    below.add_argument("--size", type=number, default=1)
    below.add_argument("--output", type=Path, default=argparse.SUPPRESS)
    for name, value in (("--redact", True), ("--no-redact", False)):
        below.add_argument(name, dest="redact", action="store_const", const=value, default=True)
    kind = below.add_mutually_exclusive_group(required=True)
    kind.add_argument("--har", action="store_true")
    commands.add_parser("none", help="shown")
    return parser


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "etc.toml"
    monkeypatch.setattr(written, "SYSTEM_FILE", file)
    return file


@pytest.fixture
def user(system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "config"
    home.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    return home / "etc.toml"


def options(line: str = "", **environment: str) -> argparse.Namespace:
    return configured(parser(), line.split(), {**os.environ, **environment})


def test_the_order(system: Path, user: Path, tmp_path: Path) -> None:
    assert options().size == 7
    system.write_text("size = 6\nroute = 'left'")
    assert options().size == 6
    user.write_text("size = 5")
    assert (options().size, options().route) == (5, "left")
    assert options(HTTP_PROFILER_SIZE="4").size == 4
    assert options("--size 3", HTTP_PROFILER_SIZE="4").size == 3
    assert options("--size 7", HTTP_PROFILER_SIZE="4").size == 7
    other = tmp_path / "other.toml"
    other.write_text("quiet = true")
    for asked in (options(f"--config {other}"), options(HTTP_PROFILER_CONFIG=str(other))):
        assert (asked.size, asked.route, asked.quiet) == (7, None, True)
    nothing = options("--config /dev/null", HTTP_PROFILER_CONFIG=str(other))
    assert (nothing.size, nothing.quiet) == (7, False)


def test_the_output_has_an_old_name() -> None:
    assert options(OUTPUT_PATH="old").output == Path("old")
    assert options(OUTPUT_PATH="old", HTTP_PROFILER_OUTPUT="new").output == Path("new")
    assert options("--output given", OUTPUT_PATH="old").output == Path("given")
    assert "output" not in options(OUTPUT_PATH="")


def test_a_repeated_option_is_a_list(system: Path) -> None:
    system.write_text("port = [80, '81']")
    assert options().port == [80, 81]
    assert options("--port 1").port == [1]
    assert options(HTTP_PROFILER_PORT="2 3").port == [2, 3]
    system.write_text("port = 80")
    assert options().port == [80]


def test_options_of_a_command(system: Path) -> None:
    system.write_text("size = 6\noutput = 'main'\n[below]\nredact = false")
    below = options("below x --har")
    # This command has its own size, but no output.
    assert (below.size, below.output, below.redact) == (1, Path("main"), False)
    assert options("below x --har --redact").redact is True
    system.write_text("size = 6\n[below]\nsize = 5")
    assert options("below x --har").size == 5
    assert options("below x --har", HTTP_PROFILER_BELOW_SIZE="4").size == 4
    assert options("--size 3 below x --har").size == 3
    assert options().size == 6


def test_a_switch(system: Path) -> None:
    system.write_text("quiet = true")
    assert options().quiet is True
    assert options(HTTP_PROFILER_QUIET="No").quiet is False
    assert options("below x --har", HTTP_PROFILER_BELOW_REDACT="0").redact is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 80", "unknown name 'prot'; did you mean port?"),
        ("belwo = {}", "unknown name 'belwo'; did you mean [below]?"),
        ("below = 1", "unknown name 'below'; did you mean [below]?"),
        ("[below]\nport = 1", ", [below]: unknown name 'port'; `http-profiler config` lists all"),
        ("[below]\nhar = true", "unknown name 'har'"),
        ("config = 'x'", "unknown name 'config'"),
        ("version = true", "unknown name 'version'"),
        ("size = 'big'", ": size: 'big' is not a number"),
        ("[below]\nsize = 'big'", ": size: 'big' is not a number"),
        ("size = [1]", "size: must be a string or a number, not [1]"),
        ("size = true", "size: must be a string or a number, not True"),
        ("port = [1, {}]", "port: must be a string, a number or a list, not {}"),
        ("route = 'up'", "route: 'up' is none of left, right"),
        ("quiet = 1", "quiet: must be true or false, not 1"),
        ("size 1", "is not TOML: "),
    ],
)
def test_errors_in_a_file(system: Path, text: str, said: str) -> None:
    system.write_text(text)
    # Whatever else is set, and whatever overrides it.
    for line in ("", "--size 1 --route left --quiet --port 1", "none"):
        with pytest.raises(ConfigurationError) as error:
            options(line)
        assert said in str(error.value)
        assert str(error.value).startswith(str(system))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SIZ", "1", "unknown name 'HTTP_PROFILER_SIZ'; did you mean HTTP_PROFILER_SIZE?"),
        ("SIZE", "big", "$HTTP_PROFILER_SIZE: size: 'big' is not a number"),
        ("QUIET", "quite", "$HTTP_PROFILER_QUIET: must be true or false, not 'quite'"),
        ("PORT", "'1", "$HTTP_PROFILER_PORT: No closing quotation"),
        ("CONFIG", "/no/such", "cannot read /no/such: No such file"),
    ],
)
def test_errors_in_the_environment(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        options(**{f"HTTP_PROFILER_{name}": value})
    assert said in str(error.value)


def test_variables_that_are_no_options_are_ignored() -> None:
    assert options(HTTP_PROFILER_CACHE="/somewhere").size == 7
    assert options(**{fastpath.VARIABLE: "0"}).size == 7


def test_a_binary_file(system: Path) -> None:
    system.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        options()


def test_an_inaccessible_file_is_not_a_missing_one(system: Path) -> None:
    assert options().size == 7
    system.mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot read .*: Is a directory"):
        options()


def test_errors_have_the_exit_code_of_wrong_arguments(
    system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system.write_text("prot = 80")
    assert cli.main(["config"]) == 2
    said = capsys.readouterr().err
    assert said == (f"http-profiler: {system}: unknown name 'prot'; did you mean port?\n")


def test_the_output(system: Path) -> None:
    system.write_text("port = [80, 81]\nroute = 'left'")
    asked = options(
        "--size 3 below x --har", HTTP_PROFILER_BELOW_SIZE="4", OUTPUT_PATH='a "b" \x7f'
    )
    assert list(lines(asked.configuration)) == [
        r'output = "a \"b\" \u007f"  # $OUTPUT_PATH',
        "size = 3  # the command line",
        f"port = [80, 81]  # {system}",
        f'route = "left"  # {system}',
        "# quiet = false",
        "\n[below]",
        "size = 4  # $HTTP_PROFILER_BELOW_SIZE",
        "# output =",
        "# redact = true",
    ]


def test_the_output_is_an_equivalent_file(tmp_path: Path) -> None:
    line = "--size 3 --port 1 --port 2 --route right --quiet --output 1.50 none"
    first = options(line).configuration
    file = tmp_path / "shown.toml"
    file.write_text("\n".join(lines(first)))
    second = options(f"--config {file}")
    assert (second.size, second.port, second.route) == (3, [1, 2], "right")
    assert (second.quiet, second.output) == (True, Path("1.50"))


def test_the_template_has_every_option_and_sets_none(system: Path) -> None:
    keys = keys_of(cli.build_parser())
    text = "\n".join(template(keys))
    system.write_text(text)
    assert configured(cli.build_parser(), []).configuration.written == ()
    for table in keys.values():
        for name in table:
            assert f"# {name} =" in text
    assert "100% of None" in "\n".join(template(keys_of(parser())))


def test_the_packaged_file_bounds_the_disk(system: Path) -> None:
    system.write_text("\n".join(template(keys_of(cli.build_parser()), deb.CHOSEN)))
    settings = settings_of(configured(cli.build_parser(), []))
    assert settings.rotation == Rotation(256 * 1024 * 1024, 7)
    own = configured(cli.build_parser(), ["--output-max-size", "0"])
    assert settings_of(own).rotation is None


def every_key() -> list[Key]:
    return [key for table in keys_of(cli.build_parser()).values() for key in table.values()]


@pytest.mark.parametrize("key", every_key(), ids=lambda key: key.variable)
def test_every_option_validates_its_value(key: Key, system: Path) -> None:
    """Every kind of option can be set in a file."""
    assert isinstance(key.name, str)
    table = f"[{key.command}]\n" if key.command else ""
    system.write_text(f"{table}{key.name} = {'true' if key.is_switch else repr('1')}")
    try:
        [one] = configured(cli.build_parser(), []).configuration.written
    except ConfigurationError as error:
        assert f": {key.name}: " in str(error)
    else:
        assert one.key.variable == key.variable


def test_variables_are_unambiguous() -> None:
    variables = [key.variable for key in every_key()]
    assert len(variables) == len(set(variables))

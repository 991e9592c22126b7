# SPDX-License-Identifier: Apache-2.0
"""The benchmark in a guest: the measurements, the parsing of results, and the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.guest import __main__ as command
from benchmarks.guest import measuring
from benchmarks.guest import results as kept
from benchmarks.guest.inside import captures, processes
from benchmarks.guest.inside.measure import BenchmarkError, Client, check_ab
from benchmarks.guest.inside.workloads import WORKLOADS, Workload
from benchmarks.guest.page import BEGIN, END, page, replaced
from benchmarks.guest.plan import (
    ADDED,
    CAPTURES,
    MEMORY,
    OWN,
    START,
    Measurement,
    selected,
    shared_out,
    together,
)
from benchmarks.guest.results import Results
from provisioning import instances

AB = """\
Server Software:        nginx/1.26.3
Concurrency Level:      4
Time taken for tests:   0.034 seconds
Complete requests:      500
Failed requests:        0
Keep-Alive requests:    500
Total transferred:      128000 bytes
"""


def test_without_a_base_nothing_is_measured():
    found = selected(["small"], ["socket"])
    assert found == [
        Measurement(ADDED, "small", "base"),
        Measurement(ADDED, "small", "socket"),
        Measurement(OWN, "small", "socket"),
    ]


# bpftrace prints slowly: no large bodies, and no record for each byte.
PRINTED = ("small", "demo", "file-write", "tls", "redis")


def test_the_whole_is_each_capture_on_each_workload_between_two_bases():
    found = selected()
    assert len(found) == len(set(found))
    for workload in ("small", "20k", "1m", "demo", "upload", "byte", "file-write", "tls", "redis"):
        under = [one.capture for one in found if one[:2] == (ADDED, workload)]
        assert under[0] == "base"
        assert under[-1] == "again"
        dissected = {"tshark"} if workload not in ("1m", "upload") else set()
        usual = {"socket", "syscall", "tcpdump"} | dissected
        printed = {"bpftrace", "probe"} if workload in PRINTED else set()
        encrypted = {"tls", "uretprobes"} if workload == "small" else set()
        assert usual | printed | encrypted == set(under[1:-1]) - {"max-body-0"}
    assert Measurement(OWN, "1m", "max-body-0") in found
    assert Measurement(START, "start", "socket") in found
    assert Measurement(MEMORY, "connections", "socket") in found


def test_a_capture_that_takes_long_to_start_stays_for_all_workloads():
    found = together(selected(["small", "tls", "start"], ["socket", "tcpdump"]))
    assert [[str(one) for one in run] for run in found] == [
        ["added small base"],
        ["added small socket", "added tls socket"],
        ["own small socket", "own tls socket"],
        ["added small tcpdump"],
        ["own small tcpdump"],
        ["added tls base"],
        ["added tls tcpdump"],
        ["own tls tcpdump"],
        ["start start socket"],
        ["start start tcpdump"],
    ]


def test_guests_share_the_workloads():
    assert shared_out(("a", "b", "c"), 2) == [("a", "c"), ("b",)]
    assert shared_out(("a",), 2) == [("a",)]


@pytest.mark.parametrize("arguments", [["--workload", "nope"], ["--capture", "base,"]])
def test_an_unknown_name_is_one_clear_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "is not one of" in line


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_guests_are_at_least_one(number, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--guests", number])
    assert ended.value.code == 2
    assert "is not a number of guests" in capsys.readouterr().err


# Replaces the measurement in one guest, and prints its arguments.
STAND_IN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
print(*sys.argv[1:], file=open(sys.argv[1], "w"), flush=True)
try:
    time.sleep({seconds})
except KeyboardInterrupt:
    print("interrupted", file=open(sys.argv[1], "a"))
    sys.exit(130)
sys.exit(3 if "tls" in sys.argv[1] else 0)
"""


def stand_in(monkeypatch, directory, seconds):
    monkeypatch.chdir(directory)
    program = STAND_IN.format(seconds=seconds)
    monkeypatch.setattr(command, "MEASURE", (sys.executable, "-c", program))
    return ["--guests", "2", "--workload", "small,tls", "--capture", "base,socket"]


def test_each_guest_has_its_workloads_and_the_worst_exit_code_counts(tmp_path, monkeypatch, capsys):
    assert command.main(stand_in(monkeypatch, tmp_path, 0)) == 3
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert said == {"small": "small base,socket\n", "tls": "tls base,socket\n"}
    assert not capsys.readouterr().out  # no table without measurements


def test_an_interrupt_reaches_each_guest(tmp_path, monkeypatch):
    arguments = stand_in(monkeypatch, tmp_path, 60)

    def interrupt():
        while len([path for path in tmp_path.iterdir() if path.read_text()]) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert command.main(arguments) == 130
    said = [path.read_text().splitlines()[1:] for path in tmp_path.iterdir()]
    assert said == [["interrupted"]] * 2


def test_a_successful_ab():
    check_ab(AB, 500)


@pytest.mark.parametrize(
    ("was", "instead"),
    [
        ("Complete requests:      500", "Complete requests:      499"),
        ("Failed requests:        0", "Failed requests:        1"),
        ("Keep-Alive requests:    500", "Keep-Alive requests:    0"),
        ("Failed requests:        0", "Failed requests:        0\nNon-2xx responses:      500"),
        (AB, "apr_socket_recv: Connection refused (111)"),
    ],
)
def test_a_failed_ab_is_no_measurement(was, instead):
    with pytest.raises(BenchmarkError, match="ab did not complete 500 requests"):
        check_ab(AB.replace(was, instead), 500)


@pytest.fixture
def no_clock(monkeypatch):
    """Not every kernel counts the time of its processors."""
    monkeypatch.setattr(processes, "busy_time", time.monotonic_ns)


def test_a_client_gets_its_rounds(tmp_path, no_clock):
    workload = Workload("w", "", "round", 20, ("sh", "-c", "echo {rounds} >> {directory}/rounds"))
    client = Client(workload, tmp_path)
    assert client.run(1) > 0
    client.run(3)
    assert (tmp_path / "rounds").read_text() == "20\n60\n"
    assert client.rounds == 80


def test_a_client_that_fails_is_no_measurement(tmp_path, no_clock):
    workload = Workload("w", "", "round", 20, ("sh", "-c", "echo no route >&2; exit 3"))
    with pytest.raises(BenchmarkError, match="sh ended with status 3: no route"):
        Client(workload, tmp_path).run(1)


def test_a_process_has_its_children_and_theirs():
    shell = "sleep 60 & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", f"sh -c '{shell}'; true"], stdout=subprocess.PIPE, text=True
    ) as process:
        sleep = int(process.stdout.readline())
        found = processes.family(process.pid)
        assert found[0] == process.pid
        assert found[-1] == sleep
        assert len(found) == 3
        assert processes.peak_memory(process.pid) > processes.peak_memory(sleep) > 0
        for pid in found[1:]:
            os.kill(pid, 9)


def test_the_time_of_the_processor_is_the_seventh_number(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PROC", tmp_path)
    (tmp_path / "schedstat").write_text(
        "version 17\ntimestamp 4294942553\ncpu0 0 0 0 0 0 0 123456789 5 6\ndomain0 MC 1 2 3\n"
    )
    assert processes.busy_time() == 123456789


def test_the_counts_of_the_profiler(tmp_path):
    lines = [
        {"url": "/", "body": '{"incomplete":["a payload says it"]}'},
        {"url": "/", "incomplete": ["lost"]},
        {"url": "/"},
    ]
    # Without blanks, as the profiler writes.
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (tmp_path / "out").write_text(text)
    assert captures.profiler_counts(tmp_path) == {"complete": 2, "incomplete": 1}


def test_the_counts_of_other_tools(tmp_path):
    (tmp_path / "err").write_text(
        "listening on lo\n60 packets captured\n70 packets received by filter\n"
        "10 packets dropped by kernel\n"
    )
    assert captures.tcpdump_counts(tmp_path) == {"packets": 60, "packets_lost": 10}
    (tmp_path / "err").write_text("Capturing on 'Loopback: lo'\n7 packets dropped from lo\n")
    (tmp_path / "out").write_text('{"index":{}}\n{"timestamp":"1"}\n\n{"index":{}}\n{}\n')
    assert captures.tshark_counts(tmp_path) == {"complete": 2, "packets_lost": 7}
    (tmp_path / "out").write_text("T 0 1\nP 1 2 3\nB 1\nC 1\nLost 3 events\nC 2\n")
    (tmp_path / "err").write_text("Lost 2 events\n")
    assert captures.bpftrace_counts(tmp_path) == {"calls": 2, "events_lost": 5}


RUN = {"date": "2026-11-23", "rounds": 2500}


def results(tmp_path, **runs):
    found = Results(tmp_path / "one.json", {}, {})
    found.keep_facts({"kernel": "6.12.1"})
    for name, run in runs.items():
        found.keep(Measurement(*name.split("_")), {**RUN, **run})
    return found


def test_the_added_cost_is_shown_with_the_noise(tmp_path):
    text = page(
        results(
            tmp_path,
            added_small_base={"target": 67_700.0, "programs": None},
            added_small_socket={
                "target": 72_000.4,
                "programs": 4_886.2,
                "complete": 9,
                "expected": 10,
            },
            added_small_tcpdump={
                "target": 75_000.0,
                "programs": None,
                "packets": 9,
                "packets_lost": 0,
            },
            added_small_again={"target": 67_690.0, "programs": None},
        )
    )
    assert "Measured 2026-11-23 by `tox -e bench`." in text
    assert "| kernel | 6.12.1 |" in text
    what, row, programs = (line for line in text.splitlines() if line.startswith("| `small`"))
    assert what == "| `small` | nginx, answers of 64 bytes, `ab -k -c 4` | request |"
    # Losses would make it cheaper than it is.
    assert row.endswith("| 67,700 | -10 | +4,300 (with losses) | +7,300 |")
    # tcpdump has none.
    assert programs.endswith("| 4,886 | - |")
    assert "| added to a request, socket route | 3,000 | +4,300 |" in text


def test_a_product_that_changes_meanwhile_is_one_line(tmp_path, monkeypatch, capsys):
    arguments = stand_in(monkeypatch, tmp_path, 0)
    arguments[arguments.index("small,tls")] = "small"
    # As after a change: the current version has no results.
    found = Results(command.REPOSITORY / "output" / "bench" / "none.json", {}, {})
    monkeypatch.setattr(Results, "of_product", lambda: found)
    assert command.main(arguments) == 1
    assert "the product was changed meanwhile" in "".join(capsys.readouterr())


def test_missing_messages_count_as_lost(tmp_path):
    text = page(
        results(
            tmp_path,
            added_small_base={"target": 50_000.0, "programs": None},
            own_small_socket={
                "busy": 150_000.0,
                "own": 200_000.0,
                "memory": 102_400,
                "start": 3.0,
                "expected": 100,
                "complete": 80,
                "incomplete": 5,
                "calls_lost": 15,
            },
        )
    )
    assert "| 80 / 5 / 15 |" in text
    assert "| 200.0 % |" in text
    assert "| the profiler itself, per message (small) | 25,000 | 50,000 |" in text
    assert "| messages lost at saturation, `--lossless` | 0 | - |" in text


def test_failures_are_listed_and_make_results_incomplete(tmp_path):
    found = results(
        tmp_path, added_small_base={"target": 1.0}, added_small_tshark={"error": "a\nb"}
    )
    text = page(found)
    assert "| failed |" in text
    assert "- added small tshark: a b" in text
    for measurement in selected():
        found.runs.setdefault(measurement, RUN)
    assert not found.whole
    found.runs[Measurement(ADDED, "small", "tshark")] = RUN
    assert found.whole


def test_results_are_kept_by_version(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "KEPT", tmp_path)
    first = Results.of_product()
    first.keep_facts({"kernel": "6.12.1"})
    first.keep(Measurement(ADDED, "small", "base"), RUN)
    assert Results.of_product() == first
    second = Results.of_product()
    first.keep(Measurement(ADDED, "small", "socket"), RUN)
    second.keep_facts({"kernel": "6.12.1"})
    second.keep(Measurement(ADDED, "small", "tcpdump"), RUN)
    assert [one.capture for one in Results.of_product().runs] == ["base", "socket", "tcpdump"]
    # Not together with those of another kernel.
    first.keep_facts({"kernel": "6.12.2"})
    assert Results.of_product().runs == {}
    monkeypatch.setattr(kept, "WHEEL_SOURCES", ("profiler",))
    assert Results.of_product().path != first.path


def test_the_generated_part_of_the_page_is_marked():
    once = replaced("# Performance\n\nBy hand.\n", "one\n")
    assert once == f"# Performance\n\nBy hand.\n\n{BEGIN}\n\none\n\n{END}\n"
    behind = once + "\n## More by hand\n"
    assert replaced(behind, "two") == behind.replace("one", "two")
    assert replaced("", "one").startswith(BEGIN)


def test_a_guest_without_icount_is_refused(tmp_path, monkeypatch, capsys):
    # A guest that is up may be one with icount.
    monkeypatch.setattr(instances, "STATE", tmp_path)
    monkeypatch.setattr(measuring, "attach", lambda name, provider: None)
    assert command.main(["--attach"]) == 125
    said = capsys.readouterr().err
    assert "is up without --icount: take it down, and run `python -m provisioning up" in said


def test_every_name_of_the_tables_is_used():
    for capture in CAPTURES.values():
        assert set(capture.only) <= set(WORKLOADS)
        assert not capture.command or capture.ready


def test_the_time_of_each_program_counts_once(tmp_path, monkeypatch):
    for pid, files in {7: ("3", "4", "5"), 8: ("3",)}.items():
        task = tmp_path / str(pid)
        (task / "fdinfo").mkdir(parents=True)
        (task / "stat").write_text(f"{pid} (x) S {'1' if pid == 7 else '7'} 0\n")
        for number in files:
            # Descriptor 3 of both processes is the same program; 5 is none.
            said = f"pos:\t0\nprog_id:\t{number}\nrun_time_ns:\t{number}00\nrun_cnt:\t2\n"
            (task / "fdinfo" / number).write_text("pos:\t0\n" if number == "5" else said)
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert processes.programs_time(7) == 700
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "stat").write_text("9 (x) S 1 0\n")
    assert processes.programs_time(9) is None

# SPDX-License-Identifier: Apache-2.0
"""Verdicts as JUnit XML, a test case for each assertion.

There is no standard. This satisfies the strictest schema in use (all attributes, this order of
elements), and so all others.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from datetime import datetime, timezone
from xml.etree import ElementTree as ET

from profiler.exchanges.text import visible
from profiler.exchanges.verify import Verdict

_SUITE = "http-profiler"
# Characters that XML 1.0 cannot represent.
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdicts: Sequence[Verdict], notes: Sequence[str], seconds: float) -> bytes:
    """Return an XML document. ``notes`` are lines of its ``system-err``."""
    counts = {
        "tests": str(len(verdicts)),
        "failures": str(sum(verdict.failure is not None for verdict in verdicts)),
        "errors": "0",
        "time": f"{seconds:.3f}",
    }
    suites = ET.Element("testsuites", {"name": _SUITE, **counts})
    suite = ET.SubElement(
        suites,
        "testsuite",
        {
            "name": _SUITE,
            "package": _SUITE,
            "id": "0",
            # In UTC and without a zone, as the schemas require.
            "timestamp": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S}",
            "hostname": _text(socket.gethostname() or "localhost"),
            "skipped": "0",
            **counts,
        },
    )
    ET.SubElement(suite, "properties")
    for verdict in verdicts:
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "name": _text(visible(verdict.text)),
                "classname": f"{_SUITE}.{verdict.kind}",
                "time": "0",
            },
        )
        if verdict.failure is not None:
            kind = "unproven" if verdict.unproven else "assertion"
            failure = ET.SubElement(
                case, "failure", {"message": _text(verdict.failure), "type": kind}
            )
            failure.text = _text("\n".join(verdict.lines()))
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err").text = _text("\n".join(notes))
    ET.indent(suites)
    document: bytes = ET.tostring(suites, "utf-8", xml_declaration=True)
    return document + b"\n"


def _text(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)

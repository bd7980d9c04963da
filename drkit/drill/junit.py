"""A drill's result as JUnit XML, which every CI shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct


class Case(Struct, frozen=True):
    """One test case: what was tested, where, how long it took, and why it failed, or nothing."""

    name: str
    group: str
    seconds: float
    failure: str = ""


def encode(suite: str, cases: Sequence[Case], at: datetime) -> bytes:
    """Return a JUnit document of one suite. Characters that XML cannot have come out escaped."""
    from xml.etree import ElementTree as ET

    totals = {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure) for case in cases)),
        "errors": "0",
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }
    root = ET.Element("testsuites", totals)
    stamp = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    node = ET.SubElement(root, "testsuite", {"name": suite, **totals, "skipped": "0", "timestamp": stamp})
    for case in cases:
        attributes = {"name": _legal(case.name), "classname": _legal(case.group), "time": f"{case.seconds:.3f}"}
        child = ET.SubElement(node, "testcase", attributes)
        if case.failure:
            text = _legal(case.failure)
            ET.SubElement(child, "failure", {"message": text, "type": "DrillFailed"}).text = text
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _legal(text: str) -> str:
    """Return text with everything that is not printable escaped, for which XML has no way of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

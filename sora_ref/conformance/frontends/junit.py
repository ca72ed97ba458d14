"""A run as JUnit's XML: a test case for every check."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from sora_ref.conformance.engine.outcome import Report
from sora_ref.conformance.frontends.text import badge, missing, outcome_lines
from sora_ref.conformance.protocol.implementation import Implementation

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(report: Report, implementation: Implementation, address: str = "") -> bytes:
    """JUnit's XML: a test case for every check."""
    counts = report.counts()
    suite = ElementTree.Element(
        "testsuite",
        name=_text(f"SoRA {report.spec_version}, {report.name}"),
        tests=str(len(report.outcomes)),
        failures=str(counts["failed"] + counts["deviates"] + counts["xpassed"]),
        errors="0",
        skipped=str(counts["skipped"] + counts["xfailed"]),
        time=f"{sum(each.seconds for each in report.outcomes):.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts: dict[str, object] = {
        "specification": report.targets,
        "level": report.level,
        "dtype": report.dtype,
        "rule": report.choices,
    }
    facts |= {"precision": report.precision, "seed": report.seed, "max_examples": report.max_examples}
    for name, value in (facts | {"badge": badge(report) or "", "missing": missing(report)}).items():
        ElementTree.SubElement(properties, "property", name=name, value=_text(str(value)))
    for each in report.outcomes:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_text(address.replace(":", ".") or type(implementation).__name__),
            name=each.check.id,
            time=f"{each.seconds:.3f}",
        )
        if each.status in ("skipped", "xfailed"):
            reason = each.reason if each.status == "skipped" else f"expected failure: {each.reason}"
            ElementTree.SubElement(case, "skipped", message=_text(reason))
        elif each.status != "passed":
            told = each.refusal.sentence if each.refusal else each.reason
            told = f"passes, though it was expected not to: {told}" if each.status == "xpassed" else told
            failure = ElementTree.SubElement(case, "failure", message=_text(told), type=each.status)
            failure.text = _text("\n".join(outcome_lines(each, report.seed, report.max_examples)))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _text(text: str) -> str:
    """Without the characters that XML has not got."""
    return _NOT_IN_XML.sub("�", text)

"""What a check says: findings with a severity, a file and, where there is one, a way to mend it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
_ORDER: dict[str, int] = {"error": 0, "warning": 1, "note": 2}
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class Finding:
    """One thing found: `error` means it must not be used, `warning` that it may surprise, `note` is information.

    `file` is relative to what was checked ("" for the whole); `fix` says how it can be mended, None where it cannot.
    """

    severity: Severity
    code: str
    file: str
    message: str
    fix: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain JSON data."""
        return {
            "severity": self.severity,
            "code": self.code,
            "file": self.file,
            "message": self.message,
            "fix": self.fix,
        }


@dataclass(frozen=True)
class Report:
    """What a path is, what was found in it (errors first) and the facts that were read on the way."""

    kind: str
    path: Path
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid use."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON data."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "ok": self.ok,
            "findings": [finding.as_dict() for finding in self.findings],
            "facts": self.facts,
        }


def make_report(kind: str, path: Path, findings: Iterable[Finding], facts: dict[str, Any] | None = None) -> Report:
    """A report with its findings in order: errors, warnings, notes; within one severity by file."""
    ordered = sorted(findings, key=lambda finding: (_ORDER[finding.severity], finding.file, finding.code))
    return Report(kind, path, tuple(ordered), facts or {})


def shown(text: object, limit: int = 120) -> str:
    """Text from a foreign file, made fit for a line: control characters replaced, cut to `limit` characters."""
    clean = "".join(char if char.isprintable() else "?" for char in str(text))
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def some(names: Iterable[object]) -> str:
    """The first few names and how many more there are, for a message."""
    listed = list(names)
    head = ", ".join(shown(name) for name in listed[:_SHOWN_NAMES])
    rest = len(listed) - _SHOWN_NAMES
    return f"{head} and {rest} more" if rest > 0 else head

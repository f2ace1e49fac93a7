"""An audit's findings, gathered: 300 tensors with the same remark are one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from apex_native.plan import Finding, FindingKind, Severity

__all__ = ["FindingGroup", "group_findings"]

_ORDER = (Severity.BLOCKING, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """A finding about the plan as a whole, or all findings of one kind about tensors."""

    kind: FindingKind
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """The severity of the kind."""
        return self.kind.severity

    def line(self) -> str:
        """The first finding in full and how many more there are."""
        first = self.findings[0]
        text = f"{first.tensor}: {first.message}" if first.tensor else first.message
        more = len(self.findings) - 1
        return f"{text} (and {more} more of this kind)" if more else text


def group_findings(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    """Groups in the audit's order, the most severe first."""
    members: dict[tuple[FindingKind, str], list[Finding]] = {}
    for finding in findings:
        key = (finding.kind, "" if finding.tensor else finding.message)
        members.setdefault(key, []).append(finding)
    groups = [FindingGroup(kind, tuple(group)) for (kind, _), group in members.items()]
    return tuple(sorted(groups, key=lambda group: _ORDER.index(group.severity)))

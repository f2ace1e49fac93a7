"""What the memory limit of a container, a job or a service leaves this process: control groups.

Linux counts a group's memory beside the machine's: where a limit is lower than what is free, the
process is ended at the limit while /proc/meminfo still tells of room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["memory_below_limits", "text_of"]


@dataclass(frozen=True, slots=True)
class _Interface:
    """Names of a version's files; the second version's are cgroup-v2.rst's, section "Memory"."""

    limit: str
    usage: str
    file_cache: tuple[str, ...]
    """Lines of memory.stat: what the kernel gives back before it ends anybody."""


_VERSIONS = {
    "cgroup": _Interface(
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
    "cgroup2": _Interface("memory.max", "memory.current", ("active_file", "inactive_file")),
}


def memory_below_limits(proc: Path = Path("/proc/self")) -> int | None:
    """Bytes until the first limit of this process's groups; None where none of them has one.

    Files kept in memory count as free, as /proc/meminfo's MemAvailable counts them. proc: the
    folder that describes the process. Nothing is raised: what cannot be read sets no limit.
    """
    rooms = [
        room
        for interface, folder, top in _groups(proc)
        for group in (folder, *folder.parents)
        if group == top or top in group.parents
        if (room := _room(group, interface)) is not None
    ]
    return min(rooms, default=None)


def _groups(proc: Path) -> Iterator[tuple[_Interface, Path, Path]]:
    """The group of this process in every mounted hierarchy that counts memory, and its top."""
    paths = dict(_paths(text_of(proc / "cgroup")))
    for line in text_of(proc / "mountinfo").splitlines():
        # proc_pid_mountinfo(5): root and mount point are fields 4 and 5; the type follows " - ".
        mount, _, kind = line.partition(" - ")
        fields, kinds = mount.split(), kind.split()
        if len(fields) < 5 or len(kinds) < 3 or kinds[0] not in _VERSIONS:
            continue
        if kinds[0] == "cgroup" and "memory" not in kinds[2].split(","):
            continue
        top = Path(fields[4])
        yield _VERSIONS[kinds[0]], top / _below(paths.get(kinds[0], "/"), fields[3]), top


def _paths(text: str) -> Iterator[tuple[str, str]]:
    """Kind of hierarchy and the process's path in it, by the lines of /proc/PID/cgroup."""
    for line in text.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            yield "cgroup2", path
        elif "memory" in controllers.split(","):
            yield "cgroup", path


def _below(path: str, root: str) -> str:
    """The part of a group's path below what is mounted: in a container, often its own group."""
    inside = Path(path)
    try:
        return str(inside.relative_to(root))
    except ValueError:
        return "."


def _room(group: Path, interface: _Interface) -> int | None:
    limit, usage = (
        text_of(group / interface.limit).strip(),
        text_of(group / interface.usage).strip(),
    )
    if not (limit.isdecimal() and usage.isdecimal()):
        return None  # "max", or the root, which has no such file
    statistics = dict(line.split()[:2] for line in text_of(group / "memory.stat").splitlines())
    cache = sum(int(statistics.get(name, 0)) for name in interface.file_cache)
    return max(0, int(limit) - max(0, int(usage) - cache))


def text_of(path: Path) -> str:
    """The file's text, empty where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""

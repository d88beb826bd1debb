"""What a disk may hold after a power cut: only what an fsync covered is certain, the rest is there or not, in any order.

A file's bytes are certain after an fsync of the file, a name (made, moved or removed) after an fsync of its folder. A
rename is one act: it is there as a whole or not at all.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EXTREMES = 3  # disk 0 lost all that was not certain, 1 has all names and no data, 2 has everything; others are drawn


@dataclass(slots=True, eq=False)
class _Node:
    """A file, folder or link: what is certain of it, and the writes that are not."""

    kind: str
    mode: int = 0o644
    mtime_ns: int = 0
    content: bytes = b""
    entries: dict[str, _Node] = field(default_factory=dict)  # as the program sees them
    certain: dict[str, _Node] = field(default_factory=dict)
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Naming:
    """An act on names: all of it is on the disk, or nothing."""

    parts: list[tuple[_Node, str, _Node | None]]


class Disk:
    """The folder of a run before and during its processing.

    Args:
        root: the folder; what lies in it now is certain.
    """

    def __init__(self, root: Path) -> None:
        self._root_path = str(root)
        self._inodes: dict[int, _Node] = {}
        self._namings: list[_Naming] = []
        self._root = self._read(root)

    def _read(self, path: Path) -> _Node:
        stat = path.lstat()
        if stat.st_ino in self._inodes:
            return self._inodes[stat.st_ino]
        if path.is_symlink():
            node = _Node(kind="link", content=os.fsencode(os.readlink(path)))
        elif path.is_dir():
            node = _Node(kind="folder")
            node.entries = {each.name: self._read(each) for each in path.iterdir()}
            node.certain = dict(node.entries)
        else:
            node = _Node(kind="file", content=path.read_bytes())
        node.mode, node.mtime_ns = stat.st_mode & 0o7777, stat.st_mtime_ns
        self._inodes[stat.st_ino] = node
        return node

    def _place(self, path: str) -> tuple[_Node, str]:
        """The folder of a path, and the name in it."""
        *folders, name = os.path.relpath(path, self._root_path).split("/")
        node = self._root
        for each in folders:
            node = node.entries[each]
        return node, name

    def _node(self, path: str) -> _Node:
        if path == self._root_path:
            return self._root
        folder, name = self._place(path)
        return folder.entries[name]

    def _name(self, *parts: tuple[_Node, str, _Node | None]) -> None:
        for folder, name, node in parts:
            if node is None:
                folder.entries.pop(name, None)
            else:
                folder.entries[name] = node
        self._namings.append(_Naming(list(parts)))

    def replay(self, log: Path) -> None:
        """Take in what the program did."""
        for op, inode, a, b, one, two, data in _records(log):
            match op:
                case "create":
                    self._inodes[inode] = _Node(kind="file", mode=a)
                    self._name((*self._place(one), self._inodes[inode]))
                case "write" | "truncate":
                    if inode in self._inodes:  # else it was open before, such as a log on another disk
                        self._inodes[inode].pending.append((op, a, data))
                case "fsync":
                    if inode in self._inodes:
                        self._settle(self._inodes[inode])
                case "fsyncdir":
                    self._certain_names(self._node(one))
                case "mkdir":
                    self._name((*self._place(one), _Node(kind="folder", mode=0o755)))
                case "unlink":
                    self._name((*self._place(one), None))
                case "rename":
                    node = self._node(one)
                    self._name((*self._place(one), None), (*self._place(two), node))
                case "exchange":
                    first, second = self._node(one), self._node(two)
                    self._name((*self._place(one), second), (*self._place(two), first))
                case "link":
                    self._name((*self._place(two), self._node(one)))
                case "symlink":
                    self._name((*self._place(two), _Node(kind="link", content=os.fsencode(one))))
                case "chmod":
                    self._node(one).mode = a
                case "utime":
                    self._node(one).mtime_ns = a * 10**9 + b

    def _settle(self, node: _Node) -> None:
        for each in node.pending:
            node.content = _applied(node.content, *each)
        node.pending.clear()

    def _certain_names(self, folder: _Node) -> None:
        """Put on the disk what was done in a folder; of a move between folders both ends, as a journal does."""
        left = []
        for naming in self._namings:
            if any(of is folder for of, *_ in naming.parts):
                _apply(naming)
            else:
                left.append(naming)
        self._namings = left

    def write(self, root: Path, *, seed: int) -> None:
        """Write one of the disks that there may be after the cut; another call may write another.

        Args:
            root: where; it does not exist.
            seed: which one.
        """
        generator = random.Random(seed)
        known = [(folder, dict(folder.certain)) for naming in self._namings for folder, *_ in naming.parts]
        extreme = seed if seed < _EXTREMES else None
        for naming in self._namings:
            if extreme in {1, 2} or (extreme is None and generator.random() < 1 / 2):
                _apply(naming)
        kept = 1.0 if extreme == 2 else 0.0 if extreme in {0, 1} else None
        written: dict[int, Path] = {}

        def put(node: _Node, path: Path) -> None:
            if id(node) in written:
                os.link(written[id(node)], path)
            elif node.kind == "link":
                path.symlink_to(os.fsdecode(node.content))
            elif node.kind == "folder":
                path.mkdir()
                for name, each in node.certain.items():
                    put(each, path / name)
                path.chmod(node.mode or 0o755)
                os.utime(path, ns=(node.mtime_ns, node.mtime_ns)) if node.mtime_ns else None
            else:
                content = node.content
                for each in node.pending:
                    if generator.random() < (1 / 2 if kept is None else kept):
                        content = _applied(content, *each)
                path.write_bytes(content)
                path.chmod(node.mode)
                os.utime(path, ns=(node.mtime_ns, node.mtime_ns)) if node.mtime_ns else None
                written[id(node)] = path

        put(self._root, root)
        for folder, certain in known:
            folder.certain = certain


def _apply(naming: _Naming) -> None:
    for folder, name, node in naming.parts:
        if node is None:
            folder.certain.pop(name, None)
        else:
            folder.certain[name] = node


def _applied(content: bytes, op: str, at: int, data: bytes) -> bytes:
    if op == "truncate":
        return content[:at].ljust(at, b"\0")
    return content[:at].ljust(at, b"\0") + data + content[at + len(data) :]


def _records(log: Path) -> Iterator[tuple[str, int, int, int, str, str, bytes]]:
    content = log.read_bytes()
    at = 0
    while at < len(content):
        end = content.index(b"\n", at)
        op, *numbers = content[at:end].split()
        inode, a, b, first, second, size = map(int, numbers)
        at = end + 1
        one, two = content[at : at + first], content[at + first : at + first + second]
        at += first + second + size
        yield op.decode(), inode, a, b, os.fsdecode(one), os.fsdecode(two), content[at - size : at]

"""The fault injector: compiled on the spot, preloaded, and armed in a forked child."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
ENVIRONMENT = "RNA_WATCH_TORTURE"
COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL = range(5)
ANY, CHANGES = range(2)
ACTS = {
    COUNT: "counted",
    KILL_BEFORE: "killed before",
    KILL_AFTER: "killed after",
    KILL_HALF: "killed half way",
    FAIL: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the injector does: at call number `at` (of those that are counted) it acts; failures last for `times` calls."""

    act: int = COUNT
    counted: int = ANY
    at: int = -1
    error: int = 0
    times: int = 1

    def __str__(self) -> str:
        kind = "change" if self.counted == CHANGES else "call"
        if self.act != FAIL:
            return f"{ACTS[self.act]} {kind} {self.at}"
        return f"{kind} {self.at} and {self.times - 1} more failed with {os.strerror(self.error)}"


def compiler() -> str | None:
    """The C compiler of this machine, if there is one."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build(folder: Path) -> Path:
    """Compile the injector."""
    library = folder / "torture.so"
    found = compiler()
    assert found is not None
    given = [found, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(given, check=True)
    return library


def arm(order: Order, root: Path, counter: Path, *, log: Path | None = None, names: Path | None = None) -> None:
    """Begin to count and act in this process, which was started with the injector preloaded.

    Args:
        order: what to do.
        root: calls on what lies below it count; a real path.
        counter: a file for the counter.
        log: where to record all changes with their data.
        names: where to record the calls by name.
    """
    texts = [os.fsencode(each) if each else b"" for each in (root, counter, log, names)]
    numbers = [order.counted, order.act, order.at, order.error, order.times]
    library = ctypes.CDLL(None)
    arguments = [*texts, *map(ctypes.c_int, numbers[:2]), ctypes.c_long(order.at), ctypes.c_int(order.error)]
    if library.torture_arm(*arguments, ctypes.c_long(order.times)):
        raise OSError("the injector cannot be armed")


def environment(order: Order, root: Path, counter: Path) -> dict[str, str]:
    """What arms the children that execute another program."""
    numbers = (order.counted, order.act, order.at, order.error, order.times)
    return {ENVIRONMENT: "\t".join(map(str, (root, counter, "", "", *numbers)))}


def calls(counter: Path) -> tuple[int, bool]:
    """How many calls were counted, and whether the act took place."""
    content = counter.read_bytes()
    return int.from_bytes(content[:8], "little"), bool(int.from_bytes(content[8:16], "little"))

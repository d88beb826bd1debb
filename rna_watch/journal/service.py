"""Signs of life for a service manager: systemd's notifications, as sd_notify(3) describes them."""

from __future__ import annotations

import contextlib
import os
import socket


def tell(state: str) -> None:
    """Tell the service manager that this process lives and is ready, or that it ends; nothing where there is none.

    Args:
        state: what the heartbeat says; "stopped" at the end.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    words = "STOPPING=1" if state == "stopped" else f"READY=1\nWATCHDOG=1\nSTATUS={state}"
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.sendto(words.encode(), address)

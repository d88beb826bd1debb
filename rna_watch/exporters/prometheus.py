"""The Prometheus exporter: a text file for the node exporter's textfile collector, and an endpoint on the loopback address.

The format is text 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from typing import TYPE_CHECKING

from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rna_watch.exporters.rows import Row
    from rna_watch.exporters.target import Target

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HELP = {
    "rna_watch_checkpoints": ("gauge", "Checkpoints of the run by their state."),
    "rna_watch_problems": ("gauge", "Problems that a person should look at."),
    "rna_watch_step": ("gauge", "Step of the newest checkpoint that is done."),
    "rna_watch_saved_seconds": ("gauge", "When the training wrote it, seconds since 1970."),
    "rna_watch_metric": ("gauge", "The newest metrics: of the original, of the best average, of the chosen model."),
    "rna_watch_gain": ("gauge", "Gain of the newest chosen model over its original, positive if better."),
    "rna_watch_significant": ("gauge", "Whether that gain is beyond noise."),
    "rna_watch_best": ("gauge", "The metric of the best model."),
    "rna_watch_read_bytes_total": ("counter", "Bytes of checkpoints that were read."),
    "rna_watch_written_bytes_total": ("counter", "Bytes of models that were written."),
}


class Prometheus:
    """Writes FOLDER/rna-watch.prom, and answers on 127.0.0.1 if a port is given.

    Args:
        target: where it goes.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.path: Path = target.folder / "rna-watch.prom"
        self._text = b""
        self._server: http.server.ThreadingHTTPServer | None = None
        if target.port is not None:
            self._server = self._serve(target.port)

    @property
    def port(self) -> int | None:
        """The port of the endpoint."""
        return self._server.server_address[1] if self._server is not None else None

    def _serve(self, port: int) -> http.server.ThreadingHTTPServer:
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """Answers every request for /metrics with the newest text."""

            def do_GET(self) -> None:
                """One scrape."""
                known = self.path.partition("?")[0] == "/metrics"
                content = exporter._text if known else b"/metrics\n"
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def write(self, rows: Sequence[Row]) -> None:
        """Replace the text: the newest row of each series, and the state of the run.

        Raises:
            OSError: it cannot be written.
        """
        self._text = self._lines(rows).encode(errors="backslashreplace")
        with disk.replacing(self.path, durable=False) as temporary:
            disk.write_new(temporary, self._text)

    def _lines(self, rows: Sequence[Row]) -> str:
        state, run = self._target.state(), {"run": str(self._target.run)}
        found: dict[str, list[str]] = {name: [] for name in _HELP}

        def add(name: str, value: float, **labels: str) -> None:
            found[name].append(f"{name}{_labels(run | labels)} {value!r}")

        for stage, count in sorted(Counter(str(each.stage) for each in list(state.checkpoints.values())).items()):
            add("rna_watch_checkpoints", count, state=stage)
        add("rna_watch_problems", len(state.problems))
        add("rna_watch_read_bytes_total", state.read_bytes)
        add("rna_watch_written_bytes_total", state.written_bytes)
        for series, best in state.bests.items():
            add("rna_watch_best", best.moved.value, series=series)
        for series, row in {row.series: row for row in rows}.items():
            add("rna_watch_step", row.step, series=series)
            add("rna_watch_saved_seconds", row.saved, series=series)
            for name, value in row.values.items():
                model, _, metric = name.partition("/")
                if metric:
                    add("rna_watch_metric", value, series=series, model=model, metric=metric)
                elif f"rna_watch_{name}" in _HELP:
                    add(f"rna_watch_{name}", value, series=series)
        lines = []
        for name, (kind, words) in _HELP.items():
            if found[name]:
                lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *found[name]]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """End the endpoint."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _labels(labels: Mapping[str, str]) -> str:
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"

"""The events of a run, a public format: one JSON object per line, whose `kind` names a class of this module.

Every line also has `v` (the format's version), `seq`, `time` (seconds since 1970) and `crc` (CRC-32 of the line without
it). Readers skip kinds that they do not know, so that kinds may be added. A field is never renamed or given another
meaning under one version. A `checkpoint` is the name of an iterate, unique in its run: its path relative to the run
directory, with the step added if the trainer rewrites that file (`last.step500.pt`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from rna_watch.journal.event import Event as Event  # noqa: PLC0414 - readers find all of the format here
from rna_watch.journal.event import Metrics as Metrics  # noqa: PLC0414
from rna_watch.journal.notices import Hooked as Hooked  # noqa: PLC0414
from rna_watch.journal.notices import Noted as Noted  # noqa: PLC0414
from rna_watch.journal.notices import Problem as Problem  # noqa: PLC0414
from rna_watch.journal.notices import Solved as Solved  # noqa: PLC0414


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """A daemon (or `once`) took the run's lock; `evaluator_digest` is of the evaluator's file, or of those its command names."""

    kind: ClassVar[str] = "started"
    host: str
    pid: int
    version: str
    run: str
    output: str
    engine: str
    evaluator: str | None
    settings: dict[str, Any]
    evaluator_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """The daemon ended in an orderly way."""

    kind: ClassVar[str] = "stopped"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """A file looks like a checkpoint but is not complete; it is probed again."""

    kind: ClassVar[str] = "waiting"
    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A file cannot be used, and why."""

    kind: ClassVar[str] = "refused"
    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanished(Event):
    """A file that was seen is gone before it could be used (retention, or a temporary name)."""

    kind: ClassVar[str] = "vanished"
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aliased(Event):
    """A file is another name of a checkpoint that is already known."""

    kind: ClassVar[str] = "aliased"
    checkpoint: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted(Event):
    """A checkpoint is complete, identified, and pinned (`pin`: how; `pin_path`: relative to the output folder).

    `counters` are the step and epoch in the file, `told` what told its step, `left_out` why settings keep it from windows.
    `learning_rate` is the largest of its optimizer's, 0 if it is not known.
    """

    kind: ClassVar[str] = "admitted"
    checkpoint: str
    path: str
    step: int
    step_kind: str
    format: str
    source: str
    size_bytes: int
    parameters: int
    fingerprint: str
    inode: int
    mtime_ns: int
    pin: str
    pin_path: str
    series: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    told: str = ""
    left_out: str = ""
    learning_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread(Event):
    """More names, or what the files hold, gave a checkpoint another series or step; windows are broken anew."""

    kind: ClassVar[str] = "reread"
    checkpoint: str
    series: str
    step_kind: str
    step: int
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStarted(Event):
    """The history before this checkpoint (up to the last, `after`, if that is named) is not used with it, and why."""

    kind: ClassVar[str] = "window_started"
    checkpoint: str
    reason: str
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated(Event):
    """All combined tensors of this checkpoint equal those of an earlier one, bit for bit: they count once in a window."""

    kind: ClassVar[str] = "repeated"
    checkpoint: str
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Event):
    """Inner products of residuals: the last rows of the window's Gram matrix (one row if the others were known).

    `residuals` names them, oldest first, as pairs [older, newer] of checkpoints. `rows[-1][j]` is <r_N, r_j>, `rows[-2][j]`
    is <r_{N-1}, r_j>, and so on. `rounding_energy` is sum(eps^2 x^2) over the newest parameters. Residuals are plain
    differences of checkpoints. `form` names another kind that was measured in the same pass, if any; `form_rows` and
    `form_energy` are its rows and rounding energy. `ignored` are the tensors that were left out, and `inputs` the keys of
    the K models (0.1.0 wrote none). `matrices` has for each row the squared norms of the older checkpoint, the newer one and
    their difference, over the first 8,192 elements of each weight matrix.
    """

    kind: ClassVar[str] = "measured"
    checkpoint: str
    residuals: list[list[str]]
    rows: list[list[float]]
    rounding_energy: float
    read_bytes: int
    seconds: float
    form: str = ""
    form_rows: list[list[float]] = field(default_factory=list)
    form_energy: float = 0.0
    ignored: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    matrices: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched(Event):
    """The family of this window: what is evaluated (`candidates`: name, recipe, weights, sentence).

    A recipe is method, window, regularization, parameters and statistics (journals of 0.1.0 lack the last two).
    `duplicates` names members whose model is that of another one, and `twins` are their names and recipes. `left_out` are
    the members beyond the number that may be evaluated. `residuals` is the form of the residuals. `notes` says what was
    not done, and why.
    """

    kind: ClassVar[str] = "searched"
    checkpoint: str
    residuals: str
    candidates: list[dict[str, Any]]
    duplicates: dict[str, str]
    left_out: list[str]
    notes: list[str]
    twins: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened(Event):
    """A cheap first round on a part of the data gave these metrics for one candidate; they never choose the model.

    `model` tells the model from others of its name, as in `Evaluated`.
    """

    kind: ClassVar[str] = "screened"
    checkpoint: str
    candidate: str
    fraction: float
    metrics: Metrics
    seconds: float
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """The user's evaluator gave these metrics for one candidate (`last` is the original).

    `examples` is the number of per-example values of the choosing metric, `loss` the per-example loss beside it that ranks
    candidates ("": none). `recipe` is the candidate's, as in `Searched`. `training` says how it was trained, where it is no
    combination: the keys of its manifest from `start` to `digest`.
    """

    kind: ClassVar[str] = "evaluated"
    checkpoint: str
    candidate: str
    metrics: Metrics
    seconds: float
    examples: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    loss: str = ""
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChosen(Event):
    """Models are chosen by this metric in this direction (`mode`: min, max, or "" if it is not known) from now on."""

    kind: ClassVar[str] = "metric_chosen"
    metric: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFailed(Event):
    """The user's evaluator raised, timed out or returned something unusable."""

    kind: ClassVar[str] = "evaluation_failed"
    checkpoint: str
    candidate: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen(Event):
    """The candidate that was chosen for this window, what it was compared with, and the reason in one sentence.

    `residuals` is the form of the residuals, `diagnostics` are those of the manifest. `comparisons` has each step of the
    choice: candidate, reference, gain, standard_error or null, threshold, accepted. `tested_on` is the metric, or the loss,
    in which `significant` was found, "" where that is null. Where weights differ from tensor to tensor, `weights` are their
    mean over elements and `spread` their standard deviation.
    """

    kind: ClassVar[str] = "chosen"
    checkpoint: str
    candidate: str
    method: str
    inputs: list[str]
    weights: list[float]
    metrics: dict[str, Metrics | None]
    better_than_original: bool | None
    significant: bool | None
    reason: str
    residuals: str = ""
    diagnostics: dict[str, Any] = field(default_factory=dict)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    tested_on: str = ""
    spread: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing(Event):
    """An output is about to be written: its path and the temporary path in the output tree (`rna`), the manifest's digest."""

    kind: ClassVar[str] = "publishing"
    checkpoint: str
    output: str
    temporary: str
    manifest_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    """An output is whole, under its final name, with its manifest; `found`: it lay there, and no journal told of it."""

    kind: ClassVar[str] = "published"
    checkpoint: str
    output: str
    written_bytes: int
    seconds: float
    found: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenUp(Event):
    """Work on a checkpoint that was done begins again: `make` its model anew, or `evaluate` what is there as it is."""

    kind: ClassVar[str] = "taken_up"
    checkpoint: str
    how: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left(Event):
    """Work that was taken up ended, and what was there before stays as it is, and why."""

    kind: ClassVar[str] = "left"
    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """Work on this checkpoint ended without an output, and why (first of a window, not better, ...)."""

    kind: ClassVar[str] = "finished"
    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped(Event):
    """This checkpoint is left out of every window, and why; `for_now`: for lack of time, and taken up when there is some."""

    kind: ClassVar[str] = "skipped"
    checkpoint: str
    reason: str
    for_now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """Work on this checkpoint failed on our side or on the disk's; `will_retry` says whether it is tried again."""

    kind: ClassVar[str] = "failed"
    checkpoint: str
    reason: str
    will_retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BestMoved(Event):
    """`best` names another output: it beats every original and every output before it."""

    kind: ClassVar[str] = "best_moved"
    checkpoint: str
    output: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BestWithdrawn(Event):
    """`best` names nothing any more: the present evaluator or metric does not say that its model is the best, and why."""

    kind: ClassVar[str] = "best_withdrawn"
    checkpoint: str
    output: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned(Event):
    """An output was removed to bound their number."""

    kind: ClassVar[str] = "pruned"
    checkpoint: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpinned(Event):
    """The window store removed a checkpoint's bytes, and why (out of the window, byte budget)."""

    kind: ClassVar[str] = "unpinned"
    checkpoint: str
    reason: str

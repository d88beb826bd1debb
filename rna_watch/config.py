"""The settings: each has one name in the command line, the YAML file and here, a default and a meaning."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rna_watch.acceleration.methods import METHODS, PRIORS, USUAL, Search
from rna_watch.errors import UsageError
from rna_watch.exporter_names import EXPORTERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MethodName = str
    PriorName = str
    ExporterName = str
else:
    MethodName = Literal[tuple(METHODS)]
    ExporterName = Literal[EXPORTERS]
    PriorName = Literal[tuple(PRIORS)]

Positive = Annotated[int, Field(ge=1)]
_UNUSUAL = ", ".join(name for name in METHODS if name not in USUAL)
_SEARCHED = ", ".join(name for name, method in METHODS.items() if not method.weights and not method.solve)
# retired settings: they are accepted and have no effect; the sentence says what holds instead
RETIRED = {
    "averages": "the lengths in `windows` are those of averages too, and without it 3, 5, 10 and 15 are tried",
    "incomplete_after": "an incomplete file is reported after twice the longest time that one took to be written, at least 10 s",
    "memory_budget": "a worker's block buffers take 64 MiB",
    "trained_steps": "weights are trained in 3 rounds of 8 batches",
}
ENDS = ("until_idle", "last_step", "with_pid")  # settings that end the daemon with the training; only for `start`
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
# settings by the names that they had before, which are still accepted
RENAMED = {"ema_decay": "ema_decays", "export": "serving_copy", "trained_memory": "fit_memory"}


def _one_group(pattern: str) -> str:
    try:
        groups_in = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"that is no regular expression: {error}") from error
    if groups_in != 1:
        raise ValueError(f"it needs one group, the step, and has {groups_in}: write such as 'epoch_(\\d+)'")
    return pattern


def _listed(value: Any) -> Any:
    """One number as a list of it, as `ema_decay` was given."""
    if isinstance(value, str):
        return value.split(",")
    return (value,) if isinstance(value, int | float) else value


def _seconds(value: Any) -> Any:
    """Seconds, of a number or of one with a unit: 90, 90s, 10m, 2h."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", value) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ValueError("that is no time: write such as 90, 90s, 10m or 2h")
    return float(match[1]) * _UNITS_S[match[2]] if match else value


# the headings of the settings, each with its first setting
GROUPS = {
    "what is computed": "window",
    "how models are judged": "evaluator",
    "what is written": "output",
    "how it runs": "engine",
    "what is watched": "patterns",
}
# the settings that most people need: `--help` shows these, `--help-all` all
COMMON = {
    *("window", "methods", "normalization"),
    *("evaluator", "evaluate_command", "metric", "mode"),
    *("output", "publish", "keep"),
    *("engine", "workers"),
}


class RunConfig(BaseModel):
    """All settings; none is needed to start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: Positive = Field(5, description="N, the number of residuals: the newest N + 1 checkpoints form the window.")
    windows: tuple[Positive, ...] = Field(
        (),
        description="Window lengths to try, each at most `window`; empty: `window` and half of it, and for uniform averages 3, "
        "5, 10 and 15 too.",
    )
    regularizations: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (1e-8, 1e-4, 1e-2), description="Lambdas to try, relative to the norm of the Gram matrix; 0: none at all."
    )
    methods: tuple[MethodName, ...] = Field(USUAL, description=f"Kinds of combinations to try; also: {_UNUSUAL}.")
    priors: tuple[PriorName, ...] = Field(
        ("uniform",), description=f"What RNA tends to as lambda grows: {', '.join(PRIORS)}."
    )
    mixings: tuple[float, ...] = Field(
        (1.0,), description="Mixing: 1 combines the newer ends of the intervals, 0 the older ones."
    )
    ema_decays: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = Field(
        (0.5, 0.7, 0.85),
        description="A checkpoint's weight in an exponential average, relative to the next newer one's; RNA's prior `ema` "
        "has the middle one.",
    )
    l1_cap: Annotated[float, Field(ge=1)] = Field(2.0, description="The most that the sum of |c| may be in capped RNA.")
    max_candidates: Positive = Field(
        8,
        description=f"Most models of the family evaluated at a checkpoint, besides the original; {_SEARCHED} come on top.",
    )
    fit_memory: Annotated[float, Field(gt=0)] = Field(
        4.0, description="GiB that the models of a window may take in the evaluator while weights are fitted to a loss."
    )
    anneal_seconds: Annotated[float, Field(gt=0)] = Field(
        120.0,
        description="Seconds that all branches of `anneal` may take at a checkpoint; what takes longer is not begun.",
    )
    normalization: Literal["auto", "clamp", "combine", "re-estimate", "both"] = Field(
        "auto",
        description="Batch-norm statistics: combined and kept from going below zero, combined as in the paper, re-estimated "
        "by forward passes (of normalization or training_loss in the evaluator's file), or clamp and re-estimate both tried; "
        "auto: both where the evaluator's file allows it.",
    )
    residuals: Literal["auto", "gradient", "recorded", "learning-rate", "difference"] = Field(
        "auto", description="Form of the residuals; auto: the first of these that holds."
    )
    lr_saved: Literal["auto", "before", "after"] = Field(
        "auto", description="Whether checkpoints hold the learning rate from before or after the scheduler's step."
    )
    optimizer_order: Literal["auto", "state-dict", "matrices-first", "vectors-first"] = Field(
        "auto", description="How the optimizer's parameter groups list parameters, if neither names nor shapes show it."
    )
    learning_rate_jump: Annotated[float, Field(gt=1)] = Field(
        2.0, description="Ratio of successive learning rates from which on a new window begins (inf: never)."
    )

    one_run: bool = Field(
        False,
        description="Take all checkpoints of a sequence for one training, whatever their weights and counters say.",
    )

    evaluator: str | None = Field(
        None, description="FILE.py:function called with (state_dict, device); returns metrics."
    )
    evaluate_command: str | None = Field(
        None, description="Shell command with {checkpoint} in it that prints a JSON object of metrics."
    )
    metric: str | None = Field(None, description="The metric to choose by; the evaluator's first if not given.")
    choose_by: Literal["auto", "loss", "metric"] = Field(
        "auto",
        description="What ranks models and tests their gains: the metric, or a loss that the evaluator gives per example "
        "beside it (auto and loss: the loss where there is one), of which the best that is no worse by the metric is taken.",
    )
    mode: Literal["min", "max"] | None = Field(
        None,
        description="Whether the metric is minimized or maximized; told from whole words of its name if not given.",
    )
    first_round: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Part of the data for a cheap first round over three times as many candidates; none if not given.",
    )
    evaluators: Positive = Field(1, description="Models evaluated at a time, each in a process of its own.")
    minimum_gain: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Smallest gain over the original that counts as beyond noise, in the metric's units."
    )
    evaluation_timeout: Annotated[float, Field(gt=0)] = Field(600.0, description="Seconds for one evaluation.")
    evaluation_threads: Positive = Field(1, description="Threads of torch in the evaluator.")
    device: str = Field("cpu", description="The torch device that the evaluator gets.")
    gpus: Annotated[float, Field(ge=0)] = Field(
        0.0, description="GPUs that each evaluator gets from Ray; 0: it sees none."
    )

    output: str | None = Field(None, description="Folder for `rna` and `.rna-watch`; the run directory if not given.")
    allow_links: bool = Field(
        False,
        description="Accept `rna` and `.rna-watch` that are symbolic links, or another user's; links in them are followed.",
    )
    publish: Literal["always", "when-better"] = Field("always", description="Which chosen models are written.")
    keep: Positive = Field(5, description="Outputs kept: the best, and this many of the newest.")
    serving_copy: Literal["none", "safetensors"] = Field(
        "none", description="A plain copy for serving next to each model: NAME.export.safetensors, with bare names."
    )
    remote: str | None = Field(
        None,
        description="Address of the run in an object store (s3://BUCKET/RUN); it is fetched into RUN_DIR.",
    )
    exporters: tuple[ExporterName, ...] = Field(
        (), description="Tools that get the run's numbers as they come, below .rna-watch/exports; none if not given."
    )
    prometheus_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Port of 127.0.0.1 where the exporter `prometheus` answers too; none if not given."
    )
    optimizer_state: Literal["keep", "drop"] = Field(
        "keep",
        description="Whether a model in a torch file keeps the file's other content, or only counters and hyper-parameters.",
    )

    # how it runs
    engine: Annotated[
        Literal["auto", "local", "ray"], BeforeValidator(lambda name: "local" if name == "inline" else name)
    ] = Field(
        "auto",
        description="Where the bulk work runs: local, in processes of this machine, ray, or auto: local at once, and Ray as soon "
        "as it is up where it pays (`ray_address`, `gpus`, several `evaluators`, a window from `ray_from` on, if set).",
    )
    ray_address: str = Field("local", description="Address of a Ray cluster; `local` starts one of our own.")
    ray_from: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="GiB of a window's checkpoints from which Ray takes the work where nothing else decides; none: no size "
        "decides, as on one machine Ray does the same tasks later and no faster.",
    )
    workers: Annotated[int, Field(ge=0)] = Field(0, description="Tasks at a time; 0: one per core, at most 4.")

    on_model: str | None = Field(
        None,
        description="Shell command called for each published model, with its manifest as JSON on standard input and its path "
        "in $RNA_WATCH_MODEL; at most 10 minutes.",
    )
    on_best: str | None = Field(None, description="The same, called when `best` has moved.")
    until_idle: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] | None = Field(
        None,
        description="End, everything done, once no checkpoint came for so long: 90 or 90s, 10m, 2h (only `start`).",
    )
    last_step: Annotated[int, Field(ge=0)] | None = Field(
        None, description="End, everything done, once a checkpoint of this step or a later one is there (only `start`)."
    )
    with_pid: Positive | None = Field(
        None, description="End, everything done, once this process of this host has ended (only `start`)."
    )

    patterns: tuple[str, ...] = Field((), description="Glob patterns of checkpoint names; empty: the usual endings.")
    source: str | None = Field(
        None,
        description="Key path of the model inside a checkpoint, or several with commas, which are combined together; "
        "found if not given.",
    )
    ignore: tuple[str, ...] = Field(
        (),
        description="Glob patterns of whole names of tensors that are left out, and copied from the newest checkpoint.",
    )
    step: Annotated[str, AfterValidator(_one_group)] | None = Field(
        None,
        description="Regular expression whose one group is the step in a checkpoint's path, such as 'epoch_(\\d+)'.",
    )
    every: Positive = Field(1, description="Of each series, take each so many-th checkpoint.")
    first_step: Annotated[int, Field(ge=0)] | None = Field(None, description="Take checkpoints from this step on.")
    quiet: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Seconds a file must rest before it is read; 0.5, on network file systems 30."
    )
    scan_interval: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Seconds between scans of the folder; 1, on network file systems 10."
    )
    pin: Literal["auto", "link", "copy", "none"] = Field(
        "auto",
        description="How checkpoints are kept from the trainer's retention; auto: link numbered names, copy others.",
    )
    store_budget: Annotated[float, Field(gt=0)] = Field(
        200.0, description="GiB that pinned checkpoints may hold; the oldest are unpinned first, which is reported."
    )

    reserve: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="GiB left free for the training on the disk that we write to; auto: twice a checkpoint, 0: none. "
        "Checkpoints are unpinned below it, oldest first, and models wait.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_present_names(cls, values: Any) -> Any:
        return _renamed(values)

    def search(self, **others: Any) -> Search:
        """The search for the family of a window, by these settings, with `others` in their place."""
        names = {field.name for field in dataclasses.fields(Search)} & RunConfig.model_fields.keys()
        return Search(**{name: getattr(self, name) for name in names} | others)


def shape_of(name: str) -> str:
    """The values of a setting, as the help shows them: LIST, VALUE, or its words."""
    words: list[str] = []
    kinds: list[Any] = [RunConfig.model_fields[name].annotation]
    while kinds:
        kind = kinds.pop(0)
        if get_origin(kind) is tuple:
            return "LIST"
        if get_origin(kind) is Literal:
            words += get_args(kind)
        elif isinstance(kind, type) and kind is not type(None):
            words.append("VALUE")
        kinds += get_args(kind) if get_origin(kind) is not Literal else ()
    return "|".join(words)


def groups() -> dict[str, list[str]]:
    """The names of the settings below their headings."""
    found: dict[str, list[str]] = {}
    headings = {first: heading for heading, first in GROUPS.items()}
    heading = ""
    for name in RunConfig.model_fields:
        heading = headings.get(name, heading)
        found.setdefault(heading, []).append(name)
    return found


def load(path: Path | None, overrides: dict[str, Any], say: Callable[[str], None] | None = None) -> RunConfig:
    """The settings of a YAML file (if any) under those of the command line (those that are not None).

    Args:
        path: the file.
        overrides: settings of the command line, by name.
        say: called with a line for each retired setting.

    Raises:
        UsageError: the file cannot be read, a key is unknown (the near match is named), or a value is wrong.
    """
    values = _renamed(read_settings(path)) if path else {}
    where = str(path) if path else "the command line"
    known = RunConfig.model_fields
    for key in (*values, *overrides):
        if key not in known and key not in RETIRED and key not in RENAMED:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known are: {', '.join(known)}"
            raise UsageError(f"{where}: unknown setting '{key}'{hint}")
    values |= _renamed({key: value for key, value in overrides.items() if value is not None})
    for key in RETIRED.keys() & values.keys():
        del values[key]
        if say is not None:
            say(f"the setting '{key}' has no effect any more: {RETIRED[key]}")
    try:
        config = RunConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part == first["loc"][0] or isinstance(part, int))
        wanted = dict.fromkeys(
            each["msg"].removeprefix("Value error, ") for each in error.errors() if each["loc"][0] == first["loc"][0]
        )
        written = next((old for old, new in RENAMED.items() if new == key and overrides.get(old) is not None), key)
        raise UsageError(f"{where}: setting '{written}' is {first['input']!r}: {', or '.join(wanted)}") from error
    if config.evaluator and config.evaluate_command:
        raise UsageError("give either --evaluator or --evaluate-command, not both")
    if config.evaluate_command and "{checkpoint}" not in config.evaluate_command:
        raise UsageError("--evaluate-command must hold {checkpoint}, the place of the file to evaluate")
    return config


def _renamed(values: Any) -> Any:
    """Settings under the names that they have now; one that is given under both keeps the present name's value."""
    if not isinstance(values, dict):
        return values
    now = {RENAMED[key]: value for key, value in values.items() if key in RENAMED}
    return now | {key: value for key, value in values.items() if key not in RENAMED}


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML file of settings.

    Raises:
        UsageError: it cannot be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"the configuration {path} cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"the configuration {path} must be a mapping of settings, such as `window: 5`")
    return values


def as_json(config: RunConfig) -> dict[str, Any]:
    """The settings as JSON has them: an infinity is null, and a path need not be text."""
    return {name: _plain(value) for name, value in config.model_dump(mode="python").items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

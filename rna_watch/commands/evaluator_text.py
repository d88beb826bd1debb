"""The text of an evaluator for a run's trainer, and of the settings beside it; data is the one thing that a person fills in."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING

from rna_watch.formats import trainer_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.commands.training_script import Source
    from rna_watch.formats.trainer_record import Record

FILL_IN = "fill in the held-out data here"
_MOST_HINTS = 6
_STEPS = ("validation_step", "test_step")

_HEAD = '''"""How models of {run} are judged; written by `rna-watch init`, yours to change.

    rna-watch init {run}          run it once, on the newest checkpoint
    rna-watch start {run} --config {config}

It is loaded once, and `evaluate` is called for each model, the original too. A metric may be one value for each example, the
same examples in the same order for every model: gains are then tested example by example. More: docs/evaluator.md.
"""

from __future__ import annotations

{imports}
'''

_NETWORK = '''

@cache
def network():
    """The network{whence}; its weights come from `state_dict`."""
{body}
'''

_BATCHES = '''

@cache
def held_out():
    """Batches of (inputs, labels) that were never trained on, in one fixed order; others decide what you report."""
{body}
'''

_CLASSIFY = '''

@torch.no_grad()
def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The error in percent and the loss of each example (the squared error, where labels are real numbers)."""
    model = network().to(device)
    model.load_state_dict(state_dict)
    model.eval()
    wrong, losses = [], []
    for inputs, labels in held_out():
        outputs, expected = model(inputs.to(device)), labels.to(device)
        if expected.is_floating_point():
            loss = (outputs.reshape(expected.shape) - expected).square()
        else:
            loss = functional.cross_entropy(outputs, expected, reduction="none")
            wrong.append((outputs.argmax(1) != expected).float().reshape(len(expected), -1).mean(1))
        losses.append(loss.reshape(len(expected), -1).mean(1))
    error = {"error": 100 * torch.cat(wrong)} if wrong else {}
    return error | {"loss": torch.cat(losses)}
'''

_STEP = '''

@torch.no_grad()
def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """What the module's `{step}` logs, one value for each batch; small batches tell models apart best."""
    model = network().to(device)
    model.load_state_dict(state_dict)
    model.eval()
    values: dict[str, list[float]] = {{}}

    def log(name, value, *_, **__):
        metric, value = value, value.compute() if hasattr(value, "compute") else value
        values.setdefault(name, []).append(float(value))
        if hasattr(metric, "reset"):
            metric.reset()

    model.log = log
    model.log_dict = lambda found, *_, **__: [log(name, value) for name, value in found.items()]
    loaders = held_out()
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        for number, batch in enumerate(loader):
            returned = model.{step}(model.transfer_batch_to_device(batch, device, 0), number)
            loss = returned.get("loss") if isinstance(returned, dict) else returned
            if not values.keys() - {{"loss"}} and isinstance(loss, torch.Tensor):
                log("loss", loss)
    return {{name: torch.tensor(each) for name, each in values.items()}}
'''

_TRANSFORMERS = '''
RUN = Path({run!r})


@cache
def folder() -> Path:
    """The newest checkpoint: its configuration{tokenizer}, which every one of them has, may be read from it."""
    return max(RUN.glob("**/config.json"), key=lambda path: path.stat().st_mtime).parent


@cache
def network():
    """The network by the configuration in the checkpoints; its weights come from `state_dict`."""
    return transformers.{kind}(transformers.AutoConfig.from_pretrained(folder()))


def load(model: torch.nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Load every tensor; one that is tied to another is stored once (an output layer that is the embedding)."""
    own = model.state_dict(keep_vars=True)
    given = {{id(own[name]): tensor for name, tensor in state_dict.items() if name in own}}
    tied = {{name: given[id(own[name])] for name in own if name not in state_dict and id(own[name]) in given}}
    model.load_state_dict(state_dict | tied)


@cache
def examples():
    """Examples that were never trained on, as your Trainer's `eval_dataset`; others decide what you report."""
{body}


@cache
def held_out() -> list[dict[str, torch.Tensor]]:
    """Batches of these, in their order; take your own `data_collator` if you have one."""
    return list(DataLoader(examples(), batch_size=8, collate_fn=transformers.default_data_collator))


@torch.no_grad()
def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """{what}"""
    model = network().to(device)
    load(model, state_dict)
    model.eval()
{judge}'''

_LANGUAGE = """    losses = []
    for batch in held_out():
        logits = model(**{name: each.to(device) for name, each in batch.items() if name != "labels"}).logits[:, :-1]
        labels = batch["labels"][:, 1:].to(device)  # -100 counts for nothing
        each = functional.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none", ignore_index=-100)
        losses.append(each.sum(1) / (labels != -100).sum(1).clamp(min=1))
    return {"loss": torch.cat(losses)}
"""
_CLASSES = """    wrong, losses = [], []
    for batch in held_out():
        logits = model(**{name: each.to(device) for name, each in batch.items() if name != "labels"}).logits.float()
        labels = batch["labels"].to(device)
        wrong.append((logits.argmax(1) != labels).float())
        losses.append(functional.cross_entropy(logits, labels, reduction="none"))
    return {"error": 100 * torch.cat(wrong), "loss": torch.cat(losses)}
"""
_ONE_BY_ONE = """    losses = []
    for batch in held_out():
        for number in range(len(next(iter(batch.values())))):
            one = {name: each[number : number + 1].to(device) for name, each in batch.items()}
            losses.append(model(**one).loss.float().reshape(1))
    return {"loss": torch.cat(losses)}
"""

_CONFIG = """# Settings of rna-watch for {run}, written by `rna-watch init`; `rna-watch start --help-all` shows every one.
#
#   rna-watch start {run} --config {config}
#   rna-watch doctor {run} --config {config}
#
# A line that begins with `#` and a name, without a space, is a setting that is switched off.

# How models are judged: FILE.py:function, counted from the folder that rna-watch is started in.
evaluator: {evaluator}:evaluate

# The metric to choose by; the evaluator's first, if it is not named here. Its direction, if its name does not tell it.
#metric: loss
#mode: min

# Where the evaluator runs. On a CPU it never disturbs a training on a GPU; with `device: cuda` give it one: `gpus: 1`.
device: cpu
#gpus: 1
evaluation_threads: 1

# The newest 6 checkpoints form a window. `when-better` writes only models that beat their original.
window: 5
publish: always

# End with the training, everything done, once no checkpoint came for so long.
#until_idle: 30m
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The names of what is written, and of the run as it was typed."""

    run: str
    evaluator: str
    config: str


def config(files: Files) -> str:
    """The commented settings."""
    return _CONFIG.format(run=files.run, config=files.config, evaluator=files.evaluator)


def evaluator(
    files: Files,
    record: Record,
    run: Path,
    *,
    network: Source | None,
    data: Source | None,
    hints: Sequence[str],
) -> str:
    """The evaluator.

    Args:
        files: names.
        record: what the checkpoint says of its trainer.
        run: the run directory, absolute.
        network: how the network is made, if a script tells.
        data: Lightning's data module, if it was recorded and a script has it.
        hints: where the scripts seem to make held-out data.
    """
    if record.trainer == trainer_record.HUGGING_FACE and record.network:
        return _transformers(files, record, run, hints)
    made = _made(record, network)
    step = next((each for each in _STEPS if network is not None and each in network.methods), "")
    imports = ["import sys"] * any(line.startswith("sys.") for line in (*made.lines, *(data.lines if data else ())))
    timm = record.trainer == trainer_record.TIMM
    root = record.settings.get("data_dir") or record.settings.get("data")
    from_timm = timm and isinstance(root, str)
    imports += ["from functools import cache", *["from pathlib import Path"] * from_timm, ""]
    imports += ["import timm"] * timm + ["import torch"]
    imports += [] if step else ["from torch.nn import functional"]
    imports += [] if step and data else ["from torch.utils.data import DataLoader  # noqa: F401 - for held_out"]
    lines = list(dict.fromkeys((*made.lines, *(data.lines if data else ())))) if not made.copied else [*made.lines]
    if made.copied and data is not None:
        lines += [line for line in data.lines if line not in made.lines or not line.strip()]
    copied = (
        ["", f"# from {made.file.name}, copied because an import of it would train"]
        if made.copied and made.file
        else []
    )
    head = _HEAD.format(
        run=files.run, config=files.config, imports="\n".join([*imports, *copied, *[""] * bool(lines), *lines])
    )
    body = _data(record, network, data, hints, step) if not from_timm else _images(record, str(root))
    return (
        head
        + _NETWORK.format(whence=made.whence, body=indent(made.body, "    "))
        + _BATCHES.format(body=indent(body, "    "))
        + (_STEP.format(step=step) if step else _CLASSIFY)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """The body of `network`, with what is defined before it."""

    body: str
    whence: str
    lines: tuple[str, ...] = ()
    copied: bool = False
    file: Path | None = None


def _made(record: Record, network: Source | None) -> _Made:
    settings = record.settings
    if record.trainer == trainer_record.TIMM:
        options = {name: settings[name] for name in ("num_classes", "in_chans") if settings.get(name) is not None}
        shown = ", ".join([repr(record.network), *(f"{name}={value!r}" for name, value in options.items())])
        return _Made(body=f"return timm.create_model({shown})", whence=" that the checkpoint names")
    if network is not None and network.expression:
        return _Made(
            body=f"return {network.expression}",
            whence=f" as {network.file.name} makes it",
            lines=network.lines,
            copied=network.copied,
            file=network.file,
        )
    what = f"; {network.file.name} has {network.shown}" if network is not None else ""
    named = f"; the checkpoint names {record.network!r}" if record.network else ""
    return _Made(
        body="# such as: from my_training import Network, and here: return Network(width=64)\n"
        f"raise NotImplementedError({f'build the network here, as the training script does{what}{named}'!r})",
        whence=" as the training script builds it",
    )


def _hints(hints: Sequence[str]) -> list[str]:
    return [f"#   {hint}" for hint in hints[:_MOST_HINTS]]


def _data(record: Record, network: Source | None, data: Source | None, hints: Sequence[str], step: str) -> str:
    """The body of `held_out`: what was recorded, or the line to fill in."""
    if data is not None:
        return "\n".join(
            [
                f"data = {data.expression}  # as the checkpoint records it",
                "data.prepare_data()",
                'data.setup("validate")',
                "return data.val_dataloader()",
            ]
        )
    if network is not None and "val_dataloader" in network.methods and step == "validation_step":
        return "return network().val_dataloader()"
    recorded = {name: value for name, value in record.settings.items() if "data" in name or "val" in name}
    known = [f"# The checkpoint records {name} = {value!r}." for name, value in recorded.items()]
    seen = ["# Your files have:", *_hints(hints)] if hints else []
    what = "the batches that the step takes" if step else "batches of (inputs, labels)"
    return "\n".join(
        [
            *known,
            *seen,
            "# Such as: return DataLoader(validation_set, batch_size=256)   (shuffle stays off)",
            f'raise NotImplementedError("{FILL_IN}: {what}")',
        ]
    )


def _images(record: Record, root: str) -> str:
    """The body of `held_out` where timm's script recorded where its images lie."""
    settings = record.settings
    name = settings.get("dataset") or ""
    split = settings.get("val_split") or "validation"
    shape = {
        key: settings[key]
        for key in ("input_size", "img_size", "mean", "std", "crop_pct", "interpolation", "in_chans")
        if settings.get(key) is not None
    }
    return "\n".join(
        [
            f"root = {root!r}  # as the checkpoint records it",
            *(
                ()
                if "/" in name  # read by a library that knows where
                else (
                    "if not Path(root).exists():",
                    f'    raise FileNotFoundError(f"{FILL_IN}: the training read it from {{root}}, which is not here")',
                )
            ),
            f"data = timm.data.create_dataset({name!r}, root=root, split={split!r}, is_training=False)",
            f"shape = timm.data.resolve_data_config({shape!r}, model=network())",
            "data.transform = timm.data.create_transform(**shape, is_training=False)",
            "return DataLoader(data, batch_size=64)",
        ]
    )


def _transformers(files: Files, record: Record, run: Path, hints: Sequence[str]) -> str:
    kind = record.network
    if kind.endswith(("ForCausalLM", "LMHeadModel")):
        what, judge = "The loss of each sequence, in nats a token: the mean over its tokens.", _LANGUAGE
    elif kind.endswith(("ForSequenceClassification", "ForImageClassification")):
        what, judge = "The error in percent and the loss of each example.", _CLASSES
    else:
        what, judge = "The loss of each example, as the network itself computes it.", _ONE_BY_ONE
    imports = ["from functools import cache", "from pathlib import Path", "", "import torch", "import transformers"]
    imports += [] if judge is _ONE_BY_ONE else ["from torch.nn import functional"]
    imports += ["from torch.utils.data import DataLoader"]
    seen = ["# Your files have:", *_hints(hints)] if hints else []
    words = "# Each is a dict of input_ids, attention_mask and labels."
    if record.tokenizer:
        words += "\n# The tokenizer is there: transformers.AutoTokenizer.from_pretrained(folder())"
    body = "\n".join([*seen, words, f'raise NotImplementedError("{FILL_IN}: the examples of your eval_dataset")'])
    return _HEAD.format(run=files.run, config=files.config, imports="\n".join(imports)) + _TRANSFORMERS.format(
        run=str(run),
        kind=kind,
        tokenizer=" and tokenizer" if record.tokenizer else "",
        body=indent(body, "    "),
        what=what,
        judge=judge,
    )

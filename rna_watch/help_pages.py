"""What `--help` shows beside options: the commands in groups, and examples of each."""

from __future__ import annotations

from typing import Any

import click

# the commands below their headings; those that stand in none come last
COMMANDS = {
    "Begin": ("init", "doctor", "demo"),
    "Watch a run": ("start", "stop", "once"),
    "Look at it": ("status", "dashboard", "logs", "compare", "report", "export"),
    "Single files": ("inspect", "extrapolate", "verify"),
}
# each on one line of a terminal of 80 cells
SUMMARIES = {
    "init": "Write an evaluator and settings for RUN_DIR's trainer.",
    "doctor": "Say what works for RUN_DIR, what will not, and what to do.",
    "demo": "Train a real network in a process of its own, and watch it.",
    "start": "Watch RUN_DIR and write a better model for each checkpoint.",
    "stop": "Stop watching RUN_DIR, or waiting for it.",
    "once": "Process every checkpoint that is in RUN_DIR now, then exit.",
    "status": "Say in ten lines whether it works and whether it helps.",
    "dashboard": "Show runs live, from any machine that sees their files.",
    "compare": "Compare every method at every checkpoint of RUN_DIR.",
    "report": "Write all that is known of RUN_DIR as one HTML page.",
    "export": "Give the numbers of RUN_DIR to a tool.",
    "inspect": "Say what CHECKPOINT is, and what would be extrapolated.",
    "verify": "Recompute published models from their manifests.",
    "completion": "Print what lets SHELL complete commands and options.",
    "mirror": "Fetch checkpoints from the run's object store, put models there.",
    "reproduce": "Repeat an experiment of the paper.",
}
EXAMPLES = {
    "init": ("rna-watch init runs/42",),
    "doctor": ("rna-watch doctor runs/42", "rna-watch doctor runs/42 --config rna_watch.yaml"),
    "export": ("rna-watch export runs/42 --to tensorboard", "rna-watch export runs/42 --to csv --out tables"),
    "start": (
        "rna-watch start runs/42",
        "rna-watch start runs/42 --evaluator eval.py:evaluate --metric accuracy --mode max",
        "rna-watch start runs/42 --evaluate-command 'python eval.py {checkpoint}' --output /scratch/rna",
        "rna-watch start runs/42 --wait --config rna.yaml",
        "rna-watch start runs --recursive --config rna.yaml",
    ),
    "once": (
        "rna-watch once runs/42 --evaluator eval.py:evaluate",
        "rna-watch once runs/42 --again --window 8",
    ),
    "stop": ("rna-watch stop runs/42", "rna-watch stop runs"),
    "status": (
        "rna-watch status",
        "rna-watch status runs",
        "rna-watch status runs/42",
        "rna-watch status runs/42 --json",
    ),
    "dashboard": (
        "rna-watch dashboard runs/42",
        "rna-watch dashboard runs/41 runs/42",
        "rna-watch dashboard runs/42 --svg run.svg --width 160",
    ),
    "logs": ("rna-watch logs runs/42 --follow",),
    "compare": ("rna-watch compare runs/42", "rna-watch compare runs/42 --metric accuracy --plot methods.svg"),
    "report": ("rna-watch report runs/42", "rna-watch report runs/42 --out run.html"),
    "inspect": ("rna-watch inspect runs/42/epoch_10.pt",),
    "extrapolate": (
        "rna-watch extrapolate epoch_5.pt epoch_6.pt epoch_7.pt --out better.pt",
        "rna-watch extrapolate epoch_*.pt --out mean.pt --method average --window 5",
    ),
    "verify": ("rna-watch verify runs/42", "rna-watch verify runs/42/rna/best"),
    "demo": ("rna-watch demo",),
    "reproduce": ("rna-watch reproduce figure1 --quick",),
}


class Program(click.Group):
    """The program, whose commands stand in groups and end their help with examples."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command with its summary and examples."""
        cmd.short_help = SUMMARIES.get(name or cmd.name or "", cmd.short_help)
        lines = EXAMPLES.get(name or cmd.name or "", ())
        cmd.epilog = "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines))) if lines else None
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands below their headings."""
        rest = [name for name in self.list_commands(ctx) if not any(name in names for names in COMMANDS.values())]
        limit = formatter.width - 6 - max(map(len, self.commands))
        for heading, names in {**COMMANDS, "More": rest}.items():
            found: list[Any] = [self.commands[name] for name in names if name in self.commands]
            if found:
                with formatter.section(heading):
                    formatter.write_dl([(each.name, each.get_short_help_str(limit)) for each in found])

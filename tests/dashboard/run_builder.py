"""A builder of runs: event sequences as a daemon writes them, with times that the test decides."""

import dataclasses
import math

from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work, Worker
from rna_watch.journal.owner import Owner
from rna_watch.journal.replay import RunState, replay
from rna_watch.journal.status import Status

START = 1_700_000_000.0
RUN = "/scratch/runs/cifar10-resnet18"
SIZE = 44_700_000


class RunBuilder:
    """Collects events; `now` moves on with each, so that ages and rates in the frames are known."""

    def __init__(self, *, metric="error", mode="min", evaluator="eval.py:evaluate", run=RUN):
        self.events = []
        self.now = START
        self.metric = metric
        self.add(
            e.Started(
                host="gpu-07",
                pid=41233,
                version="0.1.0",
                run=run,
                output=run,
                engine="ray",
                evaluator=evaluator,
                settings={},
            )
        )
        if metric:
            self.add(e.MetricChosen(metric=metric, mode=mode))

    @property
    def state(self) -> RunState:
        """What the events so far add up to."""
        return replay(self.events)

    def add(self, event, *, after=0.0):
        """Append an event so many seconds after the last one."""
        self.now += after
        self.events.append(dataclasses.replace(event, time=self.now, seq=len(self.events) + 1))
        return self

    def admit(self, step, *, name=None, after=170.0):
        """A checkpoint is complete."""
        return self.add(
            e.Admitted(
                checkpoint=name or f"epoch_{step:03}.pt",
                path=name or f"epoch_{step:03}.pt",
                step=step,
                step_kind="epoch",
                format="torch",
                source="name",
                size_bytes=SIZE,
                parameters=11_173_962,
                fingerprint="f" * 16,
                inode=step,
                mtime_ns=int((self.now + after) * 1e9),
                pin="reflink",
                pin_path=f"pins/{step}",
            ),
            after=after,
        )

    def measure(self, step, *, name=None):
        """Its inner products are known."""
        return self.add(
            e.Measured(
                checkpoint=name or f"epoch_{step:03}.pt",
                residuals=[],
                rows=[],
                rounding_energy=0.0,
                read_bytes=SIZE * 6,
                seconds=1.5,
            ),
            after=2.0,
        )

    def evaluate(self, step, candidate, value):
        """One candidate was evaluated."""
        return self.add(
            e.Evaluated(
                checkpoint=f"epoch_{step:03}.pt", candidate=candidate, metrics={self.metric: value}, seconds=0.4
            ),
            after=0.5,
        )

    def choose(self, step, *, original, average, rna, weights, significant=True, name=None, candidate=None):
        """A candidate was chosen: the better one of average and RNA (smaller is better)."""
        values = {"original": original, "average": average, "rna": rna}
        ours = min((v for v in (average, rna) if v is not None and math.isfinite(v)), default=None)
        values["chosen"] = ours
        known = original is not None and ours is not None
        return self.add(
            e.Chosen(
                checkpoint=name or f"epoch_{step:03}.pt",
                candidate=candidate
                or (f"rna-{len(weights) - 1}-1e-08" if ours == rna else f"average-{len(weights) - 1}"),
                method="rna",
                inputs=[f"epoch_{step - len(weights) + 1 + k:03}.pt" for k in range(len(weights))],
                weights=weights,
                metrics={key: None if value is None else {self.metric: value} for key, value in values.items()},
                better_than_original=ours < original if known else None,
                significant=significant if known else None,
                reason=f"{'extrapolation' if ours == rna else 'the plain average'} is better than the original",
            ),
            after=1.0,
        )

    def publish(self, step, *, name=None):
        """The chosen model was written."""
        name = name or f"epoch_{step:03}.pt"
        self.add(e.Publishing(checkpoint=name, output=name, temporary=f".{name}.x", manifest_digest="0" * 64))
        return self.add(e.Published(checkpoint=name, output=name, written_bytes=SIZE, seconds=0.2), after=0.3)

    def status(self, *, work=None, state="watching", rate=412e6, workers=5):
        """What the daemon that writes these events is doing just now."""
        names = ["coordinator", "reader 1", "reader 2", "reader 3", "evaluator"]
        return Status(
            state="working" if work else state,
            owner=Owner(host="gpu-07", pid=41233, boot_id="", start_ticks=0, since=START),
            since=START,
            last_sign=self.now,
            watching="events and scans",
            work=work,
            workers=tuple(
                Worker(name=names[k % 5], pid=41240 + k, memory_bytes=int((90 + 67 * k) * 1e6), busy=k in {1, 4})
                for k in range(workers)
            ),
            read_bytes_per_s=rate,
        )


WEIGHTS = ([0, 0.22, -0.31, 0.12, 0.41, 0.56], [0, -0.08, 0.11, -0.22, 0.37, 0.82], [0, 0.2, 0.2, 0.2, 0.2, 0.2])


def realistic_run(count=25):
    """A run of so many epochs as it really goes: errors that fall, a few windows that are not better, one in work."""
    run = RunBuilder()
    run.admit(1, after=20.0).add(
        e.Finished(checkpoint="epoch_001.pt", reason="number 1 of a new window; extrapolation begins with 3"), after=1.0
    )
    run.admit(2)
    run.add(
        e.Finished(checkpoint="epoch_002.pt", reason="number 2 of a new window; extrapolation begins with 3"), after=1.0
    )
    best = 1.0
    for step in range(3, count):
        original = round(0.04 + 0.55 * math.exp(-step / 5) + 0.008 * math.sin(step * 2.1), 4)
        average = round(0.036 + 0.45 * math.exp(-step / 4.6) + 0.002 * math.sin(step), 4)
        rna = round(0.033 + 0.47 * math.exp(-step / 4.4) + 0.003 * math.cos(step * 1.3), 4)
        window = min(step - 1, 5)
        run.admit(step).measure(step)
        if step == 9:
            run.add(e.Noted(text="window store holds 6 checkpoints, 268 MB", checkpoint=""))
        run.evaluate(step, "last", original).evaluate(step, f"average-{window}", average)
        weights = WEIGHTS[step % 3]
        run.choose(
            step,
            original=original,
            average=average,
            rna=rna,
            weights=[0, *weights[-window:]],
            significant=abs(original - min(average, rna)) > 0.004,
        )
        run.publish(step)
        if min(average, rna) < min(best, original):
            best = min(average, rna)
            run.add(e.BestMoved(checkpoint=f"epoch_{step:03}.pt", output=f"epoch_{step:03}.pt", value=best))
    run.admit(count).measure(count).evaluate(count, "last", 0.0478).evaluate(count, "average-2", 0.0431)
    run.evaluate(count, "average-5", 0.0402).evaluate(count, "rna-5-1e-08", 0.0377)
    run.add(
        e.Waiting(checkpoint=f"epoch_{count + 1:03}.pt", reason="the archive has no end yet, 31.2 MB so far"), after=1
    )
    return run


def evaluating(run, count=25):
    """What the daemon of `realistic_run` is doing."""
    return Work(
        checkpoint=f"epoch_{count:03}.pt",
        stage="evaluating rna-5-1e-06",
        done=4,
        total=12,
        unit="models",
        since=run.now - 6.0,
    )

"""The checkpoints of a run by their names: what another thread reads while one changes."""

from rna_watch.journal.checkpoint import Checkpoint, Stage
from rna_watch.journal.checkpoints import Checkpoints


class _Read(dict):
    """An index that is read, as by another thread, right after each of its changes."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        self.read()

    def pop(self, name, default=None):
        found = super().pop(name, default)
        self.read()
        return found


def test_whoever_reads_amid_a_change_finds_each_checkpoint_at_its_stage():
    """A name in an index is one that is known, and what is at a stage by the index is at it by itself."""
    checkpoints = Checkpoints()
    seen = []

    def read():
        for stage in Stage:
            for each in checkpoints.of_stages([stage]):
                seen.append(each.name)
                assert each.stage is stage

    for stage in Stage:
        checkpoints.stages[stage] = _Read(read)
    for stage in (Stage.WAITING, Stage.READY, Stage.FINISHED):
        checkpoints["a.pt"] = Checkpoint(name="a.pt", stage=stage)
    assert seen
    assert [each.name for each in checkpoints.of_stages(Stage)] == ["a.pt"]

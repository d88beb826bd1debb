"""What a training may use of rna-watch, all of it optional: a Lightning callback, a Hugging Face one, two lines for plain loops.

They announce checkpoints to the process that watches, save the mean gradients of each interval beside them, and start that
process on request. Importing this loads neither torch nor Ray, nor a trainer's library.

    Trainer(callbacks=[lightning_callback("runs/a", evaluator="eval.py:evaluate")])

    Trainer(..., callbacks=[hugging_face_callback(evaluator="eval.py:evaluate")])

    loop = Loop("runs/a", network, optimizer)
    ...
    loop.save({"model": network.state_dict()}, "runs/a/epoch_1.pt")  # in the place of torch.save
"""

from rna_watch.integrations.announcement import announce
from rna_watch.integrations.hugging_face import hugging_face_callback
from rna_watch.integrations.lightning import lightning_callback
from rna_watch.integrations.loop import Loop
from rna_watch.integrations.side_car import SideCar

__all__ = ["Loop", "SideCar", "announce", "hugging_face_callback", "lightning_callback"]

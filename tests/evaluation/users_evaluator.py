"""A user's evaluator that behaves as the model tells it: the integer tensor `mode` chooses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

LOADED = [0]  # stands for a data set that takes long to load
LOADED[0] += 1
CALLS = []

GOOD, RAISE, WRONG, NUMBER, EXIT, DIE, HANG, WAIT = range(8)


def evaluate(state_dict, device):
    """Write what it was given to `seen.json` in the working directory, then do as the mode says."""
    CALLS.append(None)
    print("printed by the user's evaluator", flush=True)
    sys.stderr.write("and this to the other stream\n")
    match int(state_dict["mode"]):
        case 1:
            raise LookupError("the validation set is gone")
        case 2:
            return [0.5]
        case 3:
            return {"loss": "low"}
        case 4:
            sys.exit(3)
        case 5:
            os._exit(3)
        case 6:
            child = subprocess.Popen(["sleep", "1000"])
            Path("grandchild").write_text(str(child.pid))
            child.wait()
        case 7:
            with open("begun", "w"):  # a pipe that the test reads
                pass
            subprocess.run(["sleep", "1000"], check=True)
    seen = {
        "keys": list(state_dict),
        "device": str(device),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "cwd": os.getcwd(),
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "variable": os.environ.get("OF_THE_CALLER"),
        "loaded": LOADED[0],
        "calls": len(CALLS),
    }
    Path("seen.json").write_text(json.dumps(seen))
    return {"total": state_dict["w"].sum(), "one": 1}

"""The evaluator of the run that version 0.1.0 watched."""


def evaluate(state_dict, device):
    """Two metrics that do not agree on the best model."""
    weight, bias = state_dict["weight"].double(), state_dict["bias"].double()
    return {"loss": float(((weight - 1.0) ** 2).mean()), "accuracy": float(bias.sum())}

"""RNA inside a training loop: extrapolate the epochs of a run while it goes on, record its gradients, or feed RNA back.

The paper's Listing 2 (tests/training/listing2.py is the whole program):

    extrapolated = copy.deepcopy(network)
    optimizer = Rna(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), n=5, reg=1e-8)
    for epoch in range(1, 11):
        network.train()
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            cross_entropy(network(augmented(x[batch])), y[batch]).backward()
            optimizer.step()
        optimizer.store()
        optimizer.accelerate(extrapolated)
        print(f"epoch {epoch:2}: test error {error(network):5.1%}, extrapolated {error(extrapolated):5.1%}")

This package needs torch and numpy, and nothing else. Source: Scieur, Oyallon, d'Aspremont, Bach 2018, arXiv 1805.09639.
"""

from rna_watch.training.history import Extrapolation, History
from rna_watch.training.mean import GradientMean
from rna_watch.training.online import FlatRna, Iteration, OnlineRna, online_rna
from rna_watch.training.recorder import GradientRecorder
from rna_watch.training.rna import Rna

__all__ = [
    "Extrapolation",
    "FlatRna",
    "GradientMean",
    "GradientRecorder",
    "History",
    "Iteration",
    "OnlineRna",
    "Rna",
    "online_rna",
]

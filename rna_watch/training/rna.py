"""RNA inside a training loop: a torch optimizer that remembers its epochs and extrapolates them.

Names: x_i is the last iterate of epoch i, R's column r_i its mean gradient, N <= n epochs are remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import optim

from rna_watch.training.history import Extrapolation, History
from rna_watch.training.mean import GradientMean
from rna_watch.training.tensors import check_loaded, everything, matched, once, trained, unwrapped, write_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

_ENTRY = "rna"
_MOMENTA = ("momentum_buffer", "exp_avg")


class Rna(optim.Optimizer):
    """Regularized nonlinear acceleration around any torch optimizer: x_extr = sum_i c_i x_i over the newest N epochs.

        R = [r_1, ..., r_N],  (R'R / ||R'R||_2 + lambda I) z = 1,  c = z / sum(z)

    r_i is the mean over epoch i of the gradients that the optimizer used, over parameters only: with the weight decay that the
    optimizer adds, without the learning rate. x_i is the network at the end of epoch i. Offline one c combines everything,
    floating buffers too (running variances are clamped at zero); integers are the newest iterate's.

    It steps as the optimizer does and passes `param_groups`, `state`, hooks and everything else through, so schedulers may
    hold either of the two. Steps by `GradScaler.step` count, with this object or with the optimizer, and so do closures: see
    `GradientMean`. All tensors stay on the network's device: N copies of what changes in the network, N mean gradients, and
    the running mean.

    Args:
        network: what is trained; bare, or in DDP, or compiled.
        optimizer: the optimizer of its parameters.
        n: the most epochs to combine; the window grows up to it.
        reg: lambda >= 0, relative to ||R'R||_2.
        reset_after: the number of epochs after which the history is forgotten once, two in the authors' code; 0: never.
        coupled_decay: whether the optimizer adds weight decay to the gradient; None: looked up, for the optimizers of torch.

    Raises:
        TypeError: n is no whole number.
        ValueError: n is below 1, reg or reset_after negative; or what `GradientMean` says of network and optimizer.

    Source: Scieur, Oyallon, d'Aspremont, Bach 2018, arXiv 1805.09639, Algorithm 1, section 4.2 and Listing 1.
    """

    # GradScaler must unscale before it calls us, even if the optimizer could do so within its step
    _step_supports_amp_scaling = False

    def __init__(
        self,
        network: nn.Module,
        optimizer: optim.Optimizer,
        n: int = 5,
        reg: float = 1e-8,
        *,
        reset_after: int = 2,
        coupled_decay: bool | None = None,
    ) -> None:
        # Optimizer.__init__ is not called on purpose: groups and state are the wrapped optimizer's, see __getattr__
        if not reg >= 0.0:
            raise ValueError(f"reg must be at least 0, not {reg}")
        if reset_after < 0:
            raise ValueError(f"reset_after must be at least 0 (0: never), not {reset_after}")
        self.network, self.optimizer, self.reg, self.reset_after = network, optimizer, reg, reset_after
        self.history = History(n)
        self.mean = GradientMean(network, optimizer, coupled_decay)
        self.stored = 0

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.history.n}, reg={self.reg:g}, {self.optimizer!r})"

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} cannot be pickled or copied: save its state_dict()")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of the optimizer; the gradient it used enters the epoch's mean.

        Args:
            closure: as the optimizer takes it; the gradient of its first evaluation counts.
        """
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The optimizer's."""
        self.optimizer.add_param_group(param_group)

    def store(self) -> None:
        """End an epoch: remember the network as it is (x_i) and the epoch's mean gradient (r_i), and begin a new mean.

        Raises:
            RuntimeError: no step was taken since the last `store`, or the network got a parameter since this object was made.
        """
        stranger = self.mean.stranger(self.network)
        if stranger is not None:
            raise RuntimeError(
                f"{stranger} was not there when this {type(self).__name__} was made, and its gradients were not counted: make "
                "optimizer and this object anew after a parameter is replaced or added"
            )
        if not self.mean.count:
            raise RuntimeError("store() needs a step since the last one: call it at the end of an epoch, once")
        self.history.append(self._iterate(), self.mean.take())
        self.stored += 1
        if self.stored == self.reset_after:
            self.history.clear()

    def _iterate(self) -> dict[str, Tensor]:
        return once(everything(self.network))

    def accelerate(self, network: nn.Module, *, combine_statistics: bool | None = None) -> Extrapolation:
        """Write x_extr = sum_i c_i x_i into a network, and return c.

        Offline, `network` is another one with the same tensors, and the run is untouched. Online, `network` is the trained
        one itself, which goes on from the extrapolated point. History and momentum stay then: the epochs' gradients remain
        what they are. As in the authors' code, offline buffers such as batch norm's statistics are combined with the same
        c, and online they stay as the forward passes left them.

        The network is copied as it is if nothing is stored yet (before the first epoch, and after the reset). The newest
        iterate is taken if there is no solution. `status` says so.

        Args:
            network: bare or wrapped, on any device; its mode (train, eval) stays.
            combine_statistics: whether floating buffers are combined too; if not, they are the trained network's. None:
                offline they are, online not.

        Raises:
            ValueError: the network does not have the same tensors.

        Source: arXiv 1805.09639, Algorithm 1; online: equation 8.
        """
        found = self.history.solve(self.reg)
        online = unwrapped(network) is unwrapped(self.network)
        if found.c:
            buffers = not online if combine_statistics is None else combine_statistics
            self._write(self.history.iterates, found.c, network, buffers=buffers)
        elif not online:
            self._write([self._iterate()], (1.0,), network)
        return found

    def combine(self, network: nn.Module, weights: Sequence[float]) -> None:
        """Write any combination of the stored iterates into a network: sum_i w_i x_i.

        Args:
            network: as for `accelerate`.
            weights: w_1..w_N, oldest first, sum 1; one for each of `len(self.history)`.

        Raises:
            ValueError: there are more or fewer weights than stored iterates, or the network does not have the same tensors.
        """
        if len(weights) != len(self.history) or not weights:
            raise ValueError(f"{len(self.history)} iterates are stored: they need as many weights, not {len(weights)}")
        self._write(self.history.iterates, weights, network)

    @torch.no_grad()
    def _write(
        self,
        iterates: Sequence[dict[str, Tensor]],
        weights: Sequence[float],
        network: nn.Module,
        *,
        buffers: bool = True,
    ) -> None:
        """Write a weighted sum; tensors that no iterate holds are the trained network's, and buffers too if not `buffers`."""
        named = everything(self.network)
        present = once(named)
        parameters = {name for name, tensor in named.items() if isinstance(tensor, torch.nn.Parameter)}
        places: dict[str, list[Tensor]] = {}
        for name, place in matched(self.network, network):
            places.setdefault(name, []).append(place)
        for name, tensor in present.items():
            own = name in parameters or buffers
            tensors = [iterate.get(name, tensor) if own else tensor for iterate in iterates]
            write_sum(tensors, weights, name, places[name])

    def restart(self, *, momentum: bool = False) -> Extrapolation:
        """Move the network itself to the extrapolated point and start again there: history and running mean are forgotten.

        Buffers are combined too, as offline.

        The momentum of the old trajectory is set to zero (`momentum_buffer`, Adam's first moment; L-BFGS forgets its
        pairs). Second moments and step counters stay.

        Args:
            momentum: whether the momentum is kept.
        """
        found = self.accelerate(self.network, combine_statistics=True)
        self.history.clear()
        self.mean.clear()
        if not momentum:
            self._stop()
        return found

    @torch.no_grad()
    def _stop(self) -> None:
        if isinstance(self.optimizer, optim.LBFGS):
            self.optimizer.state.clear()
        for state in self.optimizer.state.values():
            for key in _MOMENTA:
                if isinstance(state.get(key), torch.Tensor):
                    state[key].zero_()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, with an entry `rna`: history, the mean within an epoch, and the count of epochs.

        It holds all stored iterates and gradients: save it in the file from which a run resumes, not in every checkpoint.
        """
        own = {"history": self.history.state_dict(), "mean": self.mean.state_dict(), "stored": self.stored}
        return {**self.optimizer.state_dict(), _ENTRY: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, with the same bits.

        Raises:
            ValueError: the state has no entry `rna`, or belongs to another network.
        """
        if _ENTRY not in state_dict:
            raise ValueError(
                f"the state has no entry '{_ENTRY}': it is an ordinary optimizer's; load it into `.optimizer` and begin a history"
            )
        own = state_dict[_ENTRY]
        named = everything(self.network) | trained(self.network)
        devices = {name: tensor.device for name, tensor in named.items()}
        for vector in (*own["history"]["iterates"], *own["history"]["residuals"]):
            check_loaded(vector, named)
        self.mean.load_state_dict(own["mean"])
        self.optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != _ENTRY})
        self.history.load_state_dict(own["history"], devices)
        self.stored = int(own["stored"])

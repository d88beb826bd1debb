"""Re-estimated batch-norm statistics: a combination's statistics are not the combination of the statistics.

Running means and variances belong to the weights with which they were measured. A combination needs its own, from forward
passes over training inputs (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima", section 3.2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import NORMALIZATION, TRAINING_LOSS
from rna_watch.evaluation.randomness import seeded
from rna_watch.layout.dtypes import DTYPES, narrow
from rna_watch.layout.layout import Role

if TYPE_CHECKING:
    from rna_watch.evaluation.users_file import UsersFile
    from rna_watch.layout.dtypes import Array
    from rna_watch.layout.layout import Layout

_STATISTICS = ("running_mean", "running_var")
_COUNTER = "num_batches_tracked"
_SEED = 0  # every model is measured with the same dropout and the same shuffling
PASSES = 60  # at the usual momentum of 0.1 less than 0.2 % of the statistics before them is left


class Normalization:
    """The user's network and training inputs, from `normalization(device)` of the evaluator's file.

    The function is called once, or for every model if the inputs are an iterator, which can be read only once. The
    network serves every model: its tensors are overwritten, its modes are restored.
    """

    def __init__(self, user: UsersFile, device: torch.device) -> None:
        self._function = user.function(NORMALIZATION)
        self._device = device
        self._kept: tuple[torch.nn.Module, Iterable[Any]] | None = None

    def re_estimate(self, tensors: dict[str, torch.Tensor], layout: Layout) -> dict[str, Array]:
        """Re-estimate the statistics of every batch-norm layer, and write them into the model.

        They are cumulative averages over all batches in training mode, as `torch.optim.swa_utils.update_bn` takes them,
        rounded to the stored dtype. `num_batches_tracked` stays as it is.

        Args:
            tensors: the model under plain names; its statistics are overwritten.
            layout: where its tensors are stored, and in which dtypes.

        Returns:
            The statistics by the stored tensor's name, in its shape, as the bits of its dtype.

        Raises:
            EvaluationFailed: the network does not take the model, has no batch norm, or there are no inputs.
        """
        network, batches = self._network()
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise EvaluationFailed(
                f"the network that normalization(device) returns is not the checkpoint's: {error}"
            ) from error
        found = _statistics(network)
        if not found:
            raise EvaluationFailed(
                "the network that normalization(device) returns has no batch-norm layer with running statistics: there "
                "is nothing to re-estimate"
            )
        with seeded(_SEED, self._device), _as_it_was(network):
            update_bn(self._inputs(batches), network)
        return _written(found, tensors, layout)

    def _network(self) -> tuple[torch.nn.Module, Iterable[Any]]:
        if self._kept is not None:
            return self._kept
        made = self._function(self._device)
        if (
            not isinstance(made, tuple)
            or len(made) != 2  # a network and its inputs
            or not isinstance(made[0], torch.nn.Module)
            or not isinstance(made[1], Iterable)
        ):
            raise EvaluationFailed(
                f"normalization(device) must return a network and batches of training inputs, not {made!r:.100}"
            )
        network, batches = made
        network.to(self._device)
        if not isinstance(batches, Iterator):
            self._kept = (network, batches)
        return network, batches

    def _inputs(self, batches: Iterable[Any]) -> Iterator[torch.Tensor]:
        """Each batch's inputs on the device; the first element of a pair, as data loaders give them."""
        empty = True
        for batch in batches:
            inputs = batch[0] if isinstance(batch, list | tuple) else batch
            if not isinstance(inputs, torch.Tensor):
                raise EvaluationFailed(f"a batch that normalization(device) returned is no tensor, but {inputs!r:.100}")
            empty = False
            yield inputs.to(self._device)
        if empty:
            raise EvaluationFailed("normalization(device) returned no batches of training inputs")


class TrainingPasses:
    """Forward passes of the user's `training_loss` in training mode, which update the buffers that it is handed."""

    def __init__(self, user: UsersFile, device: torch.device) -> None:
        self._function = user.function(TRAINING_LOSS)
        self._device = device

    def re_estimate(self, tensors: dict[str, torch.Tensor], layout: Layout) -> dict[str, Array]:
        """Re-estimate the statistics that the passes update, and write them into the model.

        They are what 60 passes leave, from the model's own statistics on, with `num_batches_tracked` set to zero for them:
        a moving average with the layer's momentum, or the mean of all batches if it has none. Every model is given the
        same batches.

        Args:
            tensors: the model under plain names; its statistics are overwritten.
            layout: where its tensors are stored, and in which dtypes.

        Returns:
            The statistics by the stored tensor's name, in its shape, as the bits of its dtype.

        Raises:
            EvaluationFailed: a pass leaves all statistics as they are, or makes one that is not finite.
        """
        given = _wide(tensors)
        plain = layout.plain_names
        roles = {plain.get(view.name, ""): layout.extents[view.extent].role for view in layout.tensors}
        buffers = {name: given[name] for name in given if roles.get(name) in (Role.STATISTIC, Role.VARIANCE)}
        for name, tensor in given.items():
            if name.rpartition(".")[2] == _COUNTER:
                tensor.zero_()
        before = {name: tensor.clone() for name, tensor in buffers.items()}
        with torch.enable_grad(), seeded(_SEED, self._device):  # a loss may hold gradients by its inputs
            for number in range(PASSES):
                torch.manual_seed(number)
                # each has a dict of its own, as functional_call writes into it, and mixes up a layer that has two names
                self._function(dict(given), self._device, torch.Generator().manual_seed(number))
                if number == 0 and all(each.equal(before[name]) for name, each in buffers.items()):
                    raise EvaluationFailed(
                        "a pass of training_loss(state_dict, device, generator) leaves the normalization statistics in "
                        "state_dict as they are: let it run the network in training mode, with functional_call"
                    )
        buffers = {name: each for name, each in buffers.items() if not each.equal(before[name])}
        if broken := [name for name, tensor in buffers.items() if not bool(tensor.isfinite().all())]:
            raise EvaluationFailed(f"the passes of training_loss leave {broken[0]} with numbers that are not finite")
        return _written(buffers, tensors, layout)


def _wide(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Clones in the dtypes that a training loss is given: float32, or float64 if stored so; tied tensors stay tied."""
    made: dict[int, torch.Tensor] = {}
    for tensor in tensors.values():
        narrow_float = tensor.is_floating_point() and tensor.dtype != torch.float64
        made.setdefault(id(tensor), tensor.float().clone() if narrow_float else tensor.clone())
    return {name: made[id(tensor)] for name, tensor in tensors.items()}


def _written(found: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], layout: Layout) -> dict[str, Array]:
    """Round statistics to their stored dtypes and write them into the model; by the stored names, as bits."""
    statistics = {}
    plain = layout.plain_names
    for view in layout.tensors:
        measured = found.get(name := plain.get(view.name, ""))
        if measured is None:
            continue
        bits = np.empty(view.shape, dtype=DTYPES[view.dtype].bits)
        narrow(measured.detach().cpu().double().numpy(), view.dtype, bits)
        statistics[view.name] = bits
        stored = torch.from_numpy(bits.view(bits.dtype.str.replace("u", "i")))
        tensors[name].copy_(stored.view(getattr(torch, view.dtype)))
    return statistics


def _statistics(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The running statistics by their names in the state dict; a layer that is used in two places has two names."""
    return {
        f"{path}.{name}" if path else name: getattr(module, name)
        for path, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and module.running_mean is not None
        for name in _STATISTICS
    }


@contextlib.contextmanager
def _as_it_was(network: torch.nn.Module) -> Iterator[None]:
    """Restore every module's mode and momentum, even if a forward pass raised."""
    modes = {module: module.training for module in network.modules()}
    momenta = {module: module.momentum for module in network.modules() if isinstance(module, _BatchNorm)}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for module, momentum in momenta.items():
            module.momentum = momentum

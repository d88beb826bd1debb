"""The running mean of the gradients that an optimizer uses, taken by a hook on its step, whoever calls it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import optim

from rna_watch.training.tensors import LINEAR, Vector, check_loaded, trained, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

_COUPLED = (
    optim.SGD,
    optim.Adam,
    optim.NAdam,
    optim.RAdam,
    optim.Adagrad,
    optim.Adadelta,
    optim.Adamax,
    optim.ASGD,
    optim.RMSprop,
)
_DECOUPLED = (optim.AdamW, *(getattr(optim, name) for name in ("Adafactor", "Muon") if hasattr(optim, name)))


class GradientMean:
    """The mean over steps of the gradients that the optimizer saw: mean_t (grad_t + weight decay x theta_t).

    The learning rate is not part of it. Gradients count as they are when the optimizer steps: after clipping and unscaling.
    Steps that a `GradScaler` skips do not count, nor do steps without any gradient. The first evaluation of a closure
    counts, at the point where the step began; further ones of L-BFGS do not. A parameter without a gradient counts as zero
    in that step. Sums are float32, or the parameter's dtype if that is wider, on its device.

    Args:
        network: what is trained; parameters of the optimizer that are not in it are left out.
        optimizer: one of torch's, or like them; its step gets a hook, which is removed with this object.
        coupled_decay: whether the optimizer adds weight decay to the gradient (SGD, Adam) or applies it apart (AdamW);
            None: looked up, for the optimizers of torch.

    Raises:
        ValueError: the optimizer trains nothing of this network, or is unknown and has weight decay, or parameters are sharded.
    """

    def __init__(self, network: nn.Module, optimizer: optim.Optimizer, coupled_decay: bool | None = None) -> None:
        self._parameters = trained(network)
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._coupled_decay = coupled_decay
        self._sums: Vector = {}
        self.count = 0
        groups = optimizer.param_groups
        if not any(parameter in self._names for group in groups for parameter in group["params"]):
            raise ValueError("the optimizer trains no parameter of this network: make both from the same network")
        for group in groups:
            self._decay(getattr(optimizer, "optimizer", optimizer), group)
        before = weakref.WeakMethod(self._before)

        def hook(stepping: optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]] | None:
            method = before()
            return method(stepping, args, kwargs) if method else None

        weakref.finalize(self, optimizer.register_step_pre_hook(hook).remove)

    def _before(
        self, optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        closure = kwargs["closure"] if "closure" in kwargs else next(iter(args[1:]), None)
        if not callable(closure):
            self._add(optimizer)
            return None
        counted = self._counted(closure, optimizer)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": counted}
        return (args[0], counted, *args[2:]), kwargs

    def _counted(self, closure: Callable[..., Any], optimizer: optim.Optimizer) -> Callable[..., Any]:
        """The same closure, whose first evaluation counts."""
        first = True

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            nonlocal first
            loss = closure(*args, **kwargs)
            if first:
                self._add(optimizer)
                first = False
            return loss

        return evaluate

    @torch.no_grad()
    def _add(self, optimizer: optim.Optimizer) -> None:
        """Add the gradients of one step."""
        # fused optimizers unscale within their step: their gradients still hold GradScaler's factor
        found_inf, scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
        if found_inf is not None and float(found_inf):
            return
        factor = 1.0 if scale is None else 1.0 / float(scale)
        stepped = False
        for group in optimizer.param_groups:
            sums, gradients, parameters = [], [], []
            for parameter in group["params"]:
                name = self._names.get(parameter)
                if name is None or parameter.grad is None:
                    continue
                total = self._sum(name, parameter)
                stepped = True
                if parameter.grad.layout is not torch.strided:
                    total.add_(parameter.grad, alpha=factor)
                    continue
                sums.append(total)
                gradients.append(parameter.grad)
                parameters.append(parameter)
            if sums:
                torch._foreach_add_(sums, gradients, alpha=factor)
                decay = self._decay(optimizer, group)
                if decay:
                    torch._foreach_add_(sums, parameters, alpha=decay)
        self.count += stepped

    def _sum(self, name: str, parameter: nn.Parameter) -> Tensor:
        if name not in self._sums:
            if parameter.dtype not in LINEAR:
                raise ValueError(f"{name} is {parameter.dtype}: only real floating-point parameters can be combined")
            dtype = widened(parameter.dtype)
            self._sums[name] = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
        return self._sums[name]

    def _decay(self, optimizer: optim.Optimizer, group: Mapping[str, Any]) -> float:
        """The factor of the parameter that the optimizer adds to its gradient."""
        decay = float(group.get("weight_decay", 0.0))
        coupled = self._coupled_decay
        if coupled is None and decay:
            if group.get("decoupled_weight_decay") or isinstance(optimizer, _DECOUPLED):
                coupled = False
            elif isinstance(optimizer, _COUPLED):
                coupled = True
            else:
                raise ValueError(
                    f"whether {type(optimizer).__name__} adds weight decay to the gradient is not known: pass coupled_decay=True "
                    "if it does, as SGD, or coupled_decay=False if it shrinks the weights apart, as AdamW"
                )
        return (-decay if group.get("maximize") else decay) if coupled else 0.0

    def stranger(self, network: nn.Module) -> str | None:
        """The name of a trainable parameter that the network did not have when this object was made, or None."""
        named = trained(network).items()
        return next((name for name, each in named if each.requires_grad and each not in self._names), None)

    @torch.no_grad()
    def take(self) -> Vector:
        """The mean since the last call, by name, of the parameters that had a gradient; a new mean begins."""
        sums, count = self._sums, self.count
        self.clear()
        for total in sums.values():
            total.div_(count)
        return sums

    def clear(self) -> None:
        """Begin a new mean."""
        self._sums, self.count = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """The sums and their number of steps."""
        return {"sums": dict(self._sums), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a mean.

        Raises:
            ValueError: the state is another network's.
        """
        check_loaded(state["sums"], self._parameters)
        self._sums = {
            name: tensor.to(self._parameters[name].device, copy=True) for name, tensor in state["sums"].items()
        }
        self.count = int(state["count"])

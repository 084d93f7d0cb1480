"""Muon: momentum whose steps are made orthogonal, for the matrices and convolutions of a network.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the step is scaled to that of AdamW
as in "Muon is Scalable for LLM Training", arXiv 2502.16982. torch.optim.Muon takes matrices only and computes in
bfloat16, which a CPU emulates; this one takes convolutions as matrices and computes in float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

ITERATIONS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # coefficients of the paper's quintic iteration


class Muon(torch.optim.Optimizer):
    """Updates parameters of two or more dimensions; `lr` as for AdamW."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[parameter.flatten(1).shape].append(parameter)
            for (height, width), parameters in same_shape.items():
                scale = group["lr"] * 0.2 * max(height, width) ** 0.5
                steps = orthogonal(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.sub_(step.view_as(parameter), alpha=scale)

    def _momentum(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        """The gradient with Nesterov momentum, as a matrix."""
        assert parameter.grad is not None
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1.0 - momentum)
        return parameter.grad.lerp(buffer, momentum).flatten(1)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Nearly the nearest matrices with orthogonal rows or columns (singular values about 1) to [N, h, w]."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if is_tall else x

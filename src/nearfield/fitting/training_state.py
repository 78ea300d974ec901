"""A training in progress: everything that its next step depends on, so that it can be checkpointed and resumed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast, final

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nearfield.data import store
from nearfield.fitting.acceleration import compiled
from nearfield.fitting.adamw import AdamW
from nearfield.noise import Stream

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from nearfield.score.network import Network

__all__ = ["Check", "TrainingState"]


class Check(NamedTuple):
    """Held-out loss of the averaged weights after some steps.

    Attributes
    ----------
    step : int
        Steps taken.
    loss : float
        Mean over held-out samples and fixed noise levels.
    error : float
        Its standard error, over samples.
    """

    step: int
    loss: float
    error: float


@final
class TrainingState:
    """Weights, their average, moments, random numbers, place in the data, losses and checks.

    Parameters
    ----------
    network : Network
        Trained in place.
    weight_decay : float
        Of AdamW.
    ema : float
        Decay of the moving average of the weights for each step.
    seed : int
        Of the order of the data, the noise levels and the noise.
    bfloat16 : bool
        Whether the first step is computed in bfloat16. Weights, average and moments never are.
    compiles : bool
        Whether steps go through torch's compiler.

    Attributes
    ----------
    device : torch.device
        Of the network, the random numbers and the batches.
    losses : list of float
        Training loss of each step taken.
    checks : list of Check
    best : dict
        State of the network with the best average so far; as at the start until there is one.
    seconds : float
        Spent so far.
    bfloat16 : bool
        Whether the next step is computed in bfloat16.
    bfloat16_steps : int
        Steps taken that did.
    """

    def __init__(
        self,
        network: Network,
        *,
        weight_decay: float,
        ema: float,
        seed: int,
        bfloat16: bool = False,
        compiles: bool = False,
    ) -> None:
        self.network = network
        self.compiles = compiles
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(ema)).requires_grad_(False)
        self.optimizer = AdamW(network.parameters(), weight_decay)
        # Not the seed itself: the network's first weights may have been drawn from the same number.
        words = np.random.SeedSequence([seed, Stream.TRAINING]).generate_state(1, np.uint64)
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(int(words[0]))
        self.best = _copied(network)
        self.losses: list[float] = []
        self.checks: list[Check] = []
        self.seconds = 0.0
        self.bfloat16, self.bfloat16_steps = bfloat16, 0
        self._order = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._position = 0

    @cached_property
    def forward(self) -> Callable[..., Tensor]:
        """The network, for steps; compiled when the first of them asks for it."""
        return compiled(self.network) if self.compiles else self.network

    @property
    def averaged(self) -> Network:
        """The network with the averaged weights."""
        return cast("Network", self.average.module)

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.losses)

    def next_batch(self, n_samples: int, batch_size: int) -> Int[Tensor, " batch"]:
        """Sample numbers of the next batch; the rest of a pass over the data that fills no batch is left out."""
        if self._position + batch_size > len(self._order):
            self._order = torch.randperm(n_samples, generator=self.generator, device=self.device)
            self._position = 0
        self._position += batch_size
        return self._order[self._position - batch_size : self._position]

    def record(self, check: Check) -> None:
        """Keep a check, and the averaged weights if they are the best so far."""
        earlier = self.best_check
        self.checks.append(check)
        if self.best_check is not earlier:
            self.best = _copied(self.averaged)

    @property
    def best_check(self) -> Check | None:
        """The check with the lowest finite loss, the first of equals; None if there is none."""
        finite = [check for check in self.checks if math.isfinite(check.loss)]
        return min(finite, key=lambda check: check.loss, default=None)

    def save(self, path: str | os.PathLike[str], identity: str) -> None:
        """Write the run in one step; `identity` says of what."""
        tensors = {"generator": self.generator.get_state(), "order": self._order}
        for prefix, state in self._states().items():
            tensors |= {f"{prefix}{name}": value for name, value in state.items()}
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        arrays |= {
            "position": np.array(self._position),
            "losses": np.array(self.losses),
            "checks": np.array(self.checks, dtype=np.float64).reshape(-1, 3),
            "seconds": np.array(self.seconds),
            "bfloat16": np.array([int(self.bfloat16), self.bfloat16_steps]),
        }
        store.write(path, {"kind": "training", "identity": identity}, arrays)

    def load(self, path: str | os.PathLike[str], identity: str) -> None:
        """Resume a stored run; refuse that of another recipe, score, data or device."""
        metadata, arrays = store.read(path)
        if metadata != {"kind": "training", "identity": identity}:
            raise ValueError(
                f"checkpoint must be of this recipe, score and data to be resumed, got {os.fspath(path)!r} of others, "
                "of another device or of another version of nearfield; give the arguments of the run that wrote it, or "
                "delete the file to start again"
            )
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        for prefix, state in self._states().items():
            for name, value in state.items():
                value.copy_(tensors[f"{prefix}{name}"])
        self.generator.set_state(tensors["generator"])
        self._order, self._position = tensors["order"].to(self.device), int(arrays["position"])
        self.losses = arrays["losses"].tolist()
        self.checks = [Check(int(step), loss, error) for step, loss, error in arrays["checks"].tolist()]
        self.seconds = float(arrays["seconds"])
        self.bfloat16, self.bfloat16_steps = bool(arrays["bfloat16"][0]), int(arrays["bfloat16"][1])

    def _states(self) -> dict[str, dict[str, Tensor]]:
        """Tensors that are stored and loaded by name; those of modules share their memory."""
        return {
            "network.": self.network.state_dict(),
            "average.": self.average.state_dict(),
            "best.": self.best,
            "moment.": self.optimizer.state(),
        }


def _copied(network: torch.nn.Module) -> dict[str, Tensor]:
    """Copy the state of a network, to keep it."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}

r"""Denoisers of other libraries, all preconditioned and trained alike.

The preconditioning is that of Karras et al. (arXiv 2206.00364), :math:`D(x, t) = a x + s F(x, \ln(s/a))` where
:math:`a^2 + s^2 = 1`: azula's own `KarrasDenoiser` for its networks, the same by hand for those of diffusers. Loss
:math:`|D - x_0|^2/s^2`, as nearfield's networks are trained; log-normal noise levels, but other ones: the usual
`NoiseLevels`, of center -.5 and spread 1.2, where nearfield's `Recipe` has the wider -.3 and 1.4.
"""

from __future__ import annotations

import abc
import itertools
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import nn

from benchmarks.peer.contest import Contestant, Fitted, Split
from benchmarks.peer.training import train
from nearfield.fitting.matching import NoiseLevels, errors, training_draws
from nearfield.process import noise_scale, signal_scale
from nearfield.sampling.sampler import default_sampler
from nearfield.score.base import Score

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.law import Law

VERTICES = (1024, 4096)
"""Vertices in a batch, to choose from; nearfield's default recipe has the second."""


@final
class PeerScore(Score):
    """A denoiser of `(sample, 1, *shape)` tensors and OU times, as a score."""

    radius = None
    n_channels = 1

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module, self.shape, self.n_vertices = module, shape, int(np.prod(shape))

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the module's denoised state."""
        times = torch.as_tensor(t, dtype=torch.float32).expand(len(x))
        return self.module(x.float().reshape(len(x), 1, *self.shape), times).reshape(x.shape).to(x)


class PeerDenoiser(Contestant):
    """A network of another library; a subclass names it, lists settings and builds it."""

    kind = "denoiser"

    @abc.abstractmethod
    def build(self, setting: dict[str, Any], law: Law) -> nn.Module:
        """Return a module that denoises `(sample, 1, *shape)` at OU times `(sample,)`."""

    def fit(self, setting: dict[str, Any], split: Split, seconds: float, *, final: bool) -> Fitted:  # noqa: ARG002
        """Train a fresh network."""
        with torch.random.fork_rng():
            torch.manual_seed(split.seed)
            score = PeerScore(self.build(setting, split.law), split.law.shape)
        clean = torch.from_numpy(split.used).float()

        def loss(module: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
            t, xi = training_draws(NoiseLevels(), clean[batch], generator)
            return errors(PeerScore(module, split.law.shape), clean[batch], t, xi).mean()

        found = train(
            score.module,
            loss,
            lambda module: split.loss(PeerScore(module, split.law.shape).denoise),
            n_samples=len(clean),
            batch_size=min(64, max(2, setting["vertices"] // score.n_vertices)),
            seconds=seconds,
            rate=setting["rate"],
            seed=split.seed,
        )
        sampler = default_sampler(np.linalg.norm(split.used[..., 0], 2) ** 2 / len(split.used))

        def sample(n: int, seed: int) -> np.ndarray:
            with torch.no_grad():
                return sampler.sample(score, n, seed=seed, batch_size=64).double().numpy()

        return Fitted(found, score.denoise, sample=sample)


class Ornstein:
    """The forward process as an azula schedule, at OU times."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise."""
        return signal_scale(t), noise_scale(t)


class Azula(nn.Module):
    """azula's `KarrasDenoiser` of a network that takes the log noise as azula embeds it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        from azula.denoise import KarrasDenoiser

        self.denoiser = KarrasDenoiser(backbone, Ornstein())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior mean."""
        return self.denoiser(x, t).mean


class Preconditioned(nn.Module):
    """The same preconditioning for a network of any library."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return a x + s F(x, ln(s/a))."""
        a, s = (scale(t).reshape(-1, *(1,) * (x.ndim - 1)) for scale in (signal_scale, noise_scale))
        return a * x + s * self.backbone(x, torch.log(noise_scale(t)) + t)


class Embedding(nn.Module):
    """Log noise as features, by azula's sine encoding and a layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from azula.nn.layers import SineEncoding

        # The encoding is made for positions in the thousands; log noise is of order 1.
        self.net = nn.Sequential(SineEncoding(64, omega=1e3), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor) -> Tensor:
        """Features of each sample."""
        return self.net(10 * level)


class Mlp(nn.Module):
    """Residual layers over the whole flat state; azula has denoisers for such networks and leaves them to its user."""

    def __init__(self, size: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = Embedding(width)
        self.first = nn.Linear(size, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.last = nn.Linear(width, size)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return F."""
        level_features = self.embedding(level)
        h = self.first(x.flatten(1))
        for layer in self.layers:
            h = h + layer(h + level_features)
        return self.last(h).reshape(x.shape)


@final
class AzulaMlp(PeerDenoiser):
    """azula's Karras denoiser around a multilayer perceptron."""

    name = "azula, MLP"
    modules = ("azula.denoise", "azula.nn.layers")

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return widths and rates."""
        return [{"width": w, "depth": 2, "rate": r, "vertices": VERTICES[-1]} for w in (128, 384) for r in (3e-4, 2e-3)]

    def build(self, setting: dict[str, Any], law: Law) -> nn.Module:
        """Build it."""
        return Azula(Mlp(law.graph.n_vertices, setting["width"], setting["depth"]))


class AzulaBackbone(nn.Module):
    """azula's U-Net, modulated by the embedded log noise."""

    def __init__(self, channels: tuple[int, ...], law: Law) -> None:
        super().__init__()
        from azula.nn.unet import UNet

        self.embedding = Embedding(64)
        self.net = UNet(
            1,
            1,
            hid_channels=channels,
            hid_blocks=(2,) * len(channels),
            mod_features=64,
            spatial=len(law.shape),
            periodic=all(law.graph.lattice.periodic),
        )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return F."""
        return self.net(x, self.embedding(level))


@final
class AzulaUnet(PeerDenoiser):
    """azula's U-Net of one or two dimensions."""

    name = "azula, U-Net"
    modules = ("azula.denoise", "azula.nn.unet")

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return channels at each depth, and batches with the rates that suit them."""
        rates = zip(VERTICES, (4e-3, 1e-2), strict=True)
        return [
            {"channels": c, "vertices": v, "rate": r} for (v, r), c in itertools.product(rates, ((16, 32), (32, 64)))
        ]

    def build(self, setting: dict[str, Any], law: Law) -> nn.Module:
        """Build it."""
        return Azula(AzulaBackbone(setting["channels"], law))


class DiffusersBackbone(nn.Module):
    """The U-Nets of diffusers, the level spread over the thousand time steps that their embedding is made for.

    In one dimension of residual blocks that each see the level: the default blocks, which see it once, learn far less.
    """

    def __init__(self, channels: tuple[int, ...], law: Law) -> None:
        super().__init__()
        from diffusers import UNet1DModel, UNet2DModel

        depth = len(channels)
        if len(law.shape) == 1:
            self.net = UNet1DModel(
                sample_size=law.shape[0],
                in_channels=1,
                out_channels=1,
                time_embedding_type="positional",
                use_timestep_embedding=True,
                flip_sin_to_cos=False,
                freq_shift=1.0,
                down_block_types=("DownResnetBlock1D",) * depth,
                up_block_types=("UpResnetBlock1D",) * (depth - 1),
                mid_block_type="MidResTemporalBlock1D",
                out_block_type="OutConv1DBlock",
                block_out_channels=channels,
                act_fn="mish",
            )
        else:
            self.net = UNet2DModel(
                sample_size=law.shape,
                in_channels=1,
                out_channels=1,
                down_block_types=("DownBlock2D",) * depth,
                up_block_types=("UpBlock2D",) * depth,
                block_out_channels=channels,
                layers_per_block=1,
                norm_num_groups=8,
                add_attention=False,
            )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return F."""
        return self.net(x, 500 + 100 * level.clamp(-4.9, 4.9)).sample


@final
class DiffusersUnet(PeerDenoiser):
    """diffusers' UNet1DModel or UNet2DModel."""

    name = "diffusers, U-Net"
    modules = ("diffusers.models.unets.unet_1d", "diffusers.models.unets.unet_2d")

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return channels at each depth, and batches."""
        return [{"channels": c, "vertices": v, "rate": 4e-3} for c in ((16, 32), (32, 64)) for v in VERTICES]

    def build(self, setting: dict[str, Any], law: Law) -> nn.Module:
        """Build it."""
        return Preconditioned(DiffusersBackbone(setting["channels"], law))


DENOISERS: tuple[Contestant, ...] = (AzulaMlp(), AzulaUnet(), DiffusersUnet())

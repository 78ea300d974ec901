"""Fields that do not fit into memory: from a zarr store to a model, to new members in a store, to a completed gap.

Maps of soil moisture are made up, stored in chunks, and fitted tile by tile. By default they have 256 x 256 cells, and
take two minutes of one processor; with 1000 they have a million, and take some minutes. From the repository's root:

    python examples/14_million.py [picture.png] [cells a side]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import nearfield as nf

picture = sys.argv[1] if len(sys.argv) > 1 else "million.png"
side = int(sys.argv[2]) if len(sys.argv) > 2 else 256
n_days = (1 << 24) // side**2 + 1  # more numbers than are simply loaded
rng = np.random.default_rng(0)
warnings.filterwarnings("ignore", message="Consolidated metadata")


# 1. A store of daily maps: slanted bands, wetter in the south.
north, east = 2 * np.pi * np.fft.fftfreq(side)[:, None], 2 * np.pi * np.fft.rfftfreq(side)
wave = 0.6 * (2 - 2 * np.cos(east)) + 2 * (2 - 2 * np.cos(north)) - 0.9 * np.sin(east) * np.sin(north)
gain = (0.02 + wave) ** -0.75
gain /= np.sqrt((gain**2).mean())


def day() -> np.ndarray:
    """Make up the map of a day, percent."""
    noise = np.fft.rfft2(rng.normal(size=(side, side)))
    wet = np.linspace(22.0, 34.0, side)[:, None]
    return (wet + 4.0 * np.fft.irfft2(gain * noise, s=(side, side))).astype(np.float32)


cells = {"y": np.arange(side), "x": np.arange(side)}
maps = xr.DataArray(np.empty((n_days, side, side), np.float32), dims=("day", "y", "x"), coords=cells, name="moisture")
maps.attrs = {"long_name": "soil moisture", "units": "percent"}
for k in range(n_days):
    maps[k] = day()
unseen = maps[0].copy(data=day())
kept = tempfile.TemporaryDirectory()  # goes away in the end
folder = Path(kept.name)
maps.chunk({"day": -1, "y": 100, "x": 100}).to_dataset().to_zarr(folder / "maps.zarr")
del maps

# 2. The fit reads a tile of all days at a time, and keeps what it has done in a folder, which a fit goes on with.
stored = xr.open_zarr(folder / "maps.zarr")["moisture"]
model = nf.LocalizedDiffusion(method="gaussian", random_state=0)
model.fit(stored, sample_dim="day", checkpoint=folder / "maps.nearfield")
print(model.fit_report_.reason)

# 3. New members go to a store, chunk by chunk.
drawn = model.sample(3, random_state=1, store=folder / "drawn.zarr")
some = {"stored": stored[:3].load(), "drawn": drawn.load()}
for name, field in some.items():
    departure = field.to_numpy() - np.linspace(22.0, 34.0, side)[:, None]
    lags = [np.mean(departure[..., :-lag] * departure[..., lag:]) / departure.var() for lag in (1, 5, 20)]
    print(
        f"{name}: deviation {departure.std():.2f} %, correlation 1, 5, 20 cells east", *(f"{lag:.2f}" for lag in lags)
    )

# 4. A gap in a map that the fit has not seen: only the tiles around it are read.
hole = {"y": slice(side // 3, side // 3 + side // 4), "x": slice(side // 4, side // 4 + side // 3)}
partial = unseen.copy()
partial[hole] = np.nan
completed = model.impute(partial, n_samples=20, random_state=2)
inside = completed[{"member": slice(None), **hole}].to_numpy()
truth, mean = unseen[hole].to_numpy(), inside.mean(axis=0)
covered = np.mean(np.abs(truth - mean) < 1.645 * np.sqrt(1 + 1 / 20) * inside.std(axis=0, ddof=1))
print(f"gap of {truth.size} cells: error {np.sqrt(np.mean((truth - mean) ** 2)):.2f} %, {covered:.0%} within 90 %")
print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")

# 5. Look at it.
figure = Figure(figsize=(12, 10.4), dpi=100, layout="constrained")
fields = {
    "training map": stored[0],
    "new map": drawn[0],
    "unseen map with a gap": partial,
    "one draw in the gap": completed[0],
}
for axis, (name, field) in zip(figure.subplots(2, 2).ravel(), fields.items(), strict=True):
    axis.set_facecolor("0.8")
    image = axis.imshow(field.to_numpy(), origin="upper", cmap="YlGnBu", vmin=14, vmax=42, interpolation="nearest")
    axis.set(title=name, xlabel="x, cells", ylabel="y, cells")
    axis.label_outer()
figure.colorbar(image, ax=figure.axes, label="soil moisture, percent", shrink=0.6, extend="both")
figure.savefig(picture)
print(f"Look at {picture}")

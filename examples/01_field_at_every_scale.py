"""A field at every scale: fit labelled fields, draw new ones, compare both from neighbours to the whole domain.

Some 20 seconds. From the repository's root:

    python examples/01_field_at_every_scale.py [picture.png]
"""

from __future__ import annotations

import sys

import numpy as np
from matplotlib.figure import Figure

import nearfield as nf
from nearfield.datasets import north_america_temperature
from nearfield.evaluation import plot
from nearfield.evaluation.curve import VertexPairs
from nearfield.evaluation.metric import correlation_by_distance
from nearfield.evaluation.moment import Yardstick

picture = sys.argv[1] if len(sys.argv) > 1 else "field_at_every_scale.png"

# 1. Fit labelled fields (year, lat, lon). Held-out loss chooses the locality, and the correction at larger scales.
temperature = north_america_temperature()
held_out = temperature["scenario"] == "E1"
train, test = temperature[~held_out], temperature[held_out]
model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(train, sample_dim="year")
print(model.fit_report_.reason)

# 2. Draw 500 new years, with the same labels.
new = model.sample(500, random_state=0)

# 3. Compare variance, the five leading modes, correlation by distance.
years = {
    name: field.to_numpy().reshape(len(field), -1)
    for name, field in (("training", train), ("generated", new), ("held-out", test))
}
yardstick = Yardstick.of(years["training"])
modes = {name: yardstick.mode_variances(x, own=name == "training") for name, x in years.items()}
pairs = VertexPairs.draw(model.graph_, max_pairs=50_000)
curves = {name: correlation_by_distance(x[..., None], pairs) for name, x in years.items()}
shown = (4, 8, 12)
distances = ", ".join(f"{curves['training'].axis[k]:.0f}" for k in shown)
print(f"{'':12}{'variance, K^2':15}{'along five modes':18}correlation at {distances} km")
for name, x in years.items():
    value, error = modes[name]
    mean, half = value.mean(), np.sqrt((error**2).sum()) / len(value)
    far = ", ".join(f"{curves[name].value[k, 0]:.3f}" for k in shown)
    print(f"{name:12}{x.var(axis=0, ddof=1).mean():<15.3f}{f'{mean:.2f} +- {half:.2f}':18}{far}")

figure = Figure(figsize=(11, 4), dpi=100, layout="constrained")
left, right = figure.subplots(1, 2)
plot.correlation(curves, left).set_title("Correlation by distance")
plot.modes(modes, right).set_title("The five leading modes")
figure.savefig(picture)
print(f"Look at {picture}")

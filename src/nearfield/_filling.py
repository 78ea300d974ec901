"""What fields become - completed, or scored value by value - a few fields at a time, in memory or in a store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np

from nearfield import tasks
from nearfield.conditioned import MEMBERS
from nearfield.data.atomic_write import require_new
from nearfield.data.draw_store import DrawStore
from nearfield.data.duplicate import fingerprint_sums
from nearfield.data.fields import Fields
from nearfield.data.labelling import blank_beside, labels_digest
from nearfield.data.missing import refuse_observed
from nearfield.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int

__all__ = ["Completion", "Filling", "Surprise", "filled", "filled_in_store", "in_nats"]


class Filling(Protocol):
    """Turns some fields into others, of their layout."""

    @property
    def lead(self) -> Mapping[str, int]:
        """Axes that each field gets, at most one."""

    def label(self, field: Any) -> Any:
        """Say what the values of a DataArray are."""

    def of(
        self, model: Model, x: Float[np.ndarray, "sample vertex channel"], numbers: Int[np.ndarray, " sample"]
    ) -> Iterator[tuple[Int[np.ndarray, " case"], int, Float[np.ndarray, "some case vertex channel"]]]:
        """Yield places of fields, the first of some entries of the axis in front, and these entries."""


@final
@dataclass(frozen=True)
class Completion:
    """Fields with what is missing drawn given the rest, or with these quantiles of it in the place of draws."""

    n_samples: int
    seed: int
    gaussian: bool
    interval: tuple[float, ...] | None
    device: str

    @property
    def lead(self) -> Mapping[str, int]:
        """Members, or quantiles."""
        return {"member": self.n_samples} if self.interval is None else {"quantile": len(self.interval)}

    def label(self, field: Any) -> Any:
        """Return the field: its values stay what they are."""
        return field

    def of(
        self, model: Model, x: Float[np.ndarray, "sample vertex channel"], numbers: Int[np.ndarray, " sample"]
    ) -> Iterator[tuple[Int[np.ndarray, " case"], int, Float[np.ndarray, "some case vertex channel"]]]:
        """Draw fields that lack the same entries together, some at a time."""
        for cases, law in model.completions(x, gaussian=self.gaussian, numbers=numbers):
            law = law.of(lambda _: {}, self.device)
            if self.interval is not None:
                yield cases, 0, law.quantiles(self.interval, self.seed, max(self.n_samples, MEMBERS))
                continue
            for some, first, drawn in law.batches(self.n_samples, self.seed):
                yield cases[some], first, drawn


@final
@dataclass(frozen=True)
class Surprise:
    """Less the log-density of each value given the others of its field."""

    lead: Mapping[str, int]

    def label(self, field: Any) -> Any:
        """Label nats."""
        return in_nats(field)

    def of(
        self, model: Model, x: Float[np.ndarray, "sample vertex channel"], numbers: Int[np.ndarray, " sample"]
    ) -> Iterator[tuple[Int[np.ndarray, " case"], int, Float[np.ndarray, "some case vertex channel"]]]:
        """Score fields."""
        yield np.arange(len(numbers)), 0, model.surprise(x)[None]


def filled(model: Model, fields: Fields, filling: Filling) -> Float[np.ndarray, "*lead sample vertex channel"]:
    """Return what all fields become."""
    shape = (len(fields), model.codec.n_vertices, model.codec.n_channels)
    out = np.empty((*filling.lead.values(), *shape))
    view = out.reshape(-1, *shape)
    for span in fields.spans():
        for cases, first, values in filling.of(model, _checked(model, fields, span, filling), np.array(span)):
            view[first : first + len(values), span.start + cases] = values
    return out


def filled_in_store(
    model: Model,
    fields: Fields,
    filling: Filling,
    path: str | os.PathLike[str],
    *,
    digest: str,
    attrs: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Write what all fields become to a zarr store, or go on with one that was begun, and open it.

    The digest is that of the model.
    """
    require_new("store", path)
    blank = blank_beside(model.codec, fields.data, fields.lengths, filling.lead, attrs or {})
    blank = blank._replace(fields=blank.fields.assign({k: filling.label(v) for k, v in blank.fields.items()}))
    spans = fields.spans(cut=True)
    sums = tasks.run(_sums, spans, fields, workers=workers)
    data = hashlib.sha256(np.concatenate(sums).tobytes()).hexdigest()
    key = {"model": digest, "data": data, "labels": labels_digest(blank.fields), "filling": repr(filling)}
    store = DrawStore.create(path, model.codec, blank, model.tiling, key=key)
    left = {number for number, _ in store.left()}
    n = len(fields)
    items = [(span, sorted({k % n for k in left if k % n in span})) for span in spans]
    items = [item for item in items if item[1]]
    tasks.run(_fill, items, fields, model, filling, store, workers=workers, progress=progress)
    store.complete()
    return store.opened()


def _sums(span: range, fields: Fields) -> np.ndarray:
    return fingerprint_sums(fields.read(span), np.flatnonzero(fields.codec.present))


def _fill(item: tuple[range, Sequence[int]], fields: Fields, model: Model, filling: Filling, store: DrawStore) -> None:
    """Write what some of the fields of a span become."""
    span, numbers = item[0], np.array(item[1])
    x = _checked(model, fields, span, filling)[numbers - span.start]
    for cases, first, values in filling.of(model, x, numbers):
        for k, each in enumerate(values):
            for case, field in zip(numbers[cases], each, strict=True):
                store.write_whole((first + k) * len(fields) + int(case), field)


def _checked(model: Model, fields: Fields, span: range, filling: Filling) -> Float[np.ndarray, "sample vertex channel"]:
    """Read fields, and refuse fill numbers among observations of those to complete."""
    x = fields.read(span)
    if isinstance(filling, Completion):
        refuse_observed(x, model.marginal(x), model.fit_report.n_samples)
    return x


def in_nats(field: Any) -> Any:
    """Say what the values of a DataArray are now."""
    field = field.copy(deep=False)
    field.attrs = {"long_name": f"surprise of {field.attrs.get('long_name', field.name or 'values')}", "units": "nat"}
    return field

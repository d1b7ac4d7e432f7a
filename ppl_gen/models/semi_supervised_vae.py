"""The variational autoencoder of data some of which have a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_gen.models._options import positive
from ppl_gen.models.vae import VAE, check_labels
from ppl_gen.nets.mlp import MLP
from ppl_gen.nets.net import Net
from ppl_gen.primitives import dist, mask, module, plate, sample, scale, xp
from ppl_gen.program import DataError


@dataclass(frozen=True)
class SemiSupervisedVAE:
    """y of K classes, all as probable, and x as a conditional VAE has it of label y; y is known of some rows.

    M2 of Kingma, Rezende, Mohamed & Welling (2014), "Semi-supervised learning with deep generative models": q(z, y | x)
    = q(y | x) q(z | x, y). Of rows without a label y is summed out exactly under the classifier q(y | x) (equation 7);
    rows with one are learned from by their bound (equation 6) and by the classifier (equation 9). Sites: ``y`` (N,),
    those of the ``VAE``, and ``label``, which is y where it is known; params: the weights of ``encoder``, ``decoder``
    and ``classifier``. Train it by ``engine="svi"`` with a ``batch_size``; ``run.encode(x)["y_probs"]`` classifies.

    Attributes:
        vae: of ``num_classes`` labels.
        classifier: a network of :mod:`ppl_gen.nets`, datum -> K numbers; of the hidden layers of ``vae`` where None.
        alpha: what log q(y | x) of a row with a label counts for beside its bound; in the paper 0.1 times the rows for
            each that has one.
    """

    vae: VAE
    classifier: Net | None = None
    alpha: float = 1.0

    outputs: ClassVar[tuple[str, ...]] = ("x", "y")
    em_rows: ClassVar[tuple[str, ...]] = ("x", "label")
    dims: ClassVar[dict[str, list[str | None]]] = VAE.dims

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)
        if not isinstance(self.vae, VAE) or self.vae.num_classes < 2 or self.vae.num_context:
            raise ValueError(f"vae must be a VAE of num_classes at least 2 and without a context, got {self.vae!r}")

    def __call__(self, x: Any = None, label: Any = None, num_data: int | None = None) -> None:
        """The program; ``x`` has shape (N, *shape), ``label`` (N,) holds 0, ..., K - 1 or -1 where there is none."""
        generate = self.vae.generator()
        with plate("data", (num_data or 1) if x is None else len(x)):
            y = sample("y", dist.Categorical(logits=xp.zeros((self.vae.num_classes,))))
            generate(x, self.vae.given(y))
            if label is not None:
                with mask(label >= 0):
                    sample("label", dist.Categorical(logits=self._certain(y)), obs=_known(label))

    def guide(self, x: Any, label: Any = None, num_data: int | None = None) -> None:
        """q(y | x), y itself where it is known, and q(z | x, y); a label is classified, too."""
        recognise, classify = self.vae.recogniser(), module("classifier", self._classifier())
        seen = self.vae.shown(x)
        with plate("data", len(x)):
            logits = classify(seen)
            if label is not None:
                with mask(label >= 0), scale(self.alpha):
                    sample("label", dist.Categorical(logits=logits), obs=_known(label))
                logits = xp.where((label >= 0)[:, None], self._certain(_known(label)), logits)
            y = sample("y", dist.Categorical(logits=logits))
            sample("z", recognise(seen, self.vae.given(y)))

    def _certain(self, y: Any) -> Any:
        """Log probabilities (..., K) where y (...) is known."""
        return xp.where(xp.eye(self.vae.num_classes) > 0, 0.0, -xp.inf)[y]

    def _classifier(self) -> Net:
        if self.classifier is not None:
            return self.classifier
        return MLP(self.vae.num_shown, self.vae.num_classes, self.vae.hidden, self.vae.activation, gain=0.1)

    def check_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Raises DataError: data that the VAE cannot have, or labels that are no classes."""
        if "x" in data:
            self.vae.check_x(data["x"])
        if "label" in data:
            check_labels(data["label"], self.vae.num_classes, least=-1)
            if "x" in data and len(data["label"]) != len(data["x"]):
                raise DataError(f"expected a label for each of {len(data['x'])} rows, got {len(data['label'])}")

    def row_data(self, values: Mapping[str, np.ndarray], n: int) -> dict[str, int]:
        """Arguments that make n new rows."""
        return {"num_data": n}


def _known(label: Any) -> Any:
    """Whole numbers, 0 where there is none."""
    return xp.astype(xp.maximum(label, 0), xp.int32)

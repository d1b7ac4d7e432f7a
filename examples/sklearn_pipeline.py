"""Declared models inside scikit-learn: a pipeline, a grid search, gaps in the data, labels for a few rows.

    python examples/sklearn_pipeline.py [numpyro|pyro|auto]

Needs scikit-learn: pip install 'ppl_gen[sklearn]'.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ppl_gen.sklearn import GaussianMixture, NaiveBayes, ProbabilisticPCA


def main(backend="auto"):
    iris, species = load_iris(return_X_y=True)

    # How many latents? The estimators are scikit-learn's in every respect: parameters, clones, cross-validation.
    pipeline = make_pipeline(StandardScaler(), ProbabilisticPCA(), NaiveBayes())
    search = GridSearchCV(pipeline, {"probabilisticpca__n_components": [1, 2, 3]}, cv=5).fit(iris, species)
    print(f"pipeline: {search.best_params_}, accuracy {search.best_score_:.3f}")
    assert search.best_score_ > 0.9

    # How many clusters? By BIC two, as is known of these data.
    mixtures = [GaussianMixture(k, n_init=4, random_state=0).fit(iris) for k in (1, 2, 3)]
    bic = [m.bic(iris) for m in mixtures]
    print("mixtures: BIC", np.round(bic, 1))
    assert int(np.argmin(bic)) == 1

    # A fifth of the entries missing: NaN goes in as it is and is integrated out.
    gaps = iris.copy()
    gaps[np.random.default_rng(0).random(gaps.shape) < 0.2] = np.nan
    clusters = GaussianMixture(2, n_init=4, random_state=0, backend=backend).fit(gaps).predict(gaps)
    setosa = clusters[species == 0]
    share = np.mean(setosa == np.median(setosa))
    print(f"with gaps: {share:.0%} of setosa in one cluster")
    assert share > 0.9

    # What scikit-learn does not keep is one attribute away: the run, with its history and for ArviZ.
    run = mixtures[1].run_
    assert (np.diff(run.history["log_likelihood"]) > -1e-8).all()
    np.testing.assert_allclose(run.log_prob(iris), mixtures[1].score_samples(iris), rtol=1e-8)

    # A hundred labels and 1,697 images without one: -1 says that a label is not known.
    digits, digit = load_digits(return_X_y=True)
    partly = np.where(np.arange(len(digit)) < 100, digit, -1)
    alone = NaiveBayes("multinomial").fit(digits[:100], digit[:100])
    together = NaiveBayes("multinomial", unlabelled=-1, backend=backend).fit(digits, partly)
    before, after = (m.score(digits[100:], digit[100:]) for m in (alone, together))
    print(f"digits: accuracy {before:.3f} from 100 labels alone, {after:.3f} with the rest unlabelled")
    assert after > before + 0.05


if __name__ == "__main__":
    main(*sys.argv[1:2])

"""Estimators with scikit-learn's conventions on top of the declared models.

They fit through ``pg.infer``, predict on the host from fitted arrays, and pass scikit-learn's own ``check_estimator``.
Nothing else of the package imports them: scikit-learn is installed by the extra ``ppl_gen[sklearn]``.
"""

try:
    import sklearn
except ImportError as error:
    raise ImportError("ppl_gen.sklearn needs scikit-learn: pip install 'ppl_gen[sklearn]'") from error

from ppl_gen.sklearn.gaussian_mixture import GaussianMixture
from ppl_gen.sklearn.naive_bayes import NaiveBayes
from ppl_gen.sklearn.probabilistic_pca import ProbabilisticPCA

__all__ = ["GaussianMixture", "NaiveBayes", "ProbabilisticPCA"]

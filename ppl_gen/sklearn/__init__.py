"""Estimators with scikit-learn's conventions on top of the declared models.

They fit through ``pg.infer``, predict on the host from fitted arrays, and pass scikit-learn's own ``check_estimator``.
Nothing else of the package imports them: scikit-learn is installed by the extra ``ppl_gen[sklearn]``.
"""

try:
    import sklearn
except ImportError as error:
    raise ImportError("ppl_gen.sklearn needs scikit-learn: pip install 'ppl_gen[sklearn]'") from error

from ppl_gen.sklearn.bayesian_gaussian_mixture import BayesianGaussianMixture
from ppl_gen.sklearn.factor_analysis import FactorAnalysis
from ppl_gen.sklearn.gaussian_mixture import GaussianMixture
from ppl_gen.sklearn.latent_class import LatentClass
from ppl_gen.sklearn.latent_dirichlet import LatentDirichlet
from ppl_gen.sklearn.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from ppl_gen.sklearn.naive_bayes import NaiveBayes
from ppl_gen.sklearn.probabilistic_pca import ProbabilisticPCA

__all__ = [
    "BayesianGaussianMixture",
    "FactorAnalysis",
    "GaussianMixture",
    "LatentClass",
    "LatentDirichlet",
    "MixtureOfFactorAnalyzers",
    "NaiveBayes",
    "ProbabilisticPCA",
]

"""A state-space model of the Nile's yearly flow at Aswan, 1871 to 1970, with twenty years that were not observed.

The states are integrated out by the Kalman filter; NaN stands for what is missing, and run.latent() is the smoothed
state of each year. The exact density of the observed years is compared with the dense Gaussian that the fitted model
says they have. Data: Cobb (1978), as in Durbin & Koopman (2012), section 2.2.

    python examples/river_level.py [numpyro|pyro]
"""

import sys

import numpy as np
from scipy import stats

import ppl_gen as pg

FLOW = np.array(
    """
    1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100 1210 1150 1250 1260
    1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824 702 1120 1100 832 764 821 768 845
    864 862 698 845 744 796 1040 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890
    744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740
    """.split(),
    dtype=float,
)
YEARS = 1871 + np.arange(len(FLOW))
GAP = (YEARS >= 1891) & (YEARS < 1911)


def dense(params, years):
    """Mean and covariance (years, years) of the flow, without any recursion: states are sums of what came before."""
    a, c, p0 = params["transition"][0, 0], params["emission"][0, 0], params["initial_scales"][0] ** 2
    t = np.arange(years)
    path = np.where(t[:, None] >= t, a ** np.abs(t[:, None] - t), 0.0)  # what a shock at one time is later on
    states = path @ np.diag(np.where(t > 0, 1.0, p0)) @ path.T
    mean = params["offset"][0] + c * path[:, 0] * params["initial_loc"][0]
    return mean, c**2 * states + params["scales"][0] ** 2 * np.eye(years)


def main(backend="numpyro"):
    seen = np.where(GAP, np.nan, FLOW)[:, None]
    model = pg.models.LinearGaussianStateSpace(1)
    run = pg.infer(model, seen, engine="em", backend=backend, num_restarts=1, tolerance=1e-4)

    mean, covariance = dense(run.params, len(FLOW))
    kept = np.flatnonzero(~GAP)
    exact = stats.multivariate_normal.logpdf(FLOW[kept], mean[kept], covariance[np.ix_(kept, kept)])
    filtered = run.log_prob(seen).sum()
    print(f"log likelihood by the filter {filtered:.6f}, as one dense Gaussian {exact:.6f}")
    assert abs(filtered - exact) < 1e-6

    known = run.latent()
    level = run.params["offset"][0] + run.params["emission"][0, 0] * known["z"][:, 0]
    spread = np.abs(run.params["emission"][0, 0]) * np.sqrt(known["z_cov"][:, 0, 0])
    for year in (1880, 1900, 1930):
        i = year - YEARS[0]
        print(f"{year}: level {level[i]:.0f} +- {spread[i]:.0f}" + (", not observed" if GAP[i] else ""))
    expected = mean + covariance[:, kept] @ np.linalg.solve(covariance[np.ix_(kept, kept)], FLOW[kept] - mean[kept])
    assert np.abs(level - expected)[GAP].max() < 1e-6  # flow and level have one mean where nothing was observed
    assert spread[GAP].min() > spread[~GAP].max() * 0.9


if __name__ == "__main__":
    main(*sys.argv[1:2])

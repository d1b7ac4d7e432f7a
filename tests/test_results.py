"""ArviZ out: ppl_gen/results without any engine."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import arviz as az
import xarray as xr

import ppl_gen.results.arviz
from ppl_gen.results.arviz import add_groups, arrays_of, concat, datasets_of, to_datatree, to_idata

OLD_ARVIZ = hasattr(az, "from_datatree")
SCHOOLS = ["Choate", "Deerfield", "Exeter"]


def make_groups(chains=4, draws=60, shift=0.0, seed=0):
    own = np.random.default_rng(seed)
    theta = own.normal(size=(chains, draws, 3)) + [0, 1, 2] + shift
    return {
        "posterior": {"mu": own.normal(size=(chains, draws)) + shift, "theta": theta},
        "sample_stats": {"diverging": own.random((chains, draws)) < 0.05},
        "log_likelihood": {"y": -0.5 * (theta - [0.1, 0.9, 2.2]) ** 2},
        "posterior_predictive": {"y": theta + own.normal(size=theta.shape)},
        "observed_data": {"y": np.array([0.1, 0.9, 2.2])},
        "prior": {},
    }


def make_idata(**options):
    return to_idata(make_groups(**options), dims={"theta": ["school"], "y": ["school"]},
                    coords={"school": SCHOOLS}, attrs={"inference": "nuts", "exact": True})


# --- ArviZ -------------------------------------------------------------------------------------------------


def test_groups_dims_coords_and_attrs_arrive():
    idata = make_idata()
    assert isinstance(idata, az.InferenceData if OLD_ARVIZ else xr.DataTree)
    sets = datasets_of(idata)
    assert list(sets) == ["posterior", "posterior_predictive", "log_likelihood", "sample_stats",
                          "observed_data"]
    assert sets["posterior"]["theta"].dims == ("chain", "draw", "school")
    assert sets["observed_data"]["y"].dims == ("school",)
    assert list(sets["posterior"]["school"].values) == SCHOOLS
    assert idata.attrs == {"inference": "nuts", "exact": 1} == sets["posterior"].attrs
    assert float(sets["posterior"]["theta"].sel(school="Exeter").mean()) > 1.5


def test_arrays_come_back_as_they_went_in():
    groups = {"posterior": {"a/b": np.ones((2, 3)), "a.b": np.zeros((2, 3)), "chain": np.ones((2, 3))},
              "observed_data": {"draw": np.arange(4), "one": np.float64(2)}}
    back = arrays_of(to_idata(groups))
    for group, arrays in groups.items():
        assert back[group].keys() == arrays.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(back[group][name], values)


@pytest.mark.parametrize(("declared", "shape", "expected"), [
    ([], (3, 2), ("v_dim_0", "v_dim_1")),
    (["a"], (3, 2), ("a", "v_dim_1")),
    ([None, "b"], (3, 2), ("v_dim_0", "b")),
    (["a", "a"], (3, 3), ("a", "v_dim_1")),
    (["other"], (3,), ("v_dim_0",)),          # another variable has this name
    (["draw"], (3,), ("v_dim_0",)),
    (["a/b"], (3,), ("a.b",)),
    ([], (), ()),
])
def test_names_of_dimensions(declared, shape, expected):
    groups = {"posterior": {"v": np.zeros((2, 5, *shape)), "other": np.zeros((2, 5))}}
    tree = to_datatree(groups, dims={"v": declared})
    assert tree["posterior"]["v"].dims == ("chain", "draw", *expected)


def test_a_dimension_of_two_sizes_falls_back_for_the_one_that_clashes():
    groups = {"posterior": {"a": np.zeros((1, 5, 4)), "b": np.zeros((1, 5, 3))}}
    dims = {"a": ["t"], "b": ["t"]}
    sets = to_datatree(groups, dims=dims)["posterior"]
    assert (sets["a"].dims[-1], sets["b"].dims[-1]) == ("t", "b_dim_0")
    labelled = to_datatree(groups, dims=dims, coords={"t": ["x", "y", "z"]})["posterior"]  # the labels decide
    assert (labelled["a"].dims[-1], labelled["b"].dims[-1]) == ("a_dim_0", "t")


def test_one_dimension_may_differ_between_groups():
    groups = {"posterior": {"a": np.zeros((1, 5, 4))}, "posterior_predictive": {"y": np.zeros((1, 5, 9))}}
    tree = to_datatree(groups, dims={"a": ["n"], "y": ["n"]})
    assert tree["posterior"].sizes["n"] == 4 and tree["posterior_predictive"].sizes["n"] == 9


@pytest.mark.parametrize(("groups", "options", "words"), [
    ({"posterior": {"a": np.zeros(5)}}, {}, "needs shape"),
    ({"posterior": {"a": np.zeros((2, 5)), "b": np.zeros((2, 6))}}, {}, "but posterior"),
    ({"posteriors": {"a": np.zeros((2, 5))}}, {}, "unknown group"),
    ({"posterior": {"a": np.zeros((2, 5, 3))}}, {"dims": {"a": ["x", "y"]}}, "names 2 dimensions"),
    ({"posterior": {"a": np.zeros((2, 5, 3))}}, {"dims": {"a": ["x"]}, "coords": {"x": [1, 2]}}, "2 labels"),
    ({"posterior": {"a": np.zeros((2, 5, 3))}}, {"coords": {"a_dim_0": [1, 2]}}, "has 2 labels"),
    ({"posterior": {"a": np.zeros((2, 5, 3))}}, {"coords": {"a_dim_0": [[1, 2, 3]]}}, "one-dimensional"),
])
def test_what_does_not_fit_is_refused_in_words(groups, options, words):
    with pytest.raises(ValueError, match=words):
        to_idata(groups, **options)


def test_a_text_is_no_list_of_dimensions():
    with pytest.raises(TypeError, match="list of names"):
        to_idata({"posterior": {"a": np.zeros((2, 5, 3))}}, dims={"a": "abc"})


def test_labels_of_no_dimension_warn():
    with pytest.warns(UserWarning, match="'shcool'"):
        to_idata(make_groups(), dims={"theta": ["school"]}, coords={"shcool": SCHOOLS})


def test_attributes_are_of_netcdf_types():
    attrs = {"flag": False, "none": None, "n": np.int32(3), "xs": [1, 2.5], "names": ["a"], "d": {"k": True}}
    held = to_datatree(make_groups(), attrs=attrs).attrs
    assert held["flag"] == 0 and type(held["flag"]) is int and "none" not in held and held["n"] == 3
    assert held["xs"].tolist() == [1, 2.5] and json.loads(held["d"]) == {"k": True}


def test_groups_are_added_to_a_copy():
    idata = make_idata()
    more = add_groups(idata, {"prior": {"mu": np.zeros((1, 7))},
                              "prior_predictive": {"y": np.zeros((1, 7, 3))}}, dims={"y": ["school"]})
    sets = datasets_of(more)
    assert type(more) is type(idata) and "prior" not in datasets_of(idata)
    assert list(sets["prior_predictive"]["school"].values) == SCHOOLS  # labels that are there are used again
    assert more.attrs == idata.attrs
    with pytest.raises(ValueError, match="overwrite"):
        add_groups(more, {"prior": {"mu": np.zeros((1, 7))}})
    again = add_groups(more, {"prior": {"mu": np.ones((1, 9))}}, overwrite=True)
    assert datasets_of(again)["prior"].sizes["draw"] == 9


def test_results_are_joined_along_draws_and_chains():
    one, two = make_idata(), make_idata(draws=40, seed=1)
    longer = datasets_of(concat(one, two))
    assert longer["posterior"].sizes["draw"] == 100
    assert longer["posterior"]["draw"].values.tolist() == list(range(100))
    np.testing.assert_array_equal(longer["posterior"]["mu"][:, 60:], datasets_of(two)["posterior"]["mu"])
    assert longer["observed_data"].equals(datasets_of(one)["observed_data"])
    assert datasets_of(concat(one, make_idata(chains=2), dim="chain"))["posterior"].sizes["chain"] == 6


def test_from_dict_is_never_called():
    folder = Path(ppl_gen.results.arviz.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "from_dict":
                owner = ast.unparse(node.value)
                assert not {"az", "arviz"} & set(owner.split(".")), f"{file.name}: {owner}.from_dict"


def test_importing_results_loads_none_of_the_heavy_libraries():
    heavy = ("arviz", "xarray", "matplotlib", "pandas", "jax", "torch")
    code = f"""if True:
        import sys
        from ppl_gen.results import arviz, storage, report, figures, density_figures, summary
        print([name for name in {heavy} if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_arviz_reads_it(tmp_path):
    idata, other = make_idata(draws=200), make_idata(draws=200, shift=0.5, seed=1)
    table = az.summary(idata, **({"hdi_prob": 0.9} if OLD_ARVIZ else {"ci_prob": 0.9}))
    assert list(table.index) == ["mu", *(f"theta[{name}]" for name in SCHOOLS)]
    for plot in ("plot_trace", "plot_rank", "plot_forest"):
        plotting = getattr(az, plot)
        assert plotting(idata, var_names=["mu", "theta"]) is not None
    assert np.isfinite(float(az.loo(idata).elpd_loo if OLD_ARVIZ else az.loo(idata).elpd))
    ranking = az.compare({"first": idata, "second": other})
    assert next(iter(ranking.index)) == "first"

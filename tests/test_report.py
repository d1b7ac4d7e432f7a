"""Tables, pictures and pages of results: ppl_gen/results without any engine."""

import html.parser
import re

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import arviz as az
import matplotlib.image

import ppl_gen as pg
from ppl_gen.results import density_figures, figures, pages, report, row_figures, row_pages, summary
from ppl_gen.results.arviz import to_idata

OLD_ARVIZ = hasattr(az, "from_datatree")
SCHOOLS = ["Choate", "Deerfield", "Exeter"]
rng = np.random.default_rng(0)


def make_idata(chains=4, draws=60, seed=0):
    own = np.random.default_rng(seed)
    theta = own.normal(size=(chains, draws, 3)) + [0, 1, 2]
    groups = {
        "posterior": {"mu": own.normal(size=(chains, draws)), "theta": theta},
        "sample_stats": {"diverging": own.random((chains, draws)) < 0.05},
        "posterior_predictive": {"y": theta + own.normal(size=theta.shape)},
        "observed_data": {"y": np.array([0.1, 0.9, 2.2])},
    }
    return to_idata(groups, dims={"theta": ["school"], "y": ["school"]}, coords={"school": SCHOOLS})


def test_the_table_agrees_with_arviz_and_puts_engines_side_by_side():
    idata, short = make_idata(draws=300), make_idata(chains=1, draws=300, seed=1)
    table = summary.summary_table({"NUTS": idata, "SVI": short}, ci=0.9)
    assert list(table.index) == ["mu", *(f"theta[{name}]" for name in SCHOOLS)]
    assert list(table["NUTS"].columns) == ["mean", "sd", "hdi5%", "hdi95%", "ess_bulk", "ess_tail", "r_hat"]
    options = {"hdi_prob": 0.9} if OLD_ARVIZ else {"ci_prob": 0.9, "ci_kind": "hdi"}
    theirs = az.summary(idata, round_to="none", **options)
    for name in ("mean", "sd", "ess_bulk", "r_hat"):
        np.testing.assert_allclose(table["NUTS"][name], theirs[name], rtol=1e-10)
    low = next(name for name in theirs.columns if name.startswith("hdi"))
    np.testing.assert_allclose(table["NUTS"]["hdi5%"], theirs[low], rtol=1e-10)
    assert table["SVI"]["r_hat"].isna().all() and (table["SVI"]["ess_bulk"] > 100).all()


def test_the_table_takes_engines_with_different_variables():
    one = to_idata({"posterior": {"a": rng.normal(size=(2, 50))}})
    two = to_idata({"posterior": {"b": rng.normal(size=(1, 50)), "a": rng.normal(size=(1, 50))}})
    table = summary.summary_table({"one": one, "two": two})
    assert list(table.index) == ["a", "b"] and np.isnan(table.loc["b", ("one", "mean")])
    with pytest.raises(ValueError, match="no variable 'c'"):
        summary.summary_table({"one": one}, ["c"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        summary.summary_table({"one": one}, ci=90)


def test_the_shortest_interval_of_an_exponential():
    low, high = summary.hdi(np.random.default_rng(1).exponential(size=200_000), 0.9)
    assert low < 0.01 and abs(high - np.log(10)) < 0.05


def gaussian(points, mean=0.0):
    return np.exp(-0.5 * ((points - mean) ** 2).sum(-1))


X2 = rng.normal(size=(300, 2))
PICTURES = {
    "trace": lambda: figures.trace_figure(make_idata()),
    "trace of arrays": lambda: figures.trace_figure({"k": rng.poisson(3, (1, 50)), "c": np.ones((1, 50))}),
    "trace with NaN": lambda: figures.trace_figure({"a": np.array([[1.0, np.nan, 2.0, 4.0]])}),
    "rank": lambda: figures.rank_figure(make_idata(), ["theta", "mu"]),
    "forest": lambda: figures.forest_figure([("NUTS", make_idata()), ("SVI", make_idata(chains=1))]),
    "forest, other variables": lambda: figures.forest_figure([("a", {"x": rng.normal(size=(2, 9))}),
                                                              ("b", {"y": rng.normal(size=(2, 9))})], ["y"]),
    "history": lambda: figures.history_figure({"loss": 1e4 * np.exp(-np.arange(900) / 30) + 1,
                                               "bound": -1e5 * np.exp(-np.arange(900.0)) + 3,
                                               "restarts": rng.normal(size=(3, 20)),
                                               "broken": np.array([3.0, 2.0, np.nan, np.inf])}),
    "density, 1-d": lambda: density_figures.density_figure(
        X2[:, 0], {"EM": gaussian, "VI": lambda p: gaussian(p, 0.2)},
        components={"EM": [gaussian, gaussian]}),
    "density, 2-d": lambda: density_figures.density_figure(X2, gaussian, components=[gaussian]),
    "density, values": lambda: density_figures.density_figure(
        X2, np.ones((5, 4)), grid=(np.linspace(-1, 1, 5), np.linspace(-1, 1, 4))),
    "density, several": lambda: density_figures.density_figure(X2, {"a": gaussian, "b": gaussian}),
    "images": lambda: row_figures.images_figure({"one": rng.random((20, 8, 8, 1)), "other": rng.random((5, 8, 8))}),
    "images in colour": lambda: row_figures.images_figure({"one": rng.random((3, 8, 8, 3))}),
    "plane": lambda: row_figures.plane_figure(X2, gaussian, X2[::-1]),
    "encodings": lambda: row_figures.encodings_figure(rng.normal(size=(50, 5)), np.arange(50) % 3),
    "encodings of one entry": lambda: row_figures.encodings_figure(rng.normal(size=(50, 1))),
    "predictive": lambda: density_figures.ppc_figure(make_idata()),
    "predictive counts": lambda: density_figures.ppc_figure({"k": rng.poisson(3, 40)},
                                                            {"k": rng.poisson(3, (2, 30, 60))}),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.filterwarnings("error")
def test_pictures_are_drawn(tmp_path, name):
    before = dict(matplotlib.rcParams)
    figure = PICTURES[name]()
    figure.savefig(tmp_path / "picture.png", dpi=60)
    pixels = matplotlib.image.imread(tmp_path / "picture.png")[..., :3]
    assert pixels.std() > 0.02 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    drawn = [axis for axis in figure.axes if axis.axison]
    assert drawn and all(axis.get_title("left") or axis.get_xlabel() for axis in drawn[:1])
    assert dict(matplotlib.rcParams) == before


def test_a_curve_that_is_told_now_and_then_is_drawn_whole():
    """Such as validation at the end of each epoch, the last before the end of the run: none of it is lost."""
    curve = np.where(np.arange(20) % 6 == 5, np.arange(20.0), np.nan)
    axis = figures.history_figure({"validation": curve}).axes[0]
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), [[6, 5], [12, 11], [18, 17]])
    assert len(axis.lines) == 1  # no cross


def test_no_page_is_lost_for_a_picture():
    def run_off():
        raise FloatingPointError("chain 3 diverged")

    assert row_pages.tried("Images", run_off).text == "Not drawn: chain 3 diverged"


@pytest.mark.parametrize("draw", [
    lambda: figures.trace_figure({}), lambda: figures.trace_figure(make_idata(), ["nobody"]),
    lambda: figures.history_figure({"loss": np.full(4, np.nan)}), lambda: figures.forest_figure([]),
    lambda: density_figures.density_figure(np.zeros((4, 3)), gaussian),
    lambda: density_figures.density_figure(X2, np.ones(7)),
    lambda: density_figures.ppc_figure({"a": np.zeros(3)}, {}),
])
def test_what_cannot_be_drawn_is_said(draw):
    with pytest.raises(ValueError, match=r"nothing to draw|no variable|must have shape|for a grid"):
        draw()


class Checker(html.parser.HTMLParser):
    """Every element is closed in order; collects attributes and pictures."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_valid_and_fetches_nothing(tmp_path):
    table = summary.summary_table({"NUTS": make_idata(), "SVI <1>": make_idata(chains=1)})
    sections = [
        report.Section("Fit & <check>", "One.\n\nTwo <script>alert(1)</script>\n\n- a\n- b",
                       [{"engine": "nuts", "seconds": 1.25, "ok": True}, {"engine": "svi", "seconds": None}]),
        report.Section("Posterior", table=table,
                       figures=[('Trace "quoted"', figures.trace_figure(make_idata()))]),
        report.Section("Empty", table=[]),
    ]
    path = report.write_report(str(tmp_path / "new" / "page.html"), title="A <title>", sections=sections)
    page = path.read_text("utf-8")
    checker = Checker()
    checker.feed(page)
    assert page.startswith("<!DOCTYPE html>") and not checker.open
    assert [checker.seen.count(tag) for tag in ("h1", "h2", "table")] == [1, 3, 2]
    assert "script" not in checker.seen and "A &lt;title&gt;" in page and "–" in page
    links = [value for _, name, value in checker.attributes if name in ("src", "href", "srcset", "action")]
    assert links and all(link.startswith(("data:image/png;base64,", "#part-")) for link in links)
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//\w|@import|url\(", plain)
    images = [value for tag, name, value in checker.attributes if tag == "img" and name == "src"]
    assert len(images) == 1 and len(images[0]) > 5000
    assert all(value for tag, name, value in checker.attributes if tag == "img" and name == "alt")
    assert list(path.parent.iterdir()) == [path]


def test_a_page_that_fails_leaves_the_old_one(tmp_path):
    path = report.write_report(tmp_path / "page.html", title="one", sections=[])
    with pytest.raises(AttributeError):
        report.write_report(path, title="two", sections=[report.Section("s", figures=[("broken", None)])])
    assert "<title>one</title>" in path.read_text("utf-8") and list(tmp_path.iterdir()) == [path]


def pictures_of(run, path):
    """Captions of the page's pictures."""
    return re.findall(r"<figcaption>(.*?)</figcaption>", run.report(path).read_text("utf-8"))


@pytest.mark.parametrize("backend", [pytest.param("numpyro", marks=pytest.mark.slow), "pyro"])
def test_pages_of_models_of_rows_show_rows(tmp_path, backend):
    told = {"backend": backend, "batch_size": 50, "num_steps": 2, "progress": False}
    flow = pg.infer(pg.models.Flow("maf", 2, 2, (8,)), rng.normal(size=(100, 2)), "svi", **told)
    assert any("fitted density" in text for text in pictures_of(flow, tmp_path / "flow.html"))
    images = rng.random((100, 8, 8, 1))
    for model, data in (
        (pg.models.VAE(2, (8, 8, 1), hidden=(8,)), images),
        (pg.models.VAE(2, (8, 8, 1), hidden=(8,), num_classes=4), {"x": images, "label": np.arange(100) % 4}),
    ):
        found = " ".join(pictures_of(pg.infer(model, data, "svi", **told), tmp_path / "vae.html"))
        assert "as many draws" in found and "Reconstructions" in found
        assert ("coloured by label" in found) == isinstance(data, dict)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_pages_of_rows_that_want_a_context_or_are_no_plane(tmp_path, backend):
    told = {"backend": backend, "batch_size": 5, "num_steps": 2, "progress": False}
    images, context = (rng.random((12, 4, 4)) < 0.5) * 1.0, rng.normal(size=(12, 2))
    conditional = pg.models.VAE(2, (4, 4), hidden=(4,), num_context=2)
    run = pg.infer(conditional, {"x": images, "context": context, "num_data": None}, "svi", **told)
    found = " ".join(pictures_of(run, tmp_path / "context.html"))
    assert "as many draws" in found and "Reconstructions" in found
    binary = pg.infer(pg.models.MADE(2, hidden=(4,)), images[:, 0, :2], "svi", **told)
    found = " ".join(pictures_of(binary, tmp_path / "binary.html"))
    assert "data sets drawn" in found and "fitted density" not in found


@pytest.mark.parametrize("shape", [(1, 3), (1, 1), (2, 5), (9, 2)])
def test_encodings_of_few_rows_are_drawn(shape):
    drawn = row_figures.encodings_figure(rng.normal(size=shape)).axes[0].lines[0].get_xydata()
    assert drawn.shape == (shape[0], 2) and np.isfinite(drawn).all()


def test_a_page_says_which_pictures_could_not_be_drawn(tmp_path):
    class Rows:
        """A model of rows whose new rows nobody can make."""

        outputs = ("x",)

        def __call__(self, x=None):
            with pg.plate("data", len(x)):
                pg.sample("x", pg.dist.Normal(pg.param("loc", 0.0), 1.0).expand([4, 4]).to_event(2), obs=x)

        def row_data(self, values, n):
            raise ValueError("rows come from elsewhere")

    run = pg.infer(Rows(), rng.normal(size=(6, 4, 4)), "svi", batch_size=3, num_steps=2, progress=False)
    assert "Not drawn: rows come from elsewhere" in run.report(tmp_path / "run.html").read_text("utf-8")


def test_a_page_of_a_point_shows_the_spread_of_data_sets(tmp_path):
    """Of a run without a posterior, too, the predicted bands have a width."""
    run = pg.infer(pg.models.GaussianMixture(2), rng.normal(size=(80, 3)), "em", num_steps=3, progress=False)
    drawn = pages.predicted(run)["x"]
    assert drawn.shape[1] == 20 and drawn.std(axis=1).min() > 0.1
    assert any("data sets drawn" in text for text in pictures_of(run, tmp_path / "run.html"))

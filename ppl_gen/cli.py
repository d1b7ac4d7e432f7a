"""The command ``ppl_gen``. Only argparse is loaded before a command is chosen."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

USAGE_ERROR = 2


class CommandError(ValueError):
    """What the user can put right; shown as one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 where a check found differences, 2 for an error."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        return _fail("interrupted")
    except BrokenPipeError:  # the reader of our output has left, e.g. `| head`
        sys.stderr.close()
        return 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _fail(error)


def _fail(error: Any) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"ppl_gen: error: {text}", file=sys.stderr)
    return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ppl_gen", description="One declared program, two backends, every engine.")
    parser.add_argument("--version", action="version", version=f"ppl_gen {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="fit a mixture and eight schools by every engine, write a page")
    demo.add_argument("--out", default="ppl_gen_demo", metavar="DIR", help="folder to write to (%(default)s)")
    demo.add_argument("--data", metavar="FILE.csv", help="numeric columns for the mixture (default: Fisher's irises)")
    demo.add_argument("--quick", action="store_true", help="few steps and engines: a look, not a result")
    demo.set_defaults(command=_demo)

    engines = commands.add_parser("engines", help="list the engines and what each needs")
    engines.set_defaults(command=_engines)

    check = commands.add_parser("check", help="run a program on both backends and compare")
    check.add_argument("program", metavar="MODULE:PROGRAM", help="where the program is, e.g. models.py:eight_schools")
    check.add_argument("--data", required=True, metavar="FILE", help="JSON (arguments by name) or CSV (columns)")
    check.set_defaults(command=_check)

    report = commands.add_parser("report", help="write the page of a saved run")
    report.add_argument("run", metavar="RUNDIR", help="folder that run.save wrote")
    report.add_argument("--out", metavar="PAGE.html", help="file to write (default: RUNDIR/report.html)")
    report.set_defaults(command=_report)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ppl_gen")
    except PackageNotFoundError:  # a checkout that is not installed
        return "of a checkout"


def _demo(options: argparse.Namespace) -> int:
    from ppl_gen.demo import run_demo

    run_demo(options.out, options.data, options.quick)
    return 0


def _engines(options: argparse.Namespace) -> int:
    from ppl_gen.infer import engines

    known = engines()
    width = max(map(len, known))
    for name, words in known.items():
        needs, _, does = words.partition(": ")
        print(f"{name:<{width}}  {does}\n{'':<{width}}  needs {needs}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from ppl_gen.infer import check
    from ppl_gen.program import as_program
    from ppl_gen.reading import read_data

    declared = as_program(_found(options.program))
    found = check(declared, read_data(options.data, list(declared.signature.parameters)))
    print(found)
    return 0 if getattr(found, "ok", True) else 1


def _found(place: str) -> Any:
    """The object at ``module:name`` or ``file.py:name``."""
    module, _, name = place.rpartition(":")
    if not module or not name:
        raise CommandError(f"expected MODULE:PROGRAM, e.g. models.py:eight_schools, got {place!r}")
    loaded = _from_file(Path(module)) if module.endswith(".py") else _from_module(module)
    if not hasattr(loaded, name):
        raise CommandError(f"{module} has no {name!r}")
    return getattr(loaded, name)


def _from_module(module: str) -> Any:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CommandError(f"cannot import {module}: {error}") from None
    finally:
        sys.path.remove("")


def _from_file(path: Path) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise CommandError(f"there is no file {path}")
    loaded = module_from_spec(spec)
    sys.modules[path.stem] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def _report(options: argparse.Namespace) -> int:
    from ppl_gen.infer import load

    out = Path(options.out) if options.out else Path(options.run) / "report.html"
    print(load(options.run).report(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())

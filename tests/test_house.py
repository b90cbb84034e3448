"""The rules of the house: who may import whom, and that figures are shown without torch."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "coatnet_mini"
WINGS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}


def rooms_of(path: Path) -> set[str]:
    """What a file imports of the package, anywhere in it: "plots", "train.recipe", ..."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    prefix = "coatnet_mini."
    return {name.removeprefix(prefix) for name in found if name.startswith(prefix)}


def test_there_are_wings_and_the_names_are_read():
    assert {"explore", "train", "cpu", "exercises"} <= WINGS
    assert "coatnet.CoAtNet" not in rooms_of(PACKAGE / "models.py")
    assert {"coatnet", "checks.configure"} <= rooms_of(PACKAGE / "models.py")


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_the_root_imports_no_wing(path):
    assert not {room for room in rooms_of(path) if room.split(".")[0] in WINGS}


def test_the_figures_import_plots_alone():
    for path in (PACKAGE / "explore").glob("*.py"):
        others = {room.split(".")[0] for room in rooms_of(path)} - {"explore"}
        assert others <= {"plots"}, path.name


@pytest.mark.parametrize("module", ["coatnet_mini", "coatnet_mini.explore"])
def test_figures_on_a_page_need_no_torch(module):
    code = f"import sys, {module}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_have_what_they_say_they_give():
    names = ["", ".audit", ".ceit", ".coatnet", ".explore", ".models", ".studies", ".vit"]
    for module in (importlib.import_module(f"coatnet_mini{name}") for name in names):
        assert all(hasattr(module, given) for given in module.__all__), module


def test_the_package_gives_its_names_late():
    import coatnet_mini
    from coatnet_mini.checkpoint import load
    from coatnet_mini.models import create_model, list_models

    assert coatnet_mini.load is load
    assert (coatnet_mini.create_model, coatnet_mini.list_models) == (create_model, list_models)
    assert {"create_model", "list_models", "load"} <= set(dir(coatnet_mini))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = coatnet_mini.nothing


# What is filled in as it goes, or holds tensors that move between devices.
OPEN = {"Branch", "Attention", "FFN", "MBConv", "Event", "Limits", "Seen", "Images", "Split"}


def test_what_is_once_made_stays_as_it_is():
    made = set()
    for path in PACKAGE.rglob("*.py"):
        classes = [
            n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if type(n) is ast.ClassDef
        ]
        made |= {(n.name, ast.unparse(d)) for n in classes for d in n.decorator_list}
    kinds = {how for _, how in made if how.startswith("dataclass")}
    assert kinds == {"dataclass", "dataclass(frozen=True)"}
    assert {name for name, how in made if how == "dataclass"} == OPEN

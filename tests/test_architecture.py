"""
Tests for C{docs/architecture.rst}: what it names is there, and what is public is
what the documents for applications name.
"""

import ast
import re

from docutils.nodes import bullet_list, list_item, literal, section, title
from twisted.trial.unittest import SynchronousTestCase

from creditsync import methods
from tests.test_deploy import alerts
from tests.test_imports import LAYERS, modules
from tests.test_readme import CHECKOUT, rendered

DOCS = CHECKOUT / "docs"
TREE, _ = rendered(DOCS / "architecture.rst")

# Every module, by its dotted name.
MODULES = {name for name, _ in modules()}


def under(heading: str) -> section:
    """
    The section of this title.
    """
    [found] = [
        each
        for each in TREE.findall(section)
        if next(each.findall(title)).astext() == heading
    ]
    return found


def literals(heading: str | None = None) -> set[str]:
    """
    All that is written as code in a section, or in the document.
    """
    where = TREE if heading is None else under(heading)
    return {each.astext() for each in where.findall(literal)}


def listed(number: int) -> set[str]:
    """
    The modules of one of the two lists.
    """
    lists = list(under("Public and private modules").findall(bullet_list))
    return {
        next(item.findall(literal)).astext()
        for item in lists[number].findall(list_item)
    }


def isMissing(name: str) -> bool:
    """
    Whether this is the name of a file or of a module that isn't there.
    """
    if re.fullmatch(r"(creditsync|tests|deploy)/[\w./]*", name):
        return not (CHECKOUT / name).exists()
    isModule = re.fullmatch(r"creditsync(\.\w+)+", name)
    return bool(isModule) and name not in MODULES


class PublicTests(SynchronousTestCase):
    """
    Which modules are public.
    """

    def test_documents(self) -> None:
        """
        The public modules are those that the documents for applications and for
        integrators name, and the one for a site's logs.
        """
        named = set()
        for page in ("embedding.rst", "client.rst", "sandbox.rst"):
            text = (DOCS / page).read_text("utf-8")
            for found in re.findall(r"\bcreditsync(?:\.\w+)+", text):
                parts = found.split(".")
                while ".".join(parts) not in MODULES:
                    parts.pop()
                named.add(".".join(parts))
        self.assertIn("creditsync.logs", (DOCS / "operations.rst").read_text("utf-8"))
        self.assertEqual(listed(0), named - {"creditsync"} | {"creditsync.logs"})

    def test_underscores(self) -> None:
        """
        Any other module has an underscore in its path, but for those of which it
        is said why they don't.
        """
        bare = {name for name in MODULES if not re.search(r"\._(?!_)", name)}
        packages = {
            "creditsync",
            "creditsync.gateway",
            "creditsync.ledger",
            "creditsync.postgres",
            "creditsync.web",
        }
        self.assertEqual(bare - packages, listed(0) | listed(1))
        self.assertEqual(listed(0) & listed(1), set())


class NameTests(SynchronousTestCase):
    """
    What the page names.
    """

    def test_files(self) -> None:
        """
        Each file and each module is there.
        """
        self.assertEqual({name for name in literals() if isMissing(name)}, set())

    def test_classes(self) -> None:
        """
        Each class is one of the package, if it isn't a command or an alert.
        """
        classes = {
            node.name
            for _, tree in modules()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }
        named = {
            each for each in literals() if re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", each)
        }
        commands = {each.name for each in methods.FINANCE_METHODS}
        commands |= {f"{name}Sync" for name in commands}
        self.assertEqual(named - classes - commands - set(alerts()), set())
        self.assertGreater(len(named & classes), 20)

    def test_layers(self) -> None:
        """
        The table of layers has every module and package of the layers, but for
        small private modules that serve one or two others.
        """
        top = {name.split(".")[0] for layer in LAYERS for name in layer}
        small = {name for name in top if (CHECKOUT / f"creditsync/{name}.py").exists()}
        small = {name for name in small if re.match("_[a-z]", name)} | {"tally"}
        self.assertEqual(top - small - literals("Layers"), set())

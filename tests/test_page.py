"""
Tests for the files of the console's page: they come from this site only, and
fit together. C{tests/integration/test_console.py} tests the page in a browser.
"""

import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

from creditsync.web._history import History
from creditsync.web._snapshot import snapshot
from tests.test_web import WebTestCase

STATIC = {
    each.name: each.read_text("utf-8")
    for each in files("creditsync.web").joinpath("static").iterdir()
}
SCRIPTS = {name: text for name, text in STATIC.items() if name.endswith(".js")}

Tag = tuple[str, dict[str, str | None]]


class Elements(HTMLParser):
    """
    The elements of a page, and the text in those that could be executed.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Tag] = []
        self.inline = ""
        self._last = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """
        See L{HTMLParser}.
        """
        self.found.append((tag, dict(attrs)))
        self._last = tag

    def handle_data(self, data: str) -> None:
        """
        See L{HTMLParser}.
        """
        if self._last in ("script", "style"):
            self.inline += data.strip()


def referred(page: str) -> list[str]:
    """
    The addresses that a page loads, links or submits to.
    """
    names = ("src", "href", "action", "formaction", "data", "poster", "srcset")
    return [
        each[name] or ""
        for _, each in Elements(page).found
        for name in names
        if name in each
    ]


def inlined(page: str) -> list[str]:
    """
    Scripts, styles and event attributes inside a page, which the policy
    forbids.
    """
    elements = Elements(page)
    attributes = [
        name
        for _, each in elements.found
        for name in each
        if name == "style" or name.startswith("on")
    ]
    return attributes + [elements.inline] * bool(elements.inline)


def wanted(script: str) -> set[str]:
    """
    The ids of the elements that a script looks up or writes to.
    """
    called = r'(?:\$|setText|flag|new Plot|new Table)\(\s*"([\w-]+)"'
    return set(re.findall(called, script))


def fetched(script: str) -> set[str]:
    """
    The modules, feeds and responses that a script loads.
    """
    pattern = (
        r'(?:from |import |import\(|fetch\(|EventSource\(|WebSocket\()["`]([^"`?]+)'
    )
    return set(re.findall(pattern, script))


class PageTests(WebTestCase):
    """
    Tests for the page and its files.
    """

    def test_served(self) -> None:
        """
        Every file is served with its type and the policy.
        """
        types = {
            "html": "text/html; charset=utf-8",
            "css": "text/css; charset=utf-8",
            "js": "text/javascript; charset=utf-8",
            "svg": "image/svg+xml",
        }
        for name, text in STATIC.items():
            answer = self.get(f"/static/{name}")
            self.assertEqual((name, answer.status), (name, 200))
            self.assertEqual(
                answer.headers["Content-Type"], types[name.rpartition(".")[2]]
            )
            self.assertIn(
                "default-src 'none'; script-src 'self'; style-src 'self';",
                answer.headers["Content-Security-Policy"],
            )
            self.assertEqual(answer.body.decode(), text)
        self.assertEqual(self.get("/").body.decode(), STATIC["index.html"])

    def test_nothingElsewhere(self) -> None:
        """
        The page, its style and its scripts refer to this site only.
        """
        for address in referred(STATIC["index.html"]):
            self.assertTrue(
                address == "session" or address.removeprefix("static/") in STATIC,
                address,
            )
        self.assertNotIn("url(", STATIC["console.css"])
        self.assertNotIn("@import", STATIC["console.css"])
        here = {"feed", "held", "search", "session", "session/end"}
        for name, script in SCRIPTS.items():
            for address in fetched(script) - here:
                self.assertIn(address.removeprefix("./"), STATIC, name)
        for name, text in STATIC.items():
            addresses = set(re.findall(r"https?://[^\"'\s]+", text))
            self.assertLessEqual(addresses, {"http://www.w3.org/2000/svg"}, name)

    def test_nothingInline(self) -> None:
        """
        The page itself has no script, style or event attribute, and no script
        turns text into markup or code.
        """
        self.assertEqual(inlined(STATIC["index.html"]), [])
        for name, script in SCRIPTS.items():
            found = re.findall(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write\b|\beval\("
                r"|new Function|DOMParser|setAttribute\(\"style|localStorage",
                script,
            )
            self.assertEqual((name, found), (name, []))

    def test_ids(self) -> None:
        """
        Each id that the scripts look up is in the page, once.
        """
        ids = [
            each["id"]
            for _, each in Elements(STATIC["index.html"]).found
            if "id" in each
        ]
        self.assertEqual(len(ids), len(set(ids)))
        looked = set().union(*map(wanted, SCRIPTS.values()))
        self.assertGreater(len(looked), 40)
        self.assertEqual(looked - set(ids), set())

    def test_figures(self) -> None:
        """
        Each figure of the page is a member of a snapshot, in a format that the
        scripts have.
        """
        shown = snapshot(self.metrics, History(self.metrics))
        formats = re.findall(r"const FORMATS = \{ (.*) \}", SCRIPTS["figures.js"])
        figures = [
            (each["data-figure"] or "", each["data-format"])
            for _, each in Elements(STATIC["index.html"]).found
            if "data-figure" in each
        ]
        self.assertGreater(len(figures), 15)
        for path, form in figures:
            self.assertIn(form, formats[0].split(", "), path)
            value: Any = shown
            for name in path.split("."):
                self.assertIn(name, value, path)
                value = value[name]

    def test_accessible(self) -> None:
        """
        Each table's columns have headers with a scope, each region that scrolls
        can be reached and has a name, each input has a label.
        """
        found = Elements(STATIC["index.html"]).found
        ids = {each["id"] for _, each in found if "id" in each}
        labels = {each.get("for") for tag, each in found if tag == "label"}
        for tag, each in found:
            if tag == "th":
                self.assertEqual(each.get("scope"), "col")
            if "scroll" in (each.get("class") or "").split():
                self.assertEqual((each.get("tabindex"), each["role"]), ("0", "region"))
            if tag in ("input", "select"):
                self.assertIn(each["id"], labels)
            for name in ("aria-labelledby", "aria-describedby"):
                self.assertLessEqual(set((each.get(name) or "").split()), ids)

    def test_checks(self) -> None:
        """
        The checks above find what is not allowed.
        """
        page = "<img src=//else/x onerror=a()><p style=a><script>b()</script>"
        self.assertEqual(referred(page), ["//else/x"])
        self.assertEqual(inlined(page), ["onerror", "style", "b()"])
        self.assertEqual(wanted('setText("a", 1); $("b-c")'), {"a", "b-c"})
        self.assertEqual(
            fetched('import x from "https://else/y.js"'), {"https://else/y.js"}
        )

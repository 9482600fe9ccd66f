"""
A linter for the metrics page, by the rules of
U{promtool<https://prometheus.io/docs/practices/naming/>} and some of our own.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

# A figure that is not in base units needs the unit in its name.
_OTHER_UNITS = re.compile(
    r"_(milliseconds|ms|micros|us|minutes|hours|days|kilobytes|kb|mb|percent)(_|$)"
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SUFFIXES = ("_total", "_sum", "_count", "_bucket", "_info", "_created")


def problems(text: str) -> list[str]:
    """
    Each violation, in a few words.
    """
    families = list(text_string_to_metric_families(text))
    found = [wrong for family in families for wrong in _ofFamily(family)]
    names = Counter(family.name for family in families)
    found += [f"{name} comes {n} times" for name, n in names.items() if n > 1]
    described = re.findall(r"^# HELP (\S+) ", text, re.MULTILINE)
    typed = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    if described != typed:
        found.append("not every family has its HELP and its TYPE")
    return found


def _ofFamily(family: Metric) -> Iterator[str]:
    name = family.name
    if not _NAME.fullmatch(name) or "__" in name:
        yield f"{name} is not a valid name"
    if _OTHER_UNITS.search(name):
        yield f"{name} is not in a base unit"
    if not family.documentation.strip().endswith("."):
        yield f"{name} has no sentence as its help"
    if family.type in ("unknown", "untyped"):
        yield f"{name} has no type"
    for sample in family.samples:
        if family.type == "counter" and not sample.name.endswith("_total"):
            yield f"{sample.name} is a counter without _total"
        if family.type == "gauge" and name.endswith(_SUFFIXES[:4]):
            yield f"{name} is a gauge with a counter's name"
        if any(not _NAME.fullmatch(label) for label in sample.labels):
            yield f"{sample.name} has a label of a bad name"
        if family.type == "counter" and sample.value < 0:
            yield f"{sample.name} is below zero"
    series = Counter(
        (sample.name, *sorted(sample.labels.items())) for sample in family.samples
    )
    yield from (f"{each[0]} comes twice: {each}" for each, n in series.items() if n > 1)
    if family.type == "histogram":
        yield from _ofHistogram(family)


def _ofHistogram(family: Metric) -> Iterator[str]:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    others: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        key = tuple(sorted(labels.items()))
        if bound is None:
            others[sample.name, key] = sample.value
        else:
            buckets.setdefault(key, []).append((float(bound), sample.value))
    for key, rows in buckets.items():
        where = f"{family.name}{dict(key)}"
        if rows[-1][0] != float("inf"):
            yield f"{where} has no +Inf"
        if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(rows)):
            yield f"{where} does not ascend"
        if others.get((f"{family.name}_count", key)) != rows[-1][1]:
            yield f"{where} has another _count than +Inf"
        total = others.get((f"{family.name}_sum", key), -1.0)
        least = most = 0.0
        for (low, before), (high, upTo) in pairwise([(0.0, 0.0), *rows]):
            least += low * (upTo - before)
            most += high * (upTo - before) if upTo > before else 0.0
        if not least * 0.999999 <= total <= most * 1.000001:
            yield f"{where} has _sum {total}, which its buckets do not allow"

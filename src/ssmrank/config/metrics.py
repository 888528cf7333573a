"""Names of metrics, as ir_measures writes them: nDCG@10, RR(rel=2)@10, RBP(p=0.8)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from ssmrank.errors import shown

_Cutoff = Literal["none", "optional", "required"]

MEASURES: dict[str, tuple[_Cutoff, tuple[str, ...]]] = {
    "nDCG": ("optional", ("judged_only",)),
    "RR": ("optional", ("rel",)),
    "AP": ("optional", ("rel", "judged_only")),
    "P": ("required", ("rel", "judged_only")),
    "R": ("required", ("rel", "judged_only")),
    "Success": ("required", ("rel", "judged_only")),
    "RBP": ("none", ("p", "rel")),
    "Rprec": ("none", ("rel", "judged_only")),
    "Bpref": ("none", ("rel",)),
    "infAP": ("none", ("rel",)),
    "Judged": ("optional", ()),
}
"""Measures of ir_measures: whether they take a cutoff, and their parameters. All are means over queries, and need
nothing but grades and ranks."""

ALIASES = {
    "MRR": "RR",
    "MAP": "AP",
    "NDCG": "nDCG",
    "Precision": "P",
    "Recall": "R",
    "RPrec": "Rprec",
    "BPref": "Bpref",
}
"""Other names of the same measures, as in ir_measures."""

METRICS = tuple(
    name + ("@k" if cutoff == "required" else "[@k]" if cutoff == "optional" else "")
    for name, (cutoff, _) in MEASURES.items()
)
"""The known metrics for messages; k is a cutoff of at least 1."""

METRICS_HELP = (
    f"known: {', '.join(METRICS)}, where k is a cutoff such as 10; MRR, MAP and Recall are RR, AP and R; RR(rel=2)@10 "
    "counts grades from 2 on"
)

_NAME = re.compile(r"(?P<measure>[A-Za-z]+)(?:\((?P<parameters>[^()]+)\))?(?:@(?P<cutoff>[1-9][0-9]{0,8}))?")
_VALUES = {
    "rel": re.compile(r"[1-9][0-9]{0,8}"),
    "p": re.compile(r"0?\.[0-9]*[1-9][0-9]*"),
    "judged_only": re.compile(r"True|False"),
}
_EXPECTED = {
    "rel": "a grade of at least 1",
    "p": "a number between 0 and 1, such as 0.8",
    "judged_only": "True or False",
}


@dataclass(frozen=True)
class Metric:
    """A metric: a measure of ir_measures, its parameters in alphabetical order, and a cutoff (None: there is none)."""

    measure: str
    parameters: tuple[tuple[str, str], ...] = ()
    cutoff: int | None = None

    def __str__(self) -> str:
        """The name that ir_measures reads, such as RR(rel=2)@10."""
        written = ",".join(f"{key}={value}" for key, value in self.parameters)
        cutoff = "" if self.cutoff is None else f"@{self.cutoff}"
        return self.measure + (f"({written})" if written else "") + cutoff


def parse_metric(name: str) -> Metric:
    """The metric of a name such as nDCG@10. Raises ValueError, with the nearest known name, for an unknown one."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(_unknown(name))
    measure = ALIASES.get(match["measure"], match["measure"])
    if measure not in MEASURES:
        raise ValueError(_unknown(name))
    cutoff, known = MEASURES[measure]
    if cutoff == "required" and match["cutoff"] is None:
        raise ValueError(f"unknown metric {shown(name)}: {match['measure']} needs a cutoff; did you mean '{name}@10'?")
    if cutoff == "none" and match["cutoff"] is not None:
        raise ValueError(
            f"unknown metric {shown(name)}: {measure} takes no cutoff; did you mean {name.partition('@')[0]!r}?"
        )
    parameters = _parameters(name, measure, known, match["parameters"] or "")
    return Metric(measure, parameters, int(match["cutoff"]) if match["cutoff"] else None)


def check_metric(name: str) -> str:
    """Returns the name; raises ValueError as `parse_metric` does."""
    parse_metric(name)
    return name


def check_metrics(names: list[str]) -> list[str]:
    """Returns the names; raises ValueError for an unknown one, and for two names of one metric."""
    seen: dict[Metric, str] = {}
    for name in names:
        metric = parse_metric(name)
        if metric in seen:
            one = (
                "a metric is named twice" if seen[metric] == name else f"{seen[metric]} and {name} are the same metric"
            )
            raise ValueError(f"{one} in {', '.join(names)}; keep one of each")
        seen[metric] = name
    return names


def _parameters(name: str, measure: str, known: tuple[str, ...], text: str) -> tuple[tuple[str, str], ...]:
    # ir_measures leaves it to each provider what RBP without a grade is; here all measures count from grade 1 on.
    found = {"rel": "1"} if measure == "RBP" else {}
    for part in filter(None, re.split(r", ?", text)):
        key, _, value = part.partition("=")
        if key not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes no parameter"
            raise ValueError(f"unknown metric {shown(name)}: {measure} has no parameter {key!r}; {takes}")
        if not _VALUES[key].fullmatch(value):
            raise ValueError(f"unknown metric {shown(name)}: {key} is {_EXPECTED[key]}")
        found[key] = value
    # What holds by default is left out, so that two names of one metric are equal.
    if measure != "RBP" and found.get("rel") == "1":
        del found["rel"]
    if found.get("judged_only") == "False":
        del found["judged_only"]
    if "p" in found:
        found["p"] = str(float(found["p"]))
    return tuple(sorted(found.items()))


def _unknown(name: str) -> str:
    """The message about an unknown name: the nearest known one, or all."""
    measure, rest = re.fullmatch(r"([A-Za-z]*)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    known = {other.lower(): other for other in (*ALIASES, *MEASURES)}
    close = difflib.get_close_matches(measure.lower(), known, n=1)
    guesses = [known[near] + end for near in close for end in (rest, "@10", "")]
    for guess in (guess for guess in guesses if guess != name):
        try:
            check_metric(guess)
        except ValueError:
            continue
        return f"unknown metric {shown(name)}; did you mean {guess!r}?"
    return f"unknown metric {shown(name)}; {METRICS_HELP}"

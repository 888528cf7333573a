"""Numbers of metrics files, rounded as tables print them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from statistics import fmean, stdev

from ssmrank.config.table_settings import ComparedColumn, ComparedRow
from ssmrank.errors import UserError
from ssmrank.reporting.results import Result


@dataclass(frozen=True)
class Value:
    """A mean, and the standard deviation over seeds if there are several."""

    mean: Decimal
    spread: Decimal | None = None


def percent(value: float) -> Decimal:
    """A value between 0 and 1 as printed: times 100, to one decimal, halves rounded away from zero.

    It rounds the shortest decimal that reads back as `value`, so 0.4745 is printed as 47.5. Its binary value, which is
    a little smaller, would give 47.4.
    """
    return (Decimal(repr(value)) * 100).quantize(Decimal("0.1"), ROUND_HALF_UP)


def one_decimal(value: float) -> Decimal:
    """A number in per cent as printed: to one decimal, halves rounded away from zero."""
    return Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_UP)


def value_of(row: ComparedRow, column: ComparedColumn, results: Mapping[str, Result]) -> Value | None:
    """The value of a row that has runs: the mean over seeds of the mean over the column's test sets.

    The standard deviation is that of a sample (n - 1). None where the model of one of the runs did not fit in memory.
    """
    values = []
    for run in row.runs:
        of_tests = [results[f"{test}/{run}"] for test in column.tests]
        if any(result.status == "oom" for result in of_tests):
            return None
        values.append(fmean(_metric(result, column.metric) for result in of_tests))
    if len(values) == 1:
        return Value(percent(values[0]))
    return Value(percent(fmean(values)), percent(stdev(values)))


def queries_of(row: ComparedRow, column: ComparedColumn, results: Mapping[str, Result]) -> list[Result]:
    """The results of the row's first run, one for each test set of the column; they have the number of queries."""
    return [results[f"{test}/{row.runs[0]}"] for test in column.tests]


def _metric(result: Result, metric: str) -> float:
    if metric not in result.mean:
        raise UserError(
            f"{result.path}: has no {metric} (only {', '.join(result.mean) or 'no metric'}); "
            "add it to evaluation.metrics in params.yaml and evaluate again"
        )
    return result.mean[metric]

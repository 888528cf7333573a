"""The caption of a table of results: what was measured, and what each mark means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ssmrank.config.table_settings import RowFusion, TableSettings
from ssmrank.errors import UserError
from ssmrank.reporting.comparisons import BETTER, WORSE
from ssmrank.reporting.results import Result
from ssmrank.reporting.table import BEST_OURS, BEST_OVERALL, OOM, SUBSTITUTE, ResultTable
from ssmrank.reporting.values import queries_of

KINDS = {"E": "encoder-only", "ED": "encoder-decoder", "D": "decoder-only"}

TERMS = {
    "z-score": "z-scores",
    "min-max": "scores from 0 to 1",
    "rrf": "reciprocal ranks, 1 / ({k} + rank),",
}
"""The terms that each method of fusion adds."""

TEST_NAMES = {"randomization": "paired randomization test", "t": "paired t-test"}


def caption_of(settings: TableSettings, results: Mapping[str, Result], table: ResultTable) -> str:
    """The caption of a table from `build_table`. Raises UserError where rows have different numbers of queries."""
    return " ".join(_sentences(settings, results, table))


def _sentences(settings: TableSettings, results: Mapping[str, Result], table: ResultTable) -> Iterable[str]:
    rows = [row for section in settings.sections for row in section.rows]
    caption = settings.caption.strip()
    yield caption if caption.endswith((".", "!", "?")) else f"{caption}."
    yield f"Test collection{'s' if len(settings.collections) > 1 else ''}: {listed(settings.collections)}."
    means = _means(settings, results)
    if means:
        yield f"{means}, times 100, rounded to one decimal."
    yield from _seeds(settings)
    alone = ", alone or fused" if any(row.kind and row.fusion for row in rows) else ""
    yield (
        f"The best of each section is bold; {BEST_OVERALL} marks the best overall and {BEST_OURS} the best of our "
        f"trained models{alone}; values equal after rounding share a mark."
    )
    common = table.common_facts
    if common:
        prior = f" reorder {common['Prior']}" if "Prior" in common else ""
        length = f" {'at' if prior else 'have'} length {common['Length']}" if "Length" in common else ""
        yield f"Rerankers{prior}{length}." if prior or length else f"Size: {common['Size']}."
    yield from _depth(settings, said="Prior" in common)
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    if kinds:
        yield f"Superscript{'s' if len(kinds) > 1 else ''}: {listed([f'{kind} {KINDS[kind]}' for kind in kinds])}."
    yield from _fusions(settings)
    yield from _tests(settings)
    yield from _weights(settings)
    if any(cell.text == OOM for cell in table.cells):
        yield f"{OOM}: did not fit in memory."
    yield from _paper(settings, table)


def _depth(settings: TableSettings, said: bool) -> Iterable[str]:
    """How many documents rerankers reorder, unless `said` elsewhere, and what happens to the documents below."""
    if settings.depth is None or not any(row.prior for section in settings.sections for row in section.rows):
        return
    if settings.remainder == "kept":
        rest = "; the first stage's others follow in its order"
    else:
        deeper = dict.fromkeys(c.metric for c in settings.columns if _cutoff(c.metric) > settings.depth)
        rest = f" and return no others, of which {listed(deeper)} would count some" if deeper else ""
    if rest or not said:
        yield f"Rerankers reorder the first {settings.depth:,} documents of a query{rest}."


def _cutoff(metric: str) -> float:
    return float(metric.rpartition("@")[2]) if "@" in metric else math.inf


def _seeds(settings: TableSettings) -> Iterable[str]:
    counts = sorted({len(row.runs) for section in settings.sections for row in section.rows if len(row.runs) > 1})
    if counts:
        yield (
            f"Trained models: mean ± standard deviation over {listed([str(count) for count in counts])} trainings "
            "that differ in their seed."
        )


def _fusions(settings: TableSettings) -> Iterable[str]:
    fusions = [row.fusion for section in settings.sections for row in section.rows if row.fusion is not None]
    for number, fusion in enumerate(fusions):
        if fusion not in fusions[:number]:
            yield f"{fusion.label}: {_added(fusion)}."


def _added(fusion: RowFusion) -> str:
    terms = TERMS[fusion.method].format(k=fusion.k)
    documents = (
        "the documents of a query that were reranked"
        if fusion.depth is None
        else (f"a query's first {fusion.depth} documents of each")
    )
    if fusion.fitted:
        weights = f"weights fitted to {fusion.fitted}"
    elif fusion.weights is None or len(set(fusion.weights)) == 1:
        weights = "equal weights"
    else:
        weights = f"weights {listed([f'{weight:g}' for weight in fusion.weights])}"
    return f"{terms} of {listed(fusion.names)} over {documents}, added with {weights}"


def _tests(settings: TableSettings) -> Iterable[str]:
    if settings.alpha is None:
        return
    several = any(len(row.runs) > 1 for section in settings.sections for row in section.rows)
    how = (
        f"{TEST_NAMES[settings.test]} over queries{' (values averaged over seeds)' if several else ''}, "
        f"p < {settings.alpha:g} after Holm's correction for the comparisons of a section on that column"
    )
    if settings.baseline is not None:
        yield f"{BETTER} and {WORSE}: better and worse than {settings.baseline}, {how}."
    else:
        yield f"Raised letters: better than the row of the section with that letter, {how}."


def _weights(settings: TableSettings) -> Iterable[str]:
    rows = [row for section in settings.sections for row in section.rows if row.fusion is None]
    as_they_are = list(dict.fromkeys(row.label for row in rows if row.kind and row.pretrained is None))
    if as_they_are:
        yield f"Not trained here, the checkpoint as it is: {listed(as_they_are)}."
    every = "All other rerankers" if as_they_are else "All rerankers"
    trained = {row.label: row.pretrained for row in rows if row.pretrained is not None}
    pretrained = [label for label, is_pretrained in trained.items() if is_pretrained]
    random = [label for label, is_pretrained in trained.items() if not is_pretrained]
    if pretrained and random:
        yield f"Pretrained before fine-tuning: {listed(pretrained)}."
        yield (
            f"{listed(random)} start{'s' if len(random) == 1 else ''} from random weights, "
            "so their order is not a finding."
        )
    elif random:
        yield f"{every} start from random weights, so their order is not a finding."
    elif pretrained:
        yield f"{every} were pretrained before fine-tuning."


def _paper(settings: TableSettings, table: ResultTable) -> Iterable[str]:
    if not table.has_paper:
        return
    yield "Columns “paper” give the published numbers as far as they are known to us; others are blank."
    if any(cell.verdict for cell in table.cells):
        ok, okish = settings.tolerance.ok, settings.tolerance.okish
        yield f"Δ is ours less the published number: OK up to {ok:g}, OKish up to {okish:g}, else FAIL."
    substitutes = list(dict.fromkeys(number.source for number in table.sources if number.substitute))
    if substitutes:
        yield f"{SUBSTITUTE} from another source than the paper: {'; '.join(substitutes)}."


def _means(settings: TableSettings, results: Mapping[str, Result]) -> str:
    """What the columns' values are means over. Raises UserError where rows of a column have different query counts."""
    rows = [row for section in settings.sections for row in section.rows if row.runs]
    counts: dict[str, str] = {}
    means: dict[str, str] = {}
    for number, column in enumerate(settings.columns):
        own = [row for row in rows if row.has(number)]
        if not own:
            continue
        first = queries_of(own[0], column, results)
        for row in own:
            for result, expected in zip(queries_of(row, column, results), first, strict=True):
                if result.queries != expected.queries:
                    raise UserError(
                        f"{result.path}: {result.queries} queries, but {expected.path} has {expected.queries}; "
                        "evaluate both runs again with the same qrels"
                    )
        if len(first) > 1:
            means[column.label] = f"{len(first)} collections' means"
        else:
            count = first[0].queries
            counts[column.label] = f"{count:,} quer{'y' if count == 1 else 'ies'}"
    mixed = bool(counts and means)
    texts = [f"Means over {_of_columns(counts, mixed)}"] if counts else []
    if means:
        texts.append(f"{'mean' if mixed else 'Mean'} of {_of_columns(means, mixed)}")
    return "; ".join(texts)


def _of_columns(texts: Mapping[str, str], named: bool) -> str:
    """The texts of columns with their labels, or the text alone where it is the same for all and not `named`."""
    if len(set(texts.values())) == 1 and not named:
        return next(iter(texts.values()))
    return listed([f"{text} ({label})" for label, text in texts.items()])


def listed(words: Iterable[str]) -> str:
    """Joins words: a, b and c."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

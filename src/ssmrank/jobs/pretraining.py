"""Settings of pretrainings and of the publication of their models."""

from __future__ import annotations

from ssmrank.config.params import Params
from ssmrank.config.pretraining import CardScores, CardSettings, PretrainSettings
from ssmrank.config.teachers import EncoderTeacher, RunTeacher
from ssmrank.jobs.places import Places


def pretrain_settings(params: Params, pretraining: str, model: str) -> PretrainSettings:
    """For `ssmrank pretrain run`: a section of pretraining for one of its models."""
    section = params.pretraining[pretraining]
    shared = section.model_dump(exclude={"sweep", "models", "published"})
    return PretrainSettings(**shared, config=section.models[model].config)


def card_settings(params: Params, pretraining: str, model: str, places: Places) -> CardSettings:
    """For `ssmrank pretrain publish`: what the card says about the model and its data, and scores from tables."""
    section = params.pretraining[pretraining]
    corpus = params.corpora[section.corpus]
    return CardSettings(
        label=section.models[model].label,
        corpus=corpus.title,
        corpus_license=corpus.license,
        training="" if section.published is None else _training_in_words(params, section.published),
        scores=_card_scores(params, pretraining, model, places),
    )


def _training_in_words(params: Params, name: str) -> str:
    chosen = params.trainings[name]
    negatives = params.negatives[chosen.negatives]
    some = f"negatives of each: {negatives.count - negatives.random} from the first {negatives.depth} of "
    some += params.retrievers[negatives.retriever].label
    some += f", {negatives.random} random" if negatives.random else ""
    taught = f", taught by {_teacher_in_words(params, chosen.teacher)}" if chosen.teacher is not None else ""
    return (
        f"{params.collections[chosen.collection].title} and their documents, {some}{taught}, loss {chosen.loss}, "
        f"at most {chosen.max_length} tokens, {chosen.batch_groups} groups a step, learning rate "
        f"{chosen.learning_rate:g}, seed {chosen.seed}"
    )


def _teacher_in_words(params: Params, name: str) -> str:
    """The systems whose scores a teacher adds up, such as "BM25 and MiniLM-L6"."""
    labels = []
    for member in params.teachers[name].members.values():
        if isinstance(member, RunTeacher):
            labels.append(params.retrievers[member.retriever].label)
        else:
            model = params.encoders[member.encoder].model if isinstance(member, EncoderTeacher) else member.model
            labels.append(params.models[model].label)
    return " and ".join(labels)


def _card_scores(params: Params, pretraining: str, model: str, places: Places) -> list[CardScores]:
    """What tables show about the published reranker: for each test the first stage, the reranker and its fusions."""
    training = params.pretraining[pretraining].published
    if training is None:
        return []
    name = params.published_model(pretraining, model)
    scores: dict[tuple[str, str], dict[str, str]] = {}
    for table in params.tables.values():
        retriever = params.rerankings[table.reranking].retriever
        for section in table.sections:
            for row in (row for row in section.rerankers if (row.model, row.training) == (name, training)):
                fused = "" if row.fusion is None else f"/{row.fusion}"
                label = "alone" if row.fusion is None else f"fused ({row.fusion})"
                for test in table.tests_of(section):
                    if not isinstance(test.collection, str):
                        continue
                    on = f"{test.collection}/{test.split}"
                    title = f"{params.collections[test.collection].title}, {test.split}"
                    files = scores.setdefault((title, test.metric), {})
                    files[params.retrievers[retriever].label] = places.metrics_of(f"{on}/{retriever}")
                    files[label] = places.metrics_of(f"{on}/{table.reranking}/{training}/{name}{fused}")
    return [CardScores(test=test, metric=metric, files=files) for (test, metric), files in scores.items()]

"""The tokenizer of all pretrained models: byte-level BPE over lower-cased text.

Every text begins with [CLS] and ends with [SEP], for decoders as well as encoders, so that all architectures read the
same ids. The two are also the beginning and the end of sequence. Text is lower-cased because a vocabulary of a few
thousand entries has no room for capitalized variants of words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ssmrank.collections.corpus import corpus_files, is_held_out, language_model_text, read_texts
from ssmrank.config.corpora import Corpus
from ssmrank.errors import UserError

PAD, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
"""Special tokens; a token's id is its index here."""


def first_texts(corpus: Corpus, count: int) -> list[str]:
    """The first `count` texts of a corpus that are not held out. Raises UserError where there is none."""
    texts = list(islice(_training_texts(corpus), count))
    if not texts:
        raise UserError(f"{corpus.path}: all texts are held out; lower held_out in section corpora")
    return texts


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """Trains a tokenizer with exactly `vocabulary` entries (at least 320: bytes, special tokens and a few merges)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # A small corpus has too few pairs to merge. Unused entries fill the vocabulary, so that the models' shapes do not
    # depend on the corpus.
    missing = vocabulary - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"[UNUSED{number}]" for number in range(missing)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B {SEP}",
        special_tokens=[(CLS, SPECIAL.index(CLS)), (SEP, SPECIAL.index(SEP))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        bos_token=CLS,
        eos_token=SEP,
    )


def _training_texts(corpus: Corpus) -> Iterator[str]:
    for file in corpus_files(corpus):
        for text in read_texts(file):
            if not is_held_out(text.id, corpus.held_out):
                yield language_model_text(text)

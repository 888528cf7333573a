"""Model folders that are damaged or malicious: the download ends with one line that names the user's folder."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmrank.cli import main

Damage = Callable[[Path], object]

WEIGHTS = "model.safetensors"


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def text_of(name: str, text: str) -> Damage:
    return bytes_of(name, lambda _: text.encode())


def config(**values: object) -> Damage:
    return bytes_of("config.json", lambda old: json.dumps(json.loads(old) | values).encode())


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


class Evil:
    """Writes a file at a given path when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return open, (str(self.proof), "w")


def pickled(write: Callable[[Path, Evil], object]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        write(folder / "pytorch_model.bin", Evil(folder / "proof"))

    return damage


def long_token(old: bytes) -> bytes:
    tokenizer = json.loads(old)
    tokenizer["model"]["vocab"]["zebra"] = 99_999
    return json.dumps(tokenizer).encode()


def last_is_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["embeddings.word_embeddings.weight"][-1, 0] = float("nan")


def other_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["embeddings.word_embeddings.weight"] = torch.zeros(3, 5)


HOSTILE: dict[str, tuple[Damage, str]] = {
    "weights cut short": (bytes_of(WEIGHTS, lambda old: old[: len(old) // 2]), "get the whole checkpoint"),
    "weights empty": (bytes_of(WEIGHTS, lambda _: b""), "get the whole checkpoint"),
    "header too long": (bytes_of(WEIGHTS, lambda old: bytes([0, 0, 0, 0, 0, 1, 0, 0]) + old[8:]), "get the whole"),
    "header no JSON": (bytes_of(WEIGHTS, lambda old: old[:8] + b"x" * 99 + old[107:]), "get the whole checkpoint"),
    "weights absent": (lambda folder: (folder / WEIGHTS).unlink(), "get the whole checkpoint"),
    "weights of another shape": (weights(other_shape), "weights are of other shapes than config.json says"),
    "a weight absent": (weights(lambda tensors: tensors.pop(min(tensors))), "its weights lack 1 that config.json"),
    "NaN": (weights(last_is_nan), "NaN or infinity in 1 of its weights, such as embeddings.word_embeddings.weight"),
    "overflow": (weights(lambda tensors: [t.mul_(1e30) for t in tensors.values()]), "computes NaN or infinity for two"),
    "pickled code": (pickled(lambda path, evil: torch.save({"a": evil}, path)), "holds more than tensors"),
    "a plain pickle": (pickled(lambda path, evil: path.write_bytes(pickle.dumps(evil, 2))), "holds more than tensors"),
    "no pickle": (pickled(lambda path, _: path.write_bytes(b"junk")), "get the whole checkpoint"),
    "tokenizer {}": (text_of("tokenizer.json", "{}"), "has no tokenizer that transformers can read"),
    "tokenizer []": (text_of("tokenizer.json", "[]"), "has no tokenizer that transformers can read"),
    "tokenizer no JSON": (text_of("tokenizer.json", ""), "has no tokenizer that transformers can read"),
    "token beyond the model": (bytes_of("tokenizer.json", long_token), "token 'zebra' has id 99999, but the model has"),
    "settings a list": (text_of("tokenizer_config.json", "[1]"), "has no tokenizer that transformers can read"),
    "no special tokens": (
        text_of("tokenizer_config.json", '{"tokenizer_class": "PreTrainedTokenizerFast"}'),
        "has no cls or bos token; name one",
    ),
    "width a string": (config(hidden_size="many"), "config.json: transformers cannot read it; correct its values"),
    "width below 0": (config(hidden_size=-1), "correct config.json"),
    "no heads": (config(num_attention_heads=0), "correct config.json"),
    "heads that do not divide": (config(num_attention_heads=3), "is not a multiple of the number of attention heads"),
    "fewer layers": (config(num_hidden_layers=1), "config.json has no place for 16 of its weights, such as encoder"),
    "more layers": (config(num_hidden_layers=9), "that config.json asks for"),
    "a list of types": (config(model_type=["bert"]), "model_type ['bert'] is not supported; known: bamba, bart, bert"),
    "no such activation": (config(hidden_act="nothing"), "correct config.json"),
    "brackets": (text_of("config.json", "[" * 100_000), "config.json: cannot be read as JSON"),
    "a number": (text_of("config.json", "NaN"), "config.json: is a float"),
    "settings of a reranker": (lambda folder: (folder / "reranker.json").write_text("[]"), "is a list"),
}


def download(source: Path, output: Path) -> int:
    settings = {"label": "x", "kind": "E", "size": "1", "source": {"kind": "folder", "path": str(source)}}
    options = ["--archives", str(output.parent), "--output", str(output)]
    return main(["download", "model", "--settings", json.dumps(settings), *options])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_one_line_at_download(
    tiny_model, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, message = HOSTILE[name]
    source, output = tmp_path / "source", tmp_path / "models" / "model"
    shutil.copytree(tiny_model("bert"), source)
    damage(source)
    assert download(source, output) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("ssmrank download model: error: ")
    assert str(source) in line
    assert message in line
    assert str(output.parent) not in line
    assert not list(output.parent.iterdir())
    assert not (source / "proof").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_repository_is_neither_fetched_nor_run(tiny_model, tmp_path: Path, file: str) -> None:
    source, output = tmp_path / "source", tmp_path / "model"
    shutil.copytree(tiny_model("bert"), source)
    code = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
    (source / "evil.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\nC = M = T = None\n")
    values = json.loads((source / file).read_text())
    (source / file).write_text(json.dumps(values | {"auto_map": code}))
    assert download(source, output) == 0
    assert not (tmp_path / "proof").exists()
    assert not (output / "evil.py").exists()

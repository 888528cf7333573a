"""llama.cpp with a random model, in its own process: a pass for each line it reads. Needs llama-cpp-python and gguf.

    python benchmarks/llama_process.py CONFIG KIND TOKENS THREADS

CONFIG: a transformers config of a Mamba as JSON; KIND: f32, f16 or q8_0, how matrices are stored.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path


def main(config: dict, kind: str, tokens: int, threads: int) -> None:
    try:
        import llama_cpp
        import numpy as np
        from gguf import GGMLQuantizationType, GGUFWriter, quants
    except ImportError as error:
        print(f"{error}; pip install llama-cpp-python gguf", flush=True)
        return
    path = Path(tempfile.mkdtemp()) / "random.gguf"
    width, layers, state = config["hidden_size"], config["num_hidden_layers"], config["state_size"]
    inner, vocabulary, second = config["expand"] * width, config["vocab_size"], config["model_type"] == "mamba2"
    heads, groups = config.get("num_heads", 0), config.get("n_groups", 1)
    rank = -(-width // 16)
    generator = np.random.default_rng(0)
    name = "mamba2" if second else "mamba"
    writer = GGUFWriter(path, name)
    writer.add_context_length(2**20)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(heads if second else rank)
    if second:
        writer.add_ssm_group_count(groups)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{number}" for number in range(vocabulary)])
    writer.add_token_types([1] * vocabulary)
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)

    def add(place: str, *shape: int, matrix: bool = False, value: float | None = None) -> None:
        array = generator.standard_normal(shape, dtype=np.float32) * 0.02
        if value is not None:
            array = np.full(shape, value, dtype=np.float32)
        if matrix and kind == "f16":
            writer.add_tensor(place, array.astype(np.float16))
        elif matrix and kind == "q8_0":
            packed = quants.quantize(array, GGMLQuantizationType.Q8_0)
            writer.add_tensor(place, packed, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(place, array)

    add("token_embd.weight", vocabulary, width, matrix=True)
    add("output_norm.weight", width, value=1.0)
    for layer in range(layers):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm.weight", width, value=1.0)
        if second:
            channels = inner + 2 * groups * state
            add(f"{block}.ssm_in.weight", 2 * inner + 2 * groups * state + heads, width, matrix=True)
            add(f"{block}.ssm_conv1d.weight", channels, 4)
            add(f"{block}.ssm_conv1d.bias", channels)
            add(f"{block}.ssm_dt.bias", heads)
            add(f"{block}.ssm_a", heads, 1, value=-1.0)
            add(f"{block}.ssm_d", heads, 1)
            add(f"{block}.ssm_norm.weight", groups, inner // groups, value=1.0)
        else:
            add(f"{block}.ssm_in.weight", 2 * inner, width, matrix=True)
            add(f"{block}.ssm_conv1d.weight", inner, 4)
            add(f"{block}.ssm_conv1d.bias", inner)
            add(f"{block}.ssm_x.weight", rank + 2 * state, inner, matrix=True)
            add(f"{block}.ssm_dt.weight", inner, rank, matrix=kind != "q8_0")
            add(f"{block}.ssm_dt.bias", inner)
            add(f"{block}.ssm_a", inner, state, value=-1.0)
            add(f"{block}.ssm_d", inner)
        add(f"{block}.ssm_out.weight", width, inner, matrix=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = llama_cpp.Llama(
        str(path), n_ctx=tokens, n_batch=tokens, n_ubatch=tokens, n_threads=threads, n_threads_batch=threads,
        embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_LAST, verbose=False,
    )  # fmt: skip
    batch = llama_cpp.llama_batch_init(tokens, 0, 1)
    batch.n_tokens = tokens
    for place in range(tokens):
        batch.token[place], batch.pos[place] = int(generator.integers(10, vocabulary)), place
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.logits[place] = place == tokens - 1
    path.unlink()
    print("ready", flush=True)
    for _ in sys.stdin:
        memory = llama_cpp.llama_get_memory(model._ctx.ctx)
        llama_cpp.llama_memory_clear(memory, True)
        if llama_cpp.llama_decode(model._ctx.ctx, batch) != 0:
            print("llama_decode failed", flush=True)
            return
        llama_cpp.llama_synchronize(model._ctx.ctx)
        print("done", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

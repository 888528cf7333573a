"""Packed forward passes of Mamba-1 and Mamba-2 over the weights of transformers' own modules.

Mamba-1: Gu and Dao 2023, algorithm 2. Mamba-2: Dao and Gu 2024, section 7. The weights keep transformers' names, so
checkpoints in transformers' layout and in that of `mamba_ssm` load. Only the computation is ours, without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmrank.kernels import dispatch
from ssmrank.kernels.causal_conv import packed_causal_conv1d
from ssmrank.kernels.norms import add_rms_norm, add_rms_norm_float8, gated_rms_norm, gated_rms_norm_float8
from ssmrank.kernels.selective_scan import ScanInputs, packed_selective_scan
from ssmrank.kernels.ssd import SSDInputs, packed_ssd
from ssmrank.models.float8 import Float8Linear
from ssmrank.models.packing import Packed

if TYPE_CHECKING:
    from ssmrank.kernels.mixers import mamba2 as triton_mamba2
    from ssmrank.models.kept_states import Continuing


def mamba1_forward(backbone: Any, packed: Packed) -> Tensor:
    """Last hidden states [T, hidden size] of a `MambaModel`, after its final norm."""
    return residual_stream(backbone, packed, mamba1_mixer)


def mamba2_forward(backbone: Any, packed: Packed) -> Tensor:
    """Last hidden states [T, hidden size] of a `Mamba2Model`, after its final norm."""
    return residual_stream(backbone, packed, mamba2_mixer)


def mamba1_token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """Rows `wanted`, int64 [R], of `mamba1_forward`. The last layer gates and projects only these."""
    return residual_stream(backbone, packed, mamba1_mixer, wanted)


def mamba2_token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """Rows `wanted`, int64 [R], of `mamba2_forward`. The last layer gates and projects only these."""
    return residual_stream(backbone, packed, mamba2_mixer, wanted)


def projections(layer: Any) -> tuple[nn.Module, ...]:
    """The modules of a layer that FSDP gathers. The forward pass calls the projections, never the layer itself."""
    return layer.mixer.in_proj, layer.mixer.out_proj


ALL = slice(None)

FOLDED = "norm_is_folded"
"""Attribute of a mixer whose norm's weight is part of its output projection."""

Mixer = Callable[[Any, Any, Packed, Tensor | None], Any]
"""From a layer's mixer module, the hidden states of all tokens (8-bit floats if its input projection is), the batch and
the wanted tokens (None: all) to the mixer's output for the wanted tokens, without gradients perhaps as rows whose norm
is still to be applied (`Unscaled`)."""


def residual_stream(backbone: Any, packed: Packed, mixer: Mixer, wanted: Tensor | None = None) -> Tensor:
    """Last hidden states [T, hidden size], or the rows `wanted`, of a model whose layers are a norm and a mixer."""
    hidden = backbone.embeddings(packed.input_ids)
    if isinstance(backbone.layers[0].mixer.in_proj, Float8Linear):
        hidden = hidden.bfloat16()  # sixteen times as exact as the updates that are added
    elif backbone.config.residual_in_fp32:
        hidden = hidden.float()

    def block(layer: Any, hidden: Tensor, update: Tensor | None) -> tuple[Tensor, Tensor]:
        norm = add_rms_norm_float8 if isinstance(layer.mixer.in_proj, Float8Linear) else add_rms_norm
        normed, hidden = norm(hidden, update, layer.norm.weight, layer.norm.variance_epsilon)
        if wanted is None or layer is not backbone.layers[-1]:
            return hidden, mixer(layer.mixer, normed, packed, None)
        return hidden.index_select(0, wanted), mixer(layer.mixer, normed, packed, wanted)

    # A layer's output is added to the stream in the next norm, which reads both anyway.
    update: Tensor | None = None
    for layer in backbone.layers:
        if layer.gradient_checkpointing and layer.training:  # as transformers' layers do when they are called
            if update is not None:
                hidden, update = hidden + update, None  # a checkpoint then keeps one tensor, not two
            hidden, update = layer._gradient_checkpointing_func(block, layer, hidden, update)
        else:
            hidden, update = block(layer, hidden, update)
    norm = backbone.norm_f
    return add_rms_norm(hidden, update, norm.weight, norm.variance_epsilon, hidden.dtype)[0]


def mamba1_mixer(
    mixer: Any,
    hidden: Any,
    packed: Packed,
    wanted: Tensor | None = None,
    inner: Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """Mamba-1's mixer, see `Mixer`; `inner`: what a hybrid model does to the steps' input, B and C before the scan."""
    width = mixer.intermediate_size
    if wanted is None:
        projected = mixer.in_proj(hidden)
        if inner is None and _is_ordinary(packed) and _mamba1_runs_as_one(mixer, projected):
            return _mamba1_as_one(mixer, projected, packed)
        x, gate = projected.chunk(2, dim=-1)
    else:
        x = project(mixer, hidden, slice(0, width))
    x = convolve(mixer, x, packed)
    rank, state = mixer.time_step_rank, mixer.ssm_state_size
    step, b, c = mixer.x_proj(x).split([rank, state, state], dim=-1)
    if inner is not None:
        step, b, c = inner(mixer, step, b, c)
    rates, skip = -torch.exp(mixer.A_log.float()), mixer.D.float()
    delta, bias = _step_sizes(mixer.dt_proj, step)

    def scan(
        u: Tensor, delta: Tensor, b: Tensor, c: Tensor, z: Tensor | None = None, longest: int = 0, **states: Any
    ) -> Any:
        return packed_selective_scan(ScanInputs(u, delta, rates, b, c, skip, z, bias), **states)

    tensors = (x, delta, b, c)
    if wanted is None:
        return mixer.out_proj(scanned(mixer, scan, (*tensors, gate), packed))
    y = scanned(mixer, scan, tensors, packed).index_select(0, wanted)
    return mixer.out_proj(y * F.silu(project(mixer, hidden.index_select(0, wanted), slice(width, None))))


def _step_sizes(linear: Any, step: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mamba-1's step sizes `[T, D]`, and the bias that the scan is to add to them."""
    if type(linear) is nn.Linear:
        return F.linear(step, linear.weight), linear.bias.float()
    return linear(step), None  # an adapter's weight is not the whole of what it computes


def _is_ordinary(packed: Packed) -> bool:
    """Whether each sequence is computed alone, from nothing, and its state is not wanted."""
    return packed.prefix_levels is None and packed.kept is None


def _mamba1_runs_as_one(mixer: Any, projected: Tensor) -> bool:
    """Whether one GPU function computes all of Mamba-1's mixer after its input projection."""
    inner = _is_plain(mixer.x_proj) and type(mixer.dt_proj) is nn.Linear  # the scan adds its bias to the steps
    return inner and dispatch.mamba1_runs_as_one(projected, mixer.conv1d.weight.shape[-1])


def _mamba1_as_one(mixer: Any, projected: Tensor, packed: Packed) -> Tensor:
    from ssmrank.kernels.mixers import mamba1 as triton_mamba1

    plain, dtype = _is_plain(mixer.out_proj), projected.dtype
    y = triton_mamba1.mixer(
        projected,
        mixer.conv1d.weight.squeeze(1),
        mixer.conv1d.bias,
        mixer.x_proj.weight.to(dtype),
        mixer.dt_proj.weight.to(dtype),
        mixer.dt_proj.bias,
        mixer.A_log,
        mixer.D,
        mixer.out_proj.weight.to(dtype) if plain else None,
        packed.cu_seqlens,
    )
    return y if plain else mixer.out_proj(y)


def mamba2_norm(mixer: Any, y: Tensor, z: Tensor) -> Any:
    """Mamba-2's own: the norm of y · silu(z), in 8-bit floats if the output projection is."""
    norm = gated_rms_norm_float8 if isinstance(mixer.out_proj, Float8Linear) else gated_rms_norm
    return norm(y, z, mixer.norm.weight, mixer.norm.variance_epsilon, mixer.intermediate_size // mixer.n_groups)


def project(mixer: Any, hidden: Any, rows: slice) -> Tensor:
    """The outputs `rows` of a mixer's input projection."""
    linear = mixer.in_proj
    if rows == ALL:
        return linear(hidden)
    if type(linear) is not nn.Linear:  # it has an adapter
        return linear(hidden)[..., rows]
    return F.linear(hidden, linear.weight[rows], None if linear.bias is None else linear.bias[rows])


def mamba2_mixer(
    mixer: Any,
    hidden: Any,
    packed: Packed,
    wanted: Tensor | None = None,
    project: Callable[[Any, Any, slice], Tensor] = project,
    gate: Callable[[Any, Tensor, Tensor], Any] = mamba2_norm,
) -> Any:
    """Mamba-2's mixer, see `Mixer`.

    Some hybrid models differ from Mamba-2 in `project`, which gives the columns of the input projection, and in `gate`,
    which takes the scan's output and the gate `[R, C]`.
    """
    width, heads, states = mixer.intermediate_size, mixer.num_heads, mixer.n_groups * mixer.ssm_state_size
    if wanted is None:
        projected = project(mixer, hidden, ALL)
        if gate is mamba2_norm and _is_ordinary(packed) and _mamba2_runs_as_one(mixer, projected):
            return _mamba2_as_one(mixer, projected, packed)
        z, xbc, step = projected.split([width, mixer.conv_dim, heads], dim=-1)
    else:
        z = project(mixer, hidden.index_select(0, wanted), slice(0, width))
        xbc, step = project(mixer, hidden, slice(width, None)).split([mixer.conv_dim, heads], dim=-1)
    x, b, c = convolve(mixer, xbc, packed).split([width, states, states], dim=-1)
    rates = -torch.exp(mixer.A_log.float())

    def scan(x: Tensor, dt: Tensor, b: Tensor, c: Tensor, **states: Any) -> Any:
        inputs = SSDInputs(x, dt, rates, b, c, mixer.D, mixer.dt_bias)
        return packed_ssd(inputs, chunk_size=mixer.chunk_size, **states)

    tensors = (
        x.unflatten(1, (heads, mixer.head_dim)),
        step,
        b.unflatten(1, (mixer.n_groups, mixer.ssm_state_size)),
        c.unflatten(1, (mixer.n_groups, mixer.ssm_state_size)),
    )
    y = scanned(mixer, scan, tensors, packed).flatten(1)
    if wanted is not None:
        y = y.index_select(0, wanted)
    return mixer.out_proj(gate(mixer, y, z))


def _mamba2_runs_as_one(mixer: Any, projected: Tensor) -> bool:
    """Whether one GPU function computes all of Mamba-2's mixer after its input projection."""
    norm_size = mixer.num_heads * mixer.head_dim // mixer.n_groups
    sizes = mixer.conv1d.weight.shape[-1], mixer.head_dim, mixer.ssm_state_size, norm_size
    return dispatch.mamba2_runs_as_one(projected, *sizes)


def fold_mamba2(backbone: Any) -> None:
    """As `fold_where_gated`, of a `Mamba2Model`."""
    fold_where_gated([layer.mixer for layer in backbone.layers])


def fold_where_gated(mixers: Sequence[Any]) -> None:
    """Prepares Mamba-2's mixers for inference in bf16 or 8-bit floats where a kernel gates within the scan, in place.

    The kernel leaves a row's norm to whoever adds the output projection's result, so the norm's weight has to be part
    of the projection. To be called before weights are rounded.
    """
    mixer = mixers[0]
    sizes = mixer.conv1d.weight.shape[-1], mixer.head_dim, mixer.ssm_state_size, mixer.n_groups
    rounded = any(isinstance(mixer.out_proj, Float8Linear) for mixer in mixers)  # prepared before
    if dispatch.mamba2_gates_on(mixer.A_log.device, *sizes) and not rounded:
        fold_norms(mixers)


def fold_norms(mixers: Sequence[Any]) -> None:
    """Moves the weights of Mamba-2's gated norms into the output projections, in place.

    The model computes the same function, with and without the kernel that gates within the scan.
    """
    with torch.no_grad():
        for mixer in mixers:
            mixer.out_proj.weight *= mixer.norm.weight
            mixer.norm.weight.fill_(1.0)
            setattr(mixer, FOLDED, True)


def _mamba2_as_one(mixer: Any, projected: Tensor, packed: Packed) -> Any:
    """The mixer's output; rows whose norm is still to be applied where the scan gates."""
    from ssmrank.kernels.mixers import mamba2 as triton_mamba2

    sizes = _sizes(mixer)
    own = triton_mamba2.Parameters(
        mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, mixer.A_log, mixer.D, mixer.dt_bias, mixer.norm.weight
    )
    gates = _scan_gates(mixer, projected)
    if isinstance(mixer.out_proj, Float8Linear) and sizes.groups == 1:
        float8 = triton_mamba2.mixer_gated_float8 if gates else triton_mamba2.mixer_float8
        return mixer.out_proj(float8(projected, own, packed.cu_seqlens, sizes))
    plain = _is_plain(mixer.out_proj)
    weight = mixer.out_proj.weight.to(projected.dtype) if plain else None
    if gates and weight is not None:
        return triton_mamba2.mixer_gated(projected, own, weight, packed.cu_seqlens, sizes)
    y = triton_mamba2.mixer(projected, own, weight, packed.cu_seqlens, sizes)
    return y if plain else mixer.out_proj(y)


def _scan_gates(mixer: Any, projected: Tensor) -> bool:
    """Whether the scan applies the gate, without gradients."""
    if torch.is_grad_enabled() or not getattr(mixer, FOLDED, False):
        return False
    sizes = mixer.conv1d.weight.shape[-1], mixer.head_dim, mixer.ssm_state_size, mixer.n_groups
    return dispatch.mamba2_gates(projected, *sizes)


def _sizes(mixer: Any) -> triton_mamba2.Sizes:
    from ssmrank.kernels.mixers import mamba2 as triton_mamba2

    states, eps = mixer.ssm_state_size, mixer.norm.variance_epsilon
    return triton_mamba2.Sizes(mixer.num_heads, mixer.head_dim, mixer.n_groups, states, eps)


def _is_plain(linear: Any) -> bool:
    """Whether a projection is a product with its weight and nothing else."""
    # Modules of other classes, such as FSDP's, have their whole weight only while they are called themselves.
    return type(linear) is nn.Linear and linear.bias is None


def convolve(mixer: Any, x: Tensor, packed: Packed, conv: Any = None) -> Tensor:
    """A mixer's convolution and silu of [T, channels], which also continues prefixes and keeps what they need.

    mixer: has `layer_idx`, the layer's number in kept states; conv: has `weight` [channels, 1, taps] and `bias`; None:
    the mixer's `conv1d`.
    """
    conv = mixer.conv1d if conv is None else conv
    filters, bias = conv.weight.squeeze(1), conv.bias
    history = None
    levels = packed.prefix_levels
    if packed.kept is not None:
        if not packed.kept.keeps:
            return _convolve_on(mixer, filters, bias, x, packed.kept)  # type: ignore[arg-type]
        packed.kept.keep_tail(mixer.layer_idx, x, filters.shape[1])
    if levels is not None:
        if filters.shape[1] - 1 > levels.history.shape[1]:
            raise ValueError(f"{levels.history.shape[1]} tokens are kept for a filter of {filters.shape[1]} taps")
        history = levels.history[:, : filters.shape[1] - 1]
    return packed_causal_conv1d(x, filters, bias, packed.cu_seqlens, activation="silu", history=history)


def _convolve_on(mixer: Any, filters: Tensor, bias: Tensor | None, x: Tensor, kept: Continuing) -> Tensor:
    """The convolution of sequences that continue kept prefixes."""
    longer, starts, history = kept.convolution(mixer.layer_idx, x)
    y = packed_causal_conv1d(longer, filters, bias, starts, activation="silu", history=history)
    return y[: x.shape[0]]


def last_inputs(mixer: Any, inputs: Callable[[], Tensor], packed: Packed) -> Tensor | None:
    """The inputs [S, channels] of the token before each sequence; keeps those of each sequence's last token.

    inputs: gives those of all tokens, [T, channels]. It is called only if they are needed; else the result is None.
    """
    kept: Any = packed.kept
    if kept is not None:
        if not kept.keeps:
            return kept.tail(mixer.layer_idx).squeeze(1)
        kept.keep_tail(mixer.layer_idx, inputs(), 2)
    if packed.prefix_levels is None:
        return None
    rows = packed.prefix_levels.history[:, 0]
    return torch.where(rows[:, None] >= 0, inputs().index_select(0, rows.clamp(min=0)), 0.0)


def scanned(
    mixer: Any,
    scan: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    packed: Packed,
    before: Tensor | None = None,
) -> Tensor:
    """What a recurrence makes of the tokens, like the first of `tensors`, which also continues and keeps states.

    scan: takes the tensors, each [T, ..], and the keywords of `packed_ssd`; and with `before`, [S, channels], the rows
    of sequences that continue others as the keyword `before`.
    """
    kept: Any = packed.kept
    if kept is None:
        return _level_by_level(scan, tensors, packed, before)
    if kept.keeps:
        y, final = scan(*tensors, cu_seqlens=packed.cu_seqlens, return_final_states=True)
        kept.keep_scan(mixer.layer_idx, final)
        return y
    states, rows = kept.scan(mixer.layer_idx)
    options = {"initial_states": states, "initial_index": rows, "longest": packed.longest}
    if before is not None:
        options["before"] = before
    return scan(*tensors, cu_seqlens=packed.cu_seqlens, **options)


def _level_by_level(
    scan: Callable[..., Any], tensors: tuple[Tensor, ...], packed: Packed, before: Tensor | None
) -> Tensor:
    """The scan of a packed batch. With shared prefixes it goes level by level, and is for inference only.

    Each segment then starts from its parent's final state.
    """
    if packed.prefix_levels is None:
        return scan(*tensors, cu_seqlens=packed.cu_seqlens)
    y = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    states: list[Tensor] = []
    for level in packed.prefix_levels.all:
        part = [tensor[level.tokens] for tensor in tensors]
        options: dict[str, Any] = {"cu_seqlens": level.packed.cu_seqlens, "out": y[level.tokens]}
        if level.parents is not None:
            options |= {"initial_states": _rows(states), "initial_index": level.parents}
            options["longest"] = level.packed.longest
            if before is not None:
                options["before"] = before[level.segments]
        if level in packed.prefix_levels.inner:
            states.append(scan(*part, return_final_states=True, **options)[1])
        else:
            scan(*part, **options)
    return y


def _rows(states: list[Tensor]) -> Tensor:
    if len(states) > 1:
        # Some kernels store a state with its last two dimensions swapped. Joining in that order avoids a second copy.
        turned = not states[0].is_contiguous()
        joined = torch.cat([state.mT if turned else state for state in states])
        states[:] = [joined.mT if turned else joined]
    return states[0]

"""The config tree of published tokenizers, read as data: nothing in it is ever imported or called.

A tree names a class and fields per module. Classes are looked up in an allow-list. Fields that change the
model are read, those that only matter for training or for passing data along are known by name. Everything
else is refused with its path: a setting that is silently ignored gives wrong pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOP_TARGET = "flextok_wrapper.FlexTok"
SECTIONS = ("vae", "encoder", "regularizer", "decoder", "flow_matching_noise_module", "pipeline")
_ADDER, _OP = "posembs.PositionalEmbeddingAdder", "dict_ops.PerSampleOp"
_PACKER, _UNPACKER = "flex_seq_packing.BlockWiseSequencePacker", "seq_unpacking.SequenceUnpacker"
_PATCHES, _TRUNK = "patching.PatchEmbedder", "transformers.FlexTransformer"
ENCODER_MODULES = {
    "enc_channels_to_last": _OP,
    "enc_patch_emb": _PATCHES,
    "enc_posemb_module": _ADDER,
    "enc_register_module": "registers.Registers1D",
    "enc_seq_packer": _PACKER,
    "enc_transformer": _TRUNK,
    "enc_unpacker": _UNPACKER,
    "enc_to_latents": "heads.LinearHead",
}
DECODER_MODULES = {
    "dec_from_latents": "linear.LinearLayer",
    "dec_registers_posemb_module": _ADDER,
    "dec_nested_dropout": "token_dropout.MaskedNestedDropout",
    "dec_latent_dropout": "nullcond.LearnedNullCond",
    "dec_noise_channels_to_last": _OP,
    "dec_noise_patch_emb": _PATCHES,
    "dec_patches_posemb_module": _ADDER,
    "dec_seq_packer": _PACKER,
    "dec_time_embedder": "time_embedding.TimestepEmbedder",
    "dec_transformer": _TRUNK,
    "dec_unpacker": _UNPACKER,
    "dec_repa_unpacker": _UNPACKER,
    "dec_to_patches": "heads.ToPatchesLinearHead",
    "dec_channels_to_first": _OP,
}
OPTIONAL_MODULES = ("dec_repa_unpacker",)
SIZE_MODES = ("uniform", "pow2", "uniform_pow2")


@dataclass(frozen=True)
class VAESettings:
    """How the frozen autoencoder is used.

    Attributes:
        scaling_factor: None: the autoencoder's own.
        sample_posterior: what the authors' own tokenisation does (it makes ids random).
        keeps_float32: runs in float32 whatever the rest runs in.
    """

    latent_channels: int
    scaling_factor: float | None
    sample_posterior: bool
    keeps_float32: bool


@dataclass(frozen=True)
class TrainingSettings:
    """What training draws: token counts, null conditions, noise levels."""

    size_mode: str
    null_probability: float
    logit_normal: bool
    stratified: bool
    mode_scale: float


@dataclass(frozen=True)
class TokenizerSettings:
    """A tree as arguments: `encoder` and `decoder` are those of the two models' constructors."""

    encoder: dict[str, Any]
    decoder: dict[str, Any]
    vae: VAESettings
    training: TrainingSettings


@dataclass
class _Node:
    """One mapping of the tree; counts which of its fields have been read."""

    fields: Mapping[str, Any]
    path: str
    read: set[str] = field(default_factory=lambda: {"_target_"})

    def __post_init__(self) -> None:
        if not isinstance(self.fields, Mapping):
            raise ValueError(f"{self.path} is {self.fields!r:.60}; a mapping was expected")

    def value(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        found = self.fields.get(name)
        return default if found is None else found

    def integer(self, name: str, default: int | None = None) -> int:
        found = self.value(name, default)
        if type(found) is not int or not 1 <= found <= 1 << 20:
            raise self.wrong(name, "an integer from 1 to 1048576")
        return found

    def integers(self, name: str, count: int | None = None) -> tuple[int, ...]:
        found = self.value(name)
        fits = isinstance(found, list | tuple) and len(found) == (count or len(found)) >= 1
        if not fits or any(type(n) is not int or not 1 <= n <= 1 << 20 for n in found):
            raise self.wrong(name, f"a list of {count or 'some'} positive integers")
        return tuple(found)

    def number(self, name: str, default: float | None = None) -> float:
        found = self.value(name, default)
        if type(found) not in (int, float) or not 0 <= found <= 1e6:
            raise self.wrong(name, "a number from 0 to 1000000")
        return float(found)

    def flag(self, name: str, default: bool) -> bool:
        return bool(self.choice(name, (True, False), default))

    def choice(self, name: str, allowed: tuple[Any, ...], default: Any = None) -> Any:
        found = self.value(name, default)
        if not any(found is value or (found == value and type(found) is type(value)) for value in allowed):
            raise self.wrong(name, f"one of {allowed}")
        return found

    def skip(self, *names: str) -> None:
        """Fields that say nothing about what the finished model computes."""
        self.read.update(names)

    def wrong(self, name: str, allowed: str) -> ValueError:
        return ValueError(f"{self.path}.{name} is {self.fields.get(name)!r:.60}; supported: {allowed}")

    def finish(self) -> None:
        """Refuse fields that nobody read, unless they only name entries of a data dictionary or are off."""
        for name, found in self.fields.items():
            harmless = name.endswith(("_key", "_keys")) or found is None or found is False
            if name not in self.read and not harmless:
                raise ValueError(f"{self.path}.{name} = {found!r:.60} is unknown to this loader")


def is_target(name: Any, allowed: str) -> bool:
    """Whether a class name of a tree is the allowed one: package `flextok`, same module, same class."""
    parts = name.split(".") if isinstance(name, str) else []
    return len(parts) >= 2 and parts[0] == "flextok" and ".".join(parts[-2:]) == allowed


def _node(tree: Mapping[str, Any], name: str, target: str, path: str) -> _Node:
    node = _Node(tree.get(name, {}), f"{path}{name}")
    found = node.fields.get("_target_")
    if not is_target(found, target):
        raise ValueError(f"{node.path}._target_ is {found!r:.80}; only flextok's {target} is supported")
    return node


def _modules(tree: Mapping[str, Any], section: str, known: Mapping[str, str]) -> dict[str, _Node]:
    wrapper = _node(tree, section, "wrappers.SequentialModuleDictWrapper", "")
    modules = wrapper.value("module_dict", {})
    wrapper.finish()
    _Node(modules, f"{section}.module_dict")
    missing = sorted(set(known) - set(modules) - set(OPTIONAL_MODULES))
    unknown = sorted(set(modules) - set(known))
    if missing or unknown:
        raise ValueError(f"{section}.module_dict: missing modules {missing}, unknown modules {unknown}")
    return {name: _node(modules, name, known[name], f"{section}.module_dict.") for name in modules}


def read_tree(tree: Mapping[str, Any]) -> TokenizerSettings:
    """Turn a published config tree into constructor arguments.

    Raises:
        ValueError: an unknown class or field, or a value this project doesn't support; names its path.
    """
    top = _Node(tree, "config")
    if "_target_" in tree and not is_target(tree["_target_"], TOP_TARGET):
        raise ValueError(f"_target_ is {tree['_target_']!r:.80}; only flextok's {TOP_TARGET} is supported")
    top.skip(*SECTIONS)
    top.finish()
    encoder = _modules(tree, "encoder", ENCODER_MODULES)
    decoder = _modules(tree, "decoder", DECODER_MODULES)
    levels, vae = _levels(tree), _read_vae(tree)
    arguments = _read_encoder(encoder, levels), _read_decoder(decoder, levels)
    for side in arguments:
        if side["in_channels"] != vae.latent_channels:
            raise ValueError(f"latents have {vae.latent_channels} channels, a model {side['in_channels']}")
    if arguments[0]["num_registers"] != arguments[1]["num_registers"]:
        raise ValueError("encoder and decoder disagree on the number of tokens")
    settings = TokenizerSettings(*arguments, vae, _read_training(tree, decoder))
    for node in (*encoder.values(), *decoder.values()):
        node.finish()
    return settings


def _levels(tree: Mapping[str, Any]) -> tuple[int, ...]:
    node = _node(tree, "regularizer", "quantize_fsq.FSQ", "")
    node.skip(
        "drop_quant_p", "corrupt_tokens_p", "min_corrupt_tokens_p", "apply_corrupt_tokens_p", "packed_call"
    )
    levels = node.integers("levels")
    node.finish()
    return levels


def _read_vae(tree: Mapping[str, Any]) -> VAESettings:
    node = _node(tree, "vae", "vae_wrapper.StableDiffusionVAE", "")
    node.skip(
        "hf_hub_path", "learnable_logvar", "logvar_init", "compile_encode_fn", "force_vae_encode", "frozen"
    )
    factor = None if node.value("scaling_factor") is None else node.number("scaling_factor")
    settings = VAESettings(
        latent_channels=node.integer("latent_channels"),
        scaling_factor=factor or None,
        sample_posterior=node.flag("sample_posterior", True),
        keeps_float32=node.choice("dtype_override", (None, "fp32")) == "fp32",
    )
    node.finish()
    return settings


def _read_trunk(node: _Node) -> dict[str, Any]:
    node.choice("gated_mlp", (True,), True)
    node.choice("qk_norm", (True,), True)
    _check_layer(node, "act_layer", ("SiLU",))
    _check_layer(node, "norm_layer", ("LayerNorm", "Fp32LayerNorm"))
    for name in ("qkv_bias", "proj_bias", "mlp_bias"):
        node.choice(name, (False,), False)
    node.skip("drop", "drop_path_rate", "use_act_checkpoint", "weight_init_style", "zero_init_query_proj")
    return {
        "dim": node.integer("dim"),
        "depth": node.integer("depth"),
        "head_dim": node.integer("head_dim", 64),
        "mlp_ratio": node.number("mlp_ratio", 4.0),
    }


def _check_layer(node: _Node, name: str, classes: tuple[str, ...]) -> None:
    """A layer class given as a name or a partial call: one of `classes`, without weights of its own."""
    found = node.value(name)
    if found is None:
        return
    options = dict(found) if isinstance(found, Mapping) else {"_target_": found}
    target = str(options.pop("_target_", ""))
    options.pop("_partial_", None)
    plain = all(value in (False, None) or (key, value) == ("eps", 1e-5) for key, value in options.items())
    if target.split(".")[-1] not in classes or not plain:
        raise node.wrong(name, f"one of {classes} without weights")


def _read_patches(
    modules: Mapping[str, _Node], patches: str, table: str, op: str, dim: int
) -> dict[str, Any]:
    """Patch embedding, its position table and the change of layout before it."""
    embedder, adder = modules[patches], modules[table]
    embedder.choice("flatten_patches", (False,), False)
    _check_op(modules[op], "channels_first_to_last")
    for node in (embedder, adder):
        node.choice("dim", (dim,))
    return {
        "in_channels": embedder.integer("channels_in"),
        "patch_size": embedder.integers("patch_sizes", 2),
        "grid": adder.integers("max_sizes", 2),
        "posemb_type": adder.choice("posemb_type", ("sincos", "learnable_sum", "learnable_prod")),
        "posemb_scaling": adder.choice("posemb_scaling", ("absolute", "interpolate"), "absolute"),
    }


def _check_op(node: _Node, function: str) -> None:
    inner = _node(
        {"per_sample_op": node.value("per_sample_op", {})}, "per_sample_op", f"dict_ops.{function}", ""
    )
    inner.skip("_partial_")
    inner.finish()


def _check_packer(node: _Node, mask_modes: tuple[str, ...]) -> str:
    node.skip(
        "max_seq_len", "pad_to_multiple", "per_subseq_embs", "compile_block_mask", "return_materialized_mask"
    )
    return str(node.choice("mask_mode", mask_modes))


def _read_encoder(modules: Mapping[str, _Node], levels: tuple[int, ...]) -> dict[str, Any]:
    trunk = _read_trunk(modules["enc_transformer"])
    registers, head = modules["enc_register_module"], modules["enc_to_latents"]
    most = registers.integer("n_max")
    for name in ("n_min", "n_eval"):
        registers.choice(name, (most,), most)
    registers.choice("ordering_mode", ("nested",), "nested")
    registers.choice("dim", (trunk["dim"],))
    registers.skip("size_sampling_mode")
    head.choice("use_mup_readout", (False,), False)
    head.choice("dim_out", (len(levels),))
    head.choice("dim", (trunk["dim"],))
    head.choice("proj_bias", (True,), True)
    _check_layer(head, "norm_layer", ("LayerNorm", "Fp32LayerNorm"))
    head.skip("weight_init_style", "dtype_override", "adaLN_bias")
    patches = _read_patches(
        modules, "enc_patch_emb", "enc_posemb_module", "enc_channels_to_last", trunk["dim"]
    )
    mask_mode = _check_packer(modules["enc_seq_packer"], ("causal_last", "causal", "full"))
    return {**patches, **trunk, "num_registers": most, "levels": levels, "mask_mode": mask_mode}


def _read_decoder(modules: Mapping[str, _Node], levels: tuple[int, ...]) -> dict[str, Any]:
    transformer = modules["dec_transformer"]
    trunk = _read_trunk(transformer)
    transformer.choice("adaLN_expansion", (2,))
    layers = transformer.value("intermediate_layers", [])
    if (
        not isinstance(layers, list | tuple)
        or len(layers) > 1
        or any(n not in range(trunk["depth"]) for n in layers)
    ):
        raise transformer.wrong("intermediate_layers", "a list with at most one block index")
    patches = _read_patches(
        modules,
        "dec_noise_patch_emb",
        "dec_patches_posemb_module",
        "dec_noise_channels_to_last",
        trunk["dim"],
    )
    _check_op(modules["dec_channels_to_first"], "channels_last_to_first")
    _check_packer(modules["dec_seq_packer"], ("full",))
    table, source = modules["dec_registers_posemb_module"], modules["dec_from_latents"]
    table.choice("posemb_scaling", ("absolute",), "absolute")
    source.choice("dim_in", (len(levels),))
    source.choice("proj_bias", (True,), True)
    source.skip("weight_init_style", "dtype_override")
    head = modules["dec_to_patches"]
    head.choice("use_mup_readout", (False,), False)
    head.choice("channels_out", (patches["in_channels"],))
    head.choice("patch_sizes", (list(patches["patch_size"]),))
    head.choice("proj_bias", (True,), True)
    head.choice("adaLN_bias", (True,), True)
    _check_layer(head, "norm_layer", ("LayerNorm", "Fp32LayerNorm"))
    head.skip("weight_init_style", "dtype_override")
    time, dropout = modules["dec_time_embedder"], modules["dec_latent_dropout"]
    time.choice("temb_as_tokens", (False,), False)
    time.skip("weight_init_style")
    dropout.choice("replace_with_single_token", (False,), False)
    for node in (table, source, head, time, dropout, modules["dec_nested_dropout"]):
        node.choice("dim", (trunk["dim"],))
    return {
        **patches,
        **trunk,
        "num_registers": table.integers("max_sizes", 1)[0],
        "levels": levels,
        "register_posemb_type": table.choice("posemb_type", ("learnable_sum", "learnable_prod")),
        "time_features": time.integer("frequency_embedding_size", 256),
        "max_timestep": time.number("max_timestep"),
        "repa_layer": layers[0] if layers else None,
    }


def _read_training(tree: Mapping[str, Any], decoder: Mapping[str, _Node]) -> TrainingSettings:
    noise = _node(tree, "flow_matching_noise_module", "noise_modules.MinRFNoiseModule", "")
    pipeline = _node(tree, "pipeline", "pipelines.MinRFPipeline", "")
    pipeline.skip("_partial_", "out_channels")
    settings = TrainingSettings(
        size_mode=decoder["dec_nested_dropout"].choice("size_sampling_mode", SIZE_MODES, "uniform"),
        null_probability=decoder["dec_latent_dropout"].number("dropout_prob", 0.0),
        logit_normal=noise.flag("ln", False),
        stratified=noise.flag("stratisfied", False),
        mode_scale=noise.number("mode_scale", 0.0),
    )
    noise.finish()
    pipeline.finish()
    return settings

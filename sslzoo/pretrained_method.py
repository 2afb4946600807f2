"""A method as one of transformers' models: found by the Auto classes, saved, loaded and published, its precision, attention and memory."""

import sys
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, AutoModel, PreTrainedModel

from sslzoo.encoders import checkpoint_blocks, limit_size, misfits, model_folder, set_attention, to_plain, without_pooler
from sslzoo.errors import InputError, first_line
from sslzoo.method_config import MethodConfig
from sslzoo.method_files import BLOCK, SavedMethod, read_method, write_method


class PreTrainedMethod(PreTrainedModel):
    """What every method has of a `PreTrainedModel`.

    Once a method's class is imported, AutoConfig and AutoModel know it by its `config_class`. To them a saved method is its encoder.
    """

    config_class: type[MethodConfig]
    unpublished: tuple[str, ...]
    # transformers strips this prefix from loaded keys, so no key may start with it.
    base_model_prefix = "sslzoo"
    main_input_name = "views"
    supports_gradient_checkpointing = _supports_sdpa = True  # where its encoder does

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "config_class" in vars(cls) and cls.config_class.model_type:
            AutoConfig.register(cls.config_class.model_type, cls.config_class, exist_ok=True)
            AutoModel.register(cls.config_class, cls, exist_ok=True)

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder that is evaluated and published."""
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: encoders and heads initialise themselves, and a teacher must equal its student."""

    def encoders(self) -> list[PreTrainedModel]:
        """Every copy of the encoder: student and teacher, or one."""
        return [module for module in self.modules() if type(module) is type(self.encoder)]

    def _encoder_prefix(self) -> str:
        return next(name for name, module in self.named_modules() if module is self.encoder) + "."

    def get_input_embeddings(self) -> nn.Module:
        """What the encoder begins with: a transformer's patches. Raises `NotImplementedError` for a convolutional network."""
        return self.encoder.get_input_embeddings()

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Sets the attention of every copy of the encoder, "eager" or "sdpa"; in no file. Raises `InputError` where it has none."""
        for encoder in self.encoders():
            set_attention(encoder, attn_implementation)

    def gradient_checkpointing_enable(self) -> None:
        """Keeps no activations of transformer blocks, which are computed again in the backward pass: the same gradients in less memory.

        Raises `InputError` for an encoder that has no such blocks, such as a ResNet.
        """
        checkpoint_blocks(self, self.encoder.config.model_type)

    def gradient_checkpointing_disable(self) -> None:
        """Ends gradient checkpointing."""
        checkpoint_blocks(self, self.encoder.config.model_type, enable=False)

    # The names since transformers 5.23, whose own would call the ones above with arguments that they do not have.
    activation_checkpointing_enable = gradient_checkpointing_enable  # pyrefly: ignore[bad-override]
    activation_checkpointing_disable = gradient_checkpointing_disable

    def save_pretrained(
        self, save_directory: str | Path, max_shard_size: int | str = sys.maxsize, *, push_to_hub: bool = False,
        safe_serialization: bool = True, variant: str | None = None,
    ) -> None:  # fmt: skip
        """Writes the encoder as config.json and model.safetensors in plain transformers form, and the rest as ssl_heads.safetensors.

        max_shard_size: bytes, or a text such as "5GB"; larger weights are split into several files with an index. By default, as in every
            run folder, whose digests and publishing name two files of weights, nothing is split.
        Raises `OSError` when it cannot write; the folder then is as it was before. Raises `InputError` for what no saved method is:
        pickled, one of several variants in a folder, or pushed without the recipe and results of its run.
        """
        if push_to_hub:
            raise InputError("push_to_hub: the Hub gets finished runs with their recipe and results, by `sslzoo publish`")
        if not safe_serialization:
            raise InputError("safe_serialization=False: weights are saved as safetensors alone, as loading a pickle may run code")
        if variant is not None:
            raise InputError(f"variant '{variant}': a folder holds one method, in float32; save another one in a folder of its own")
        block = {"model_type": self.config.model_type, "image_size": self.config.image_size} | {
            key: getattr(self.config, key) for key in self.config.hyperparameters()
        }
        others = (self._encoder_prefix(), *self.unpublished)
        rest = {name: value.cpu().contiguous() for name, value in self.state_dict().items() if not name.startswith(others)}
        write_method(Path(save_directory), SavedMethod(block, to_plain(self.encoder), rest), max_shard_size)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, dtype: torch.dtype | str | None = None,
        device_map: str | int | torch.device | dict[str, str | int | torch.device] | None = None, attn_implementation: str | None = None,
        revision: str | None = None, subfolder: str = "", output_loading_info: bool = False, token: str | bool | None = None,
        cache_dir: str | None = None, local_files_only: bool = False,
    ) -> Self:  # fmt: skip
        """The whole method from a run folder or a Hub id, bit for bit, in training mode and ready to go on.

        dtype: of weights and batch norms, such as torch.bfloat16 or "bfloat16"; None and "auto": as they were saved. Queues, centres and
            other states that move in small steps stay in float32.
        device_map: one device for all of it ("cuda", 0, {"": "cuda:1"}); "auto": the accelerator if there is one.
        attn_implementation: see `set_attn_implementation`. subfolder: where the files lie in one of the folder or repository.
        output_loading_info: also return transformers' report, which is empty: what is missing, left over or of another shape is an error.
        Raises `InputError` where the files are not of this method, are damaged or do not fit together. Reads safetensors alone.
        """
        dtype, device = _dtype(dtype), _device(device_map)
        folder = model_folder(
            pretrained_model_name_or_path, revision=revision, subfolder=subfolder, token=token, cache_dir=cache_dir,
            local_files_only=local_files_only,
        )  # fmt: skip
        method = cls._from_files(folder)
        local = Path(pretrained_model_name_or_path).expanduser().is_dir()
        method.name_or_path = method.config.name_or_path = str(folder if local else pretrained_model_name_or_path)
        if attn_implementation is not None:
            method.set_attn_implementation(attn_implementation)
        if dtype is not None:
            method._cast(dtype)
        if device is not None:
            method.to(device)
        method.train()
        info = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (method, info) if output_loading_info else method  # pyrefly: ignore[bad-return]

    @classmethod
    def _from_files(cls, folder: Path) -> Self:
        block, plain, rest = read_method(folder)
        if block["model_type"] != cls.config_class.model_type:
            raise InputError(f"{folder} holds '{block['model_type']}', not '{cls.config_class.model_type}': use sslzoo.load")
        values = {key: value for key, value in block.items() if key != "model_type"}
        foreign = values.keys() - {"image_size", *cls.config_class.hyperparameters()}
        if foreign:  # transformers' configurations accept them silently
            raise InputError(f"the '{BLOCK}' block of {folder / 'config.json'} has a key that {cls.__name__} has not: '{min(foreign)}'")
        try:
            config = cls.config_class(encoder=plain.config, **values)
            # On `meta` first: a wrong number in the file could ask for any amount of memory.
            with torch.device("meta"), limit_size({**rest, **plain.state_dict()}):
                described = cls(config)
        except Exception as error:  # the strict data classes' own exceptions, or those of any layer that cannot have such a size
            reason = first_line(error.__cause__ or error)
            raise InputError(f"cannot build {cls.__name__} from the '{BLOCK}' block of {folder / 'config.json'}: {reason}") from error
        prefix = described._encoder_prefix()
        state = {**rest, **{prefix + name: value for name, value in without_pooler(plain).items()}}
        if wrong := misfits(described.state_dict(), state):
            raise InputError(f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors, the first is '{wrong[0]}'")
        method = cls(config)
        method.load_state_dict(state)
        return method

    def _cast(self, dtype: torch.dtype) -> None:
        apart = [f"{name}." for name, module in self.named_modules() if isinstance(module, PreTrainedModel | _BatchNorm) and name]
        states = {name: buffer for name, buffer in self.named_buffers() if not name.startswith(tuple(apart))}
        self.to(dtype)
        for name, buffer in states.items():
            path, _, own = name.rpartition(".")
            setattr(self.get_submodule(path), own, buffer)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Publishes the run folder that the method was loaded from as `sslzoo publish` does; returns the repository's address.

        repo_id: "namespace/name of the recipe". private, token: as of `sslzoo.hub.publish`.
        Raises `InputError` for a method that is not the one in a finished run's folder, and `PublishError`.
        """
        from sslzoo.hub import publish_method  # the one import that points up: by transformers' rules a model publishes itself

        return publish_method(self, repo_id, private=private, token=token)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype is {dtype!r}: must be 'auto' or a floating-point type such as torch.bfloat16")
    return found


def _device(device_map: Any) -> torch.device | None:
    if isinstance(device_map, dict) and device_map.keys() == {""}:
        device_map = device_map[""]
    if device_map is None:
        return None
    if device_map == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device_map is {device_map!r}: all of a method is on one device, such as 'cuda', 0 or 'auto'") from error

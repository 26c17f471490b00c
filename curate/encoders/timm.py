"""Any vision transformer that timm can make, with its own pretrained weights or a local checkpoint.

Tokens are the last hidden states after the final norm; the row is the class token, or the mean token of a model without one.
Plain transformers run through our own forward (`_lean_vit`), variants through timm's. Without a `checkpoint` timm fetches the
weights of its tag from the Hugging Face hub; on a machine that cannot reach it, give the file.

Source: Wightman, PyTorch Image Models; Dosovitskiy et al., ViT, ICLR 2021.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError, MissingDependencyError
from ._checkpoints import check_sha256_option, check_weights, hash_module, load_into, read_checkpoint
from ._eager_vit import EagerVit
from ._lean_vit import LeanVit, check_choices, resolve_device, resolve_precision
from ._loading import Encoded, check_batch
from ._vit_parts import timm_parts

if TYPE_CHECKING:
    import torch


class _Loaded(NamedTuple):
    vit: LeanVit | EagerVit
    num_prefix: int
    has_class_token: bool
    input_px: int
    sha256: str
    precision: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A ViT of timm.

    Attributes:
        model: timm's name, with or without a tag.
        checkpoint: a local .safetensors, .pt, .pth or .bin file; "" = timm's own weights of that name, from the hub.
        sha256: what the weights must hash to (`curate.weights.hash_tensors` of all tensors but the head); "" = anything.
        precision: `auto` (bf16 where the machine multiplies it, else fp32), `fp32`, `bf16`.
        device: `auto`, `cpu`, `cuda`.
    """

    name: ClassVar[str] = "timm"
    uses_torch: ClassVar[bool] = True
    pools_tokens: ClassVar[bool] = True
    model: str = "vit_base_patch16_224"
    checkpoint: str = ""
    sha256: str = ""
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choices("encoder timm", self.precision, self.device)
        check_sha256_option("encoder timm", self.sha256)
        self._loaded  # noqa: B018 - a fault is told when the encoder is made, not at the first picture

    @functools.cached_property
    def _loaded(self) -> _Loaded:
        from timm.data import resolve_model_data_config

        model = build_timm(self.model, self.checkpoint, where="encoder timm")
        sha256 = hash_module(model)
        check_weights("encoder timm", sha256, self.sha256)
        device = resolve_device(self.device)
        precision = resolve_precision(self.precision, device)
        data = resolve_model_data_config(model)
        input_px = int(data["input_size"][-1])
        parts = timm_parts(model, data["mean"], data["std"], num_blocks=len(model.blocks), last_norm=True)
        if parts is not None:
            vit: LeanVit | EagerVit = LeanVit(parts, precision=precision, device=device)
        else:
            vit = EagerVit(model, model.forward_features, data["mean"], data["std"], precision=precision, device=device)
        has_class = getattr(model, "cls_token", None) is not None
        return _Loaded(vit, int(model.num_prefix_tokens), has_class, input_px, sha256, precision, device)

    @property
    def label(self) -> str:
        """Name it for people."""
        return f"{self.model} (timm, {Path(self.checkpoint).name or 'its own weights'})"

    @property
    def input_px(self) -> int:
        """Side that the model was made for."""
        return self._loaded.input_px

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights' values."""
        return self._loaded.sha256

    @property
    def settings(self) -> Mapping[str, str]:
        """Model, precision and device as resolved here."""
        return {"model": self.model, "precision": self._loaded.precision, "device": self._loaded.device}

    def encode(self, images_NHWC: NDArray[np.uint8]) -> Encoded:
        """Encode a batch.

        Args:
            images_NHWC: (N, input_px, input_px, 3) uint8 RGB. Not modified.

        Returns:
            Rows (N, D) and tokens (N, T, D), float32.
        """
        hidden_NTD = self.hidden(images_NHWC)
        tokens_NTD = hidden_NTD[:, self._loaded.num_prefix :]
        rows_ND = hidden_NTD[:, 0] if self._loaded.has_class_token else tokens_NTD.mean(axis=1)
        return Encoded(rows=rows_ND, tokens=tokens_NTD)

    def hidden(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the last hidden states with class token and registers: (N, P + T, D) float32."""
        check_batch(images_NHWC, self.input_px)
        hidden_NTD: NDArray[np.float32] = self._loaded.vit.hidden(images_NHWC).cpu().numpy()
        return hidden_NTD

    def mean_token(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mean patch token of each image, differentiable; see `TokenEncoder.mean_token`."""
        return self._loaded.vit.hidden_of(x_BCHW)[:, self._loaded.num_prefix :].mean(dim=1)


def build_timm(name: str, checkpoint: str, *, where: str, **more: Any) -> Any:
    """Make a ViT of timm in evaluation mode, without a head.

    Args:
        name: timm's name.
        checkpoint: a local file, or "" for timm's own weights.
        where: for messages.
        more: further arguments of `timm.create_model`, such as `img_size`.

    Raises:
        ConfigError: timm has no such model, or it is no vision transformer.
        ManifestError: the checkpoint does not fit.
        MissingDependencyError: the hub cannot be reached.
    """
    import timm

    if not timm.is_model(name):
        near = (
            ", ".join(timm.list_models(f"*{name.partition('.')[0][:8]}*")[:3]) or "timm.list_models('vit*') names them"
        )
        raise ConfigError(f"{where}: timm has no model {name!r}; near names: {near}")
    if checkpoint:
        state = read_checkpoint(Path(checkpoint), where=where)
        model = timm.create_model(name, pretrained=False, num_classes=0, **more)
        _check_transformer(model, name, where)
        load_into(model, state, where=where)
        return model.eval()
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **more)
    except Exception as error:  # the hub's clients raise whatever their HTTP library does
        raise MissingDependencyError(
            f"{where}: cannot get the weights of {name} from the model hub ({type(error).__name__}); "
            "give a local file: checkpoint = 'FILE.safetensors'"
        ) from error
    _check_transformer(model, name, where)
    return model.eval()


def _check_transformer(model: Any, name: str, where: str) -> None:
    if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "blocks"):
        raise ConfigError(
            f"{where}: {name} is no vision transformer with patch tokens; take a vit_*, deit* or eva* model"
        )

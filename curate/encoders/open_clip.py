"""The image tower of any CLIP that open_clip can make, by its pretrained tag or from a local checkpoint.

The row is the image embedding (projected, not normalised); tokens are the last hidden states after the final norm, without the
projection. Needs a ViT tower. A checkpoint of OpenAI's weights needs a `-quickgelu` model.

Source: Radford et al., CLIP, ICML 2021; Ilharco et al., OpenCLIP, 2021.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
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
from ._vit_parts import open_clip_parts, timm_parts

if TYPE_CHECKING:
    import torch


class _Tower(NamedTuple):
    vit: LeanVit | EagerVit
    num_prefix: int
    project: Callable[[Any], Any]  # hidden states (N, P + T, D) -> (N, E)


class _Loaded(NamedTuple):
    tower: _Tower
    input_px: int
    sha256: str
    precision: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A CLIP image tower.

    Attributes:
        model: open_clip's name, such as `ViT-B-32`.
        pretrained: its tag of weights on the hub; not looked at with a `checkpoint`.
        checkpoint: a local .safetensors, .pt or .bin file of the whole CLIP model; "" = the tag's weights.
        sha256: what the image tower must hash to (`curate.weights.hash_tensors`); "" = anything.
        precision: `auto` (bf16 where the machine multiplies it, else fp32), `fp32`, `bf16`.
        device: `auto`, `cpu`, `cuda`.
    """

    name: ClassVar[str] = "open_clip"
    uses_torch: ClassVar[bool] = True
    pools_tokens: ClassVar[bool] = True
    model: str = "ViT-B-32"
    pretrained: str = "laion2b_s34b_b79k"
    checkpoint: str = ""
    sha256: str = ""
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choices("encoder open_clip", self.precision, self.device)
        check_sha256_option("encoder open_clip", self.sha256)
        self._loaded  # noqa: B018 - a fault is told when the encoder is made, not at the first picture

    @functools.cached_property
    def _loaded(self) -> _Loaded:
        visual, mean, std = build_open_clip(self.model, self.pretrained, self.checkpoint, where="encoder open_clip")
        sha256 = hash_module(visual)
        check_weights("encoder open_clip", sha256, self.sha256)
        device = resolve_device(self.device)
        precision = resolve_precision(self.precision, device)
        size = visual.image_size
        input_px = int(size[0] if isinstance(size, (tuple, list)) else size)
        tower = _tower(visual, mean, std, precision, device)
        if tower is None:
            raise ConfigError(
                f"encoder open_clip: the tower of {self.model} has no patch tokens that we know; take a plain ViT"
            )
        return _Loaded(tower, input_px, sha256, precision, device)

    @property
    def label(self) -> str:
        """Name it for people."""
        return f"{self.model} (open_clip, {Path(self.checkpoint).name or self.pretrained})"

    @property
    def input_px(self) -> int:
        """Side that the model was made for."""
        return self._loaded.input_px

    @property
    def weights_sha256(self) -> str:
        """Hash of the image tower's values."""
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
            Rows (N, E), the image embeddings, and tokens (N, T, D), float32.
        """
        import torch

        check_batch(images_NHWC, self.input_px)
        tower = self._loaded.tower
        hidden_NTD = tower.vit.hidden(images_NHWC)
        with torch.inference_mode():
            rows_NE = tower.project(hidden_NTD).float().cpu().numpy()
        return Encoded(rows=rows_NE, tokens=hidden_NTD[:, tower.num_prefix :].cpu().numpy())

    def mean_token(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mean patch token of each image, differentiable; see `TokenEncoder.mean_token`."""
        tower = self._loaded.tower
        return tower.vit.hidden_of(x_BCHW)[:, tower.num_prefix :].mean(dim=1)


def build_open_clip(name: str, pretrained: str, checkpoint: str, *, where: str) -> tuple[Any, Any, Any]:
    """Make the image tower of a CLIP in evaluation mode.

    Args:
        name: open_clip's name of the model.
        pretrained: tag of its weights.
        checkpoint: a local file, or "" for the tag's weights.
        where: for messages.

    Returns:
        The tower, and mean and deviation of its input.

    Raises:
        ConfigError: no such model.
        ManifestError: the checkpoint does not fit.
        MissingDependencyError: the hub cannot be reached.
    """
    import open_clip

    if name not in open_clip.list_models():
        raise ConfigError(
            f"{where}: open_clip has no model {name!r}; open_clip.list_models() names them, such as ViT-B-32"
        )
    if checkpoint:
        state = read_checkpoint(Path(checkpoint), where=where)
        visual = open_clip.create_model(name, load_weights=False, pretrained_text=False).visual
        load_into(visual, state, where=where, prefix="visual.")
    else:
        try:
            visual = open_clip.create_model(name, pretrained=pretrained, require_pretrained=True).visual
        except Exception as error:  # the hub's clients raise whatever their HTTP library does
            raise MissingDependencyError(
                f"{where}: cannot get the weights {pretrained!r} of {name} from the model hub ({type(error).__name__}); "
                "give a local file: checkpoint = 'FILE.safetensors'"
            ) from error
    data = getattr(visual, "preprocess_cfg", None) or {}
    mean = data.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = data.get("std") or open_clip.OPENAI_DATASET_STD
    return visual.eval(), mean, std


def _tower(visual: Any, mean: Any, std: Any, precision: str, device: str) -> _Tower | None:
    parts = open_clip_parts(visual, mean, std)
    if parts is not None:
        projection = visual.proj.detach().to(device).float() if visual.proj is not None else None
        averages = visual.pool_type == "avg"

        def project(hidden: torch.Tensor) -> torch.Tensor:
            pooled = hidden[:, 1:].mean(dim=1) if averages else hidden[:, 0]
            return pooled if projection is None else pooled @ projection

        return _Tower(LeanVit(parts, precision=precision, device=device), 1, project)
    trunk = getattr(visual, "trunk", None)
    if not hasattr(trunk, "num_prefix_tokens") or not hasattr(trunk, "blocks"):
        return None
    assert trunk is not None
    visual = visual.to(device)
    plain = timm_parts(trunk, mean, std, num_blocks=len(trunk.blocks), last_norm=True)
    vit: LeanVit | EagerVit = (
        EagerVit(trunk, trunk.forward_features, mean, std, precision=precision, device=device)
        if plain is None
        else LeanVit(plain, precision=precision, device=device)
    )
    return _Tower(vit, int(trunk.num_prefix_tokens), lambda hidden: visual.head(trunk.forward_head(hidden)))

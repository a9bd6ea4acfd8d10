"""PointRend as a network that takes and returns what every network of this package does; weights from elsewhere."""

from __future__ import annotations

import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.heads import build_config
from ml_backend.detectors.shared.records import Detections, Target
from ml_backend.errors import InputError

log = logging.getLogger(__name__)

# It warns of weights without a version, which ours, kept as plain tensors, never have.
logging.getLogger("detectron2.projects.point_rend.mask_head").setLevel(logging.ERROR)

# Where the published weights lie, as detectron2 names it.
ZOO = {
    "r50": "detectron2://PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco/164955410/model_final_edd263.pkl",
    "r101": "detectron2://PointRend/InstanceSegmentation/pointrend_rcnn_R_101_FPN_3x_coco/28119983/model_final_3f4d2a.pkl",
}  # fmt: skip
IMAGENET = {
    "r50": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "r101": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
}
_DEVIATION = (58.395, 57.12, 57.375)
_BOTTOM_UP = "backbone.bottom_up."
# What the heads were called in older files of PointRend, that of r101 among them.
_FORMER = {
    "roi_heads.mask_coarse_head.coarse_mask_fc": "roi_heads.mask_head.coarse_head.fc",
    "roi_heads.mask_head.coarse_head.coarse_mask_fc": "roi_heads.mask_head.coarse_head.fc",
    "roi_heads.mask_coarse_head.": "roi_heads.mask_head.coarse_head.",
    "roi_heads.mask_point_head.": "roi_heads.mask_head.point_head.",
}


class PointRendNetwork(nn.Module):
    """PointRend with the IoU head.

    In training mode `forward(images, targets)` returns the losses by name; otherwise `detect(images, sizes)` returns
    the detections. Images are (b, 3, h, w) float32 RGB, normalised, padded at the right and bottom.
    """

    def __init__(self, options: PointRendOptions, classes: int):
        super().__init__()
        self.model = GeneralizedRCNN(build_config(options, classes))
        # The published weights know images as blue, green, red of deviation 1 grey level.
        self.published_input = options.preset != "small"
        self.mixed = False
        self.deviation: Tensor
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1), persistent=False)

    @property
    def heads(self) -> Any:
        """The RoI heads, `ScoredROIHeads`."""
        return self.model.roi_heads

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        if self.published_input:
            images = (images * self.deviation).flip(1)
        # Only the backbone computes in bfloat16: boxes and the choice of points need more digits.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            features = self.model.backbone(images)
        return {name: level.float() for name, level in features.items()}

    def forward(self, images: Tensor, targets: list[Target], score: bool = True) -> dict[str, Tensor]:
        """Losses by name: PointRend's and `loss_iou`.

        Args:
            images: (b, 3, h, w).
            targets: one per image; their masks have the image's height and width without padding.
            score: also train the IoU head; early in training there is no mask worth scoring.
        """
        self.heads.scoring = score
        true = [_instances(target) for target in targets]
        padded = ImageList(images, [i.image_size for i in true])
        # detectron2 insists on a place for its training statistics.
        with EventStorage():
            features = self._features(images)
            proposals, losses = self.model.proposal_generator(padded, features, true)
            _, head_losses = self.heads(padded, features, proposals, true)
        return {**losses, **head_losses}

    @torch.inference_mode()
    def detect(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        """Detections of each image; `sizes` are their heights and widths without padding."""
        features = self._features(images)
        padded = ImageList(images, sizes)
        proposals, _ = self.model.proposal_generator(padded, features, None)
        instances, _ = self.heads(padded, features, proposals, None)
        return [
            Detections(
                part.pred_boxes.tensor,
                part.pred_classes + 1,
                part.scores,
                part.pred_masks[:, 0],
                part.predicted_iou,
                part.roi_features,
                part.hidden,
                part.box_hidden,
            )
            for part in instances
        ]


def _instances(target: Target) -> Instances:
    """The target as detectron2 has it; the target itself stays with it."""
    true = Instances(tuple(target.masks.shape[-2:]))
    true.gt_boxes = Boxes(target.boxes)
    true.gt_classes = target.labels - 1
    true.gt_masks = BitMasks(target.masks.bool())
    true._target = target
    return true


def build(options: PointRendOptions, classes: int, pretrained: bool = True) -> PointRendNetwork:
    """The network of resolved `options` for `classes` classes.

    Args:
        options: resolved.
        classes: how many.
        pretrained: load what `options.weights` names; not needed where a checkpoint follows.

    Raises InputError where those weights cannot be had.
    """
    torch.manual_seed(options.seed)
    network = PointRendNetwork(options, classes)
    if pretrained and options.weights != "none":
        load_weights(network, options)
    return network


def load_weights(network: PointRendNetwork, options: PointRendOptions) -> list[str]:
    """Weights of `options.weights` into `network`: the model zoo's, ImageNet's, or a local file of either kind.

    What another set of classes makes of another shape is taken over as far as it goes, see `adapted`. Returns the names
    of the parameters that no weights were found for, and warns of them where the file is of a whole detector; the IoU
    head is in no published file. Raises InputError where the file cannot be had or is not of this backbone: all of it
    must be there, and its normalisation must be that of `options.norm`.
    """
    named = {"zoo": ZOO, "imagenet": IMAGENET}.get(options.weights)
    if named is not None and options.preset not in named:
        raise InputError("detector option weights", f"none for preset {options.preset}", options.weights)
    if named is None and not Path(options.weights).is_file():
        raise InputError("weights", "zoo, imagenet, none or a file of weights", options.weights)
    source = named[options.preset] if named else options.weights
    loader = _Loader(network.model, source, options)
    # It logs in many lines what `_warn` logs in one.
    logging.getLogger("fvcore.common.checkpoint").setLevel(logging.ERROR)
    try:
        loader.load(source)
    except InputError:
        raise
    except (OSError, ConnectionError) as error:
        raise InputError(
            f"weights {options.weights}", f"a network that reaches {source}, or a local file as option weights", error
        ) from None
    except Exception as error:
        raise InputError(source, "a file of detectron2 weights", type(error).__name__) from None
    _warn(source, loader)
    return sorted(loader.missing)


def _warn(source: str, loader: _Loader) -> None:
    modules = {".".join(name.split(".")[:-1][:3]) for name in loader.missing if "iou_head" not in name}
    if modules:
        backbone_only = all(name.startswith(_BOTTOM_UP) for name in loader.loaded)
        level = logging.INFO if backbone_only else logging.WARNING
        log.log(level, "%s: no weights for %s, which start anew", source, ", ".join(sorted(modules)))


class _Loader(DetectionCheckpointer):
    """detectron2's reader of its model zoo's files, which runs no code from them and adapts to other classes.

    Nothing is loaded of a file that is not of this backbone. `loaded` and `missing` name the network's entries.
    """

    def __init__(self, model: nn.Module, source: str, options: PointRendOptions):
        super().__init__(model, save_to_disk=False)
        self.source, self.options = source, options
        self.loaded: set[str] = set()
        self.missing: set[str] = set()

    def _load_file(self, filename: str) -> Any:
        path = Path(filename)
        if path.suffix != ".pkl":
            stored = torch.load(path, map_location="cpu", weights_only=True)
            return stored if "model" in stored else {"model": stored}
        data = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        if "model" in data and "__author__" in data:
            return data
        data = data.get("blobs", data)
        data = {k: v for k, v in data.items() if not k.endswith("_momentum")}
        return {"model": data, "__author__": "Caffe2", "matching_heuristics": True}

    def _load_model(self, checkpoint: Any) -> Any:
        stored = {k.removeprefix("module."): v for k, v in checkpoint["model"].items()}
        self._convert_ndarray_to_tensor(stored)
        self._check_norm(stored)
        own = self.model.state_dict()
        if checkpoint.pop("matching_heuristics", False):
            caffe2 = checkpoint.get("__author__") == "Caffe2"
            stored = align_and_update_state_dicts(own, stored, c2_conversion=caffe2)
        else:
            stored = {_renamed(k): v for k, v in stored.items()}
            classes = self.model.roi_heads.num_classes
            stored = {k: adapted(k, v, own[k], classes) if k in own else v for k, v in stored.items()}
        self._check_backbone(stored, own)
        incompatible = super()._load_model({**checkpoint, "model": stored})
        wrong = {name for name, *_ in incompatible.incorrect_shapes}
        self.missing = set(incompatible.missing_keys) | wrong
        self.loaded = set(own) - self.missing
        return incompatible

    def _check_norm(self, stored: dict[str, Tensor]) -> None:
        """Group and frozen normalisation have entries of the same names, which mean something else."""
        ends = {
            "frozen": (".running_mean", "_bn_s", "backbone.fpn_lateral2.bias"),
            "group": ("_gn_s", "backbone.fpn_lateral2.norm.weight"),
        }
        present = {norm for norm, known in ends.items() if any(k.endswith(known) for k in stored)}
        wanted = "group" if self.options.norm == "group" else "frozen"
        if present and wanted not in present:
            got = f"{present.pop()} normalisation"
            raise InputError(self.source, f"weights with {wanted} normalisation, as option norm has it", got)

    def _check_backbone(self, stored: dict[str, Tensor], own: dict[str, Tensor]) -> None:
        expected = [k for k in own if k.startswith(_BOTTOM_UP)]
        if not any(k.endswith(".running_mean") for k in stored):
            # Older files have normalisation without statistics, which then change nothing.
            expected = [k for k in expected if not k.endswith((".running_mean", ".running_var"))]
        lacking = [k for k in expected if k not in stored or stored[k].shape != own[k].shape]
        known = (_BOTTOM_UP, "stem.conv", "res2.", "res3.", "res4.", "res5.")
        beyond = [k for k in stored if k.startswith(known) and k not in own and not k.endswith("num_batches_tracked")]
        for what, names in (("without", lacking), ("with", [] if lacking else beyond)):
            if names:
                raise InputError(
                    self.source,
                    f"weights of a {self.options.preset} network",
                    f"those of another one, {what} {min(names)} ({len(names)} such of {len(expected)})",
                )


def _renamed(name: str) -> str:
    """The name that an entry of a file has now."""
    for former, present in _FORMER.items():
        if name.startswith(former):
            return present + name[len(former) :]
    return name


def adapted(name: str, stored: Tensor, own: Tensor, classes: int) -> Tensor:
    """Weights for other classes: where a parameter has values for each class, all get the mean over the stored ones.

    The classifier's own rows start anew, all but the background's. What does not fit at all is returned as it is.
    """
    if stored.shape == own.shape:
        return stored
    result = own.clone()
    if "cls_score" in name:
        result[-1] = stored[-1]
        return result
    if "bbox_pred" in name:
        parts = stored.unflatten(0, (-1, 4)).mean(0)
        return parts.repeat(len(own) // 4, *[1] * (own.ndim - 1))
    if "coarse_head.prediction" in name:
        cells = 49 if own.shape[0] % 49 == 0 else 1
        parts = stored.unflatten(0, (-1, cells)).mean(0)
        return parts.repeat(len(own) // cells, *[1] * (own.ndim - 1))
    if "point_head" not in name:
        return stored
    if name.rsplit(".", 2)[-2] == "predictor":
        stored = stored.mean(0, keepdim=True).expand(own.shape[0], *stored.shape[1:])
    if stored.ndim > 1 and stored.shape[1] != own.shape[1]:
        # Columns: features first, then the coarse logits of every class, whose sum stays.
        width = own.shape[1] - classes
        coarse = stored[:, width:].sum(1, keepdim=True) / classes
        stored = torch.cat([stored[:, :width], coarse.expand(-1, classes, *coarse.shape[2:])], 1)
    return stored if stored.shape == own.shape else result


class _Unpickler(pickle.Unpickler):
    """Reads arrays and plain containers only, so that a file of weights cannot run anything."""

    _allowed = {  # noqa: RUF012
        ("collections", "OrderedDict"), ("_codecs", "encode"),
        ("numpy", "ndarray"), ("numpy", "dtype"),
        *((f"numpy.{core}.multiarray", what) for core in ("core", "_core") for what in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")
        return super().find_class(module, name)

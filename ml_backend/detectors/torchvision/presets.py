"""Networks of the presets: the thin one, and torchvision's ResNet-50 FPN with its COCO weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from ml_backend.detectors.torchvision.network import Branch, HeadSettings, MaskScoringNetwork, ProposalNetwork
from ml_backend.detectors.torchvision.roi_align import PyramidAlign
from ml_backend.errors import InputError
from ml_backend.learning.backbone import ThinBackbone, normalisation
from ml_backend.learning.iou_head import RESOLUTION, IoUHead

if TYPE_CHECKING:  # networks alone need no more than torchvision
    from ml_backend.detectors.shared.options import DetectorOptions

_RATIOS = (0.5, 1.0, 2.0)


def build(options: DetectorOptions, classes: int, pretrained: bool = True) -> MaskScoringNetwork:
    """The network of resolved `options` for `classes` classes.

    Args:
        options: resolved.
        classes: how many.
        pretrained: load what `options.weights` names; not needed where a checkpoint follows.

    Raises InputError where those weights cannot be had.
    """
    torch.manual_seed(options.seed)
    if options.preset == "tiny":
        return _tiny(options, classes)
    return _resnet50(options, classes, pretrained)


class ThinBoxHead(nn.Module):
    """Two fully connected layers over 7x7 RoI features."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * 49, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, hidden), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Hidden units (n, hidden) of RoI features (n, channels, 7, 7)."""
        return self.layers(x)


class BoxPredictor(nn.Module):
    """Class logits (n, classes + 1) and one box regression (n, 4) that all classes share."""

    def __init__(self, hidden: int, classes: int):
        super().__init__()
        self.score = nn.Linear(hidden, classes + 1)
        self.box = nn.Linear(hidden, 4)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        nn.init.zeros_(self.score.bias)
        nn.init.zeros_(self.box.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(class logits, box regression) of hidden units (n, hidden)."""
        return self.score(x), self.box(x)


def thin_mask_head(channels: int, width: int) -> nn.Sequential:
    """Three 3x3 convolutions and a doubling of the resolution."""
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [
            nn.Conv2d(channels if i == 0 else width, width, 3, padding=1, bias=False),
            normalisation(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, width, 2, 2), nn.ReLU(inplace=True))


def _tiny(options: DetectorOptions, classes: int) -> MaskScoringNetwork:
    backbone = ThinBackbone()
    channels = backbone.out_channels
    sizes = options.anchors or ((24.0,), (48.0,), (96.0,))
    generator = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
    proposals = ProposalNetwork(
        generator,
        RPNHead(channels, generator.num_anchors_per_location()[0]),
        fg_iou_thresh=0.6,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 400, "testing": 1500},
        post_nms_top_n={"training": 300, "testing": 1500},
        nms_thresh=0.7,
    )
    settings = HeadSettings(
        # Mostly background, as at prediction: with as many objects as background it sees objects everywhere.
        proposals_per_crop=192,
        positive_share=0.25,
        min_score=options.min_score,
        nms=options.nms,
        max_detections=options.max_detections,
    )
    return MaskScoringNetwork(
        backbone,
        proposals,
        Branch(PyramidAlign(7, 2, backbone.strides, 56.0), ThinBoxHead(channels, 256), BoxPredictor(256, classes)),
        Branch(
            PyramidAlign(RESOLUTION, 1, backbone.strides, 56.0),
            thin_mask_head(channels, channels),
            nn.Conv2d(channels, 1, 1),
        ),
        IoUHead(channels, 64, 256),
        settings,
        semantic=nn.Conv2d(channels, classes + 1, 1),
    )


def _resnet50(options: DetectorOptions, classes: int, pretrained: bool) -> MaskScoringNetwork:
    model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    if pretrained and options.weights != "none":
        _load_weights(model, options.weights)
    heads = model.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, classes + 1)
    heads.mask_predictor = MaskRCNNPredictor(heads.mask_predictor.conv5_mask.in_channels, 256, classes + 1)
    sizes = options.anchors or ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    proposals = ProposalNetwork(
        AnchorGenerator(sizes, (_RATIOS,) * len(sizes)),
        model.rpn.head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1500},
        post_nms_top_n={"training": 1000, "testing": 1500},
        nms_thresh=0.7,
    )
    strides = (4, 8, 16, 32)
    settings = HeadSettings(
        proposals_per_crop=512,
        positive_share=0.25,
        masks_per_crop=128,
        scored_per_crop=64,
        min_score=options.min_score,
        nms=options.nms,
        max_detections=options.max_detections,
    )
    return MaskScoringNetwork(
        model.backbone,
        proposals,
        Branch(PyramidAlign(7, 2, strides, 112.0), heads.box_head, heads.box_predictor),
        Branch(PyramidAlign(RESOLUTION, 2, strides, 112.0), heads.mask_head, heads.mask_predictor),
        IoUHead(256, 256, 1024),
        settings,
    )


def _load_weights(model: nn.Module, source: str) -> None:
    """COCO weights into torchvision's model: from a local file, or downloaded once for the name `coco`."""
    if source == "coco":
        weights = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise InputError(
                "weights coco", f"a network that reaches {weights.url}, or a local file as option weights", error
            ) from None
    else:
        path = Path(source)
        if not path.is_file():
            raise InputError("weights", "coco, none or a file of torchvision weights", source)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(path, "a file of torchvision weights", type(error).__name__) from None
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(source, "weights of maskrcnn_resnet50_fpn_v2", str(error).splitlines()[0]) from None

"""PointRend's parts on detectron2 with the IoU head beside them: proposals, RoI heads, the narrow backbone."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads, select_foreground_proposals
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.subdivision import final_masks
from ml_backend.detectors.shared.iou_target import best_iou
from ml_backend.detectors.shared.records import Target, covered, most_proposals
from ml_backend.learning.iou_head import IoUHead, balanced, iou_loss


@PROPOSAL_GENERATOR_REGISTRY.register()
class IncompleteRPN(RPN):
    """detectron2's, which does not learn background from images that are not annotated exhaustively.

    Targets are `Instances` that carry the `Target` they were made from.
    """

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As in detectron2, with -1 (ignored) for background that may be an object."""
        labels, boxes = super().label_and_sample_anchors(anchors, gt_instances)
        places = Boxes.cat(anchors).tensor
        for label, instances in zip(labels, gt_instances, strict=True):
            target = instances._target
            if not target.exhaustive:
                negative = label == 0
                label[negative & ~covered(places, target, negative)] = -1
        return labels, boxes

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """As in detectron2, in inference with no more proposals on a tile than on as much of a whole image."""
        proposals = super().predict_proposals(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
        if self.training:
            return proposals
        return [part[: most_proposals(*part.image_size)] for part in proposals]


@ROI_HEADS_REGISTRY.register()
class ScoredROIHeads(StandardROIHeads):
    """PointRend's RoI heads with the IoU head, which sees the mask after its last subdivision.

    In training the loss `loss_iou` comes beside PointRend's own; the IoU head learns from what the detector would
    detect now, once `scoring` is set. In inference every instance gets `predicted_iou`, `roi_features` (from P2),
    `hidden` (the MaskIoU feature) and `box_hidden` (the box head's last layer over the proposal it came from).
    """

    @configurable
    def __init__(self, *, iou_head: IoUHead, scored_per_image: int, **parts: Any):
        super().__init__(**parts)
        self.iou_head = iou_head
        self.scored_per_image = scored_per_image
        self.scoring = True

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """What detectron2 makes the heads of, from a config."""
        parts = super().from_config(cfg, input_shape)
        channels = sum(input_shape[f].channels for f in cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES)
        parts["iou_head"] = IoUHead(channels, cfg.MODEL.IOU_HEAD.WIDTH, cfg.MODEL.IOU_HEAD.HIDDEN)
        parts["scored_per_image"] = cfg.MODEL.IOU_HEAD.PER_IMAGE
        return parts

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """(instances, losses): losses in training, instances with masks in inference."""
        del images
        if not self.training or targets is None:
            return self._forward_mask(features, self._detected(features, proposals)), {}
        sampled = self.label_and_sample_proposals(proposals, targets)
        losses, detected = self._learn_boxes(features, sampled)
        losses |= self._learn_masks(features, sampled)
        losses["loss_iou"] = self._learn_score(features, detected, [t._target for t in targets])
        return sampled, losses

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """As in detectron2; where annotation is incomplete, only what is surely no object is background."""
        sampled = super().label_and_sample_proposals(proposals, targets)
        for at, (part, target) in enumerate(zip(sampled, targets, strict=True)):
            if target._target.exhaustive:
                continue
            positive = part.gt_classes < self.num_classes
            known = covered(part.proposal_boxes.tensor, target._target, ~positive)
            # Not more background than objects, or the few known pieces of it would outweigh them.
            few = torch.nonzero(known)[: max(int(positive.sum()), 1), 0]
            sampled[at] = part[torch.cat([torch.nonzero(positive)[:, 0], few])]
        return sampled

    def _learn_boxes(
        self, features: dict[str, Tensor], sampled: list[Instances]
    ) -> tuple[dict[str, Tensor], list[Instances]]:
        """Losses of class and box, and what would be detected now; masks then learn on the predicted boxes."""
        pooled = self.box_pooler([features[f] for f in self.box_in_features], [s.proposal_boxes for s in sampled])
        predicted = self.box_predictor(self.box_head(pooled))
        losses = self.box_predictor.losses(predicted, sampled)
        with torch.no_grad():
            detected, _ = self.box_predictor.inference(predicted, sampled)
            if self.train_on_pred_boxes:
                for part, boxes in zip(
                    sampled, self.box_predictor.predict_boxes_for_gt_classes(predicted, sampled), strict=True
                ):
                    part.proposal_boxes = Boxes(boxes)
        return losses, detected

    def _detected(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """What the box branch detects, as in detectron2, which throws its hidden layer away."""
        pooled = self.box_pooler([features[f] for f in self.box_in_features], [p.proposal_boxes for p in proposals])
        hidden = self.box_head(pooled)
        detected, rows = self.box_predictor.inference(self.box_predictor(hidden), proposals)
        for part, layer, chosen in zip(detected, hidden.split([len(p) for p in proposals]), rows, strict=True):
            part.box_hidden = layer[chosen]
        return detected

    def _learn_masks(self, features: dict[str, Tensor], sampled: list[Instances]) -> dict[str, Tensor]:
        foreground, _ = select_foreground_proposals(sampled, self.num_classes)
        if sum(len(part) for part in foreground) == 0:
            # PointRend's loss cannot be had of nothing; all its parameters get a gradient of zero.
            nothing = sum(p.sum() for p in self.mask_head.parameters()) * 0.0
            return {"loss_mask": nothing, "loss_mask_point": nothing}
        return self.mask_head({f: features[f] for f in self.mask_in_features}, foreground)

    def _learn_score(self, features: dict[str, Tensor], detected: list[Instances], targets: list[Target]) -> Tensor:
        with torch.no_grad():
            chosen = []
            for part, target in zip(detected, targets, strict=True):
                count = self.scored_per_image if self.scoring and target.exhaustive else 0
                chosen.append(part[torch.randperm(len(part), device=part.scores.device)[:count]])
            masks, roi_features = self._masks(features, chosen)
            parts = masks.split([len(c) for c in chosen])
            wanted = torch.cat(
                [
                    best_iou(part, one.pred_boxes.tensor, target.masks, target.boxes)
                    for part, one, target in zip(parts, chosen, targets, strict=True)
                ]
            )
            # As in the torchvision detector: a head that sees mostly misses would settle on 0.
            rows = balanced(wanted)
        predicted, _ = self.iou_head(roi_features[rows], masks[rows])
        return iou_loss(predicted, wanted[rows])

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        masks, roi_features = self._masks(features, instances)
        predicted, hidden = self.iou_head(roi_features, masks)
        counts = [len(part) for part in instances]
        columns = (c.split(counts) for c in (masks, predicted, roi_features, hidden))
        for part, mask, iou, roi, layer in zip(instances, *columns, strict=True):
            part.pred_masks, part.predicted_iou, part.roi_features, part.hidden = mask[:, None], iou, roi, layer
        return instances

    def _masks(self, features: dict[str, Tensor], instances: list[Instances]) -> tuple[Tensor, Tensor]:
        """Final masks (n, m, m) as probabilities, and P2 RoI features (n, c, 14, 14), of all instances in order."""
        boxes = [part.pred_boxes.tensor for part in instances]
        return final_masks(self.mask_head, features, boxes, torch.cat([part.pred_classes for part in instances]))


@BACKBONE_REGISTRY.register()
def build_narrow_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A ResNet with a feature pyramid over the stages in the config and no level above them."""
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
    )


def build_config(options: PointRendOptions, classes: int) -> CfgNode:
    """detectron2's config of the network for resolved `options` and `classes` classes."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    model = cfg.MODEL
    model.DEVICE, model.MASK_ON = "cpu", True
    model.WEIGHTS = ""
    model.IOU_HEAD = CfgNode({"WIDTH": 256, "HIDDEN": 1024, "PER_IMAGE": options.scored_per_image})
    model.PROPOSAL_GENERATOR.NAME = "IncompleteRPN"
    model.ROI_HEADS.NAME = "ScoredROIHeads"
    model.ROI_HEADS.NUM_CLASSES = model.POINT_HEAD.NUM_CLASSES = classes
    model.ROI_HEADS.SCORE_THRESH_TEST, model.ROI_HEADS.NMS_THRESH_TEST = options.min_score, options.nms
    cfg.TEST.DETECTIONS_PER_IMAGE = options.max_detections
    model.ANCHOR_GENERATOR.SIZES = [list(level) for level in options.anchors or ()]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    model.ROI_BOX_HEAD.NAME, model.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 2
    model.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
    head = model.ROI_MASK_HEAD
    head.NAME, head.POOLER_TYPE, head.POINT_HEAD_ON = "PointRendMaskHead", "", True
    model.RESNETS.NORM, model.BACKBONE.FREEZE_AT = "FrozenBN", 2
    if options.norm == "group":
        model.RESNETS.NORM = model.FPN.NORM = "GN"
        model.BACKBONE.FREEZE_AT = 0
    (_narrow if options.preset == "small" else _published)(cfg, options)
    return cfg


def _published(cfg: CfgNode, options: PointRendOptions) -> None:
    """The published network, which the weights of the model zoo fit."""
    model = cfg.MODEL
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.DEPTH = 101 if options.preset == "r101" else 50
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.PRE_NMS_TOPK_TEST = 2000, 1000
    model.RPN.POST_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TEST = 1000, 1000
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7


def _narrow(cfg: CfgNode, options: PointRendOptions) -> None:
    """ResNet-18 up to stride 16 and narrow heads; masks of 56x56 suit objects of some 32 network pixels."""
    model = cfg.MODEL
    model.BACKBONE.NAME = "build_narrow_fpn_backbone"
    model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS = 18, 64
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    model.FPN.OUT_CHANNELS = 64
    model.ROI_HEADS.IN_FEATURES = model.RPN.IN_FEATURES = ["p2", "p3", "p4"]
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE, model.ROI_HEADS.POSITIVE_FRACTION = 96, 0.5
    model.RPN.IOU_THRESHOLDS = [0.3, 0.6]
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.PRE_NMS_TOPK_TEST = 400, 1500
    model.RPN.POST_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TEST = 300, 1500
    model.ROI_BOX_HEAD.FC_DIM, model.ROI_BOX_HEAD.POOLER_RESOLUTION = 256, 7
    model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO, model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = 2, True
    model.ROI_MASK_HEAD.CONV_DIM, model.ROI_MASK_HEAD.FC_DIM = 64, 256
    model.POINT_HEAD.FC_DIM, model.POINT_HEAD.SUBDIVISION_STEPS = 64, 3
    model.IOU_HEAD.WIDTH, model.IOU_HEAD.HIDDEN = 64, 256

"""Mask Scoring R-CNN as a network: proposals, boxes, masks, and the IoU head over the final masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

from ml_backend.detectors.shared.iou_target import best_iou
from ml_backend.detectors.shared.records import Detections, Target, covered, most_proposals
from ml_backend.learning.iou_head import IoUHead, balanced, iou_loss

# Label of a pixel of which nothing is known.
UNKNOWN = -100


class ProposalHead(nn.Module):
    """A proposal head whose results are float32 whatever it computes in: boxes need more digits than bfloat16 has."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box regression of every anchor, per level."""
        scores, boxes = self.head(features)
        return [s.float() for s in scores], [b.float() for b in boxes]


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's, which does not learn background from images that are not annotated exhaustively."""

    def __init__(self, anchors: nn.Module, head: nn.Module, **settings: Any):
        super().__init__(anchors, ProposalHead(head), **settings)

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: Any) -> tuple[list[Tensor], list[Tensor]]:
        """As in torchvision, with -1 (ignored) for background that may be an object; targets are `Target`."""
        labels, boxes = super().assign_targets_to_anchors(anchors, [{"boxes": t.boxes} for t in targets])
        for label, box, target in zip(labels, anchors, targets, strict=True):
            if not target.exhaustive:
                negative = label == 0
                label[negative & ~covered(box, target, negative)] = -1.0
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As in torchvision, and 0 where nothing is known of any anchor."""
        if all(bool((label < 0).all()) for label in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As in torchvision, in inference with no more proposals on a tile than on as much of a whole image."""
        boxes, scores = super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        if self.training:
            return boxes, scores
        limits = [most_proposals(*shape) for shape in image_shapes]
        return [b[:n] for b, n in zip(boxes, limits, strict=True)], [s[:n] for s, n in zip(scores, limits, strict=True)]


@dataclass(frozen=True)
class HeadSettings:
    """Numbers of the RoI heads.

    proposals_per_crop, positive_share: proposals that boxes are learnt from, and the most of them on objects.
    masks_per_crop: masks that are learnt per crop.
    scored_per_crop: detections per crop that the IoU head learns from.
    min_score, nms, max_detections: which detections are kept.
    """

    proposals_per_crop: int = 96
    positive_share: float = 0.5
    masks_per_crop: int = 24
    scored_per_crop: int = 24
    min_score: float = 0.2
    nms: float = 0.5
    max_detections: int = 500


class Branch(NamedTuple):
    """One of the two branches over RoI features: what makes them, the layers over them, what predicts from those."""

    align: nn.Module
    head: nn.Module
    predictor: nn.Module


class MaskScoringNetwork(nn.Module):
    """Backbone, proposals, box and mask heads, IoU head.

    In training mode `forward(images, targets)` returns the losses by name; otherwise `detect(images, sizes)` returns
    the detections. Images are (b, 3, h, w) float32, normalised, padded at the right and bottom to whole strides. Where
    `mixed` is set it computes in bfloat16 what that is good enough for.

    `semantic`, where given, predicts classes and background (b, classes + 1, h / 4, w / 4) from the finest level, in
    training alone: every pixel teaches the backbone, which a few boxes per image would be long about from scratch.
    """

    def __init__(
        self,
        backbone: nn.Module,
        proposals: ProposalNetwork,
        boxes: Branch,
        masks: Branch,
        iou_head: IoUHead,
        settings: HeadSettings,
        semantic: nn.Module | None = None,
    ):
        super().__init__()
        self.backbone, self.proposals = backbone, proposals
        self.semantic = semantic
        self.box_align, self.box_head, self.box_predictor = boxes
        self.mask_align, self.mask_head, self.mask_predictor = masks
        self.iou_head, self.settings = iou_head, settings
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.mixed = False

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch. Weights of earlier versions lack `semantic`, which stays as it is: only training asks for it."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith("semantic.")}
        return super().load_state_dict({**own, **state_dict}, strict, assign)

    # --- shared

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return {k: v.float() for k, v in self.backbone(images).items()}

    def _levels(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The levels that RoI features come from: a pooled extra level serves the proposals only."""
        return [f for k, f in features.items() if k != "pool"]

    def _masks(self, roi_features: Tensor, labels: Tensor) -> Tensor:
        """Mask logits (n, m, m) of the given classes."""
        logits = self.mask_predictor(self.mask_head(roi_features)).float()
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits[torch.arange(len(labels), device=labels.device), labels]

    def _decode(self, regression: Tensor, proposals: list[Tensor]) -> Tensor:
        """Boxes (n, k, 4); k is 1 where box regression is class-agnostic."""
        n = sum(len(p) for p in proposals)
        if n == 0:
            return regression.new_zeros((0, regression.shape[1] // 4, 4))
        return self.box_coder.decode(regression.float(), proposals).view(n, -1, 4)

    def _select(
        self, logits: Tensor, regression: Tensor, proposals: list[Tensor], sizes: list[tuple[int, int]], limit: int
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """(boxes, labels, confidence, rows of proposals) of each image after the threshold and suppression of doubles.

        Rows are those of the proposals of all images together.
        """
        counts = [len(p) for p in proposals]
        decoded = self._decode(regression, proposals).split(counts)
        selected = []
        first = 0
        for boxes, scores, size in zip(decoded, logits.float().softmax(1).split(counts), sizes, strict=True):
            rows, classes = torch.nonzero(scores[:, 1:] > self.settings.min_score, as_tuple=True)
            confidence = scores[rows, classes + 1]
            chosen = boxes[rows, classes + 1 if boxes.shape[1] > 1 else torch.zeros_like(classes)]
            chosen = clip_boxes_to_image(chosen, size)
            solid = ((chosen[:, 2:] - chosen[:, :2]) >= 1).all(1)
            chosen, classes, confidence, rows = chosen[solid], classes[solid], confidence[solid], rows[solid]
            keep = batched_nms(chosen, confidence, classes, self.settings.nms)[:limit]
            selected.append((chosen[keep], classes[keep] + 1, confidence[keep], first + rows[keep]))
            first += len(boxes)
        return selected

    # --- training

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed)

    def forward(self, images: Tensor, targets: list[Target], score: bool = True) -> dict[str, Tensor]:
        """Losses by name: proposal, proposal_box, class, box, mask, semantic, iou.

        Args:
            images: (b, 3, h, w).
            targets: one per image.
            score: also train the IoU head; early in training there is no mask worth scoring.
        """
        with self._autocast(images):
            return self._losses(images, targets, score)

    def _losses(self, images: Tensor, targets: list[Target], score: bool) -> dict[str, Tensor]:
        features = self._features(images)
        levels = self._levels(features)
        sizes = [(int(images.shape[-2]), int(images.shape[-1]))] * len(images)
        proposals, rpn = self.proposals(ImageList(images, sizes), features, targets)
        with torch.no_grad():
            proposals, labels, matched = self._sample(proposals, targets)
        box_features = self.box_head(self.box_align(levels, proposals))
        logits, regression = self.box_predictor(box_features)
        losses = {"proposal": rpn["loss_objectness"], "proposal_box": rpn["loss_rpn_box_reg"]}
        losses |= self._box_losses(logits, regression, proposals, labels, matched, targets)
        losses["mask"] = self._mask_loss(levels, proposals, labels, matched, targets)
        if self.semantic is not None:
            losses["semantic"] = self._semantic_loss(levels[0], targets)
        if score:
            losses["iou"] = self._score_loss(levels, logits, regression, proposals, targets, sizes)
        return losses

    def _sample(
        self, proposals: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Proposals to learn from, their labels (0 is background) and the true masks they belong to."""
        settings = self.settings
        chosen, chosen_labels, chosen_matches = [], [], []
        for boxes, target in zip(proposals, targets, strict=True):
            boxes = torch.cat([boxes, target.boxes])
            if len(target.boxes):
                overlap, match = box_iou(target.boxes, boxes).max(0)
            else:
                overlap, match = boxes.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.long)
                match = match.to(boxes.device)
            positive = overlap >= 0.5
            negative = ~positive
            if not target.exhaustive:
                negative = negative & covered(boxes, target, negative)
            p = _some(positive, int(settings.proposals_per_crop * settings.positive_share))
            n = _some(negative, settings.proposals_per_crop - len(p))
            if not target.exhaustive:
                n = n[: max(len(p), 1)]
            rows = torch.cat([p, n])
            labels = torch.zeros(len(rows), dtype=torch.long, device=boxes.device)
            if len(p):
                labels[: len(p)] = target.labels[match[p]]
            chosen.append(boxes[rows])
            chosen_labels.append(labels)
            chosen_matches.append(match[rows])
        return chosen, chosen_labels, chosen_matches

    def _box_losses(
        self,
        logits: Tensor,
        regression: Tensor,
        proposals: list[Tensor],
        labels: list[Tensor],
        matched: list[Tensor],
        targets: list[Target],
    ) -> dict[str, Tensor]:
        joined = torch.cat(labels)
        if joined.numel() == 0:
            return {"class": logits.sum() * 0, "box": regression.sum() * 0}
        wanted = torch.cat(
            [
                self.box_coder.encode_single(t.boxes[m], p) if len(t.boxes) else torch.zeros_like(p)
                for t, m, p in zip(targets, matched, proposals, strict=True)
            ]
        )
        rows = torch.nonzero(joined > 0)[:, 0]
        regression = regression.float().view(len(joined), -1, 4)
        column = joined[rows] if regression.shape[1] > 1 else torch.zeros_like(joined[rows])
        box = functional.smooth_l1_loss(regression[rows, column], wanted[rows], beta=1 / 9, reduction="sum")
        return {"class": functional.cross_entropy(logits.float(), joined), "box": box / joined.numel()}

    def _mask_loss(
        self,
        levels: list[Tensor],
        proposals: list[Tensor],
        labels: list[Tensor],
        matched: list[Tensor],
        targets: list[Target],
    ) -> Tensor:
        boxes, classes, true = [], [], []
        for p, label, m, target in zip(proposals, labels, matched, targets, strict=True):
            rows = torch.nonzero(label > 0)[: self.settings.masks_per_crop, 0]
            boxes.append(p[rows])
            classes.append(label[rows])
            true.append((target.masks, m[rows]))
        logits = self._masks(self.mask_align(levels, boxes), torch.cat(classes))
        if len(logits) == 0:
            return logits.sum()
        wanted = torch.cat(
            [mask_targets(masks, rows, b, logits.shape[-1]) for (masks, rows), b in zip(true, boxes, strict=True)]
        )
        return functional.binary_cross_entropy_with_logits(logits, wanted)

    def _semantic_loss(self, finest: Tensor, targets: list[Target]) -> Tensor:
        assert self.semantic is not None
        logits = self.semantic(finest).float()
        wanted = torch.stack([semantic_target(t, (finest.shape[2], finest.shape[3])) for t in targets])
        # Where nothing is known of any pixel there is nothing to average.
        known = (wanted != UNKNOWN).sum().clamp(min=1)
        return functional.cross_entropy(logits, wanted, ignore_index=UNKNOWN, reduction="sum") / known

    def _score_loss(
        self,
        levels: list[Tensor],
        logits: Tensor,
        regression: Tensor,
        proposals: list[Tensor],
        targets: list[Target],
        sizes: list[tuple[int, int]],
    ) -> Tensor:
        """The IoU head learns from what the detector would give now: its boxes, its masks, its mistakes."""
        with torch.no_grad():
            used = [
                (i, detected)
                for i, detected in enumerate(self._select(logits, regression, proposals, sizes, 2**30))
                if targets[i].exhaustive
            ]
            boxes = [logits.new_zeros((0, 4), dtype=torch.float32)] * len(proposals)
            classes = []
            for i, (detected, label, *_) in used:
                rows = torch.randperm(len(detected), device=detected.device)[: self.settings.scored_per_crop]
                boxes[i] = detected[rows]
                classes.append(label[rows])
            roi_features = self.mask_align(levels, boxes)
            joined = torch.cat(classes) if classes else torch.zeros(0, dtype=torch.long, device=roi_features.device)
            masks = self._masks(roi_features, joined).sigmoid()
            parts = masks.split([len(b) for b in boxes])
            true = [best_iou(m, b, t.masks, t.boxes) for m, b, t in zip(parts, boxes, targets, strict=True)]
            wanted = torch.cat(true)
            rows = balanced(wanted)
        predicted, _ = self.iou_head(roi_features[rows], masks[rows])
        return iou_loss(predicted, wanted[rows])

    # --- inference

    @torch.inference_mode()
    def detect(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        """Detections of each image; `sizes` are their heights and widths without padding."""
        with self._autocast(images):
            return self._detections(images, sizes)

    def _detections(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        features = self._features(images)
        levels = self._levels(features)
        proposals, _ = self.proposals(ImageList(images, sizes), features)
        box_hidden = self.box_head(self.box_align(levels, proposals))
        logits, regression = self.box_predictor(box_hidden)
        selected = self._select(logits, regression, proposals, sizes, self.settings.max_detections)
        boxes = [part[0] for part in selected]
        counts = [len(b) for b in boxes]
        labels, confidence = torch.cat([part[1] for part in selected]), torch.cat([part[2] for part in selected])
        roi_features = self.mask_align(levels, boxes)
        masks = self._masks(roi_features, labels).sigmoid()
        predicted, hidden = self.iou_head(roi_features, masks)
        finest = self.mask_align(levels, boxes, finest=True)
        proposed = box_hidden[torch.cat([part[3] for part in selected])]
        columns = (labels, confidence, masks, predicted, finest, hidden, proposed)
        parts = [column.split(counts) for column in columns]
        return [Detections(b, *row) for b, *row in zip(boxes, *parts, strict=True)]


def _some(mask: Tensor, count: int) -> Tensor:
    """At most `count` random rows where `mask` holds."""
    rows = torch.nonzero(mask)[:, 0]
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]


def semantic_target(target: Target, size: tuple[int, int]) -> Tensor:
    """Label of each cell of a crop, (h, w) int64: 0 is background, `UNKNOWN` where an object may be unannotated.

    Where objects overlap the smallest counts.
    """
    height, width = size
    result = torch.full(size, 0 if target.exhaustive else UNKNOWN, dtype=torch.long, device=target.boxes.device)
    if len(target.masks) == 0:
        return result
    strides = [whole // part for whole, part in zip(target.masks.shape[-2:], size, strict=True)]
    rows, columns = (slice(stride // 2, None, stride) for stride in strides)
    cells = target.masks[:, rows, columns][:, :height, :width].bool()
    for at in target.masks.flatten(1).sum(1).argsort(descending=True).tolist():
        result[cells[at]] = target.labels[at]
    return result


def mask_targets(masks: Tensor, rows: Tensor, boxes: Tensor, size: int) -> Tensor:
    """True masks (n, size, size) of 0 and 1 over n boxes; `rows` says which of `masks` (k, h, w) each is."""
    if len(rows) == 0:
        return boxes.new_zeros((0, size, size))
    used, place = torch.unique(rows, return_inverse=True)
    rois = torch.cat([place[:, None].to(boxes.dtype), boxes], dim=1)
    return (roi_align(masks[used, None].to(boxes.dtype), rois, size, 1.0, 2, True)[:, 0] >= 0.5).to(boxes.dtype)

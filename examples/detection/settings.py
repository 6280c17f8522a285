"""The numbers of a detector that are not learned and are not the shapes of its layers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """How proposals and detections are chosen and how a detector is trained.

    The defaults are those of torchvision. A pair holds the number for training and the number
    for evaluation.

    Attributes:
      anchor_scale: the side of a square anchor, in strides of its level.
      nominal_strides: place anchors at distances of exactly 4 to 64 pixels. torchvision's distances
        are whole quotients of the sizes of image and map; see `anchors.compute_strides`.
      aspect_ratios: the heights of the anchors, divided by their widths.
      pre_nms: how many anchors of each level may become proposals, the best first.
      post_nms: how many proposals an image keeps.
      proposal_iou: of two proposals whose IoU is above this, only the better one is kept.
      proposal_min_size: the smallest side of a proposal, in pixels.
      anchor_iou: an anchor whose IoU with an object is at least the second number is that
        object's. Below the first number for all objects, it is background.
      anchor_min_iou: an object's best anchor is its own if their IoU is at least this.
      anchors_inside_only: leave anchors that are not wholly inside the image out of the loss.
      anchor_samples: how many anchors of an image the loss sees.
      anchor_positives: the largest share of objects' anchors among them.
      roi_iou: the same as `anchor_iou`, for the regions of the heads.
      roi_samples: how many regions of an image the losses of the heads see.
      roi_positives: the largest share of objects' regions among them.
      anchor_beta: where the loss of an anchor's code changes from squares to absolute values.
      box_weights: the factors of the four numbers in the code of the box head.
      box_beta: as `anchor_beta`, for the box head.
      score_threshold: the smallest score of a detection; it must be above this.
      detection_iou: as `proposal_iou`, for detections of one class.
      detection_min_size: the smallest side of a detection, in pixels.
      detections: how many detections an image has at most.
      aligned: shift RoIAlign's features and mask targets by half a pixel.
    """

    anchor_scale: float = 8
    nominal_strides: bool = False
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    pre_nms: tuple[int, int] = (2000, 1000)
    post_nms: tuple[int, int] = (2000, 1000)
    proposal_iou: float = 0.7
    proposal_min_size: float = 1e-3
    anchor_iou: tuple[float, float] = (0.3, 0.7)
    anchor_min_iou: float = 0.0
    anchors_inside_only: bool = False
    anchor_samples: int = 256
    anchor_positives: float = 0.5
    roi_iou: tuple[float, float] = (0.5, 0.5)
    roi_samples: int = 512
    roi_positives: float = 0.25
    anchor_beta: float = 1 / 9
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_beta: float = 1 / 9
    score_threshold: float = 0.05
    detection_iou: float = 0.5
    detection_min_size: float = 1e-2
    detections: int = 100
    aligned: bool = False


TORCHVISION = Settings()
# The settings of mmdetection 1, with which the paper trained its detectors.
MMDETECTION_1 = Settings(
    nominal_strides=True,
    proposal_min_size=0.0,
    anchor_min_iou=0.3,
    anchors_inside_only=True,
    box_beta=1.0,
    detection_min_size=0.0,
)

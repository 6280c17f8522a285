"""Faster R-CNN (Ren et al. 2015) and Mask R-CNN (He et al. 2017) on a feature pyramid."""

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from examples.detection.anchors import compute_strides, make_anchors
from examples.detection.box_head import (
    BoxPredictor,
    Detections,
    FourConvOneFC,
    Rois,
    TwoFC,
    sample_rois,
    select_detections,
)
from examples.detection.conv_norm import ConvNorm, Norm
from examples.detection.fpn import FPN
from examples.detection.losses import fastrcnn_loss, maskrcnn_loss, rpn_loss
from examples.detection.mask_head import MaskHead, select_masks
from examples.detection.masks import project_masks_on_boxes
from examples.detection.roi_align import multiscale_roi_align
from examples.detection.rpn import DrawnAnchors, Proposals, RPNHead, propose, sample_anchors
from examples.detection.settings import Settings
from examples.models.resnet import ResNet

# The sides of the pooled features of the two heads, and that of a mask.
BOX_POOL, MASK_POOL, MASK_SIZE = 7, 14, 28
# The strides of P2 to P6. The heads use all but the last.
STRIDES = (4, 8, 16, 32, 64)
# In evaluation, features of so many regions are gathered at once: 16 rows for each output pixel
# are too much memory for a thousand regions.
_CHUNK = 32


class MaskDetections(NamedTuple):
    """Detections with masks.

    Attributes:
      boxes, scores, labels, valid: as in `Detections`.
      masks: (B, D, 28, 28) probabilities; each mask covers its box.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array
    masks: jax.Array


class RCNN(nnx.Module):
    """A detector: a backbone, a feature pyramid, a region proposal network, and heads.

    Args:
      backbone: the net of whose stages the pyramid is built.
      num_classes: the number of classes, with the background as class 0.
      head_norm: the normalization in the pyramid and in the convolutions of the box head and the
        mask head, if any.
      weight_standardization: standardize the kernels of these convolutions.
      rpn_convs: the number of 3x3 convolutions of the region proposal network.
      box_head: two linear layers, or four convolutions and one linear layer.
      masks: whether there is a mask head.
      fpn_channels: the channels of the pyramid and of the heads' convolutions.
      fc_units: the outputs of the heads' linear layers.
      settings: thresholds and numbers.
      dtype: the dtype of the computation. Boxes, scores and losses are float32 or float64.
      rngs: the seed of the parameters.
    """

    def __init__(
        self,
        backbone: ResNet,
        *,
        num_classes: int,
        head_norm: Norm,
        weight_standardization: bool,
        rpn_convs: int,
        box_head: Literal["2fc", "4conv1fc"],
        masks: bool,
        fpn_channels: int,
        fc_units: int,
        settings: Settings,
        dtype: jax.typing.DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        conv = functools.partial(
            ConvNorm,
            norm=head_norm,
            weight_standardization=weight_standardization,
            dtype=dtype,
        )
        self.settings = settings
        self.num_classes = num_classes
        self.backbone = backbone
        self.fpn = FPN(backbone.stage_features, fpn_channels, conv=conv, rngs=rngs)
        anchors = len(settings.aspect_ratios)
        self.rpn = RPNHead(fpn_channels, anchors, convs=rpn_convs, dtype=dtype, rngs=rngs)
        shape = (fpn_channels, BOX_POOL, fc_units)
        if box_head == "2fc":
            self.box_head = TwoFC(*shape, dtype=dtype, rngs=rngs)
        else:
            self.box_head = FourConvOneFC(*shape, conv=conv, dtype=dtype, rngs=rngs)
        self.box_predictor = BoxPredictor(fc_units, num_classes, dtype=dtype, rngs=rngs)
        self.mask_head = (
            MaskHead(fpn_channels, num_classes, conv=conv, dtype=dtype, rngs=rngs)
            if masks
            else None
        )

    def pyramid(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Returns P2 to P6, each (B, H_i, W_i, fpn_channels), of images (B, H, W, 3)."""
        return self.fpn(self.backbone.features(images))

    def anchors(
        self, image_size: tuple[int, int], pyramid: Sequence[jax.Array]
    ) -> tuple[np.ndarray, ...]:
        """Returns the anchors (N_i, 4) of each level for images of one padded size."""
        sizes = [(level.shape[1], level.shape[2]) for level in pyramid]
        scale = self.settings.anchor_scale
        nominal = tuple((stride, stride) for stride in STRIDES)
        return make_anchors(
            sizes,
            nominal if self.settings.nominal_strides else compute_strides(image_size, sizes),
            [stride * scale for stride in STRIDES],
            self.settings.aspect_ratios,
        )

    def proposals(
        self,
        logits: jax.Array,
        codes: jax.Array,
        anchors: Sequence[np.ndarray],
        sizes: jax.Array,
        *,
        training: bool,
    ) -> Proposals:
        """Returns the proposals of a batch, at most ``settings.post_nms`` for each image.

        Args:
          logits: (B, N), as the head of the region proposal network returns them.
          codes: (B, N, 4).
          anchors: those of `RCNN.anchors`.
          sizes: (B, 2) height and width of each image without padding.
          training: take the first number of each pair in the settings, else the second.
        """
        settings, which = self.settings, 0 if training else 1
        of_image = functools.partial(
            propose,
            anchors=anchors,
            pre_nms=settings.pre_nms[which],
            post_nms=settings.post_nms[which],
            settings=settings,
        )
        return jax.vmap(lambda logits, codes, size: of_image(logits, codes, size=size))(
            logits, codes, sizes
        )

    def pool(
        self, pyramid: Sequence[jax.Array], boxes: jax.Array, size: int, *, in_chunks: bool = False
    ) -> jax.Array:
        """Returns the features (B, R, size, size, C) of regions (B, R, 4).

        Args:
          pyramid: P2 to P5, and perhaps P6, which is not used.
          boxes: the regions.
          size: the height and width of the output.
          in_chunks: pool a few regions at a time, to save memory. This is for evaluation.
        """

        def of_image(levels, boxes):
            return multiscale_roi_align(
                levels,
                boxes,
                size,
                scales=tuple(1 / stride for stride in STRIDES[:4]),
                sampling_ratio=2,
                aligned=self.settings.aligned,
            )

        levels = tuple(pyramid[:4])
        if not in_chunks:
            return jax.vmap(of_image)(levels, boxes)

        def one_by_one(levels, boxes):
            return jax.lax.map(lambda box: of_image(levels, box[None])[0], boxes, batch_size=_CHUNK)

        return jax.vmap(one_by_one)(levels, boxes)

    def detect(self, images: jax.Array, sizes: jax.Array) -> Detections | MaskDetections:
        """Finds the objects in a batch of images; see `examples.detection.detect`."""
        pyramid = self.pyramid(images)
        anchors = self.anchors(_image_size(images), pyramid)
        of_anchors = self.rpn(pyramid)
        proposals = self.proposals(*of_anchors, anchors, sizes, training=False)
        pooled = self.pool(pyramid, proposals.boxes, BOX_POOL, in_chunks=True)
        of_boxes = self.box_predictor(self.box_head(pooled))
        found = select_detections(*of_boxes, proposals, sizes, settings=self.settings)
        if self.mask_head is None:
            return _mark_not_finite(found, (*of_anchors, *of_boxes))
        pooled = self.pool(pyramid, found.boxes, MASK_POOL, in_chunks=True)
        logits = _promote(self.mask_head(pooled))
        found = _mark_not_finite(found, (*of_anchors, *of_boxes, logits))
        masks = jnp.where(found.valid[..., None, None], select_masks(logits, found.labels), 0)
        return MaskDetections(*found, masks)

    def draw(
        self,
        key: jax.Array,
        anchors: ArrayLike,
        proposals: Proposals,
        batch: Mapping[str, jax.Array],
    ) -> tuple[DrawnAnchors, Rois]:
        """Draws the anchors and the regions that the losses see, for each image of a batch.

        Args:
          key: the random key. The draw of an image depends on it and on the image's place in the
            batch, and not on the number of devices.
          anchors: (N, 4) of all levels.
          proposals: those of the batch.
          batch: the batch, as for `RCNN.losses`.
        """
        # A box without area is no object: nothing can be learned from it.
        boxes = batch["boxes"]
        valid = batch["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        anchors = jnp.asarray(anchors, proposals.boxes.dtype)

        def of_image(i, proposals, size, boxes, labels, valid):
            for_anchors, for_rois = jax.random.split(jax.random.fold_in(key, i))
            drawn = sample_anchors(for_anchors, anchors, boxes, valid, size, settings=self.settings)
            rois = sample_rois(for_rois, proposals, boxes, labels, valid, settings=self.settings)
            return drawn, rois

        places = jnp.arange(boxes.shape[0])
        return jax.vmap(of_image)(places, proposals, batch["size"], boxes, batch["labels"], valid)

    def losses(
        self, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss of a batch, which is the sum of its parts, and the parts.

        Args:
          batch: ``image`` (B, H, W, 3), normalised and padded as for `detect`; ``size`` (B, 2),
            height and width of each image without padding; and the objects in the arrays that
            `examples.detection.stack_targets` returns. Boxes without area are no objects.
          key: the random key of the anchors and regions that are drawn.

        Returns:
          The loss, and by torchvision's names the means ``loss_objectness`` and
          ``loss_rpn_box_reg`` over the drawn anchors, ``loss_classifier`` and ``loss_box_reg``
          over the drawn regions, and ``loss_mask`` over the pixels of the masks of objects'
          regions. They are finite for images without objects too.

        Raises:
          ValueError: an array is missing or does not fit the others.
        """
        _check_batch(batch, masks=self.mask_head is not None)
        if batch["boxes"].shape[1] == 0:
            batch = _add_place(batch)
        settings = self.settings
        pyramid = self.pyramid(batch["image"])
        anchors = self.anchors(_image_size(batch["image"]), pyramid)
        logits, codes = self.rpn(pyramid)
        proposals = self.proposals(
            *jax.lax.stop_gradient((logits, codes)), anchors, batch["size"], training=True
        )
        drawn, rois = self.draw(key, np.concatenate(anchors), proposals, batch)
        objectness, rpn_box = rpn_loss(
            logits, codes, drawn.labels, drawn.targets, beta=settings.anchor_beta
        )
        logits, codes = self.box_predictor(self.box_head(self.pool(pyramid, rois.boxes, BOX_POOL)))
        classifier, box = fastrcnn_loss(
            logits, codes, rois.labels, rois.targets, rois.valid, beta=settings.box_beta
        )
        parts = {
            "loss_classifier": classifier,
            "loss_box_reg": box,
            "loss_objectness": objectness,
            "loss_rpn_box_reg": rpn_box,
        }
        if self.mask_head is not None:
            parts["loss_mask"] = self._mask_loss(pyramid, rois, batch)
        return jnp.stack(list(parts.values())).sum(), parts

    def _mask_loss(
        self, pyramid: Sequence[jax.Array], rois: Rois, batch: Mapping[str, jax.Array]
    ) -> jax.Array:
        # Regions of objects fill the first places, so the others need no mask.
        places = int(self.settings.roi_samples * self.settings.roi_positives)
        rois = Rois(*(x[:, :places] for x in rois))
        project = functools.partial(
            project_masks_on_boxes, output_size=MASK_SIZE, aligned=self.settings.aligned
        )
        masks = batch["masks"]
        if "mask_frames" in batch:
            targets = jax.vmap(lambda m, b, i, f: project(m, b, i, frames=f))(
                masks, rois.boxes, rois.matched, batch["mask_frames"]
            )
        else:
            targets = jax.vmap(project)(masks, rois.boxes, rois.matched)
        assert self.mask_head is not None
        logits = _promote(self.mask_head(self.pool(pyramid, rois.boxes, MASK_POOL)))
        return maskrcnn_loss(logits, rois.labels, targets, rois.valid & (rois.labels > 0))


def _mark_not_finite(found: Detections, outputs: Sequence[jax.Array]) -> Detections:
    """Makes the scores of an image NaN if an output (B, ...) of the net is not finite for it.

    Comparisons with NaN are false, so an image with such numbers would only look empty.
    """
    of_images = [jnp.isfinite(x).reshape(len(x), -1).all(1) for x in outputs]
    finite = jnp.stack(of_images).all(0)[:, None]
    scores = jnp.where(finite, found.scores, jnp.nan)
    return found._replace(scores=scores, valid=found.valid & finite)


def _image_size(images: ArrayLike) -> tuple[int, int]:
    height, width = np.shape(images)[1:3]
    return height, width


def _check_batch(batch: Mapping[str, jax.Array], *, masks: bool) -> None:
    names = ["image", "size", "boxes", "labels", "valid", *["masks"] * masks]
    if missing := [name for name in names if name not in batch]:
        raise ValueError(f"batches of this detector need {', '.join(missing)}")
    shapes = {name: np.shape(batch[name]) for name in names}
    images, objects = shapes["image"][:1], shapes["labels"]
    if len(shapes["image"]) != 4 or shapes["image"][-1] != 3:
        raise ValueError(f"image must be (B, H, W, 3), not {shapes['image']}")
    if not jnp.issubdtype(batch["image"].dtype, jnp.floating):
        raise ValueError(f"image must be normalised floats, not {batch['image'].dtype}")
    fits = shapes["size"] == (*images, 2) and len(objects) == 2 and objects[:1] == images
    fits &= shapes["boxes"] == (*objects, 4) and shapes["valid"] == objects
    fits &= not masks or (len(shapes["masks"]) == 4 and shapes["masks"][:2] == objects)
    if not fits:
        raise ValueError(
            "size must be (B, 2), labels and valid (B, G), boxes (B, G, 4) and masks (B, G, h, w): "
            + ", ".join(f"{name} is {shape}" for name, shape in shapes.items())
        )


def _add_place(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Adds an empty place for an object to a batch that has none, since one can be indexed."""
    objects = ("boxes", "labels", "valid", "masks", "mask_frames")
    return {
        name: jnp.pad(x, ((0, 0), (0, 1)) + ((0, 0),) * (x.ndim - 2)) if name in objects else x
        for name, x in batch.items()
    }


def _promote(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

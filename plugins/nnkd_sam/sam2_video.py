"""MedSAM2's second mode: a scan is a film of its slices; one slice's box is followed to both ends.

sam2's own video predictor follows; what is ours is the film: it begins as 8-bit slices instead of a folder of JPEGs,
and each slice is encoded once for all labels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from nnkd.teachers.embeddings import EmbeddingCache
from nnkd.types import SliceBoxes
from nnkd_sam.sam2 import CONFIGURATIONS, fold, missing_package, unfold

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

SIZE = 512  # pixels of a side, MedSAM2's
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = (  # sam2's own for videos, but without the filling of holes, which exists on CUDA only
    f"++model.image_size={SIZE}",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
    "++model.binarize_mask_from_pts_for_mem_enc=true",
)


def build_video(more: Sequence[str] = ()) -> SAM2VideoPredictor:
    """sam2's video predictor with MedSAM2's sizes and random weights, on the CPU.

    Args:
        more: Further hydra overrides.

    Raises:
        BrokenPluginError: If the package sam2 is not installed.
    """
    try:
        from sam2 import sam2_video_predictor
        from sam2.build_sam import build_sam2_video_predictor
    except ImportError as error:
        raise missing_package(error) from error
    sam2_video_predictor.tqdm = partial(tqdm, disable=True)  # its bars have no switch; ours show where the scan is
    return build_sam2_video_predictor(
        CONFIGURATIONS["2.1"].format("hiera_t"), None, device="cpu", hydra_overrides_extra=[*SETTINGS, *more],
        apply_postprocessing=False,
    )  # fmt: skip


def prepared(picture: NDArray[np.uint8]) -> Tensor:
    """A slice (H, W, 3) uint8 -> (3, 512, 512) float32: squashed by Pillow as MedSAM2 does, normalised as ImageNet."""
    from PIL import Image

    squashed = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE)), dtype=np.float32) / 255
    mean, deviation = np.array(MEAN, dtype=np.float32), np.array(DEVIATION, dtype=np.float32)
    return torch.from_numpy((squashed - mean) / deviation).permute(2, 0, 1).contiguous()


class Film:
    """The slices of one scan in one grey scale, and where sam2 keeps what it knows about them.

    Attributes:
        first: Index in the scan of the film's first slice.
        encoded: How many slices went through the image encoder.
    """

    def __init__(
        self, predictor: SAM2VideoPredictor, pictures: Sequence[NDArray[np.uint8]], first: int, cache: EmbeddingCache
    ):
        """Take the slices; nothing is computed yet.

        Args:
            predictor: From `build_video`.
            pictures: (H, W, 3) uint8, from feet to head.
            first: Index in the scan of the first one.
            cache: Where feature maps are kept.
        """
        self.first, self.encoded = first, 0
        self._predictor, self._pictures, self._cache = predictor, pictures, cache
        device = predictor.device
        height, width = pictures[0].shape[:2]
        by_object = ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict", "frames_tracked")
        self._state: dict[str, Any] = {  # what sam2's init_state makes of a folder of JPEGs
            "images": None,
            "num_frames": len(pictures),
            "offload_video_to_cpu": False,
            "offload_state_to_cpu": False,
            "video_height": height,
            "video_width": width,
            "device": device,
            "storage_device": device,
            "cached_features": self,
            "constants": {},
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
            **{f"{name}_per_obj": {} for name in by_object},
        }

    def get(self, index: int, _: object = None) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """What sam2 asks for: a slice and its feature maps."""
        device, picture = self._predictor.device, self._pictures[index]
        image = prepared(picture)[None].to(device)
        embedding = self._cache.get(picture)
        if embedding is None:
            found = self._predictor.forward_image(image)
            self._cache.put(picture, fold(found["backbone_fpn"])[0])
            self.encoded += 1
            maps, places = found["backbone_fpn"], found["vision_pos_enc"]
        else:
            maps = unfold(embedding[None].to(device))
            neck = self._predictor.image_encoder.neck.position_encoding
            places = [neck(m).to(m.dtype) for m in maps]
        return image, {"backbone_fpn": list(maps), "vision_pos_enc": list(places)}

    def follow(self, z: int, box: Sequence[int], last: tuple[int, int]) -> NDArray[np.bool_]:
        """Segment what lies in a box, and in the slices above and below.

        Args:
            z: The slice with the box, counted in the scan.
            box: (y0, x0, y1, x1) in voxels, upper bounds excluded.
            last: The lowest and the highest slice to look at, counted in the scan.

        Returns:
            (slices of the film, H, W) bool; the largest connected part.
        """
        y0, x0, y1, x1 = box
        corners = np.array([x0, y0, x1, y1], dtype=np.float32)
        key, low, high = z - self.first, last[0] - self.first, last[1] - self.first
        mask = np.zeros((len(self._pictures), *self._pictures[0].shape[:2]), dtype=bool)
        for reverse, number in ((False, high - key), (True, key - low)):
            self._predictor.reset_state(self._state)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self._predictor.device.type == "cuda"):
                self._predictor.add_new_points_or_box(self._state, frame_idx=key, obj_id=1, box=corners)
                for index, logits in self._answers(number, reverse):
                    mask[index] |= (logits[0, 0] > 0).cpu().numpy()
        self._predictor.reset_state(self._state)
        return largest_part(mask)

    def _answers(self, number: int, reverse: bool) -> Iterable[tuple[int, Tensor]]:
        found = self._predictor.propagate_in_video(self._state, max_frame_num_to_track=number, reverse=reverse)
        yield from ((index, logits) for index, _, logits in found)


def key_boxes(prompt: SliceBoxes) -> tuple[int, list[tuple[int, int, int, int]], tuple[int, int]]:
    """Of a label's boxes those of one slice: that with the largest area of boxes, the lowest of equals.

    Returns:
        Its index, its boxes (y0, x0, y1, x1), and the lowest and highest slice with a box.
    """
    by_slice: dict[int, list[tuple[int, int, int, int]]] = {}
    for row in prompt.boxes:
        z, y0, x0, y1, x1 = (int(v) for v in row)
        by_slice.setdefault(z, []).append((y0, x0, y1, x1))
    area = {z: sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in boxes) for z, boxes in by_slice.items()}
    key = min(area, key=lambda z: (-area[z], z))
    return key, by_slice[key], (min(area), max(area))


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask (Z, Y, X), voxels that share a corner included; an empty mask stays so."""
    parts, number = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    if number < 2:
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))

"""Optical flow of videos by OpenCV's DIS, what it hides, and pictures moved along it.

A flow is `[... h w 2]` float32, in pixels: (x to the right, y down). OpenCV is imported where it is
first used.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gen1_jax.video.opencv import opencv

# DIS crashes the process where a side is shorter than its patch of 8 pixels, so smaller frames are
# enlarged to this. Tried with OpenCV 4.13 and 5.0.
_MIN_SIDE = 16
# Up to this shorter side the flow is refined at full size, above it at half size, as the preset has
# it: on rendered moving shapes of 64 pixels still backgrounds then seem to move 0.6 pixels a frame
# in place of 1.0, in 1.5 ms a pair in place of 0.4.
_FULL_SIZE_SIDE = 128


class Flow(NamedTuple):
    """The flow between consecutive frames of clips.

    Attributes:
      forward: `[b n-1 h w 2]`, from each frame to the next.
      backward: `[b n-1 h w 2]`, from the next frame to each.
      occluded: `[b n-1 h w]` bool, pixels of each frame that the next does not show; see
        `find_occluded`.
    """

    forward: np.ndarray
    backward: np.ndarray
    occluded: np.ndarray


def estimate_flow(frames: np.ndarray) -> Flow:
    """Estimates the flow of consecutive frames both ways.

    It is dense inverse search (Kroeger et al. 2016) at OpenCV's preset "medium", on grey frames.

    Args:
      frames: `[b n h w 3]` uint8.
    """
    frames = np.asarray(frames)
    b, n, h, w = frames.shape[:4]
    grey = [[prepare_frame(frame) for frame in clip] for clip in frames]
    pairs = [(clip[i], clip[i + 1]) for clip in grey for i in range(n - 1)]
    both = [*pairs, *((after, before) for before, after in pairs)]
    flows = np.zeros((len(both), h, w, 2), np.float32)

    def fill(k: int) -> None:
        flows[k] = flow_of_pair(*both[k], (h, w))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(fill, range(len(both))))
    forward, backward = flows.reshape(2, b, n - 1, h, w, 2)
    return Flow(forward, backward, find_occluded(forward, backward))


def find_occluded(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Returns where the flow there and back does not end where it began, `[... h w]` bool.

    The rule is that of Sundaram et al. 2010, equation 5: with w the flow there and w' the flow
    back at its end, a pixel is occluded if |w + w'|² ≥ 0.01 (|w|² + |w'|²) + 0.5. What leaves the
    frame is occluded too.

    Args:
      forward: `[... h w 2]`.
      backward: `[... h w 2]`, of the same pairs of frames.
    """
    back, inside = warp(backward, forward)
    difference = ((forward + back) ** 2).sum(-1)
    length = (forward**2).sum(-1) + (back**2).sum(-1)
    return ~inside | (difference >= 0.01 * length + 0.5)


def find_motion_edges(flow: np.ndarray) -> np.ndarray:
    """Returns where the motion changes abruptly, and the flow is least sure, `[... h w]` bool.

    The rule is that of Sundaram et al. 2010, equation 6: |∇u|² + |∇v|² > 0.01 |w|² + 0.002, with
    differences to the next pixel.

    Args:
      flow: `[... h w 2]`.
    """
    across = np.diff(flow, axis=-2, append=flow[..., -1:, :])
    along = np.diff(flow, axis=-3, append=flow[..., -1:, :, :])
    change = (across**2).sum(-1) + (along**2).sum(-1)
    return change > 0.01 * (flow**2).sum(-1) + 0.002


def warp(pictures: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fetches each pixel's value from where its flow leads, by bilinear interpolation.

    With the flow from frame i to frame i + 1, it brings frame i + 1 onto frame i.

    Args:
      pictures: `[... h w c]`, c at most 4.
      flow: `[... h w 2]`.

    Returns:
      `[... h w c]` float32, where what lies outside takes the value of the nearest edge, and
      `[... h w]` bool, whether the flow ends inside the picture. Places are exact to 1/32 pixel.
    """
    cv2 = opencv()
    h, w = flow.shape[-3:-1]
    ys, xs = np.mgrid[:h, :w].astype(np.float32)
    to_x, to_y = xs + flow[..., 0], ys + flow[..., 1]
    # A tenth of a pixel is within the error of any flow.
    inside = (to_x >= -0.1) & (to_x <= w - 0.9) & (to_y >= -0.1) & (to_y <= h - 0.9)
    warped = np.empty(pictures.shape, np.float32)
    for place in np.ndindex(flow.shape[:-3]):
        picture = np.ascontiguousarray(pictures[place], np.float32)
        moved = cv2.remap(
            picture, to_x[place], to_y[place], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        warped[place] = moved.reshape(picture.shape)
    return warped, inside


def prepare_frame(frame: np.ndarray) -> np.ndarray:
    """Returns a frame as DIS takes it: grey, and no smaller than it can read."""
    cv2 = opencv()
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    times = -(-_MIN_SIDE // min(grey.shape))
    if times > 1:
        grey = cv2.resize(grey, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    return grey


def flow_of_pair(before: np.ndarray, after: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the flow of a pair of prepared frames, `[h w 2]`, in pixels of frames of `size`."""
    cv2 = opencv()
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0 if min(before.shape) <= _FULL_SIZE_SIDE else 1)
    flow = dis.calc(before, after, None)
    if flow.shape[:2] != size:
        scale = np.float32(size[0] / flow.shape[0])
        flow = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA) * scale
    return flow

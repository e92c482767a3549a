"""Brings high dynamic range (PQ, HLG) to what a usual screen shows, with its highlights kept.

ITU-R BT.2100 says how signals become light, BT.2408 that white is at 203 cd/m2, and BT.2390 (5.4.1)
how a range of light is compressed into a smaller one. What is brighter than `PEAK` becomes white.
"""

from __future__ import annotations

import functools

import numpy as np
from av.video.reformatter import ColorTrc

PQ, HLG = int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)
PEAK = 1000.0  # cd/m2 of the screens on which most films are graded, and of BT.2100's HLG
_WHITE = 203.0  # cd/m2 of white on a usual screen
_GAMMA = 2.4  # of a usual screen, BT.1886
_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # BT.2020
_TO_BT709 = np.array(  # linear light, BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def tone_map(signal: np.ndarray, transfer: int, wide: bool = True) -> np.ndarray:
    """Converts RGB of PQ or HLG to that of BT.709.

    Args:
      signal: `[h w 3]` uint16, full range.
      transfer: `PQ` or `HLG`.
      wide: whether the primaries are those of BT.2020.

    Returns:
      `[h w 3]` uint8.
    """
    light = _decoder(transfer)[signal]  # cd/m2 of PQ; of HLG, the scene's, 0 to 1
    if transfer == HLG:
        light *= PEAK * (light @ _LUMA)[..., None] ** np.float32(0.2)
    if wide:
        light = np.maximum(light @ _TO_BT709.T, 0)
    # One factor for the three colours of a pixel keeps its hue.
    brightest = light.max(axis=-1, keepdims=True)
    places, factors = _compression()
    light *= np.interp(np.sqrt(brightest), places, factors).astype(np.float32)
    shown = np.clip(light / _WHITE, 0, 1) ** np.float32(1 / _GAMMA)
    return (shown * 255 + 0.5).astype(np.uint8)


_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128


def _from_pq(signal: np.ndarray) -> np.ndarray:
    """Returns the cd/m2 of signals from 0 to 1."""
    power = signal ** (1 / _M2)
    return 10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _to_pq(light: np.ndarray) -> np.ndarray:
    power = (np.asarray(light) / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _from_hlg(signal: np.ndarray) -> np.ndarray:
    """Returns the light of the scene, 0 to 1, of signals from 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


@functools.cache
def _decoder(transfer: int) -> np.ndarray:
    """Returns the light of each of the 65,536 signals, float32."""
    signals = np.arange(65536) / 65535
    return (_from_pq if transfer == PQ else _from_hlg)(signals).astype(np.float32)


@functools.cache
def _compression() -> tuple[np.ndarray, np.ndarray]:
    """Returns by which factor light is dimmed, as a table over the square root of its cd/m2."""
    light = np.linspace(0, 100, 4097) ** 2  # up to 10,000 cd/m2
    top = _to_pq(PEAK)
    signal = np.minimum(_to_pq(light) / top, 1)
    most = float(_to_pq(_WHITE) / top)
    knee = 1.5 * most - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * most
    )
    shown = np.where(signal < knee, light, _from_pq(spline * top))
    return np.sqrt(light), np.divide(shown, light, out=np.ones_like(light), where=light > 0)

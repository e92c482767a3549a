"""Says which frames of an input were taken, and how they were scaled and cropped."""

from dataclasses import dataclass

from gen1_jax.video.fitting import CROP, PAD, Size, kept_area, place_inside


@dataclass(frozen=True)
class Selection:
    """What was taken of an input.

    Attributes:
      start: index of the first frame taken; the input's first frame is 0.
      stride: every stride-th frame was taken.
      count: number of frames taken.
      total: number of the input's frames; None if it is not known.
      total_is_exact: whether `total` was counted, and not derived from a stated duration.
      source_size: height and width of the input's frames.
      size: height and width of the frames taken.
      has_sound: whether the input holds sound, which is no part of the frames.
      fit: whether the frames were cropped or padded to their size.
      num_sizes: number of sizes from which `size` was chosen.
      pace: the stride that the pace of a model's training asks for; None: the caller chose it.
    """

    start: int
    stride: int
    count: int
    total: int | None
    total_is_exact: bool
    source_size: Size
    size: Size
    has_sound: bool = False
    fit: str = CROP
    num_sizes: int = 1
    pace: int | None = None

    @property
    def inside(self) -> tuple[slice, slice] | None:
        """Rows and columns that the input fills of a padded frame; None: there is no padding."""
        if self.fit != PAD or kept_area(self.source_size, self.size) == 1:
            return None
        return place_inside(self.source_size, self.size)

    def describe(
        self,
        frame_flags: str = "",
        size_flags: str = "",
        size_is_models: bool = False,
        keeps_sound: bool = False,
    ) -> str:
        """Returns in one line what is less than the input or other than it; "" if nothing is.

        Args:
          frame_flags: names what chooses other frames, such as "--frames".
          size_flags: names what chooses another size.
          size_is_models: whether the size was chosen because the model was trained on it.
          keeps_sound: whether the input's sound is used, too.
        """
        parts = []
        if frames := self._describe_frames():
            parts.append(frames + (f" ({frame_flags})" if frame_flags else ""))
        if size := describe_size(self.source_size, self.size, self.fit):
            of_model = ", the size of this model"
            if self.num_sizes > 1:
                of_model = ", the nearest size of this model"
            of_model = of_model if size_is_models else ""
            parts.append(size + of_model + (f" ({size_flags})" if size_flags else ""))
        if self.has_sound and not keeps_sound:
            parts.append("without its sound")
        return ", ".join(parts)

    def _describe_frames(self) -> str:
        """Returns "frames 1 to 8 of 80", or "" if every frame was taken as in training."""
        is_closer = self.pace is not None and self.stride < self.pace and self.count > 1
        if self.total_is_exact and self.count == self.total and not is_closer:
            return ""
        last = self.start + self.stride * (self.count - 1) + 1
        total = f" of {'' if self.total_is_exact else 'about '}{self.total}"
        if self.total is None or self.total < last:
            total = " of an unknown number"
        if self.count == 1:
            return f"frame {last}{total}"
        every = f", every {ordinal(self.stride)}" if self.stride > 1 else ""
        if is_closer:
            every += f" (every {ordinal(self.pace)} in training)"
        elif self.pace is not None and self.stride > 1:
            every += " as in training"
        return f"frames {self.start + 1} to {last}{total}{every}"


def describe_size(source: Size, size: Size, fit: str = CROP) -> str:
    """Returns how frames of one size came to another: "480×854 → 32×32, …"; "" if they are equal.

    Frames are scaled until they cover the size, and cropped to its shape in the middle; or they are
    scaled until they lie inside, and padded.
    """
    if tuple(source) == tuple(size):
        return ""
    named = " (height × width)" if source[0] != source[1] or size[0] != size[1] else ""
    if fit == PAD:
        rows, columns = place_inside(source, size)
        inner = rows.stop - rows.start, columns.stop - columns.start
        within = f" within {show_size(size)}, padded" if inner != tuple(size) else ""
        return f"{show_size(source)}{named} → {show_size(inner)}{within}"
    scale = max(side / edge for side, edge in zip(size, source, strict=True))
    seen = tuple(min(edge, round(side / scale)) for side, edge in zip(size, source, strict=True))
    cut = f"{1 - kept_area(source, size):.0%}"
    cut = f", {cut.replace('%', ' %')} cut off" if cut != "0%" else ""
    cropped = f" cropped to its middle {show_size(seen)}{cut}" if seen != tuple(source) else ""
    return f"{show_size(source)}{named}{cropped} → {show_size(size)}"


def show_size(size: Size) -> str:
    """Returns a size as "480×854", height first."""
    return f"{size[0]}×{size[1]}"


def ordinal(number: int) -> str:
    """Returns "1st", "2nd", "3rd", "4th", …"""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"

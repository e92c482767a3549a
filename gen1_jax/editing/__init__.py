"""Edits a video: frames and a prompt (or a picture) in, frames out. In three lines:

    editor = VideoEditor.load("runs/demo/pipeline")
    edit = editor.edit("clip.mp4", prompt="a blue ball on snow")
    write_video("out.mp4", edit.streams.frames, fps=edit.fps)

The names are those of the flags of `gen1 edit`.
"""

from gen1_jax.editing.edit import Edit
from gen1_jax.editing.editor import VideoEditor

__all__ = ["Edit", "VideoEditor"]
